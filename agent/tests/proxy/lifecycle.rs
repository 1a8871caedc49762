//! The life cycle of the proxy and of services: starting, failing, limits, draining.

use std::sync::Arc;
use std::time::Duration;

use agent::proxy::{Limits, Proxy, RouteTarget, Routes, ServiceState, bind};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{
    Backend, TEST_TIMEOUT, WEB_HOST, channel_body, preview_routes, read_head, read_response, ready_target, start_proxy,
    start_proxy_with, start_web_proxy, text_body,
};

fn web_routes_in_state(state: ServiceState, addresses: Vec<std::net::SocketAddr>) -> Vec<agent::proxy::PreviewRoutes> {
    vec![preview_routes("shop", "main", vec![RouteTarget { state, ..ready_target("web", addresses) }])]
}

#[tokio::test]
async fn browser_gets_page_while_service_starts() {
    let proxy = start_proxy(web_routes_in_state(ServiceState::Starting, vec![])).await;
    let response = proxy.get(WEB_HOST, "/", &[("accept", "text/html,*/*"), ("sec-fetch-mode", "navigate")]).await;
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(
        (&response.headers["refresh"], &response.headers["cache-control"]),
        (&"1".parse().unwrap(), &"no-store".parse().unwrap())
    );
}

#[tokio::test]
async fn program_request_waits_until_service_is_ready() {
    let service = Backend::start_text("ready").await;
    let proxy = start_proxy(web_routes_in_state(ServiceState::Starting, vec![])).await;
    let mut client = proxy.http1().await;
    let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
    let mut response = Box::pin(client.send_request(request));
    // A second request is answered meanwhile, so the first one has reached the proxy and waits there.
    let other = proxy.get("pdev.localhost", "/", &[]);
    tokio::select! {
        _ = &mut response => panic!("answered although the service has no address"),
        other = other => assert_eq!(other.status, StatusCode::UNAUTHORIZED),
    }
    proxy
        .routes
        .update(|table| table.set_preview(web_routes_in_state(ServiceState::Ready, vec![service.address]).remove(0)));
    assert_eq!(read_response(timeout(TEST_TIMEOUT, response).await.unwrap().unwrap()).await.body, "ready");
}

#[tokio::test]
async fn waiting_requests_are_limited_in_time_and_number() {
    let limits = Limits { start_timeout: Duration::from_millis(20), ..Limits::default() };
    let response = start_proxy_with(web_routes_in_state(ServiceState::Starting, vec![]), &limits)
        .await
        .get(WEB_HOST, "/", &[])
        .await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers.contains_key("retry-after"));
    let none = Limits { waiting_requests: 0, ..Limits::default() };
    let response = start_proxy_with(web_routes_in_state(ServiceState::Starting, vec![]), &none)
        .await
        .get(WEB_HOST, "/", &[])
        .await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn failed_service_page_shows_escaped_log() {
    let log: Vec<String> = (0..30).map(|number| format!("line {number} <script>\u{1b}[31m")).collect();
    let failed = ServiceState::Failed { reason: "exit code `1` after 0.2 s".to_owned(), log };
    let proxy = start_proxy(web_routes_in_state(failed, vec![])).await;
    let page = proxy.get(WEB_HOST, "/", &[("accept", "text/html")]).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.body.contains("exit code <code>1</code>") && page.body.contains("line 29 &lt;script&gt;[31m"));
    assert!(!page.body.contains("<script") && !page.body.contains("line 9 ") && !page.body.contains('\u{1b}'));
    let plain = proxy.get(WEB_HOST, "/", &[]).await.body;
    assert!(plain.contains("line 29 <script>[31m"), "{plain}");
}

#[tokio::test]
async fn stopped_service_returns_503_with_start_hint() {
    let response = start_proxy(web_routes_in_state(ServiceState::Stopped, vec![])).await.get(WEB_HOST, "/", &[]).await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.body.contains("pdev up"), "{}", response.body);
}

#[tokio::test]
async fn bind_uses_loopback_only_and_skips_taken_port() {
    let first = bind(0).await.unwrap();
    let second = bind(first.port()).await.unwrap();
    assert!(second.port() > first.port() && second.port() <= first.port() + 50);
    let port = first.port();
    let proxy = Proxy::start(first, Routes::new(), &Limits::default());
    for address in ["127.0.0.1", "::1"] {
        let mut stream = TcpStream::connect((address, port)).await.unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\nhost: pdev.localhost\r\n\r\n").await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.0 401"));
    }
    proxy.shutdown(TEST_TIMEOUT).await;
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let all_interfaces = format!(" 00000000:{port:04X} ");
    assert!(!table.contains(&all_interfaces), "listens on all interfaces");
}

