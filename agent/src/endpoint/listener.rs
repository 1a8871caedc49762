//! The listener of one unit's endpoint. The runtime identifies the peer of every connection, and each connection serves
//! one request.
//!
//! The listener binds an address of the containers' network even before the engine has created that network, so it
//! keeps working when the network is created again.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use credentials::approval::IdentityUse;
use credentials::broker::{Requester, SessionMember};
use credentials::endpoint::{EndpointAccess, EndpointResponse};
use drivers::driver::Driver;
use host::clock::now_milliseconds;
use host::connections::peer_pids;
use host::processes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use plan::application::PreviewName;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::EndpointBinding;
use crate::peer::{Peer, requester_of};
use crate::session_previews;
use crate::sessions::session_member_of_process;
use crate::shared::Shared;

/// Open connections per unit; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;
const BACKLOG: u32 = 128;
/// Connections of other programs that get an answer with the reason. Further ones are closed at once, so that they
/// cannot take all connections from the unit.
const REFUSED_CONNECTIONS_MAX: usize = 8;
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// How long the engine or the kernel may take to identify the peer of a connection.
const PEER_CHECK_LIMIT: Duration = Duration::from_secs(5);
const RUN_PREFIX: &[u8] = b"PDEV_RUN=";
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// A source may be slow. SDKs give up long before this limit.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);
/// The smallest buffer that hyper accepts.
const BUFFER_BYTES: usize = 8192;

/// An endpoint that is open until this value is dropped.
pub(super) struct EndpointListener {
    address: SocketAddr,
    state: Arc<EndpointState>,
    task: JoinHandle<()>,
}

impl Drop for EndpointListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EndpointListener {
    pub(super) fn is_bound_to(&self, binding: &EndpointBinding) -> bool {
        self.address == binding.address
            && self.state.required_approval == binding.required_approval
            && !self.task.is_finished()
    }

    /// Applies to all requests that start after this call.
    pub(super) fn replace_access(&self, access: Arc<EndpointAccess>) {
        *self.state.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }
}

struct EndpointState {
    shared: Arc<Shared>,
    required_approval: Option<IdentityUse>,
    allowed_caller: AllowedCaller,
    access: RwLock<Arc<EndpointAccess>>,
}

/// The only programs whose connections are served.
pub(super) enum AllowedCaller {
    /// The programs of a preview's unit.
    Unit { driver: Arc<dyn Driver>, preview: PreviewName, unit: String },
    /// A program and its descendants. `run_id` is in the variable `PDEV_RUN` of its environment.
    Program { run_id: String, pid: i32 },
}

pub(super) async fn open_for_unit(
    shared: &Arc<Shared>,
    preview: &PreviewName,
    binding: &EndpointBinding,
    access: Arc<EndpointAccess>,
) -> Result<EndpointListener, String> {
    let driver = shared.drivers.driver(&binding.target).map_err(|problem| problem.message)?;
    let listener =
        bind_listener(binding.address).map_err(|error| format!("cannot listen on {}: {error}", binding.address))?;
    let allowed_caller = AllowedCaller::Unit { driver, preview: preview.clone(), unit: binding.unit.clone() };
    let state = EndpointState {
        shared: Arc::clone(shared),
        required_approval: binding.required_approval.clone(),
        allowed_caller,
        access: RwLock::new(access),
    };
    Ok(spawn_listener(binding.address, listener, state))
}

/// Opens an endpoint for one program. The caller binds the listener, because it needs the address for the program's
/// environment.
pub(super) fn open_for_program(
    shared: &Arc<Shared>,
    listener: TcpListener,
    access: EndpointAccess,
    allowed_caller: AllowedCaller,
) -> Result<EndpointListener, String> {
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let state = EndpointState {
        shared: Arc::clone(shared),
        required_approval: None,
        allowed_caller,
        access: RwLock::new(Arc::new(access)),
    };
    Ok(spawn_listener(address, listener, state))
}

fn spawn_listener(address: SocketAddr, listener: TcpListener, state: EndpointState) -> EndpointListener {
    let state = Arc::new(state);
    let task = tokio::spawn(accept_connections(listener, Arc::clone(&state)));
    EndpointListener { address, state, task }
}

