//! One blocking request to the agent over its socket.
//!
//! A helper has about a millisecond, so it does not use `client`, which is asynchronous and starts with a handshake.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use client::{ClientError, SocketLocation};
use host::unix_socket::SocketAddressPath;
use protocol::Problem;
use protocol::identity::CredentialRequest;

use crate::context::Context;

/// Longer than the agent waits for a source, so the agent reports the timeout.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(130);
const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// Larger than a response with the credential of any tool, so one read is enough.
const READ_BUFFER_BYTES: usize = 4096;

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// The bytes of the credential, or the problem that the agent reports.
pub(crate) fn fetch_credential(request: &CredentialRequest) -> Result<Vec<u8>, Box<Problem>> {
    let body = serde_json::to_vec(request).unwrap_or_default();
    let response = send_request("POST", "/v1/credentials", &body)?;
    if response.status == 200 {
        return Ok(response.body);
    }
    Err(response_problem(&response))
}

fn response_problem(response: &Response) -> Box<Problem> {
    let unreadable = || {
        Problem::new(
            "unexpected_answer",
            response.status,
            format!("the agent answered with status {}", response.status),
        )
    };
    Box::new(serde_json::from_slice(&response.body).unwrap_or_else(|_| unreadable()))
}

/// More than one, because the socket of a killed agent still accepts connections until the last thread of the process
/// has ended. These connections then break.
const ATTEMPTS_MAX: usize = 5;

/// Sends a request to the agent. If none runs, or if it was killed in between, starts an agent and sends the request
/// again. So every request that is sent this way must be safe to repeat.
pub(crate) fn send_request(method: &str, path: &str, body: &[u8]) -> Result<Response, Box<Problem>> {
    let socket = SocketLocation::from_environment();
    let mut attempts = 0;
    loop {
        attempts += 1;
        // A logout or a reboot removes the folder. It is created again, and a folder of another user is refused.
        socket.prepare_folder().map_err(|error| location_problem(&error))?;
        let result = SocketAddressPath::new(&socket.socket_path())
            .and_then(|address| UnixStream::connect(address.path()))
            .and_then(|stream| round_trip(stream, method, path, body));
        let error = match result {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::PermissionDenied => {
                return Err(unreachable_problem("a sandbox, or a folder of another user, denies access to its socket"));
            }
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
                if attempts < ATTEMPTS_MAX =>
            {
                let started = Context::block_on_value(Context::connect())
                    .map_err(|error| unreachable_problem(&error.to_string()))?;
                drop(started.map_err(|failure| failure.problem)?);
            }
            _ => return Err(unreachable_problem(&crate::humanize::io_error(&error))),
        }
    }
}

fn location_problem(error: &ClientError) -> Box<Problem> {
    let problem = Problem::new("agent_unreachable", 0, format!("the agent cannot be reached: {error}"));
    Box::new(Problem { hint: error.hint(), ..problem })
}

fn unreachable_problem(reason: &str) -> Box<Problem> {
    let problem = Problem::new("agent_unreachable", 0, format!("the agent cannot be reached: {reason}"));
    Box::new(problem.hint("Run `pdev agent status` to check it."))
}

fn round_trip(mut stream: UnixStream, method: &str, path: &str, body: &[u8]) -> std::io::Result<Response> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: pdev\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let (mut bytes, mut buffer) = (Vec::with_capacity(READ_BUFFER_BYTES), [0; READ_BUFFER_BYTES]);
    while bytes.len() < RESPONSE_BYTES_MAX {
        let length = match stream.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&buffer[..length]);
        // Return as soon as the response is complete: the agent closes the connection a little later.
        match parse_response(&bytes, length == 0) {
            Some(response) => return Ok(response),
            None if length == 0 => break,
            None => {}
        }
    }
    Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the response is incomplete"))
}

/// A complete response with a `content-length`, which the agent sends for these routes. `None` while bytes are missing.
/// Without a length, only a response without a body is accepted, at the end of the stream.
fn parse_response(bytes: &[u8], is_end: bool) -> Option<Response> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) => Some(Response { status, body: body.get(..length)?.to_vec() }),
        None => (is_end && body.is_empty()).then(|| Response { status, body: Vec::new() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_responses_parse() {
        let response = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", false).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, &b"abc"[..]));
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse_response(empty, true).unwrap().status, 204);
        assert!(parse_response(empty, false).is_none(), "there may be more");
        for end in [true, false] {
            assert!(parse_response(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", end).is_none(), "cut off");
            assert!(parse_response(b"HTTP/1.1 200 OK\r\ncontent-le", end).is_none(), "cut off in its head");
            assert!(parse_response(b"garbage", end).is_none());
        }
    }

    #[test]
    fn response_in_pieces_is_assembled() {
        use std::io::Write;
        for (pieces, expected) in [
            (&["HTTP/1.1 200 OK\r\ncontent-", "length: 4\r\n\r\nab", "cd"][..], Some("abcd")),
            (&["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"], None),
            (&[], None),
        ] {
            let (stream, mut agent) = UnixStream::pair().unwrap();
            let sender = std::thread::spawn(move || {
                drop(agent.read(&mut [0; 4096]));
                for piece in pieces {
                    agent.write_all(piece.as_bytes()).unwrap();
                }
            });
            let response = round_trip(stream, "GET", "/", b"");
            sender.join().unwrap();
            match expected {
                Some(expected) => assert_eq!(response.unwrap().body, expected.as_bytes()),
                None => assert_eq!(response.err().unwrap().kind(), ErrorKind::UnexpectedEof),
            }
        }
    }
}
