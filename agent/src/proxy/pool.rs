//! Connections to services: kept open between requests, limited in number and age, one set per address. HTTP/1.1
//! connections carry one exchange at a time; HTTP/2 connections are shared.
//!
//! The pool does not retry. A caller that gets a stale connection dials a new one.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tasks::TaskGroup;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::body::{RequestBody, RequestBodyEnd};
use super::routes::Upstream;

const IDLE_PER_ADDRESS_MAX: usize = 128;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A returned connection is ready as soon as its task has run once. A connection that takes longer is stuck.
const READY_TIMEOUT: Duration = Duration::from_millis(100);
/// The limits of a message's headers, in both directions: requests of clients and responses of services. Some frameworks
/// send over 100 `Set-Cookie`.
pub(super) const HEADERS_MAX: usize = 500;
pub(super) const HEADER_BYTES_MAX: usize = 256 * 1024;
/// The parser refuses a message beyond this number without a text, so it is larger than the limit.
pub(super) const PARSED_HEADERS_MAX: usize = 1000;

/// Whether a message is within the limits.
pub(super) fn has_acceptable_size(headers: &HeaderMap) -> bool {
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    headers.len() <= HEADERS_MAX && bytes.sum::<usize>() <= HEADER_BYTES_MAX
}

/// Why no connection could be opened: each address with its error.
#[derive(Debug, thiserror::Error)]
#[error("no address answered")]
pub(super) struct Unreachable {
    pub(super) tried: Vec<(SocketAddr, io::Error)>,
}

/// An open connection, ready for one exchange.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    sender: Sender,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Connection {
    /// Sends one request. The error contains the request if no byte of it was written.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) if sender.is_closed() => false,
            Sender::Http1(sender) if sender.is_ready() => true,
            Sender::Http1(sender) => matches!(timeout(READY_TIMEOUT, sender.ready()).await, Ok(Ok(()))),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Returns a connection to the pool when the response has been read to its end. If it is dropped earlier, the
/// connection is closed.
#[derive(Debug)]
pub(super) struct ConnectionLease {
    connection: Connection,
    upload: Option<RequestBodyEnd>,
    pool: Arc<Pool>,
}

impl ConnectionLease {
    pub(super) fn return_to_pool(self) {
        // A response may end before its upload. The rest of the upload would then precede the next request.
        if self.upload.is_none_or(|end| end.is_reached()) {
            self.pool.return_connection(self.connection);
        }
    }
}

#[derive(Debug)]
struct IdleConnection {
    connection: Connection,
    since: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<IdleConnection>>>,
    http2_senders: Mutex<HashMap<SocketAddr, http2::SendRequest<RequestBody>>>,
    connection_tasks: TaskGroup,
    idle_added: Notify,
}

impl Pool {
    pub(super) fn lease(
        self: &Arc<Self>,
        connection: Connection,
        upload: Option<RequestBodyEnd>,
    ) -> Option<ConnectionLease> {
        match connection.sender {
            Sender::Http1(_) => Some(ConnectionLease { connection, upload, pool: self.clone() }),
            // A shared connection was never removed from the pool.
            Sender::Http2(_) => None,
        }
    }

    /// Takes an open connection, the newest first, so that older ones can expire.
    pub(super) async fn reuse_connection(&self, upstream: &Upstream) -> Option<Connection> {
        for address in &upstream.addresses {
            while let Some(mut connection) = self.pop_connection(*address, upstream.uses_h2c) {
                if connection.is_usable().await {
                    return Some(connection);
                }
                self.remove_shared(&connection);
            }
        }
        None
    }

    fn pop_connection(&self, address: SocketAddr, h2c: bool) -> Option<Connection> {
        if h2c {
            let sender = lock(&self.http2_senders).get(&address)?.clone();
            return Some(Connection { address, sender: Sender::Http2(sender) });
        }
        lock(&self.idle).get_mut(&address)?.pop().map(|idle| idle.connection)
    }

    fn remove_shared(&self, connection: &Connection) {
        if matches!(connection.sender, Sender::Http2(_)) {
            lock(&self.http2_senders).remove(&connection.address);
        }
    }

    fn return_connection(&self, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = lock(&self.idle);
        let was_empty = idle.is_empty();
        let of_address = idle.entry(connection.address).or_default();
        if of_address.len() < IDLE_PER_ADDRESS_MAX {
            of_address.push(IdleConnection { connection, since: Instant::now() });
        }
        drop(idle);
        // Wakes `close_expired_connections`, which sleeps while no connection is idle.
        if was_empty {
            self.idle_added.notify_one();
        }
    }

    /// Opens a new connection, trying the addresses in order.
    pub(super) async fn dial(&self, upstream: &Upstream) -> Result<Connection, Unreachable> {
        let mut tried = Vec::new();
        for address in &upstream.addresses {
            match timeout(CONNECT_TIMEOUT, self.connect(*address, upstream.uses_h2c)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => tried.push((*address, error)),
                Err(_) => tried.push((*address, io::Error::from(io::ErrorKind::TimedOut))),
            }
        }
        Err(Unreachable { tried })
    }

    async fn connect(&self, address: SocketAddr, h2c: bool) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        // Nagle's algorithm would delay small requests until earlier ones are acknowledged.
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let sender = if h2c { self.start_http2(address, io).await } else { self.start_http1(io).await };
        Ok(Connection { address, sender: sender.map_err(io::Error::other)? })
    }

    async fn start_http1(&self, io: TokioIo<TcpStream>) -> hyper::Result<Sender> {
        let (sender, driver) =
            http1::Builder::new().max_headers(PARSED_HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX).handshake(io).await?;
        // The task that waits for the response gets the driver's error too. Here it only means that the connection
        // ended.
        self.connection_tasks.spawn(async move { drop(driver.with_upgrades().await) });
        Ok(Sender::Http1(sender))
    }

    async fn start_http2(&self, address: SocketAddr, io: TokioIo<TcpStream>) -> hyper::Result<Sender> {
        let (mut sender, driver) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(HEADER_BYTES_MAX as u32)
            .handshake(io)
            .await?;
        self.connection_tasks.spawn(async move { drop(driver.await) });
        poll_fn(|context| sender.poll_ready(context)).await?;
        lock(&self.http2_senders).insert(address, sender.clone());
        Ok(Sender::Http2(sender))
    }

    /// Closes connections that were idle for too long. Runs until the proxy stops; without idle connections it never
    /// wakes up.
    pub(super) async fn close_expired_connections(&self) {
        loop {
            if lock(&self.idle).is_empty() {
                self.idle_added.notified().await;
            }
            tokio::time::sleep(IDLE_TIMEOUT / 2).await;
            self.drop_older_than(IDLE_TIMEOUT);
        }
    }

    fn drop_older_than(&self, age: Duration) {
        lock(&self.idle).retain(|_, of_address| {
            of_address.retain(|idle| idle.since.elapsed() < age && !idle.connection.is_closed());
            !of_address.is_empty()
        });
        lock(&self.http2_senders).retain(|_, sender| !sender.is_closed());
    }

    /// Closes all connections, also those in use.
    pub(super) async fn close(&self) {
        lock(&self.idle).clear();
        lock(&self.http2_senders).clear();
        self.connection_tasks.shutdown().await;
    }
}

/// Locks without poisoning: no code panics while it holds these locks, and the maps would still be consistent if it
/// did.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
