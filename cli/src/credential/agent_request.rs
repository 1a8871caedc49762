//! One blocking request to the agent over its socket. The whole client is asynchronous and greets first; a helper has a
//! millisecond.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use client::SocketLocation;
use protocol::Problem;
use protocol::identity::CredentialRequest;

use crate::context::Context;

/// The agent itself gives up on a source earlier.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(130);
const RESPONSE_BYTES_MAX: usize = 4 << 20;
/// More than any tool's credential and its head.
const READ_BUFFER_BYTES: usize = 4096;

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// The credential's bytes, or the agent's problem.
pub(crate) fn fetch_credential(request: &CredentialRequest) -> Result<Vec<u8>, Box<Problem>> {
    let body = serde_json::to_vec(request).unwrap_or_default();
    let answer = send_request("POST", "/v1/credentials", &body)?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    Err(response_problem(&answer))
}

fn response_problem(answer: &Response) -> Box<Problem> {
    let unreadable =
        || Problem::new("unexpected_answer", answer.status, format!("the agent answered {}", answer.status));
    Box::new(serde_json::from_slice(&answer.body).unwrap_or_else(|_| unreadable()))
}

/// A killed agent's socket still takes connections until its last thread is gone; then they break.
const ATTEMPTS_MAX: usize = 5;

/// Asks the agent that runs; starts one and asks again where none does, or where it was killed meanwhile. Every request
/// that is sent this way may be sent twice.
pub(crate) fn send_request(method: &str, path: &str, body: &[u8]) -> Result<Response, Box<Problem>> {
    let place = SocketLocation::from_environment();
    let mut tried = 0;
    loop {
        tried += 1;
        // Makes the folder where there is none, and refuses one that somebody else could have planted.
        place.check_folder().map_err(|error| unreachable_problem(&error.to_string()))?;
        let asked = UnixStream::connect(place.socket_path()).and_then(|stream| round_trip(stream, method, path, body));
        let error = match asked {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::PermissionDenied => {
                return Err(unreachable_problem(
                    "a sandbox or another user's folder keeps this program from its socket",
                ));
            }
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
                if tried < ATTEMPTS_MAX =>
            {
                let started = Context::block_on_value(Context::connect())
                    .map_err(|error| unreachable_problem(&error.to_string()))?;
                drop(started.map_err(|failure| failure.problem)?);
            }
            _ => return Err(unreachable_problem(&crate::humanize::io_error(&error))),
        }
    }
}

fn unreachable_problem(words: &str) -> Box<Problem> {
    let problem = Problem::new("agent_unreachable", 0, format!("the agent cannot be asked: {words}"));
    Box::new(problem.hint("`pdev agent status` looks at it."))
}

fn round_trip(mut stream: UnixStream, method: &str, path: &str, body: &[u8]) -> std::io::Result<Response> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: pdev\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let (mut bytes, mut piece) = (Vec::with_capacity(READ_BUFFER_BYTES), [0; READ_BUFFER_BYTES]);
    while bytes.len() < RESPONSE_BYTES_MAX {
        let length = match stream.read(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&piece[..length]);
        // The agent closes the connection a little later; that is not waited for.
        match parse_response(&bytes, length == 0) {
            Some(answer) => return Ok(answer),
            None if length == 0 => break,
            None => {}
        }
    }
    Err(std::io::Error::new(ErrorKind::UnexpectedEof, "an answer that breaks off"))
}

/// A whole answer with a `content-length`, as the agent writes it for these routes.
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
        let whole = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", false).unwrap();
        assert_eq!((whole.status, whole.body.as_slice()), (200, &b"abc"[..]));
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
            let teller = std::thread::spawn(move || {
                drop(agent.read(&mut [0; 4096]));
                for piece in pieces {
                    agent.write_all(piece.as_bytes()).unwrap();
                }
            });
            let answer = round_trip(stream, "GET", "/", b"");
            teller.join().unwrap();
            match expected {
                Some(expected) => assert_eq!(answer.unwrap().body, expected.as_bytes()),
                None => assert_eq!(answer.err().unwrap().kind(), ErrorKind::UnexpectedEof),
            }
        }
    }
}
