//! Exchanges that do not end in the usual order: early responses, clients that disconnect, heads without bodies.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{
    Backend, TEST_TIMEOUT, WEB_HOST, channel_body, read_head, read_response, start_web_proxy, text_body,
};

#[tokio::test]
async fn early_response_discards_rest_of_upload() {
    let service = Backend::start(|_| {
        Box::pin(async {
            Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).body(text_body("too large")).unwrap()
        })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let (feed, body) = channel_body();
    feed.send(Ok(Bytes::from_static(b"start"))).await.unwrap();
    let request = Request::post("/").header("host", WEB_HOST).body(body).unwrap();
    let response = timeout(TEST_TIMEOUT, proxy.http1().await.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // The next request must not be preceded by the rest of that upload.
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.body, "too large");
    assert_eq!(service.accepted_connections.load(Ordering::SeqCst), 2);
    drop(feed);
}

#[tokio::test]
async fn client_disconnect_ends_response_stream() {
    for http2 in [false, true] {
        let (feed, body) = channel_body();
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let service = Backend::start(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            Box::pin(async move { Response::new(body) })
        })
        .await;
        let proxy = start_web_proxy(service.address).await;
        let response = if http2 {
            let request = Request::get(format!("http://{WEB_HOST}/")).body(text_body("")).unwrap();
            proxy.http2().await.send_request(request).await.unwrap()
        } else {
            let request = Request::get("/").header("host", WEB_HOST).body(text_body("")).unwrap();
            proxy.http1().await.send_request(request).await.unwrap()
        };
        drop(response);
        timeout(TEST_TIMEOUT, feed.closed()).await.unwrap();
    }
}

#[tokio::test]
async fn client_disconnect_before_response_closes_upstream() {
    let (request_received, connection_closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (notify_received, notify_closed) = (request_received.clone(), connection_closed.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        notify_received.notify_one();
        // The service does not answer, so the read ends only when the proxy closes the connection.
        drop(stream.read_to_end(&mut Vec::new()).await);
        notify_closed.notify_one();
    });
    let proxy = start_web_proxy(address).await;
    let mut client = proxy.connect().await;
    client.write_all(format!("GET / HTTP/1.1\r\nhost: {WEB_HOST}\r\n\r\n").as_bytes()).await.unwrap();
    timeout(TEST_TIMEOUT, request_received.notified()).await.unwrap();
    drop(client);
    timeout(TEST_TIMEOUT, connection_closed.notified()).await.unwrap();
}

#[tokio::test]
async fn interrupted_upload_is_never_seen_as_complete() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let service = Backend::start(move |request| {
        let sender = sender.clone();
        Box::pin(async move {
            let is_complete = request.into_body().collect().await.is_ok();
            sender.send(is_complete).await.unwrap();
            Response::new(text_body(""))
        })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let mut client = proxy.connect().await;
    let head = format!("POST / HTTP/1.1\r\nhost: {WEB_HOST}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    // Wait until the service has the connection, so that the request is in progress.
    let accepted = async {
        while service.accepted_connections.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, accepted).await.unwrap();
    drop(client);
    // Either the service received a broken body, or its connection was closed before it could report anything.
    assert_ne!(timeout(TEST_TIMEOUT, async { receiver.recv().await }).await.unwrap_or(Some(false)), Some(true));
}

#[tokio::test]
async fn bodyless_responses_keep_content_length() {
    let service = Backend::start(|request| {
        Box::pin(async move {
            let status = if request.uri().path() == "/304" { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
            let body =
                if request.method() == http::Method::HEAD || status == StatusCode::NOT_MODIFIED { "" } else { "hello" };
            Response::builder()
                .status(status)
                .header("content-length", "5")
                .header("etag", "x")
                .body(text_body(body))
                .unwrap()
        })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let head = read_response(
        proxy
            .http1()
            .await
            .send_request(Request::head("/").header("host", WEB_HOST).body(text_body("")).unwrap())
            .await
            .unwrap(),
    )
    .await;
    assert_eq!((&head.headers["content-length"], head.body.as_str()), (&"5".parse().unwrap(), ""));
    assert_eq!(proxy.get(WEB_HOST, "/304", &[]).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.body, "hello");
    assert_eq!(service.accepted_connections.load(Ordering::SeqCst), 1, "the connection stays reusable");
}

#[tokio::test]
async fn expect_100_continue_is_answered() {
    let service = Backend::start(|request| {
        Box::pin(async move { Response::new(request.into_body().map_err(std::io::Error::other).boxed()) })
    })
    .await;
    let proxy = start_web_proxy(service.address).await;
    let mut client = proxy.connect().await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {WEB_HOST}\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 100"));
    client.write_all(b"hello").await.unwrap();
    let mut response = String::new();
    timeout(TEST_TIMEOUT, client.read_to_string(&mut response)).await.unwrap().unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("hello"), "{response}");
}

#[tokio::test]
async fn smuggled_request_is_not_forwarded() {
    let service = Backend::start_echo().await;
    let proxy = start_web_proxy(service.address).await;
    let both = format!(
        "POST / HTTP/1.1\r\nhost: {WEB_HOST}\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"
    );
    let response = proxy.send_raw(&both).await;
    // Refused, or read as chunked without the length; never forwarded with both headers.
    assert!(response.starts_with("HTTP/1.1 400") || !response.contains("content-length: 4\n"), "{response}");
    assert!(!response.contains("/admin"), "{response}");
}
