//! Forwarding of messages: headers, streams, large bodies, broken services, reused connections.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agent::proxy::{RouteTarget, Upstream};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::harness::{
    Backend, Body, TEST_TIMEOUT, WEB_HOST, channel_body, preview_routes, read_head, read_response, ready_target,
    start_proxy, start_web_proxy, text_body,
};

#[tokio::test]
async fn request_headers_are_filtered_and_forwarded() {
    let echo = Backend::start_echo().await;
    let proxy = start_web_proxy(echo.address).await;
    let sent = [
        ("connection", "keep-alive, x-private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers, deflate"),
        ("x-forwarded-for", "10.0.0.1"),
        ("origin", "http://elsewhere.example"),
        ("cookie", "a=1"),
    ];
    let body = proxy.get("Web.Main.Shop.localhost:8642", "/a%2Fb?c=d", &sent).await.body;
    for expected in [
        "GET /a%2Fb?c=d HTTP/1.1\n",
        "host: Web.Main.Shop.localhost:8642",
        "x-forwarded-for: 10.0.0.1, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: Web.Main.Shop.localhost:8642",
        "te: trailers",
        "origin: http://elsewhere.example",
        "cookie: a=1",
        "pdev-hops: 1",
    ] {
        assert!(body.contains(expected), "{expected} in {body}");
    }
    for removed in ["x-private", "keep-alive", "proxy-connection", "deflate", "connection:"] {
        assert!(!body.contains(removed), "{removed} in {body}");
    }
}

#[tokio::test]
async fn large_response_heads_pass_up_to_the_limit() {
    for (count, size, expected) in
        [(120, 10, 200), (490, 10, 200), (1, 250_000, 200), (501, 10, 502), (1, 300_000, 502)]
    {
        let service = Backend::start(move |_| {
            Box::pin(async move {
                let mut response = Response::builder();
                for number in 0..count {
                    response = response.header("set-cookie", format!("c{number}={}", "v".repeat(size)));
                }
                response.body(text_body("x")).unwrap()
            })
        })
        .await;
        let proxy = start_web_proxy(service.address).await;
        let response = proxy.get(WEB_HOST, "/", &[("accept", "text/plain")]).await;
        assert_eq!(response.status.as_u16(), expected, "{count} headers of {size} bytes: {}", response.body);
        if expected == 502 {
            assert!(response.body.contains("at most 500 headers and 256 KiB of them"), "{}", response.body);
        }
    }
}

#[tokio::test]
async fn response_headers_are_filtered() {
    let service = Backend::start(|_| {
        Box::pin(async {
            Response::builder()
                .header("strict-transport-security", "max-age=31536000")
                .header("keep-alive", "timeout=5")
                .header("set-cookie", "a=1; Domain=main.shop.localhost")
                .header("set-cookie", "b=2")
                .body(text_body("x"))
                .unwrap()
        })
    })
    .await;
    let headers = start_web_proxy(service.address).await.get(WEB_HOST, "/", &[]).await.headers;
    assert!(!headers.contains_key("strict-transport-security") && !headers.contains_key("keep-alive"));
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn only_next_assets_get_local_origin() {
    let echo = Backend::start_echo().await;
    let proxy = start_web_proxy(echo.address).await;
    let own = format!("http://{WEB_HOST}");
    let local = format!("http://localhost:{}", echo.address.port());
    let cases = [
        ("/_next/static/x.js", own.as_str(), local.as_str()),
        ("/__nextjs_font/x", &own, &local),
        ("/_next/x", "http://evil.example", "http://evil.example"),
        ("/_next/x", "http://other.shop.localhost", "http://other.shop.localhost"),
        ("/action", &own, &own),
        ("/_nextish", &own, &own),
    ];
    for (path, origin, expected) in cases {
        let body = proxy.get(WEB_HOST, path, &[("origin", origin), ("referer", &format!("{origin}/p?q"))]).await.body;
        assert!(body.contains(&format!("origin: {expected}\n")), "{path} {origin}: {body}");
        assert!(body.contains(&format!("referer: {expected}/p?q")), "{path} {origin}: {body}");
    }
}

#[tokio::test]
async fn loop_returns_508_with_fix() {
    let proxy = start_proxy(vec![]).await;
    // The proxy forwards to itself under the same name.
    let loopback = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, proxy.port));
    proxy
        .routes
        .update(|table| table.set_preview(preview_routes("shop", "main", vec![ready_target("web", vec![loopback])])));
    let response = proxy.get(WEB_HOST, "/", &[]).await;
    assert_eq!(response.status, StatusCode::LOOP_DETECTED);
    assert!(response.body.contains("changeOrigin"), "{}", response.body);
    let echo = Backend::start_echo().await;
    let proxy = start_web_proxy(echo.address).await;
    for (hops, expected) in [("4", 200), ("5", 508), ("nonsense", 200)] {
        assert_eq!(proxy.get(WEB_HOST, "/", &[("pdev-hops", hops)]).await.status.as_u16(), expected, "{hops}");
    }
}

