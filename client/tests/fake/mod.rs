//! A fake agent: a Unix socket that answers each request with prepared bytes. It knows nothing about previews.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Head and body of a request.
pub(crate) struct FakeRequest {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl FakeRequest {
    pub(crate) fn starts_with(&self, start: &str) -> bool {
        self.head.starts_with(start)
    }
}

/// Prefix of a response that stays open: the bytes after it are sent, and the connection stays open until the client
/// closes it.
pub(crate) const KEEP_OPEN_PREFIX: &[u8] = b"(open)";

pub(crate) type Responder = Arc<dyn Fn(&FakeRequest) -> Vec<u8> + Send + Sync>;

pub(crate) fn json_response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into()
}

pub(crate) fn agent_info_response(protocol: u32) -> Vec<u8> {
    json_response(
        "200 OK",
        &format!(
            r#"{{"version":"9.9.9","protocol":{protocol},"pid":1,"started_at":7,"proxy_port":8642,"executable":"/x","previews":0,"accepting":true}}"#
        ),
    )
}

/// Sends complete responses. After a `101`, the connection echoes all frames. After a chunked response without its end,
/// it is closed.
pub(crate) fn serve(socket: &Path, responder: Responder) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle_connection(stream, responder.clone()));
        }
    });
}

async fn handle_connection(mut stream: UnixStream, responder: Responder) -> Option<()> {
    loop {
        let request = read_request(&mut stream).await?;
        let bytes = responder(&request);
        if let Some(bytes) = bytes.strip_prefix(KEEP_OPEN_PREFIX) {
            stream.write_all(bytes).await.ok()?;
            let _closed = stream.read_u8().await;
            return None;
        }
        stream.write_all(&bytes).await.ok()?;
        let text = String::from_utf8_lossy(&bytes);
        if text.starts_with("HTTP/1.1 101") {
            let (mut input, mut output) = stream.into_split();
            tokio::io::copy(&mut input, &mut output).await.ok()?;
            return None;
        }
        if text.contains("chunked") && !text.ends_with("0\r\n\r\n") {
            return None;
        }
    }
}

async fn read_request(stream: &mut UnixStream) -> Option<FakeRequest> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()))
        .map_or(0, Result::unwrap);
    let mut body = bytes.split_off(end);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(FakeRequest { head, body })
}
