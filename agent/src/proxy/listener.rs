//! The proxy's sockets and client connections: loopback only and limited in number. The first shutdown drains them, the
//! second one closes them at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tasks::OwnedTask;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::list_access::ListToken;
use super::pool::{HEADER_BYTES_MAX, PARSED_HEADERS_MAX, Pool};
use super::routes::Routes;
use super::serve::{ProxyState, serve};
use super::upgrade::Tunnels;

/// The port of the proxy, unless it is taken.
pub const DEFAULT_PORT: u16 = 8642;
const PORTS_TRIED: u16 = 50;
/// The smallest buffer that hyper accepts.
const HEADER_BYTES_MIN: usize = 8192;
/// A timer with zero length would cause a busy loop.
const TICK_MIN: Duration = Duration::from_millis(1);

/// Limits on the resources that clients can use. The defaults are for one developer's machine.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    pub tunnels: usize,
    /// Requests that wait for starting services, in total.
    pub waiting_requests: usize,
    /// The total size of one request's headers.
    pub header_bytes: usize,
    /// From the start of a connection to its first complete request head.
    pub first_request_timeout: Duration,
    /// How long a connection stays open without a request.
    pub idle_timeout: Duration,
    /// How long a request waits for a starting service.
    pub start_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            tunnels: 512,
            waiting_requests: 256,
            header_bytes: HEADER_BYTES_MAX,
            first_request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            start_timeout: Duration::from_secs(30),
        }
    }
}

/// Why the proxy has no port.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("no free port from `{from}` to `{to}` on the loopback address")]
    NoFreePort { from: u16, to: u16 },
    #[error("cannot listen on `{address}`: {cause}")]
    Refused { address: SocketAddr, cause: io::Error },
}

/// One port on both loopback addresses (IPv6 only if the machine has it).
#[derive(Debug)]
pub struct Listeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
    port: u16,
    list_token: ListToken,
}

impl Listeners {
    /// Opens the list of all previews to clients with this token.
    #[must_use]
    pub fn with_list_token(self, list_token: ListToken) -> Self {
        Self { list_token, ..self }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.v6 {
            None => self.v4.accept().await,
            Some(v6) => tokio::select! {
                accepted = self.v4.accept() => accepted,
                accepted = v6.accept() => accepted,
            },
        }
    }
}

/// Binds the preferred port or one of the next 50; `0` binds any free port.
pub async fn bind(preferred: u16) -> Result<Listeners, BindError> {
    let last = if preferred == 0 { PORTS_TRIED } else { preferred.saturating_add(PORTS_TRIED) };
    for candidate in preferred..=last {
        let port = if preferred == 0 { 0 } else { candidate };
        if let Some(listeners) = bind_both(port).await? {
            return Ok(listeners);
        }
    }
    Err(BindError::NoFreePort { from: preferred, to: last })
}

/// `None` if the port is taken on either address: a host name must not lead to two programs.
async fn bind_both(port: u16) -> Result<Option<Listeners>, BindError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v4 = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if is_taken(&error) => return Ok(None),
        Err(cause) => return Err(BindError::Refused { address, cause }),
    };
    let port = v4.local_addr().map_err(|cause| BindError::Refused { address, cause })?.port();
    let v6 = match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
        Ok(listener) => Some(listener),
        Err(error) if is_taken(&error) => return Ok(None),
        Err(error) => {
            tracing::debug!(%error, "no IPv6 loopback; listening on 127.0.0.1 only");
            None
        }
    };
    Ok(Some(Listeners { v4, v6, port, list_token: ListToken::default() }))
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining,
    Stopping,
}

/// A running proxy. Dropping it stops it at once; `shutdown` lets requests complete first.
#[derive(Debug)]
pub struct Proxy {
    phase: watch::Sender<Phase>,
    port: u16,
    _server: OwnedTask,
}

