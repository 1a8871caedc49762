//! A command that runs inside a unit: the upgraded connection, split into a reader and a writer of frames.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use protocol::exec::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::connection::ConnectionTask;
use crate::error::{ClientError, os_error_message};

/// Limit of the payload of one stdin frame: small, so that a frame never delays other traffic for long.
const STDIN_CHUNK_BYTES_MAX: usize = 32 << 10;

/// Reads the frames that the agent sends. The connection lives as long as this reader.
#[derive(Debug)]
pub struct ExecReader {
    input: ReadHalf<TokioIo<Upgraded>>,
    buffer: Vec<u8>,
    _task: ConnectionTask,
}

/// Sends frames to the agent: standard input of the command, and changes of the terminal.
#[derive(Debug)]
pub struct ExecWriter {
    output: WriteHalf<TokioIo<Upgraded>>,
}

/// Splits an upgraded connection, so that one task can read while another one writes.
pub(crate) fn split(upgraded: Upgraded, task: ConnectionTask) -> (ExecReader, ExecWriter) {
    let (input, output) = tokio::io::split(TokioIo::new(upgraded));
    (ExecReader { input, buffer: Vec::new(), _task: task }, ExecWriter { output })
}

impl ExecReader {
    /// Reads the next frame. Cancel-safe: bytes that were read stay in the buffer. The frame with the exit code is the
    /// last one; a call after it returns an error.
    ///
    /// # Errors
    /// When the connection ends before the exit code arrives, or the bytes violate the protocol.
    pub async fn read_frame(&mut self) -> Result<Frame, ClientError> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).map_err(ClientError::InvalidReply)? {
                return Ok(frame);
            }
            let byte_count = self.input.read_buf(&mut self.buffer).await.map_err(connection_error)?;
            if byte_count == 0 {
                return Err(ClientError::ConnectionBroken("it was closed before the command ended".to_owned()));
            }
        }
    }
}

impl ExecWriter {
    /// Sends bytes to the standard input of the command, split into frames of limited size.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn write_stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for chunk in bytes.chunks(STDIN_CHUNK_BYTES_MAX) {
            self.write_frame(&Frame::Stdin(chunk.to_vec())).await?;
        }
        Ok(())
    }

    /// Sends one frame immediately.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn write_frame(&mut self, frame: &Frame) -> Result<(), ClientError> {
        self.output.write_all(&frame.encode()).await.map_err(connection_error)?;
        // Keystrokes must not wait in a buffer for later input.
        self.output.flush().await.map_err(connection_error)
    }
}

fn connection_error(error: std::io::Error) -> ClientError {
    ClientError::ConnectionBroken(os_error_message(&error))
}
