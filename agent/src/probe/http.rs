//! HTTP and gRPC probes over an established connection.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::ProbeResult;

/// How much of an unexpected response's first line is shown, in characters.
const EXCERPT_BYTES: usize = 200;

pub(super) struct HttpExpectation<'a> {
    pub path: &'a str,
    pub host: Option<&'a str>,
    pub headers: &'a [(String, String)],
    /// Without a list, the rule of Kubernetes applies: 200 to 399.
    pub status: Option<&'a [u16]>,
}

pub(super) async fn probe_http(stream: TcpStream, expectation: &HttpExpectation<'_>) -> ProbeResult {
    let path = expectation.path;
    let host = expectation.host.map_or_else(|| format!("localhost:{}", peer_port(&stream)), str::to_owned);
    let mut request = Request::builder()
        .uri(path)
        .header(HOST, host)
        .header("user-agent", "pdev-probe")
        .header("connection", "close");
    for (name, value) in expectation.headers {
        request = request.header(name, value);
    }
    let Ok(request) = request.body(Empty::<Bytes>::new()) else {
        return ProbeResult::Failure(format!("`GET {path}` is not a valid request"));
    };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else {
        return ProbeResult::Failure(format!("GET {path} was not answered in HTTP"));
    };
    let exchange = async {
        match sender.send_request(request).await {
            Ok(response) => judge_response(response, expectation).await,
            Err(error) if error.is_parse() => ProbeResult::Failure(format!("GET {path} was not answered in HTTP")),
            Err(_) => ProbeResult::Failure(format!("GET {path}: the connection was closed without an answer")),
        }
    };
    // Poll the connection together with the exchange instead of in its own task, so that it is dropped with the probe.
    tokio::select! {
        result = exchange => result,
        () = drive_connection(connection) => ProbeResult::Failure(format!("GET {path}: the connection was closed without an answer")),
    }
}

/// Drives a connection and never completes. When the connection ends, the exchange may still have to read the response.
async fn drive_connection<F: Future>(connection: F) {
    let _ended = connection.await;
    std::future::pending::<()>().await;
}

async fn judge_response(
    response: hyper::Response<hyper::body::Incoming>,
    expectation: &HttpExpectation<'_>,
) -> ProbeResult {
    let status = response.status();
    let is_expected = match expectation.status {
        Some(list) => list.contains(&status.as_u16()),
        None => (200..400).contains(&status.as_u16()),
    };
    if is_expected {
        return ProbeResult::Success;
    }
    // Show the first line of the body: many programs explain there why they are not ready.
    let body = Limited::new(response.into_body(), EXCERPT_BYTES * 8).collect().await;
    let excerpt = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    let line: String = excerpt.lines().next().unwrap_or_default().chars().take(EXCERPT_BYTES).collect();
    let suffix = if line.is_empty() { String::new() } else { format!(": {line}") };
    ProbeResult::Failure(format!("GET {} answered {}{suffix}", expectation.path, status.as_u16()))
}

/// Calls the standard `grpc.health.v1.Health/Check`. The two small messages are encoded by hand, without a code
/// generator.
pub(super) async fn probe_grpc(stream: TcpStream, service: &str) -> ProbeResult {
    let name = service.as_bytes();
    // One byte of length is enough below 128; longer names would need a varint.
    let Ok(length) = u8::try_from(name.len()) else {
        return ProbeResult::Failure("the gRPC service's name is too long".into());
    };
    // HealthCheckRequest { string service = 1; }
    let message = if name.is_empty() { Vec::new() } else { [&[0x0a, length], name].concat() };
    // A gRPC frame: one byte for "not compressed", four bytes for the length.
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
            Ok(response) if response.status() == StatusCode::OK => parse_health_response(response.into_body()).await,
            Ok(response) => {
                ProbeResult::Failure(format!("the gRPC health check answered HTTP {}", response.status().as_u16()))
            }
            Err(error) => ProbeResult::Failure(format!("the gRPC health check failed: {error}")),
        }
    };
    tokio::select! {
        result = exchange => result,
        () = drive_connection(connection) => ProbeResult::Failure("the gRPC connection was closed".into()),
    }
}

async fn parse_health_response(body: hyper::body::Incoming) -> ProbeResult {
    let Ok(collected) = Limited::new(body, 4096).collect().await else {
        return ProbeResult::Failure("the gRPC health response is incomplete".into());
    };
    let trailer = |name: &str| {
        collected.trailers().and_then(|all| all.get(name)).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    match trailer("grpc-status").as_deref() {
        None | Some("0") => {}
        Some("12") => return ProbeResult::Failure("the program has no gRPC health service".into()),
        Some("5") => return ProbeResult::Failure("the gRPC health service does not know this service".into()),
        Some(code) => return ProbeResult::Failure(format!("the gRPC health check returned status {code}")),
    }
    // HealthCheckResponse { ServingStatus status = 1; }, SERVING = 1, after the five bytes of the frame header.
    match collected.to_bytes().get(5..7) {
        Some([0x08, 1]) => ProbeResult::Success,
        _ => ProbeResult::Failure("the gRPC health check answered NOT_SERVING".into()),
    }
}

fn peer_port(stream: &TcpStream) -> u16 {
    stream.peer_addr().map(|address| address.port()).unwrap_or_default()
}
