//! `POST /v1/previews/{preview}/exec` with `Upgrade: pdev-exec/1`. The body is an [`ExecRequest`]. After the 101, both
//! sides send frames: one byte for the kind, four bytes for the length (big-endian), then the payload.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const UPGRADE_PROTOCOL: &str = "pdev-exec/1";

/// Limit of a frame's payload, in bytes; a longer frame ends the session.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ExecRequest {
    pub unit: String,
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub dir: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    /// Rows and columns of the client's terminal; absent for pipes.
    #[serde(default)]
    pub terminal: Option<(u16, u16)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    Stdin(Vec<u8>),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Rows, columns.
    Resize(u16, u16),
    StdinEnd,
    Exit(i32),
    /// The session failed; the payload is a message in UTF-8.
    Error(String),
}

impl Frame {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, Vec<u8>) = match self {
            Self::Stdin(bytes) => (0, bytes.clone()),
            Self::Stdout(bytes) => (1, bytes.clone()),
            Self::Stderr(bytes) => (2, bytes.clone()),
            Self::Resize(rows, columns) => (3, [rows.to_be_bytes(), columns.to_be_bytes()].concat()),
            Self::StdinEnd => (4, Vec::new()),
            Self::Exit(code) => (5, code.to_be_bytes().to_vec()),
            Self::Error(message) => (6, message.clone().into_bytes()),
        };
        let mut frame = vec![kind];
        frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Removes the first frame from `buffer`, if it is complete.
    ///
    /// # Errors
    /// When the bytes are not of this protocol.
    pub fn decode(buffer: &mut Vec<u8>) -> Result<Option<Self>, String> {
        let Some(&[kind, a, b, c, d]) = buffer.first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        // Checked before the payload arrives, so a corrupt length cannot make the caller buffer up to 4 GiB.
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}"));
        }
        let end = 5 + length as usize;
        if buffer.len() < end {
            return Ok(None);
        }
        let payload: Vec<u8> = buffer.drain(..end).skip(5).collect();
        Self::from_payload(kind, payload).map(Some)
    }

    fn from_payload(kind: u8, payload: Vec<u8>) -> Result<Self, String> {
        Ok(match (kind, payload.as_slice()) {
            (0, _) => Self::Stdin(payload),
            (1, _) => Self::Stdout(payload),
            (2, _) => Self::Stderr(payload),
            (3, &[a, b, c, d]) => Self::Resize(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            (4, []) => Self::StdinEnd,
            (5, &[a, b, c, d]) => Self::Exit(i32::from_be_bytes([a, b, c, d])),
            (6, _) => Self::Error(String::from_utf8_lossy(&payload).into_owned()),
            _ => return Err(format!("unknown frame of kind {kind} with {} bytes", payload.len())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Frame;

    #[test]
    fn frames_decode_across_any_split() {
        let frames = [
            Frame::Stdin(b"abc".to_vec()),
            Frame::Stdout(vec![0, 255]),
            Frame::Resize(24, 80),
            Frame::StdinEnd,
            Frame::Exit(-1),
            Frame::Error("gone".into()),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            let mut decoded = Vec::new();
            while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                decoded.push(frame);
            }
            buffer.extend(&bytes[cut..]);
            while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                decoded.push(frame);
            }
            assert_eq!(decoded, frames, "cut at {cut}");
        }
    }

    #[test]
    fn oversized_and_unknown_frames_are_refused() {
        assert!(Frame::decode(&mut vec![0, 255, 255, 255, 255]).is_err());
        assert!(Frame::decode(&mut vec![9, 0, 0, 0, 0]).is_err());
        assert!(Frame::decode(&mut vec![5, 0, 0, 0, 1, 7]).is_err());
    }
}
