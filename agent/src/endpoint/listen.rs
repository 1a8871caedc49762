//! The listener of one unit's endpoint: who comes in is asked of the runtime for every connection, one request each.
//!
//! An address of the containers' network may be listened on before the engine made that network, and after it was made
//! anew, so the listener does not depend on it.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use credentials::approval::Use;
use credentials::broker::{Asker, Member};
use credentials::endpoint::{Answer, Door};
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

use super::Opening;
use crate::api::{Peer, asker};
use crate::bus::now_ms;
use crate::session_previews;
use crate::sessions::member;
use crate::shared::Shared;

/// Connections of one unit at once; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;
const BACKLOG: u32 = 128;
/// Connections of strangers that are told why not; more are closed at once, or they would keep the unit out.
const STRANGERS_MAX: usize = 8;
const STRANGER_LIMIT: Duration = Duration::from_secs(1);
/// The engine's or the kernel's word on whose connection it is.
const CHECK_LIMIT: Duration = Duration::from_secs(5);
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// A source may take its time; SDKs give up long before.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);
/// The HTTP library accepts no smaller one.
const BUFFER_BYTES: usize = 8192;

/// An endpoint that is open until this is dropped.
pub(super) struct Open {
    address: SocketAddr,
    site: Arc<Site>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Open {
    pub(super) fn is_at(&self, opening: &Opening) -> bool {
        self.address == opening.address && self.site.of == opening.of && !self.task.is_finished()
    }

    /// From the next request on.
    pub(super) fn enter_by(&self, door: Arc<Door>) {
        *self.site.door.write().unwrap_or_else(PoisonError::into_inner) = door;
    }
}

struct Site {
    shared: Arc<Shared>,
    of: Option<Use>,
    guest: Guest,
    door: RwLock<Arc<Door>>,
}

/// Who may come in.
pub(super) enum Guest {
    /// The programs of a preview's unit.
    Unit { driver: Arc<dyn Driver>, preview: PreviewName, unit: String },
    /// A program that was started with this variable, and what it starts.
    Program { variable: String, pid: i32 },
}

pub(super) async fn open(
    shared: &Arc<Shared>,
    preview: &PreviewName,
    opening: &Opening,
    door: Arc<Door>,
) -> Result<Open, String> {
    let driver = shared.engines.driver(opening.runtime).map_err(|problem| problem.message)?;
    let listener = listen(opening.address).map_err(|error| format!("cannot listen on {}: {error}", opening.address))?;
    let guest = Guest::Unit { driver, preview: preview.clone(), unit: opening.unit.clone() };
    let site = Site { shared: Arc::clone(shared), of: opening.of.clone(), guest, door: RwLock::new(door) };
    Ok(begin(opening.address, listener, site))
}

/// For one program; the listener is bound already, because its address is what the program is told.
pub(super) fn open_for(shared: &Arc<Shared>, listener: TcpListener, door: Door, guest: Guest) -> Result<Open, String> {
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let site = Site { shared: Arc::clone(shared), of: None, guest, door: RwLock::new(Arc::new(door)) };
    Ok(begin(address, listener, site))
}

fn begin(address: SocketAddr, listener: TcpListener, site: Site) -> Open {
    let site = Arc::new(site);
    let task = tokio::spawn(accept(listener, Arc::clone(&site)));
    Open { address, site, task }
}

pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let (slots, strangers) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(STRANGERS_MAX)));
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
            if is_ours(&stream, peer, &site).await {
                let session = session_of(&stream, peer, &site.shared).await;
                let _ended = timeout(REQUEST_LIMIT, serve(stream, Some((&site, session)))).await;
                return drop(slot);
            }
            drop(slot);
            let whose = site.guest.name();
            tracing::warn!(whose, %peer, "a request for a credential was refused: it is of somebody else");
            if let Ok(_told) = strangers.try_acquire() {
                let _ended = timeout(STRANGER_LIMIT, serve(stream, None)).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Strangers have no site.
async fn serve(stream: TcpStream, site: Option<(&Arc<Site>, Option<Member>)>) -> Result<(), hyper::Error> {
    let site = &site;
    let answered = service_fn(|request: Request<Incoming>| async move {
        let answer = match site {
            Some((site, session)) => site.answer(request, session.clone()).await,
            None => Answer::refused("this endpoint is for another service or program: only its own are answered"),
        };
        Ok::<_, std::convert::Infallible>(response(answer))
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
async fn session_of(stream: &TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> Option<Member> {
    let local = stream.local_addr().ok().filter(|local| local.ip().is_loopback())?;
    if shared.gate.sessions.all().is_empty() && shared.registry.of_sessions().is_empty() {
        return None;
    }
    let shared = Arc::clone(shared);
    let looking = tokio::task::spawn_blocking(move || {
        let mut holders = drivers::process::holders(peer, local).into_iter();
        holders.find_map(|pid| member(&shared, Some(pid)))
    });
    looking.await.ok().flatten()
}

/// What cannot be told is not ours.
async fn is_ours(stream: &TcpStream, peer: SocketAddr, site: &Site) -> bool {
    let Ok(local) = stream.local_addr() else { return false };
    let asked = async {
        match &site.guest {
            Guest::Unit { driver, preview, unit } => {
                driver.made_by(&preview.id, unit, peer, local).await.is_ok_and(|is| is)
            }
            Guest::Program { variable, .. } => {
                let variable = variable.clone();
                // The process table is read from files.
                let look = move || drivers::process::made_with(&variable, peer, local);
                tokio::task::spawn_blocking(look).await.is_ok_and(|is| is)
            }
        }
    };
    timeout(CHECK_LIMIT, asked).await.is_ok_and(|is| is)
}

impl Guest {
    fn name(&self) -> &str {
        match self {
            Self::Unit { unit, .. } => unit,
            Self::Program { variable, .. } => variable,
        }
    }

    fn asker(&self, shared: &Shared) -> Asker {
        match self {
            // Where programs stand in the chain of others; without a slash, which would be read as a path.
            Self::Unit { preview: PreviewName { id, app, branch, .. }, unit, .. } => Asker {
                pid: None,
                chain: vec![format!("service {unit} of {app}, {branch}")],
                session: session_previews::member(shared, id),
            },
            Self::Program { pid, .. } => asker(shared, Peer { pid: Some(*pid) }),
        }
    }
}

impl Site {
    async fn answer(&self, request: Request<Incoming>, session: Option<Member>) -> Answer {
        let allowed = |of: &Use| self.shared.gate.approvals.allows(of, now_ms());
        if !self.of.as_ref().is_none_or(allowed) {
            return Answer::refused("the approval of this identity was taken back or has ended: `pdev up` asks again");
        }
        let door = Arc::clone(&self.door.read().unwrap_or_else(PoisonError::into_inner));
        let mut asker = self.guest.asker(&self.shared);
        asker.session = asker.session.or(session);
        let (asked, _no_sdk_sends_a_body) = request.into_parts();
        self.shared.broker.answer(&door, &asked, &asker).await
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::builder()
        .status(answer.status)
        .header(CONTENT_TYPE, answer.content_type)
        .header(CACHE_CONTROL, "no-store");
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(answer.body.into_body())).unwrap_or_default()
}
