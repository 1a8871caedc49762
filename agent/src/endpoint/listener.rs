//! The listener of one unit's endpoint: who comes in is asked of the runtime for every connection, one request each.
//!
//! An address of the containers' network may be listened on before the engine made that network, and after it was made
//! anew, so the listener does not depend on it.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use credentials::approval::IdentityUse;
use credentials::broker::{Requester, SessionMember};
use credentials::endpoint::{EndpointAccess, EndpointResponse};
use drivers::driver::Driver;
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
use crate::api::{Peer, requester_of};
use crate::bus::now_ms;
use crate::session_previews;
use crate::sessions::session_member_of_process;
use crate::shared::Shared;

/// Connections of one unit at once; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;
const BACKLOG: u32 = 128;
/// Connections of strangers that are told why not; more are closed at once, or they would keep the unit out.
const REFUSED_CONNECTIONS_MAX: usize = 8;
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);
/// The engine's or the kernel's word on whose connection it is.
const PEER_CHECK_LIMIT: Duration = Duration::from_secs(5);
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// A source may take its time; SDKs give up long before.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);
/// The HTTP library accepts no smaller one.
const BUFFER_BYTES: usize = 8192;

/// An endpoint that is open until this is dropped.
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
    pub(super) fn is_bound_to(&self, opening: &EndpointBinding) -> bool {
        self.address == opening.address
            && self.state.required_approval == opening.required_approval
            && !self.task.is_finished()
    }

    /// From the next request on.
    pub(super) fn replace_access(&self, door: Arc<EndpointAccess>) {
        *self.state.access.write().unwrap_or_else(PoisonError::into_inner) = door;
    }
}

struct EndpointState {
    shared: Arc<Shared>,
    required_approval: Option<IdentityUse>,
    allowed_caller: AllowedCaller,
    access: RwLock<Arc<EndpointAccess>>,
}

/// Who may come in.
pub(super) enum AllowedCaller {
    /// The programs of a preview's unit.
    Unit { driver: Arc<dyn Driver>, preview: PreviewName, unit: String },
    /// A program that was started with this variable, and what it starts.
    Program { variable: String, pid: i32 },
}

pub(super) async fn open_for_unit(
    shared: &Arc<Shared>,
    preview: &PreviewName,
    opening: &EndpointBinding,
    door: Arc<EndpointAccess>,
) -> Result<EndpointListener, String> {
    let driver = shared.drivers.driver(opening.runtime).map_err(|problem| problem.message)?;
    let listener =
        bind_listener(opening.address).map_err(|error| format!("cannot listen on {}: {error}", opening.address))?;
    let guest = AllowedCaller::Unit { driver, preview: preview.clone(), unit: opening.unit.clone() };
    let site = EndpointState {
        shared: Arc::clone(shared),
        required_approval: opening.required_approval.clone(),
        allowed_caller: guest,
        access: RwLock::new(door),
    };
    Ok(spawn_listener(opening.address, listener, site))
}

/// For one program; the listener is bound already, because its address is what the program is told.
pub(super) fn open_for_program(
    shared: &Arc<Shared>,
    listener: TcpListener,
    door: EndpointAccess,
    guest: AllowedCaller,
) -> Result<EndpointListener, String> {
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let site = EndpointState {
        shared: Arc::clone(shared),
        required_approval: None,
        allowed_caller: guest,
        access: RwLock::new(Arc::new(door)),
    };
    Ok(spawn_listener(address, listener, site))
}

fn spawn_listener(address: SocketAddr, listener: TcpListener, site: EndpointState) -> EndpointListener {
    let site = Arc::new(site);
    let task = tokio::spawn(accept_connections(listener, Arc::clone(&site)));
    EndpointListener { address, state: site, task }
}