pub(super) fn bind_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Free bind allows an address that does not exist yet, such as one of a network that the engine creates later.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept_connections(listener: TcpListener, state: Arc<EndpointState>) {
    let (slots, refusal_slots) =
        (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(REFUSED_CONNECTIONS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        // Take the slot before accepting, so that connections above the limit stay in the kernel's backlog.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: wait for a connection to end instead of spinning.
            if connections.join_next().await.is_none() {
                tokio::time::sleep(HEAD_LIMIT).await;
            }
            continue;
        };
        let (state, refusal_slots) = (Arc::clone(&state), Arc::clone(&refusal_slots));
        connections.spawn(async move {
            if is_allowed_peer(&stream, peer, &state).await {
                let session = session_of_peer(&stream, peer, &state.shared).await;
                let _ended = timeout(REQUEST_LIMIT, serve_connection(stream, Some((&state, session)))).await;
                return drop(slot);
            }
            // A refused connection must not use one of the unit's slots.
            drop(slot);
            let owner = state.allowed_caller.name();
            tracing::warn!(owner, %peer, "refused a credential request from a program that does not own the endpoint");
            if let Ok(_refusal_slot) = refusal_slots.try_acquire() {
                let _ended = timeout(REFUSAL_LIMIT, serve_connection(stream, None)).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection. `endpoint` is `None` for a program that is not allowed; it gets an answer with the reason.
async fn serve_connection(
    stream: TcpStream,
    endpoint: Option<(&Arc<EndpointState>, Option<SessionMember>)>,
) -> Result<(), hyper::Error> {
    let endpoint = &endpoint;
    let service = service_fn(|request: Request<Incoming>| async move {
        let response = match endpoint {
            Some((state, session)) => state.handle_request(request, session.clone()).await,
            None => EndpointResponse::forbidden(
                "this endpoint is for another service or program, and answers only its own processes",
            ),
        };
        Ok::<_, std::convert::Infallible>(to_http_response(response))
    });
    // No keep-alive: the check of the peer covers one request only.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// The session of a local peer: a session may have started a program of the unit. Without any session, nothing is
/// looked up.
async fn session_of_peer(stream: &TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> Option<SessionMember> {
    let local = stream.local_addr().ok().filter(|local| local.ip().is_loopback())?;
    if shared.access.sessions.all().is_empty() && shared.registry.previews_with_session().is_empty() {
        return None;
    }
    let shared = Arc::clone(shared);
    // Reading the process table blocks.
    let lookup = tokio::task::spawn_blocking(move || {
        peer_pids(peer, local, |_| true).find_map(|pid| session_member_of_process(&shared, Some(pid)))
    });
    lookup.await.ok().flatten()
}

/// Whether the peer is the allowed caller. A peer that cannot be identified in time is not allowed.
async fn is_allowed_peer(stream: &TcpStream, peer: SocketAddr, state: &EndpointState) -> bool {
    let Ok(local) = stream.local_addr() else { return false };
    let check = async {
        match &state.allowed_caller {
            AllowedCaller::Unit { driver, preview, unit } => {
                let Some(endpoints) = driver.credential_endpoints() else { return false };
                endpoints.is_connection_from(&preview.id, unit, peer, local).await.is_ok_and(|is| is)
            }
            AllowedCaller::Program { run_id, pid } => {
                let (run_id, pid) = (run_id.clone(), *pid);
                // Reading the process table blocks.
                let is_program = move || is_peer_below(peer, local, pid, &run_id);
                tokio::task::spawn_blocking(is_program).await.is_ok_and(|is| is)
            }
        }
    };
    timeout(PEER_CHECK_LIMIT, check).await.is_ok_and(|is| is)
}

/// Whether a connection comes from this program or one of its descendants. Ancestry decides, because every program of
/// the user can copy the variable; a program with the variable of another run, such as a nested one, is refused.
fn is_peer_below(peer: SocketAddr, local: SocketAddr, program: i32, run_id: &str) -> bool {
    let programs = processes::descendants(program);
    peer_pids(peer, local, |pid| pid == program || programs.contains(&pid)).any(|pid| {
        let environment = processes::environment(pid);
        let mut runs = environment.iter().filter_map(|entry| entry.strip_prefix(RUN_PREFIX));
        runs.all(|run| run == run_id.as_bytes())
    })
}

impl AllowedCaller {
    fn name(&self) -> &str {
        match self {
            Self::Unit { unit, .. } => unit,
            Self::Program { run_id, .. } => run_id,
        }
    }

    fn requester(&self, shared: &Shared) -> Requester {
        match self {
            // Takes the place of the process chain. It has no slash, because readers of the audit log would take it for
            // a path.
            Self::Unit { preview: PreviewName { id, app, branch, .. }, unit, .. } => Requester {
                pid: None,
                chain: vec![format!("service {unit} of {app}, {branch}")],
                session: session_previews::session_member_of_preview(shared, id),
            },
            Self::Program { pid, .. } => requester_of(shared, Peer { pid: Some(*pid) }),
        }
    }
}

impl EndpointState {
    async fn handle_request(&self, request: Request<Incoming>, session: Option<SessionMember>) -> EndpointResponse {
        // Checked for every request, so that a revoked approval takes effect at once.
        let is_approved = |identity_use: &IdentityUse| {
            let policy = self.shared.broker.approval_policy();
            self.shared.access.approvals.is_approved(identity_use, policy, now_milliseconds())
        };
        if !self.required_approval.as_ref().is_none_or(is_approved) {
            return EndpointResponse::forbidden(
                "the approval of this identity was revoked or has expired: run `pdev up` to request it again",
            );
        }
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        let mut requester = self.allowed_caller.requester(&self.shared);
        requester.session = requester.session.or(session);
        let (head, _no_sdk_sends_a_body) = request.into_parts();
        self.shared.broker.handle_endpoint_request(&access, &head, &requester).await
    }
}

fn to_http_response(endpoint_response: EndpointResponse) -> Response<Full<Bytes>> {
    let mut response = Response::builder()
        .status(endpoint_response.status)
        .header(CONTENT_TYPE, endpoint_response.content_type)
        .header(CACHE_CONTROL, "no-store");
    for (name, value) in &endpoint_response.headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(endpoint_response.body.into_body())).unwrap_or_default()
}
