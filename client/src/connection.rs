//! One HTTP/1.1 connection over the Unix socket: connect, check the owner of the other end, return the sender.

use std::io;
use std::path::Path;

use bytes::Bytes;
use host::unix_socket::SocketAddressPath;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::error::{ClientError, Denial, os_error_message};

/// The task that drives the connection; aborted when this handle is dropped.
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

/// Opens a connection. `Ok(None)` if no process listens: the socket is missing or stale.
pub(crate) async fn open(socket: &Path) -> Result<Option<Connection>, ClientError> {
    let connected = match SocketAddressPath::new(socket) {
        Ok(address) => UnixStream::connect(address.path()).await,
        Err(error) => Err(error),
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(connect_error(socket, &error)),
    };
    // Before the first byte: a foreign process must not receive a request.
    check_peer(socket, &stream)?;
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::ConnectionBroken(error.to_string()))?;
    let task = tokio::spawn(async move {
        // Ignored, because the request that was in progress returns the same error.
        let _result = connection.with_upgrades().await;
    });
    Ok(Some(Connection { sender, task: ConnectionTask(task) }))
}

/// `ConnectionReset` comes from an agent that was killed before it accepted the queued connection.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

fn connect_error(socket: &Path, error: &io::Error) -> ClientError {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    // The folder is owned by this user and has mode 0700, so EACCES cannot come from its permissions.
    let is_sandboxed = matches!(code, Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS));
    let denial = if is_sandboxed { Denial::Sandbox } else { Denial::Other };
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
    // Root is accepted, because the system instance of systemd may hold the listening socket for an agent.
    if uid == rustix::process::geteuid().as_raw() || uid == 0 {
        return Ok(());
    }
    Err(ClientError::ForeignPeer { socket: socket.to_owned(), uid })
}