pub(super) fn bind_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept_connections(listener: TcpListener, site: Arc<EndpointState>) {
    let (slots, strangers) =
        (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(REFUSED_CONNECTIONS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: wait for a connection to end instead of spinning.
            if connections.join_next().await.is_none() {
                tokio::time::sleep(HEAD_LIMIT).await;
            }
            continue;
        };
        let (site, strangers) = (Arc::clone(&site), Arc::clone(&strangers));
        connections.spawn(async move {
            if is_allowed_peer(&stream, peer, &site).await {
                let session = session_of_peer(&stream, peer, &site.shared).await;
                let _ended = timeout(REQUEST_LIMIT, serve_connection(stream, Some((&site, session)))).await;
                return drop(slot);
            }
            drop(slot);
            let whose = site.allowed_caller.name();
            tracing::warn!(whose, %peer, "a request for a credential was refused: it is of somebody else");
            if let Ok(_told) = strangers.try_acquire() {
                let _ended = timeout(REFUSAL_LIMIT, serve_connection(stream, None)).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Strangers have no site.
async fn serve_connection(
    stream: TcpStream,
    site: Option<(&Arc<EndpointState>, Option<SessionMember>)>,
) -> Result<(), hyper::Error> {
    let site = &site;
    let answered = service_fn(|request: Request<Incoming>| async move {
        let answer = match site {
            Some((site, session)) => site.handle_request(request, session.clone()).await,
            None => EndpointResponse::forbidden(
                "this endpoint is for another service or program: only its own are answered",
            ),
        };
        Ok::<_, std::convert::Infallible>(to_http_response(answer))
    });
    // One request a connection: whose it is was asked for this one.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), answered)
        .await
}

/// A local program shows by its environment whose it is, which a session's program can copy; that it belongs to a session
/// it cannot hide. Nothing is looked up while there is no session.
async fn session_of_peer(stream: &TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> Option<SessionMember> {
    let local = stream.local_addr().ok().filter(|local| local.ip().is_loopback())?;
    if shared.access.sessions.all().is_empty() && shared.registry.previews_with_session().is_empty() {
        return None;
    }
    let shared = Arc::clone(shared);
    let looking = tokio::task::spawn_blocking(move || {
        let mut holders = drivers::process::peer_pids(peer, local).into_iter();
        holders.find_map(|pid| session_member_of_process(&shared, Some(pid)))
    });
    looking.await.ok().flatten()
}

/// What cannot be told is not ours.
async fn is_allowed_peer(stream: &TcpStream, peer: SocketAddr, site: &EndpointState) -> bool {
    let Ok(local) = stream.local_addr() else { return false };
    let asked = async {
        match &site.allowed_caller {
            AllowedCaller::Unit { driver, preview, unit } => {
                driver.is_connection_from(&preview.id, unit, peer, local).await.is_ok_and(|is| is)
            }
            AllowedCaller::Program { variable, .. } => {
                let variable = variable.clone();
                // The process table is read from files.
                let look = move || drivers::process::peer_has_variable(&variable, peer, local);
                tokio::task::spawn_blocking(look).await.is_ok_and(|is| is)
            }
        }
    };
    timeout(PEER_CHECK_LIMIT, asked).await.is_ok_and(|is| is)
}

impl AllowedCaller {
    fn name(&self) -> &str {
        match self {
            Self::Unit { unit, .. } => unit,
            Self::Program { variable, .. } => variable,
        }
    }

    fn requester(&self, shared: &Shared) -> Requester {
        match self {
            // Where programs stand in the chain of others; without a slash, which would be read as a path.
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
        let allowed = |of: &IdentityUse| self.shared.access.approvals.is_approved(of, now_ms());
        if !self.required_approval.as_ref().is_none_or(allowed) {
            return EndpointResponse::forbidden(
                "the approval of this identity was taken back or has ended: `pdev up` asks again",
            );
        }
        let door = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        let mut asker = self.allowed_caller.requester(&self.shared);
        asker.session = asker.session.or(session);
        let (asked, _no_sdk_sends_a_body) = request.into_parts();
        self.shared.broker.handle_endpoint_request(&door, &asked, &asker).await
    }
}

fn to_http_response(answer: EndpointResponse) -> Response<Full<Bytes>> {
    let mut response = Response::builder()
        .status(answer.status)
        .header(CONTENT_TYPE, answer.content_type)
        .header(CACHE_CONTROL, "no-store");
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(answer.body.into_body())).unwrap_or_default()
}
