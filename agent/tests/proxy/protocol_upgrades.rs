//! WebSockets and other protocol switches, over HTTP/1.1 and HTTP/2.

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::harness::{Backend, TEST_TIMEOUT, WEB_HOST, read_head, start_web_proxy, text_body};

/// Accepts a WebSocket and echoes bytes. Reports the request in the header `x-request`.
async fn start_echo_websocket() -> Backend {
    Backend::start(|mut request| {
        Box::pin(async move {
            if request.headers().get("upgrade").is_none_or(|upgrade| upgrade != "websocket") {
                return Response::builder()
                    .status(StatusCode::UPGRADE_REQUIRED)
                    .body(text_body("websockets only"))
                    .unwrap();
            }
            let request_line = format!("{} {}", request.method(), request.uri());
            let key = request.headers().get("sec-websocket-key").map_or(0, http::HeaderValue::len);
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", "x")
                .header("sec-websocket-protocol", request.headers()["sec-websocket-protocol"].clone())
                .header("x-request", format!("{request_line} {key}"))
                .body(text_body(""))
                .unwrap()
        })
    })
    .await
}

/// The proxy does not interpret WebSocket frames, so the payload contains every byte value.
fn binary_payload() -> Vec<u8> {
    (0..=255u8).cycle().take(100_000).collect()
}

#[tokio::test]
async fn websocket_echoes_binary_and_closes_cleanly() {
    let service = start_echo_websocket().await;
    let proxy = start_web_proxy(service.address).await;
    let mut client = proxy.connect().await;
    let hello = format!(
        "GET /hmr?token=t HTTP/1.1\r\nhost: {WEB_HOST}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: vite-hmr\r\n\r\n"
    );
    client.write_all(hello.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    for expected in
        ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: vite-hmr", "get /hmr?token=t 24"]
    {
        assert!(head.contains(expected), "{expected} in {head}");
    }
    let (mut read, mut write) = client.split();
    let sent = binary_payload();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let (_, read) = tokio::join!(writing, timeout(TEST_TIMEOUT, read.read_to_end(&mut echoed)));
    read.unwrap().unwrap();
    assert!(echoed == sent, "{} of {} bytes came back", echoed.len(), sent.len());
}

#[tokio::test]
async fn http2_websocket_reaches_http1_service() {
    let service = start_echo_websocket().await;
    let proxy = start_web_proxy(service.address).await;
    let mut client = proxy.http2().await;
    // The server's settings, which allow extended CONNECT, arrive with the first response at the latest.
    let first = Request::get(format!("http://{WEB_HOST}/")).body(text_body("")).unwrap();
    assert_eq!(client.send_request(first).await.unwrap().status(), StatusCode::UPGRADE_REQUIRED);
    let request = Request::connect(format!("http://{WEB_HOST}/hmr?token=t"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "vite-hmr")
        .body(text_body(""))
        .unwrap();
    let mut response = timeout(TEST_TIMEOUT, client.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["sec-websocket-protocol"], "vite-hmr");
    assert_eq!(response.headers()["x-request"], "GET /hmr?token=t 24");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let sent = b"\x82\x03\x00\xff\x7f".as_slice();
    tunnel.write_all(sent).await.unwrap();
    let mut echoed = vec![0; sent.len()];
    timeout(TEST_TIMEOUT, tunnel.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, sent);
}

#[tokio::test]
async fn refused_websocket_returns_ordinary_response() {
    let service = Backend::start_text("no websockets here").await;
    let proxy = start_web_proxy(service.address).await;
    let response = proxy.get(WEB_HOST, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]).await;
    assert_eq!((response.status, response.body.as_str()), (StatusCode::OK, "no websockets here"));
}

#[tokio::test]
async fn offer_of_h2c_is_ignored() {
    let echo = Backend::start_echo().await;
    let proxy = start_web_proxy(echo.address).await;
    let offer = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQ")];
    let response = proxy.get(WEB_HOST, "/", &offer).await;
    assert_eq!(response.status, StatusCode::OK);
    assert!(!response.body.contains("upgrade") && !response.body.contains("http2-settings"), "{}", response.body);
}
