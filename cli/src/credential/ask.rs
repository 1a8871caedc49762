//! One blocking request to the agent over its socket. The whole client is asynchronous and greets first; a helper has a
//! millisecond.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use client::Place;
use protocol::Problem;
use protocol::identity::CredentialRequest;

use crate::context::Context;

/// The agent itself gives up on a source earlier.
const LIMIT: Duration = Duration::from_secs(130);
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// More than any tool's credential and its head.
const ANSWER_BYTES: usize = 4096;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// The credential's bytes, or the agent's problem.
pub(crate) fn credential(request: &CredentialRequest) -> Result<Vec<u8>, Box<Problem>> {
    let body = serde_json::to_vec(request).unwrap_or_default();
    let answer = ask("POST", "/v1/credentials", &body)?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    Err(problem(&answer))
}

fn problem(answer: &Answer) -> Box<Problem> {
    let unreadable =
        || Problem::new("unexpected_answer", answer.status, format!("the agent answered {}", answer.status));
    Box::new(serde_json::from_slice(&answer.body).unwrap_or_else(|_| unreadable()))
}

/// A killed agent's socket still takes connections until its last thread is gone; then they break.
const TRIES: usize = 5;

/// Asks the agent that runs; starts one and asks again where none does, or where it was killed meanwhile. Every request
/// that is sent this way may be sent twice.
pub(crate) fn ask(method: &str, path: &str, body: &[u8]) -> Result<Answer, Box<Problem>> {
    let place = Place::from_environment();
    let mut tried = 0;
    loop {
        tried += 1;
        // Makes the folder where there is none, and refuses one that somebody else could have planted.
        place.check().map_err(|error| broken(&error.to_string()))?;
        let asked = UnixStream::connect(place.socket()).and_then(|stream| exchange(stream, method, path, body));
        let error = match asked {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::PermissionDenied => {
                return Err(broken("a sandbox or another user's folder keeps this program from its socket"));
            }
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
                if tried < TRIES =>
            {
                let started =
                    Context::block_on_value(Context::connect()).map_err(|error| broken(&error.to_string()))?;
                drop(started.map_err(|failure| failure.problem)?);
            }
            _ => return Err(broken(&crate::words::plain(&error))),
        }
    }
}

fn broken(words: &str) -> Box<Problem> {
    let problem = Problem::new("agent_unreachable", 0, format!("the agent cannot be asked: {words}"));
    Box::new(problem.hint("`pdev agent status` looks at it."))
}

fn exchange(mut stream: UnixStream, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: pdev\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let (mut bytes, mut piece) = (Vec::with_capacity(ANSWER_BYTES), [0; ANSWER_BYTES]);
    while bytes.len() < ANSWER_BYTES_MAX {
        let length = match stream.read(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&piece[..length]);
        // The agent closes the connection a little later; that is not waited for.
        match read(&bytes, length == 0) {
            Some(answer) => return Ok(answer),
            None if length == 0 => break,
            None => {}
        }
    }
    Err(std::io::Error::new(ErrorKind::UnexpectedEof, "an answer that breaks off"))
}

/// A whole answer with a `content-length`, as the agent writes it for these routes.
fn read(bytes: &[u8], is_end: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) => Some(Answer { status, body: body.get(..length)?.to_vec() }),
        None => (is_end && body.is_empty()).then(|| Answer { status, body: Vec::new() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let whole = read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", false).unwrap();
        assert_eq!((whole.status, whole.body.as_slice()), (200, &b"abc"[..]));
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(empty, true).unwrap().status, 204);
        assert!(read(empty, false).is_none(), "there may be more");
        for end in [true, false] {
            assert!(read(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", end).is_none(), "cut off");
            assert!(read(b"HTTP/1.1 200 OK\r\ncontent-le", end).is_none(), "cut off in its head");
            assert!(read(b"garbage", end).is_none());
        }
    }

    #[test]
    fn an_answer_in_pieces() {
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
            let answer = exchange(stream, "GET", "/", b"");
            teller.join().unwrap();
            match expected {
                Some(expected) => assert_eq!(answer.unwrap().body, expected.as_bytes()),
                None => assert_eq!(answer.err().unwrap().kind(), ErrorKind::UnexpectedEof),
            }
        }
    }
}
