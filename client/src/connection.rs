//! One HTTP/1.1 connection over the unix socket: connect, check who answers, hand out the sender.

use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::error::{ClientError, Denial};
use crate::socket_location::os_error_message;

/// Ends the task that moves the bytes when the last user is gone.
#[derive(Debug)]
pub(crate) struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    pub(crate) task: ConnectionTask,
}

/// `Ok(None)` when nobody listens: no socket, or a stale one.
pub(crate) async fn open(socket: &Path) -> Result<Option<Connection>, ClientError> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(connect_error(socket, &error)),
    };
    check_peer(socket, &stream)?;
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::ConnectionBroken(error.to_string()))?;
    let mover = tokio::spawn(async move {
        // The error shows up at the request that was under way.
        let _ended = connection.with_upgrades().await;
    });
    Ok(Some(Connection { sender, task: ConnectionTask(mover) }))
}

/// Reset: an agent that was killed before it took the connection from its queue.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

fn connect_error(socket: &Path, error: &io::Error) -> ClientError {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    // The folder is ours and 0700, so that EACCES cannot come from its mode.
    let sandbox = matches!(code, Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS));
    let denial = if sandbox { Denial::Sandbox } else { Denial::Other };
    ClientError::Denied { socket: socket.to_owned(), message: os_error_message(error), denial }
}

fn check_peer(socket: &Path, stream: &UnixStream) -> Result<(), ClientError> {
    let uid = stream
        .peer_cred()
        .map_err(|error| ClientError::Denied {
            socket: socket.to_owned(),
            message: os_error_message(&error),
            denial: Denial::Other,
        })?
        .uid();
    // Root may stand in for anybody: an agent that systemd's root instance holds the socket for.
    if uid == rustix::process::geteuid().as_raw() || uid == 0 {
        return Ok(());
    }
    Err(ClientError::ForeignPeer { socket: socket.to_owned(), uid })
}
