//! Health seen from outside: TCP, HTTP, gRPC and exec, so that images without a shell gate too.
//!
//! Each check tells in words what it saw; those words are what a person reads when a service never becomes ready.

mod grid;
mod http;

use std::net::SocketAddr;
use std::time::Duration;

use plan::application::Check;
use tokio::net::TcpStream;

pub use grid::Grid;

/// What one look at a program found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Good,
    /// In words: "GET /healthz answered 503", "nothing listens on port 8080".
    Bad(String),
}

/// How long a connection has to stay open before it counts, when the program itself accepted it.
pub const SETTLE_DIRECT: Duration = Duration::from_millis(2);
/// The same behind an engine's forwarder, which accepts first and asks the program afterwards.
pub const SETTLE_FORWARDED: Duration = Duration::from_millis(150);

/// Checks over the network; `Exec` is the caller's, because it needs a driver.
pub async fn network(check: &Check, addresses: &[SocketAddr], timeout: Duration, settle: Duration) -> Seen {
    match tokio::time::timeout(timeout, look(check, addresses, settle)).await {
        Ok(seen) => seen,
        Err(_) => Seen::Bad(format!("{} gave no answer within {}", describe(check), milliseconds(timeout))),
    }
}

async fn look(check: &Check, addresses: &[SocketAddr], settle: Duration) -> Seen {
    let stream = match connect(addresses).await {
        Ok(stream) => stream,
        Err(words) => return Seen::Bad(words),
    };
    match check {
        Check::Tcp { .. } => stays_open(&stream, settle).await,
        Check::Http { path, host, headers, status, .. } => {
            let wanted = http::Wanted { path, host: host.as_deref(), headers, status: status.as_deref() };
            http::get(stream, &wanted).await
        }
        Check::Grpc { service, .. } => http::grpc_health(stream, service).await,
        Check::Exec { .. } => Seen::Bad("a command is not checked over the network".into()),
    }
}

/// Dials every address in turn: programs that bind `::1` only are common (Vite).
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut words = "no address is known yet".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                words = format!("nothing listens on port {} yet", address.port());
            }
            Err(error) => words = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(words)
}

/// An engine's port forwarder accepts before the program listens, and closes at once: that is not readiness.
async fn stays_open(stream: &TcpStream, settle: Duration) -> Seen {
    let mut byte = [0u8; 1];
    match tokio::time::timeout(settle, stream.peek(&mut byte)).await {
        Ok(Ok(0)) => Seen::Bad("the connection was closed at once".into()),
        Ok(Err(error)) => Seen::Bad(format!("the connection was reset: {error}")),
        Ok(Ok(_)) | Err(_) => Seen::Good,
    }
}

/// The check in words, for "waiting for ..." lines.
#[must_use]
pub fn describe(check: &Check) -> String {
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
        plan::application::Argv::List(words) => words.join(" "),
        plan::application::Argv::Shell(line) => line.clone(),
    }
}

/// The port a check looks at, by name.
#[must_use]
pub fn port_of(check: &Check) -> Option<&str> {
    match check {
        Check::Http { port, .. } | Check::Tcp { port } | Check::Grpc { port, .. } => Some(port),
        Check::Exec { .. } => None,
    }
}

fn milliseconds(duration: Duration) -> String {
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

    fn http(path: &str, status: Option<Vec<u16>>) -> Check {
        Check::Http { port: "main".into(), path: path.into(), host: None, headers: Vec::new(), status }
    }

    /// A server that reads a request head and gives these bytes for it.
    async fn answering(bytes: &'static [u8]) -> SocketAddr {
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
    async fn http_answers_are_told_apart() {
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
            let address = answering(bytes).await;
            let seen = network(&http("/x", status.clone()), &[address], SECOND, SETTLE_DIRECT).await;
            match expected {
                Ok(()) => assert_eq!(seen, Seen::Good, "{}", String::from_utf8_lossy(bytes)),
                Err(words) => match seen {
                    Seen::Bad(found) => assert!(found.starts_with(words), "{found}"),
                    Seen::Good => panic!("good: {}", String::from_utf8_lossy(bytes)),
                },
            }
        }
    }

    #[tokio::test]
    async fn a_refused_port_and_a_silent_server_have_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = network(&http("/x", None), &[address], Duration::from_millis(30), SETTLE_DIRECT).await;
        assert_eq!(silent, Seen::Bad("GET /x gave no answer within 30 ms".into()));
        drop(listener);
        let refused = network(&Check::Tcp { port: "main".into() }, &[address], SECOND, SETTLE_DIRECT).await;
        assert_eq!(refused, Seen::Bad(format!("nothing listens on port {} yet", address.port())));
    }

    #[tokio::test]
    async fn an_accept_that_closes_at_once_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        assert!(matches!(
            network(&Check::Tcp { port: "main".into() }, &[address], SECOND, SETTLE_FORWARDED).await,
            Seen::Bad(_)
        ));
    }

    #[tokio::test]
    async fn the_second_family_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let bad: SocketAddr = format!("[::1]:{}", good.port()).parse().unwrap();
        assert_eq!(network(&Check::Tcp { port: "main".into() }, &[bad, good], SECOND, SETTLE_DIRECT).await, Seen::Good);
    }
}
