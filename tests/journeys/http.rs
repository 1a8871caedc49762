//! Plain HTTP/1.1 requests to the loopback with any `Host`, so names under `.localhost` need no resolver.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn get(host: &str, port: u16, path: &str) -> Response {
    request(host, port, &format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"))
}

pub fn request(host: &str, port: u16, text: &str) -> Response {
    try_request(port, text).unwrap_or_else(|error| panic!("{host}:{port}: {error}"))
}

pub fn try_request(port: u16, text: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(text.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    let body =
        if head.to_lowercase().contains("transfer-encoding: chunked") { decode_chunked(body) } else { body.to_owned() };
    Ok(Response { status, head: head.to_owned(), body })
}

fn decode_chunked(body: &str) -> String {
    let mut rest = body;
    let mut text = String::new();
    // A truncated body ends the loop and returns the complete chunks.
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        if size == 0 || after.len() < size {
            break;
        }
        text.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}
