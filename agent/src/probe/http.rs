//! HTTP and gRPC looks at a connected program.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::ProbeResult;

/// As much of an unwelcome answer as is shown.
const EXCERPT_BYTES: usize = 200;

pub(super) struct HttpExpectation<'a> {
    pub path: &'a str,
    pub host: Option<&'a str>,
    pub headers: &'a [(String, String)],
    /// Kubernetes' rule when absent: 200 to 399.
    pub status: Option<&'a [u16]>,
}

pub(super) async fn probe_http(stream: TcpStream, wanted: &HttpExpectation<'_>) -> ProbeResult {
    let path = wanted.path;
    let host = wanted.host.map_or_else(|| format!("localhost:{}", peer_port(&stream)), str::to_owned);
    let mut request = Request::builder()
        .uri(path)
        .header(HOST, host)
        .header("user-agent", "pdev-probe")
        .header("connection", "close");
    for (name, value) in wanted.headers {
        request = request.header(name, value);
    }
    let Ok(request) = request.body(Empty::<Bytes>::new()) else {
        return ProbeResult::Failure(format!("`GET {path}` is no valid request"));
    };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else {
        return ProbeResult::Failure(format!("GET {path} was not answered in HTTP"));
    };
    let exchange = async {
        match sender.send_request(request).await {
            Ok(answer) => judge_response(answer, wanted).await,
            Err(error) if error.is_parse() => ProbeResult::Failure(format!("GET {path} was not answered in HTTP")),
            Err(_) => ProbeResult::Failure(format!("GET {path}: the connection was closed without an answer")),
        }
    };
    // The connection's own future is polled beside the exchange and dropped with it: no task is left behind.
    tokio::select! {
        seen = exchange => seen,
        () = drive_connection(connection) => ProbeResult::Failure(format!("GET {path}: the connection was closed without an answer")),
    }
}

/// Drives a connection; when it ends by itself the answer may still lie in the exchange, which then has priority.
async fn drive_connection<F: Future>(connection: F) {
    let _ended = connection.await;
    std::future::pending::<()>().await;
}

async fn judge_response(answer: hyper::Response<hyper::body::Incoming>, wanted: &HttpExpectation<'_>) -> ProbeResult {
    let status = answer.status();
    let good = match wanted.status {
        Some(list) => list.contains(&status.as_u16()),
        None => (200..400).contains(&status.as_u16()),
    };
    if good {
        return ProbeResult::Success;
    }
    let body = Limited::new(answer.into_body(), EXCERPT_BYTES * 8).collect().await;
    let excerpt = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    let line: String = excerpt.lines().next().unwrap_or_default().chars().take(EXCERPT_BYTES).collect();
    let words = if line.is_empty() { String::new() } else { format!(": {line}") };
    ProbeResult::Failure(format!("GET {} answered {}{words}", wanted.path, status.as_u16()))
}

/// The standard `grpc.health.v1.Health/Check`, by hand: two tiny messages do not need a code generator.
pub(super) async fn probe_grpc(stream: TcpStream, service: &str) -> ProbeResult {
    let name = service.as_bytes();
    let Ok(length) = u8::try_from(name.len()) else {
        return ProbeResult::Failure("the gRPC service's name is too long".into());
    };
    // HealthCheckRequest { string service = 1; }
    let message = if name.is_empty() { Vec::new() } else { [&[0x0a, length], name].concat() };
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    frame.extend(message);
    let uri = format!("http://localhost:{}/grpc.health.v1.Health/Check", peer_port(&stream));
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)));
    let Ok(request) = request else { return ProbeResult::Failure("the gRPC health request is invalid".into()) };
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = handshake else {
        return ProbeResult::Failure("the program does not speak HTTP/2".into());
    };
    let exchange = async {
        match sender.send_request(request).await {
            Ok(answer) if answer.status() == StatusCode::OK => parse_health_response(answer.into_body()).await,
            Ok(answer) => {
                ProbeResult::Failure(format!("the gRPC health check answered HTTP {}", answer.status().as_u16()))
            }
            Err(error) => ProbeResult::Failure(format!("the gRPC health check failed: {error}")),
        }
    };
    tokio::select! {
        seen = exchange => seen,
        () = drive_connection(connection) => ProbeResult::Failure("the gRPC connection was closed".into()),
    }
}

async fn parse_health_response(body: hyper::body::Incoming) -> ProbeResult {
    let Ok(collected) = Limited::new(body, 4096).collect().await else {
        return ProbeResult::Failure("the gRPC health check broke off".into());
    };
    let trailer = |name: &str| {
        collected.trailers().and_then(|all| all.get(name)).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match trailer("grpc-status").as_deref() {
        None | Some("0") => {}
        Some("12") => return ProbeResult::Failure("the program has no gRPC health service".into()),
        Some("5") => return ProbeResult::Failure("the gRPC health service does not know this service".into()),
        Some(code) => return ProbeResult::Failure(format!("the gRPC health check gave status {code}")),
    }
    // HealthCheckResponse { ServingStatus status = 1; }, SERVING = 1, behind five bytes of frame head.
    match collected.to_bytes().get(5..7) {
        Some([0x08, 1]) => ProbeResult::Success,
        _ => ProbeResult::Failure("the gRPC health check answered NOT_SERVING".into()),
    }
}

fn peer_port(stream: &TcpStream) -> u16 {
    stream.peer_addr().map(|address| address.port()).unwrap_or_default()
}