#[tokio::test]
async fn h2c_services_get_http2_and_trailers_are_forwarded() {
    let service = Backend::start(|request| {
        Box::pin(async move {
            let request_line = format!("{:?} {}", request.version(), request.uri());
            let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let body = text_body(request_line).with_trailers(async move { Some(Ok(trailers)) });
            Response::new(BodyExt::boxed(body))
        })
    })
    .await;
    let h2c = RouteTarget {
        upstream: Upstream { addresses: vec![service.address], uses_h2c: true },
        ..ready_target("web", vec![])
    };
    let proxy = start_proxy(vec![preview_routes("shop", "main", vec![h2c])]).await;
    let mut client = proxy.http2().await;
    for _ in 0..2 {
        let request =
            Request::get(format!("http://{WEB_HOST}/x")).header("te", "trailers").body(text_body("")).unwrap();
        let body = client.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), format!("HTTP/2.0 http://{WEB_HOST}/x"));
    }
    assert_eq!(service.accepted_connections.load(Ordering::SeqCst), 1, "both requests share one connection");
}

#[tokio::test]
async fn server_sent_events_are_not_buffered() {
    let (feed, body) = channel_body();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let service = Backend::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Box::pin(async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
    let mut response = proxy.http1().await.send_request(request).await.unwrap().into_body();
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        feed.send(Ok(Bytes::from(event.clone()))).await.unwrap();
        // The next event is not sent before this one has arrived.
        let frame = timeout(TEST_TIMEOUT, response.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
}

const LARGE_BODY_BYTES: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

#[tokio::test]
async fn large_bodies_stream_in_both_directions_with_bounded_memory() {
    // The service echoes while it reads, so neither side needs the entire body in memory.
    let service = Backend::start(|request| {
        Box::pin(async move { Response::new(request.into_body().map_err(std::io::Error::other).boxed()) })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let (feed, body) = channel_body();
    let fill = tokio::spawn(async move {
        for _ in 0..LARGE_BODY_BYTES / CHUNK_BYTES {
            feed.send(Ok(Bytes::from_static(&[7; CHUNK_BYTES]))).await.unwrap();
        }
    });
    let before = resident_kilobytes();
    let request = Request::post("/").header("host", WEB_HOST).body(body).unwrap();
    let mut response = proxy.http1().await.send_request(request).await.unwrap().into_body();
    let (mut read, mut growth_max) = (0, 0);
    while let Some(frame) = timeout(TEST_TIMEOUT, response.frame()).await.unwrap() {
        read += frame.unwrap().into_data().unwrap().len();
        growth_max = growth_max.max(resident_kilobytes().saturating_sub(before));
    }
    fill.await.unwrap();
    assert_eq!(read, LARGE_BODY_BYTES);
    // Client, proxy and service share this process, and other tests run in it. A buffered body alone would take 64 MB.
    assert!(growth_max < 32 * 1024, "grew by {growth_max} kB");
}

fn resident_kilobytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn slow_client_applies_backpressure_to_service() {
    const CHUNKS: usize = 8 * LARGE_BODY_BYTES / CHUNK_BYTES;
    let (feed, body) = channel_body();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let service = Backend::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Box::pin(async move { Response::new(body) })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let mut client = proxy.connect().await;
    client.write_all(format!("GET / HTTP/1.1\r\nhost: {WEB_HOST}\r\n\r\n").as_bytes()).await.unwrap();
    read_head(&mut client).await;
    // Because no client reads, the kernel's buffers fill (tens of megabytes over two sockets), and then sending blocks.
    let sending = async {
        for chunk in 0..CHUNKS {
            let send = feed.send(Ok(Bytes::from_static(&[7; CHUNK_BYTES])));
            if timeout(Duration::from_millis(500), send).await.is_err() {
                return chunk;
            }
        }
        CHUNKS
    };
    let sent_chunks = sending.await;
    assert!(sent_chunks < CHUNKS, "the proxy accepted all {sent_chunks} chunks");
}

#[tokio::test]
async fn truncated_response_is_an_error_for_client() {
    let service = Backend::start(|_| {
        let (feed, body) = channel_body();
        tokio::spawn(async move {
            feed.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
            drop(feed.send(Err(std::io::Error::other("gone"))).await);
        });
        Box::pin(async move { Response::new(body) })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
    let response = proxy.http1().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(timeout(TEST_TIMEOUT, response.into_body().collect()).await.unwrap().is_err());
    // Over HTTP/2, only the stream is reset, and the connection stays open.
    let mut client = proxy.http2().await;
    let request = || Request::get(format!("http://{WEB_HOST}/")).body(text_body("")).unwrap();
    let first = client.send_request(request()).await.unwrap();
    assert!(timeout(TEST_TIMEOUT, first.into_body().collect()).await.unwrap().is_err());
    assert_eq!(client.send_request(request()).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn unreachable_service_returns_502_with_tried_addresses() {
    let closed_address = Backend::start_text("x").await.stop().await;
    let proxy = start_web_proxy(closed_address).await;
    let page = proxy.get(WEB_HOST, "/", &[("accept", "text/html")]).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.body.contains(&format!("<code>{closed_address}</code> (connection refused)")), "{}", page.body);
    let json = proxy.get(WEB_HOST, "/", &[("accept", "application/json")]).await;
    let problem: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(problem["code"], "unreachable");
}

/// A service that answers every connection with fixed bytes, whatever the request is, and closes it.
async fn start_fixed_bytes_service(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(bytes).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn non_http_responses_return_502_with_reason() {
    let cases: [(&'static [u8], &str); 3] = [
        (b"Unauthorized", "not-http"),
        (b"", "broken-answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "not-http"),
    ];
    for (bytes, code) in cases {
        let proxy = start_web_proxy(start_fixed_bytes_service(bytes).await).await;
        let response = proxy.get(WEB_HOST, "/", &[("accept", "application/json")]).await;
        assert_eq!(response.status, StatusCode::BAD_GATEWAY, "{bytes:?}");
        assert!(response.body.contains(&format!("\"code\":\"{code}\"")), "{bytes:?}: {}", response.body);
    }
}

#[tokio::test]
async fn service_on_ipv6_only_is_reached() {
    let handler = |_: Request<_>| -> std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async { Response::new(text_body("six")) })
    };
    let service = Backend::start_on(IpAddr::V6(Ipv6Addr::LOCALHOST), handler).await;
    let v4 = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, service.address.port()));
    let proxy =
        start_proxy(vec![preview_routes("shop", "main", vec![ready_target("web", vec![v4, service.address])])]).await;
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.body, "six");
}

#[tokio::test]
async fn connections_to_services_are_reused() {
    let service = Backend::start_echo().await;
    let proxy = start_web_proxy(service.address).await;
    for _ in 0..20 {
        assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.status, StatusCode::OK);
    }
    assert_eq!(service.accepted_connections.load(Ordering::SeqCst), 1);
}

/// Answers one request per connection, and closes the connection without a response when the second request arrives.
async fn start_one_request_service(accepted: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                drop(stream.read_u8().await);
            });
        }
    });
    address
}