impl Proxy {
    /// Starts serving. Must be called inside a tokio runtime.
    pub fn start(listeners: Listeners, routes: Routes, limits: &Limits) -> Self {
        let phase = watch::Sender::new(Phase::Running);
        let port = listeners.port;
        let shared = Arc::new(ProxyState {
            routes,
            port,
            list_token: listeners.list_token.clone(),
            pool: Arc::new(Pool::default()),
            tunnels: Tunnels::new(limits.tunnels),
            tunnels_max: limits.tunnels,
            waiting_requests: Semaphore::new(limits.waiting_requests),
            start_timeout: limits.start_timeout,
        });
        let server = Server { shared, limits: limits.clone(), http: http_builder(limits), phase: phase.subscribe() };
        // `shutdown` waits through `phase`: the channel closes when the task and all of its connections have ended.
        Self { phase, port, _server: OwnedTask::spawn(server.run(listeners)) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Accepts no more connections, lets requests complete until the deadline, then closes the rest. WebSockets are
    /// closed after the ordinary requests. A second call, also from another task, closes everything at once.
    pub async fn shutdown(&self, within: Duration) {
        let mut is_first = false;
        self.phase.send_modify(|phase| {
            is_first = *phase == Phase::Running;
            *phase = if is_first { Phase::Draining } else { Phase::Stopping };
        });
        if is_first && timeout(within, self.phase.closed()).await.is_err() {
            self.phase.send_replace(Phase::Stopping);
        }
        self.phase.closed().await;
    }
}

fn http_builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_headers(PARSED_HEADERS_MAX)
        .header_read_timeout(limits.first_request_timeout)
        // Also the size of the largest single read, so it bounds the memory of a connection.
        .max_buf_size(limits.header_bytes.max(HEADER_BYTES_MIN));
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(200)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

#[derive(Debug)]
struct Server {
    shared: Arc<ProxyState>,
    limits: Limits,
    http: auto::Builder<TokioExecutor>,
    phase: watch::Receiver<Phase>,
}

impl Server {
    async fn run(mut self, listeners: Listeners) {
        let mut connections = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let pool = self.shared.pool.clone();
        let mut expiry = std::pin::pin!(pool.close_expired_connections());
        while *self.phase.borrow_and_update() == Phase::Running {
            tokio::select! {
                Some((stream, peer, slot)) = accept_connection(&listeners, &slots) => {
                    connections.spawn(self.serve_connection(stream, peer.ip(), slot));
                }
                Some(_) = connections.join_next() => {}
                () = &mut expiry => {}
                changed = self.phase.changed() => if changed.is_err() { break },
            }
        }
        // Close the listeners first, so that new clients are refused during the drain instead of waiting.
        drop(listeners);
        self.drain(&mut connections).await;
        connections.shutdown().await;
        self.shared.tunnels.close().await;
        self.shared.pool.close().await;
    }

    async fn drain(&mut self, connections: &mut JoinSet<()>) {
        while *self.phase.borrow_and_update() == Phase::Draining && !connections.is_empty() {
            tokio::select! {
                _ = connections.join_next() => {}
                changed = self.phase.changed() => if changed.is_err() { break },
            }
        }
    }

    /// Serves one client connection until it ends, times out or the proxy stops.
    fn serve_connection(
        &self,
        stream: TcpStream,
        peer: IpAddr,
        slot: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + use<> {
        let (shared, http, limits, mut phase) =
            (self.shared.clone(), self.http.clone(), self.limits.clone(), self.phase.clone());
        async move {
            let request_count = AtomicU64::new(0);
            let service = service_fn(|request| {
                request_count.fetch_add(1, Ordering::Relaxed);
                serve(shared.clone(), peer, request)
            });
            let mut connection = std::pin::pin!(http.serve_connection_with_upgrades(TokioIo::new(stream), service));
            let mut ticks = interval(limits.first_request_timeout.max(TICK_MIN));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.reset();
            let mut previous_count = 0;
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a connection ended early");
                        }
                        break;
                    }
                    changed = phase.changed() => match *phase.borrow_and_update() {
                        Phase::Draining if changed.is_ok() => connection.as_mut().graceful_shutdown(),
                        _ => break,
                    },
                    _ = ticks.tick() => {
                        let count = request_count.load(Ordering::Relaxed);
                        // No request within the first tick: close the connection.
                        if count == 0 {
                            break;
                        }
                        if count == previous_count {
                            // Requests in progress complete; only the next request needs a new connection.
                            connection.as_mut().graceful_shutdown();
                        }
                        previous_count = count;
                        ticks = interval(limits.idle_timeout.max(TICK_MIN));
                        ticks.reset();
                    }
                }
            }
            drop(slot);
        }
    }
}

/// Waits for a free slot before accepting, so that clients of a full proxy wait in the kernel's queue.
async fn accept_connection(
    listeners: &Listeners,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listeners.accept().await {
        Ok((stream, peer)) => {
            // Nagle's algorithm would delay small responses until earlier ones are acknowledged.
            stream.set_nodelay(true).ok()?;
            Some((stream, peer, slot))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            // Running out of descriptors lasts for a while; without a pause this loop would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
