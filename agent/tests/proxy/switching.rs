//! WebSockets and other switched connections, over HTTP/1.1 and HTTP/2.

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::rig::{Backend, SOON, WEB, read_head, text, web};

/// Agrees to a WebSocket and echoes bytes; says in a header what it was asked.
async fn echoing() -> Backend {
    Backend::start(|mut request| {
        Box::pin(async move {
            if request.headers().get("upgrade").is_none_or(|upgrade| upgrade != "websocket") {
                return Response::builder().status(StatusCode::UPGRADE_REQUIRED).body(text("websockets only")).unwrap();
            }
            let asked = format!("{} {}", request.method(), request.uri());
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
                .header("x-asked", format!("{asked} {key}"))
                .body(text(""))
                .unwrap()
        })
    })
    .await
}

/// Frames of a WebSocket are opaque here; these hold every byte there is.
fn binary() -> Vec<u8> {
    (0..=255u8).cycle().take(100_000).collect()
}

#[tokio::test]
async fn a_websocket_echoes_binary_and_closes_cleanly() {
    let service = echoing().await;
    let rig = web(service.address).await;
    let mut client = rig.connect().await;
    let hello = format!(
        "GET /hmr?token=t HTTP/1.1\r\nhost: {WEB}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
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
    let sent = binary();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let (_, read) = tokio::join!(writing, timeout(SOON, read.read_to_end(&mut echoed)));
    read.unwrap().unwrap();
    assert!(echoed == sent, "{} of {} bytes came back", echoed.len(), sent.len());
}

#[tokio::test]
async fn an_http2_websocket_reaches_an_http1_service() {
    let service = echoing().await;
    let rig = web(service.address).await;
    let mut client = rig.http2().await;
    // The server's settings, which allow extended CONNECT, arrive with the first answer at the latest.
    let warm = Request::get(format!("http://{WEB}/")).body(text("")).unwrap();
    assert_eq!(client.send_request(warm).await.unwrap().status(), StatusCode::UPGRADE_REQUIRED);
    let request = Request::connect(format!("http://{WEB}/hmr?token=t"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "vite-hmr")
        .body(text(""))
        .unwrap();
    let mut answer = timeout(SOON, client.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "vite-hmr");
    assert_eq!(answer.headers()["x-asked"], "GET /hmr?token=t 24");
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    let sent = b"\x82\x03\x00\xff\x7f".as_slice();
    tunnel.write_all(sent).await.unwrap();
    let mut echoed = vec![0; sent.len()];
    timeout(SOON, tunnel.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, sent);
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let service = Backend::saying("no websockets here").await;
    let rig = web(service.address).await;
    let got = rig.get(WEB, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]).await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "no websockets here"));
}

#[tokio::test]
async fn an_offer_of_h2c_is_ignored() {
    let mirror = Backend::mirror().await;
    let rig = web(mirror.address).await;
    let offer = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQ")];
    let got = rig.get(WEB, "/", &offer).await;
    assert_eq!(got.status, StatusCode::OK);
    assert!(!got.body.contains("upgrade") && !got.body.contains("http2-settings"), "{}", got.body);
}
