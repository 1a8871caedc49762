//! Streamed replies: server-sent events, and newline-delimited JSON values.
//!
//! The readers take bytes and return complete items, so tests can split the input anywhere without a network.

use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use protocol::Event;
use serde::de::DeserializeOwned;

use crate::connection::ConnectionTask;
use crate::error::ClientError;

/// Limit of one event or line: many times the size of a status with hundreds of units and their last log lines.
const ITEM_BYTES_MAX: usize = 16 << 20;

/// Extracts the `data` of each server-sent event, by the rules of the HTML standard.
#[derive(Debug, Default)]
pub struct SseReader {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    after_cr: bool,
}

impl SseReader {
    /// Consumes bytes and returns the events that they complete.
    ///
    /// # Errors
    /// When an event is longer than anything the agent sends.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, ClientError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                // CRLF is one line end, even if the two bytes arrive in different chunks.
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
        }
        if self.line.len() + self.data.len() > ITEM_BYTES_MAX {
            return Err(ClientError::InvalidReply(format!("an event of over {ITEM_BYTES_MAX} bytes")));
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        // Other fields are ignored: the JSON contains `id` too, `event` and `retry` add nothing, and a line that begins
        // with `:` is a comment (keep-alive).
        if let Some(value) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push('\n');
            }
            self.data.push_str(&String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value)));
            self.has_data = true;
        }
        None
    }
}

/// Events of one operation, or all events of the agent.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    reader: SseReader,
    buffered: VecDeque<Event>,
    last_id: Option<u64>,
    _task: ConnectionTask,
}

impl EventStream {
    pub(crate) fn new(body: Incoming, task: ConnectionTask) -> Self {
        Self { body, reader: SseReader::default(), buffered: VecDeque::new(), last_id: None, _task: task }
    }

    /// Id of the last event that [`Self::next`] returned; a new stream resumes after it.
    #[must_use]
    pub fn last_id(&self) -> Option<u64> {
        self.last_id
    }

    /// The next event; `None` if the agent ended the stream properly.
    ///
    /// # Errors
    /// When the connection breaks or the data is invalid.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.buffered.pop_front() {
                self.last_id = Some(event.id);
                return Ok(Some(event));
            }
            let Some(bytes) = next_bytes(&mut self.body).await? else { return Ok(None) };
            for data in self.reader.feed(&bytes)? {
                self.buffered.push_back(parse_json(data.as_bytes())?);
            }
        }
    }
}

/// A stream of JSON values, one per line.
#[derive(Debug)]
pub struct LineStream<T> {
    body: Incoming,
    buffer: Vec<u8>,
    buffered: VecDeque<T>,
    _task: ConnectionTask,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> LineStream<T> {
    pub(crate) fn new(body: Incoming, task: ConnectionTask) -> Self {
        Self { body, buffer: Vec::new(), buffered: VecDeque::new(), _task: task, item: PhantomData }
    }

    /// The next value; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks or the data is invalid.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(value) = self.buffered.pop_front() {
                return Ok(Some(value));
            }
            match next_bytes(&mut self.body).await? {
                Some(bytes) => self.feed(&bytes)?,
                None if self.buffer.is_empty() => return Ok(None),
                // The last line may lack its line feed.
                None => self.buffered.push_back(parse_json(&std::mem::take(&mut self.buffer))?),
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.buffer.extend_from_slice(bytes);
        let Some(end) = self.buffer.iter().rposition(|&byte| byte == b'\n') else {
            let fits = self.buffer.len() <= ITEM_BYTES_MAX;
            return fits
                .then_some(())
                .ok_or_else(|| ClientError::InvalidReply(format!("a line of over {ITEM_BYTES_MAX} bytes")));
        };
        let rest = self.buffer.split_off(end + 1);
        let lines = std::mem::replace(&mut self.buffer, rest);
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            self.buffered.push_back(parse_json(line)?);
        }
        Ok(())
    }

    /// Whether more values have already arrived, so that a caller can flush its output once per burst.
    #[must_use]
    pub fn has_buffered_items(&self) -> bool {
        !self.buffered.is_empty()
    }
}

async fn next_bytes(body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(ClientError::ConnectionBroken(CONNECTION_CUT_MESSAGE.to_owned())),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(Some(bytes)),
                Err(_trailers) => {}
            },
        }
    }
}

pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::InvalidReply(error.to_string()))
}

const CONNECTION_CUT_MESSAGE: &str = "it was closed during a reply";

pub(crate) fn connection_error_message(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return CONNECTION_CUT_MESSAGE.to_owned();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::SseReader;

    #[test]
    fn events_parse_across_any_split() {
        let text =
            b": hello\nid: 1\ndata: {\"a\":1}\n\nevent: x\r\ndata:{\r\ndata: }\r\n\r\nretry: 5\n\ndata\n\ndata: last\r\r";
        let expected = SseReader::default().feed(text).unwrap();
        assert_eq!(expected, ["{\"a\":1}", "{\n}", "last"]);
        for cut in 0..text.len() {
            let mut reader = SseReader::default();
            let mut events = reader.feed(&text[..cut]).unwrap();
            events.extend(reader.feed(&text[cut..]).unwrap());
            assert_eq!(events, expected, "cut at {cut}");
        }
    }
}
