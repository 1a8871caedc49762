//! Real services, a real proxy and raw clients for the other test modules.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::proxy::{
    Limits, ListToken, PreviewRoutes, Proxy, RouteTarget, Routes, ServiceRoute, ServiceState, Upstream, bind,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;
type Reply = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

pub(crate) fn text_body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A body whose frames the test sends one at a time. An error closes the connection.
pub(crate) fn channel_body() -> (mpsc::Sender<std::io::Result<Bytes>>, Body) {
    let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(1);
    let stream = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|frame| frame.map(|frame| frame.map(Frame::data)))
    });
    (sender, BodyExt::boxed(StreamBody::new(stream)))
}

/// A service on a real socket.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) accepted_connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start<F>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Reply + Send + Sync + Clone + 'static,
    {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), handler).await
    }

    pub(crate) async fn start_on<F>(ip: IpAddr, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Reply + Send + Sync + Clone + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                counter.fetch_add(1, Ordering::SeqCst);
                let handler = handler.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let reply = handler(request);
                        async move { Ok::<_, Infallible>(reply.await) }
                    });
                    let mut http = auto::Builder::new(TokioExecutor::new());
                    // More than the proxy passes.
                    http.http1().max_headers(1000);
                    http.http2().enable_connect_protocol();
                    drop(http.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, accepted_connections: accepted, task }
    }

    /// Answers each request with its own method, path and headers, one per line.
    pub(crate) async fn start_echo() -> Self {
        Self::start(|request| {
            let mut lines = vec![format!("{} {} {:?}", request.method(), request.uri(), request.version())];
            lines.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
            Box::pin(async move { Response::new(text_body(lines.join("\n"))) })
        })
        .await
    }

    pub(crate) async fn start_text(text: &'static str) -> Self {
        Self::start(move |_| Box::pin(async move { Response::new(text_body(text)) })).await
    }

    /// Closes every connection and the listener.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.task.abort();
        drop(self.task.await);
        self.address
    }
}

pub(crate) fn ready_target(service: &str, addresses: Vec<SocketAddr>) -> RouteTarget {
    RouteTarget {
        preview_id: "p1".to_owned(),
        service: service.to_owned(),
        upstream: Upstream { addresses, uses_h2c: false },
        state: ServiceState::Ready,
        is_wildcard: false,
    }
}

pub(crate) fn preview_routes(app: &str, branch: &str, services: Vec<RouteTarget>) -> PreviewRoutes {
    PreviewRoutes {
        id: format!("{app}/{branch}"),
        app: app.to_owned(),
        branch: branch.to_owned(),
        is_primary: branch == "main",
        default_service: services.first().map(|target| target.service.clone()),
        services: services.into_iter().map(|target| ServiceRoute { target, prefixes: Vec::new() }).collect(),
    }
}

/// Each test starts its own proxy on a free port.
pub(crate) struct TestProxy {
    pub(crate) proxy: Proxy,
    pub(crate) routes: Routes,
    pub(crate) port: u16,
}

pub(crate) async fn start_proxy(previews: Vec<PreviewRoutes>) -> TestProxy {
    start_proxy_with(previews, &Limits::default()).await
}

pub(crate) async fn start_proxy_with(previews: Vec<PreviewRoutes>, limits: &Limits) -> TestProxy {
    let routes = Routes::new();
    routes.update(|table| previews.into_iter().for_each(|preview| table.set_preview(preview)));
    let listeners = bind(0).await.unwrap().with_list_token(ListToken::new(LIST_TOKEN));
    let proxy = Proxy::start(listeners, routes.clone(), limits);
    let port = proxy.port();
    TestProxy { proxy, routes, port }
}

/// A proxy with one service: `web` of branch `main` of app `shop`, on one address.
pub(crate) async fn start_web_proxy(address: SocketAddr) -> TestProxy {
    start_proxy(vec![preview_routes("shop", "main", vec![ready_target("web", vec![address])])]).await
}

pub(crate) const LIST_TOKEN: &str = "0123456789abcdef";
pub(crate) const WEB_HOST: &str = "web.main.shop.localhost";

pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl TestProxy {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap()
    }

    pub(crate) async fn http1(&self) -> http1::SendRequest<Body> {
        let (sender, driver) = http1::Builder::new()
            .max_headers(1000)
            .max_buf_size(1 << 20)
            .handshake(TokioIo::new(self.connect().await))
            .await
            .unwrap();
        tokio::spawn(driver.with_upgrades());
        sender
    }

    pub(crate) async fn http2(&self) -> http2::SendRequest<Body> {
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(driver);
        sender
    }

    pub(crate) async fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> TestResponse {
        let mut request = Request::get(path).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(text_body("")).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> TestResponse {
        let mut sender = self.http1().await;
        read_response(timeout(TEST_TIMEOUT, sender.send_request(request)).await.unwrap().unwrap()).await
    }

    /// Sends the bytes unchanged and reads until the proxy closes the connection.
    pub(crate) async fn send_raw(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        timeout(TEST_TIMEOUT, stream.read_to_end(&mut response)).await.unwrap().unwrap();
        String::from_utf8_lossy(&response).into_owned()
    }
}

pub(crate) async fn read_response(response: Response<Incoming>) -> TestResponse {
    let (parts, body) = response.into_parts();
    let body = timeout(TEST_TIMEOUT, body.collect()).await.unwrap().unwrap().to_bytes();
    TestResponse { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// Reads one HTTP/1.1 head and leaves the rest in the socket.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(TEST_TIMEOUT, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}
