//! The frames of the client, corrected before the protocol library reads them: header names in any case, and malformed
//! messages replaced by requests that have the right error as their answer. Without this, the library would stop reading
//! at the first malformed message.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tower_lsp::jsonrpc::{Error, Result};

/// The method of the requests that replace malformed messages.
pub const INVALID_MESSAGE: &str = "pdev/invalidMessage";
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
/// A longer message is the sign of a broken client.
const BODY_BYTES_MAX: usize = 512 << 20;
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// Answers [`INVALID_MESSAGE`].
///
/// # Errors
/// Always: the error that describes the malformed message.
pub fn reject_invalid_message(params: &Value) -> Result<()> {
    match params["code"].as_i64() {
        Some(PARSE_ERROR) => Err(Error::parse_error()),
        _ => Err(Error::invalid_request()),
    }
}

/// Copies the frames until the client closes its side.
pub async fn forward_frames<Input, Output>(input: Input, mut output: Output)
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite + Unpin,
{
    let mut input = BufReader::new(input);
    while let Some(frame) = read_frame(&mut input).await {
        let body = match frame {
            Frame::Body(body) => corrected_body(body),
            Frame::NoLength => invalid_message(PARSE_ERROR),
        };
        let header = format!("Content-Length: {}\r\n\r\n", body.len());
        // An error means that the server has ended.
        if output.write_all(header.as_bytes()).await.is_err() || output.write_all(&body).await.is_err() {
            return;
        }
    }
}

enum Frame {
    Body(Vec<u8>),
    /// Headers without a length.
    NoLength,
}

/// Returns `None` at the end of the input.
async fn read_frame<Input: AsyncRead + Unpin>(input: &mut BufReader<Input>) -> Option<Frame> {
    let mut length: Option<usize> = None;
    let mut has_header = false;
    // A line that is too long is read in parts, each of which is no valid header.
    loop {
        let mut line = Vec::new();
        let count = (&mut *input).take(HEADER_BYTES_MAX).read_until(b'\n', &mut line).await.ok()?;
        if count == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        if line.is_empty() {
            match length {
                Some(length) => return read_body(input, length).await,
                None if has_header => return Some(Frame::NoLength),
                None => continue,
            }
        }
        has_header = true;
        if let Some((name, value)) = line.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}

async fn read_body<Input: AsyncRead + Unpin>(input: &mut BufReader<Input>, length: usize) -> Option<Frame> {
    if length > BODY_BYTES_MAX {
        return None;
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).await.ok()?;
    Some(Frame::Body(body))
}

fn corrected_body(body: Vec<u8>) -> Vec<u8> {
    /// The parts that decide about the kind of a message.
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        method: Option<std::borrow::Cow<'a, str>>,
        id: Option<serde::de::IgnoredAny>,
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() || std::str::from_utf8(&body).is_err() {
        return invalid_message(PARSE_ERROR);
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(&body) else { return invalid_message(INVALID_REQUEST) };
    let is_batch = body.trim_ascii_start().first() == Some(&b'[');
    match (envelope.method, envelope.id) {
        _ if is_batch => invalid_message(INVALID_REQUEST),
        (None, None) => invalid_message(INVALID_REQUEST),
        // The library drops unknown requests with this prefix, and the client would wait forever.
        (Some(method), Some(_)) if method.starts_with("$/") => renamed_request(&body, &method),
        _ => body,
    }
}

fn renamed_request(body: &[u8], method: &str) -> Vec<u8> {
    let mut message: Value = serde_json::from_slice(body).unwrap_or_default();
    message["method"] = json!(format!("unknown {method}"));
    message.to_string().into_bytes()
}

fn invalid_message(code: i64) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "id": null, "method": INVALID_MESSAGE, "params": { "code": code } })
        .to_string()
        .into_bytes()
}