#[tokio::test]
async fn oversized_and_malformed_heads_are_refused() {
    let service = Backend::start_text("x").await;
    let proxy = start_web_proxy(service.address).await;
    let many: String = (0..501).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(300_000));
    let many_accepted: String = (0..490).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large_accepted = format!("x: {}\r\n", "y".repeat(250_000));
    let cases = [
        (many.as_str(), "HTTP/1.1 431"),
        (&large, "HTTP/1.1 431"),
        ("no colon\r\n", "HTTP/1.1 400"),
        (&many_accepted, "HTTP/1.1 200"),
        (&large_accepted, "HTTP/1.1 200"),
    ];
    for (headers, expected) in cases {
        let mut client = proxy.connect().await;
        // The proxy may answer and close the connection before it has read the entire head.
        drop(client.write_all(format!("GET / HTTP/1.1\r\nhost: {WEB_HOST}\r\n{headers}\r\n").as_bytes()).await);
        let head = read_head(&mut client).await;
        assert!(head.starts_with(expected), "{} bytes: {head}", headers.len());
        if headers == many {
            // It names the limit.
            let mut body = vec![0; 1000];
            let length = timeout(TEST_TIMEOUT, client.read(&mut body)).await.unwrap().unwrap();
            let body = String::from_utf8_lossy(&body[..length]).into_owned();
            assert!(body.contains("at most 500 headers and 256 KiB of them"), "{body}");
        }
    }
}

#[tokio::test]
async fn silent_and_stalling_clients_are_dropped() {
    let limits = Limits { first_request_timeout: Duration::from_millis(50), ..Limits::default() };
    let proxy = start_proxy_with(vec![], &limits).await;
    for start in ["", "P", "GET / HTTP/1.1\r\nhost: pdev"] {
        let mut client = proxy.connect().await;
        client.write_all(start.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(TEST_TIMEOUT, client.read_to_end(&mut rest)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn connection_beyond_limit_waits() {
    let service = Backend::start_text("x").await;
    let limits = Limits { connections: 1, ..Limits::default() };
    let proxy = start_proxy_with(web_routes_in_state(ServiceState::Ready, vec![service.address]), &limits).await;
    let mut first = proxy.connect().await;
    first.write_all(format!("GET / HTTP/1.1\r\nhost: {WEB_HOST}\r\n\r\n").as_bytes()).await.unwrap();
    read_head(&mut first).await;
    let second = proxy.get(WEB_HOST, "/", &[]);
    tokio::pin!(second);
    assert!(timeout(Duration::from_millis(50), &mut second).await.is_err(), "a second connection was accepted");
    drop(first);
    assert_eq!(timeout(TEST_TIMEOUT, second).await.unwrap().status, StatusCode::OK);
}

/// A service whose response ends when the test drops the sender.
async fn start_unfinished_service() -> (Backend, tokio::sync::mpsc::Sender<std::io::Result<Bytes>>) {
    let (feed, body) = channel_body();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let service = Backend::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Box::pin(async move { http::Response::new(body) })
    })
    .await;
    (service, feed)
}

#[tokio::test]
async fn drain_finishes_requests_and_refuses_connections() {
    let (service, feed) = start_unfinished_service().await;
    let proxy = start_web_proxy(service.address).await;
    feed.send(Ok(Bytes::from_static(b"first "))).await.unwrap();
    let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
    let response = proxy.http1().await.send_request(request).await.unwrap();
    let mut draining = Box::pin(proxy.proxy.shutdown(TEST_TIMEOUT));
    assert!(futures_util::poll!(&mut draining).is_pending());
    // Refused connections show that the listener is closed; until then the kernel may still queue some.
    let refused = async { while TcpStream::connect(("127.0.0.1", proxy.port)).await.is_ok() {} };
    timeout(TEST_TIMEOUT, refused).await.unwrap();
    feed.send(Ok(Bytes::from_static(b"last"))).await.unwrap();
    drop(feed);
    assert_eq!(timeout(TEST_TIMEOUT, response.into_body().collect()).await.unwrap().unwrap().to_bytes(), "first last");
    timeout(TEST_TIMEOUT, draining).await.unwrap();
}

#[tokio::test]
async fn drain_is_cut_at_deadline_or_second_shutdown() {
    for second in [false, true] {
        let (service, feed) = start_unfinished_service().await;
        let proxy = start_web_proxy(service.address).await;
        feed.send(Ok(Bytes::from_static(b"first "))).await.unwrap();
        let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
        let response = proxy.http1().await.send_request(request).await.unwrap();
        let within = if second { Duration::from_secs(3600) } else { Duration::from_millis(20) };
        let first_shutdown = proxy.proxy.shutdown(within);
        if second {
            let second_shutdown = proxy.proxy.shutdown(TEST_TIMEOUT);
            timeout(TEST_TIMEOUT, async { tokio::join!(first_shutdown, second_shutdown) }).await.unwrap();
        } else {
            timeout(TEST_TIMEOUT, first_shutdown).await.unwrap();
        }
        assert!(
            timeout(TEST_TIMEOUT, response.into_body().collect()).await.unwrap().is_err(),
            "the response must end with an error"
        );
    }
}

#[tokio::test]
async fn open_websockets_do_not_delay_a_drain() {
    let service_closed = Arc::new(Notify::new());
    let notify_closed = service_closed.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let accept = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(accept).await.unwrap();
        drop(stream.read_u8().await);
        notify_closed.notify_one();
    });
    let proxy = start_web_proxy(address).await;
    let mut client = proxy.connect().await;
    let hello = format!("GET / HTTP/1.1\r\nhost: {WEB_HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    client.write_all(hello.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    timeout(TEST_TIMEOUT, proxy.proxy.shutdown(Duration::from_secs(3600))).await.unwrap();
    timeout(TEST_TIMEOUT, service_closed.notified()).await.unwrap();
    assert_eq!(timeout(TEST_TIMEOUT, client.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
}