#[tokio::test]
async fn stale_connection_is_retried_only_for_idempotent_requests() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let proxy = start_web_proxy(start_one_request_service(accepted.clone()).await).await;
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.body, "ok");
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.body, "ok", "the second request is retried on a new connection");
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    let post = Request::post("/").header("host", WEB_HOST).body(text_body("pay")).unwrap();
    assert_eq!(proxy.send(post).await.status, StatusCode::BAD_GATEWAY, "a POST request must not be retried");
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn route_change_under_load_loses_no_request() {
    let (one, two) = (Backend::start_text("one").await, Backend::start_text("two").await);
    let proxy = start_web_proxy(one.address).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut client, stop) = (proxy.http1().await, stop.clone());
        clients.spawn(async move {
            let mut responses = 0;
            while !stop.load(Ordering::SeqCst) || responses == 0 {
                client.ready().await.unwrap();
                let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
                let response =
                    read_response(timeout(TEST_TIMEOUT, client.send_request(request)).await.unwrap().unwrap()).await;
                assert!(response.body == "one" || response.body == "two", "{} {}", response.status, response.body);
                responses += 1;
            }
            responses
        });
    }
    for round in 0..200 {
        let address = if round % 2 == 0 { two.address } else { one.address };
        proxy.routes.update(|table| {
            table.set_preview(preview_routes("shop", "main", vec![ready_target("web", vec![address])]));
        });
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::SeqCst);
    assert!(clients.join_all().await.into_iter().sum::<usize>() >= 8);
}
