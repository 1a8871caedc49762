//! A command that runs inside a preview: the upgraded connection and its frames.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use protocol::exec::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::connection::ConnectionTask;
use crate::error::ClientError;

/// Payload of one stdin frame: small, so that a frame never delays other traffic for long.
const CHUNK_BYTES: usize = 32 * 1024;

/// The reading half; keeps the connection alive.
#[derive(Debug)]
pub struct ExecReader {
    input: ReadHalf<TokioIo<Upgraded>>,
    buffer: Vec<u8>,
    _task: ConnectionTask,
}

/// The writing half.
#[derive(Debug)]
pub struct ExecWriter {
    output: WriteHalf<TokioIo<Upgraded>>,
}

impl ExecReader {
    pub(crate) fn new(upgraded: Upgraded, task: ConnectionTask) -> (Self, ExecWriter) {
        let (input, output) = tokio::io::split(TokioIo::new(upgraded));
        (Self { input, buffer: Vec::new(), _task: task }, ExecWriter { output })
    }

    /// The next frame. Cancel-safe: bytes that were read stay in the buffer.
    ///
    /// # Errors
    /// When the connection ends before the exit code arrives, or the bytes violate the protocol.
    pub async fn next(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).map_err(ClientError::InvalidReply)? {
                return Ok(frame);
            }
            let read = self.input.read_buf(&mut self.buffer).await;
            let count =
                read.map_err(|error| ClientError::ConnectionBroken(crate::socket_location::os_error_message(&error)))?;
            if count == 0 {
                return Err(ClientError::ConnectionBroken("it ended before the command did".to_owned()));
            }
        }
    }
}

impl ExecWriter {
    /// # Errors
    /// When the connection is gone.
    pub async fn write_stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.send(&Frame::Stdin(chunk.to_vec())).await?;
        }
        Ok(())
    }

    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let broken =
            |error: std::io::Error| ClientError::ConnectionBroken(crate::socket_location::os_error_message(&error));
        self.output.write_all(&frame.encode()).await.map_err(broken)?;
        self.output.flush().await.map_err(broken)
    }
}
