//! Health probes from outside the unit: TCP, HTTP and gRPC. Unlike exec probes, they also work for images without a
//! shell.
//!
//! A failed probe describes what it observed. Users see this text if a service does not become ready.

mod http;
mod schedule;

use std::net::SocketAddr;
use std::time::Duration;

use plan::application::Check;
use tokio::net::TcpStream;

pub use schedule::ProbeSchedule;

/// The result of one probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProbeResult {
    Success,
    /// The cause: "GET /healthz answered 503", "nothing listens on port 8080 yet".
    Failure(String),
}

/// How long a TCP connection must stay open to count as a success, if the program itself accepts it.
pub const SETTLE_DIRECT: Duration = Duration::from_millis(2);
/// The same behind an engine's port forwarder, which accepts first and connects to the program afterwards.
pub const SETTLE_FORWARDED: Duration = Duration::from_millis(150);

/// Runs a check over the network. The caller runs `Exec` checks, because they need a driver.
pub async fn probe_network(
    check: &Check,
    addresses: &[SocketAddr],
    timeout: Duration,
    settle: Duration,
) -> ProbeResult {
    match tokio::time::timeout(timeout, run_check(check, addresses, settle)).await {
        Ok(result) => result,
        Err(_) => ProbeResult::Failure(format!(
            "{} gave no answer within {}",
            describe_check(check),
            format_duration(timeout)
        )),
    }
}

async fn run_check(check: &Check, addresses: &[SocketAddr], settle: Duration) -> ProbeResult {
    let stream = match connect_any(addresses).await {
        Ok(stream) => stream,
        Err(cause) => return ProbeResult::Failure(cause),
    };
    match check {
        Check::Tcp { .. } => check_stays_open(&stream, settle).await,
        Check::Http { path, host, headers, status, .. } => {
            let expectation = http::HttpExpectation { path, host: host.as_deref(), headers, status: status.as_deref() };
            http::probe_http(stream, &expectation).await
        }
        Check::Grpc { service, .. } => http::probe_grpc(stream, service).await,
        Check::Exec { .. } => ProbeResult::Failure("a command is not checked over the network".into()),
    }
}

/// Tries the addresses in order, because some programs (Vite) listen on `::1` only.
async fn connect_any(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut cause = "no address is known yet".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                cause = format!("nothing listens on port {} yet", address.port());
            }
            Err(error) => cause = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(cause)
}

/// An engine's port forwarder accepts connections before the program listens, and closes them at once. Such a
/// connection does not count as ready.
async fn check_stays_open(stream: &TcpStream, settle: Duration) -> ProbeResult {
    let mut byte = [0u8; 1];
    // 0 bytes mean that the peer has closed the connection. Silence is a success: in most protocols the client starts.
    match tokio::time::timeout(settle, stream.peek(&mut byte)).await {
        Ok(Ok(0)) => ProbeResult::Failure("the connection was closed at once".into()),
        Ok(Err(error)) => ProbeResult::Failure(format!("the connection was reset: {error}")),
        Ok(Ok(_)) | Err(_) => ProbeResult::Success,
    }
}

/// Describes the check for "waiting for ..." messages.
#[must_use]
pub fn describe_check(check: &Check) -> String {
    match check {
        Check::Http { path, .. } => format!("GET {path}"),
        Check::Tcp { port } if port == "main" => "the TCP port".to_owned(),
        Check::Tcp { port } => format!("the TCP port `{port}`"),
        Check::Grpc { service, .. } if service.is_empty() => "the gRPC health check".to_owned(),
        Check::Grpc { service, .. } => format!("the gRPC health check of `{service}`"),
        Check::Exec { argv } => format!("`{}`", argv_text(argv)),
    }
}

#[must_use]
pub fn argv_text(argv: &plan::application::Argv) -> String {
    match argv {
        plan::application::Argv::List(arguments) => arguments.join(" "),
        plan::application::Argv::Shell(line) => line.clone(),
    }
}

/// The name of the port that a check connects to.
#[must_use]
pub fn port_name(check: &Check) -> Option<&str> {
    match check {
        Check::Http { port, .. } | Check::Tcp { port } | Check::Grpc { port, .. } => Some(port),
        Check::Exec { .. } => None,
    }
}

fn format_duration(duration: Duration) -> String {
    if duration.as_millis().is_multiple_of(1000) {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn http_check(path: &str, status: Option<Vec<u16>>) -> Check {
        Check::Http { port: "main".into(), path: path.into(), host: None, headers: Vec::new(), status }
    }

    /// Starts a server that reads a request head and responds with these bytes.
    async fn serve_bytes(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0u8; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(bytes).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn http_responses_are_judged_by_status() {
        type Case<'a> = (&'a [u8], Option<Vec<u16>>, Result<(), &'a str>);
        let cases: &[Case<'_>] = &[
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", None, Ok(())),
            (b"HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", None, Ok(())),
            (b"HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\nno db yet", None, Err("GET /x answered 503: no db yet")),
            (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", Some(vec![401]), Ok(())),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some(vec![204]), Err("GET /x answered 200")),
            (b"SSH-2.0-x\r\n", None, Err("GET /x was not answered in HTTP")),
        ];
        for (bytes, status, expected) in cases {
            let address = serve_bytes(bytes).await;
            let result = probe_network(&http_check("/x", status.clone()), &[address], SECOND, SETTLE_DIRECT).await;
            match expected {
                Ok(()) => assert_eq!(result, ProbeResult::Success, "{}", String::from_utf8_lossy(bytes)),
                Err(prefix) => match result {
                    ProbeResult::Failure(cause) => assert!(cause.starts_with(prefix), "{cause}"),
                    ProbeResult::Success => panic!("unexpected success: {}", String::from_utf8_lossy(bytes)),
                },
            }
        }
    }

    #[tokio::test]
    async fn refused_port_and_silent_server_are_explained() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = probe_network(&http_check("/x", None), &[address], Duration::from_millis(30), SETTLE_DIRECT).await;
        assert_eq!(silent, ProbeResult::Failure("GET /x gave no answer within 30 ms".into()));
        drop(listener);
        let refused = probe_network(&Check::Tcp { port: "main".into() }, &[address], SECOND, SETTLE_DIRECT).await;
        assert_eq!(refused, ProbeResult::Failure(format!("nothing listens on port {} yet", address.port())));
    }

    #[tokio::test]
    async fn connection_closed_at_once_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        assert!(matches!(
            probe_network(&Check::Tcp { port: "main".into() }, &[address], SECOND, SETTLE_FORWARDED).await,
            ProbeResult::Failure(_)
        ));
    }

    #[tokio::test]
    async fn second_address_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let bad: SocketAddr = format!("[::1]:{}", good.port()).parse().unwrap();
        assert_eq!(
            probe_network(&Check::Tcp { port: "main".into() }, &[bad, good], SECOND, SETTLE_DIRECT).await,
            ProbeResult::Success
        );
    }
}
