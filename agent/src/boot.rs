//! The agent's life: places, lock, socket, recovery, serving, drain.
//!
//! Everything is made here and handed in; nothing is global. The first signal drains, the second one stops.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use credentials::broker::Broker;
use credentials::exchange::Exchanges;
use credentials::launch::Launcher;
use credentials::vault::Choice;
use hyper::Request;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use protocol::Problem;
use protocol::status::PreviewRef;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{Api, Peer, router};
use crate::approvals::Gate;
use crate::bus::Bus;
use crate::engines::Engines;
use crate::journal::Journal;
use crate::places::AgentPlaces;
use crate::preview::naming;
use crate::proxy::Routes;
use crate::proxy::{Limits, Listeners, Proxy};
use crate::registry::{Intent, Registry};
use crate::routing::Routing;
use crate::shared::Shared;
use crate::{convert, proxy};
use credentials::approval::Approvals;
use credentials::approval::family::Running;
use credentials::session::Sessions;

/// What runs after the first signal may take this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Connections served at once; a client needs one.
const CONNECTIONS_MAX: usize = 1024;
const PROXY_PORT: u16 = 8642;
const DESCRIPTORS: u64 = 65_536;

#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The folder of the socket.
    pub runtime: PathBuf,
    /// Leave the terminal's session, say `ready` or a problem on standard output, and close it.
    pub background: bool,
    pub proxy_port: Option<u16>,
}

/// Runs the agent until it is told to stop.
pub fn run(options: &AgentOptions) -> u8 {
    // Leases are held here even where no vault is ever opened.
    credentials::memory::keep_private();
    if options.background {
        // A session of its own: the terminal's Ctrl-C and hang-up are not meant for it.
        let _new_session = rustix::process::setsid();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let options = options.clone();
            // On a worker, not on this thread: whoever takes a connection then answers it without waking another thread,
            // which takes longer than the answer.
            let serving = async move { tokio::spawn(async move { serve(&options).await }).await };
            let result = runtime
                .block_on(serving)
                .unwrap_or_else(|error| Err(Problem::new("internal", 500, format!("the agent broke off: {error}"))));
            // Blocking reads of a stuck disk must not keep a stopped agent alive.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        }
        Err(error) => Err(Problem::new("internal", 500, format!("cannot start the agent's runtime: {error}"))),
    };
    match result {
        Ok(()) => 0,
        Err(problem) => {
            tell(options, &serde_json::to_string(&problem).unwrap_or_else(|_| problem.title.clone()));
            1
        }
    }
}

/// Gives the soft limit as it was. The proxy holds two descriptors a connection, and 1,024 is the usual soft limit. Programs started from here get the
/// old one back (see the keeper's start): some walk through all they might have.
fn raise_descriptors() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if current.is_some_and(|current| current < wanted) {
        let _lower_is_no_harm = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
    current
}

/// One line to whoever started us. In the background that is a client waiting on a pipe.
fn tell(options: &AgentOptions, line: &str) {
    let mut out = std::io::stdout().lock();
    let _said = writeln!(out, "{line}").and_then(|()| out.flush());
    if options.background
        && let Ok(null) = File::options().read(true).write(true).open("/dev/null")
    {
        // The client reads until the end; holding its pipe open would leave it waiting.
        let _closed = rustix::stdio::dup2_stdout(&null);
    }
}

async fn serve(options: &AgentOptions) -> Result<(), Problem> {
    let places = AgentPlaces::find(&options.runtime).map_err(|error| Problem::new("places", 500, error.to_string()))?;
    let lock = lock(&options.runtime.join("agent.lock"))?;
    // For people and scripts; whether an agent runs is told by the lock, never by this file.
    drop(std::fs::write(options.runtime.join("agent.pid"), std::process::id().to_string()));
    let listener = listen(&places.socket())?;
    let (shared, journal, listeners) = assemble(&places, options).await?;
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let history = tokio::spawn(write_history(shared.bus.clone(), journal));
    let proxy = listeners.map(|(listeners, routes)| Proxy::start(listeners, routes, &Limits::default()));
    tokio::spawn(signals(Arc::clone(&stop)));
    let _watcher = leave_with_the_socket(places.socket(), Arc::clone(&stop));
    crate::sessions::resume(&shared);
    crate::endpoint::program::reopen(&shared);
    recover(&shared).await;
    tell(options, "ready");
    tracing::info!(socket = %places.socket().display(), "listening");
    let api = router(Api { shared: Arc::clone(&shared), stop });
    let spectators = accept(listener, api, stopped, shared.spectators()).await;
    shared.drain();
    for handle in shared.handles() {
        handle.stop().await;
    }
    drop(std::fs::remove_file(places.socket()));
    if let Some(proxy) = proxy {
        proxy.shutdown(DRAIN_LIMIT).await;
    }
    history.abort();
    // Who waits for the end of a stream waits for the end of the agent: the next one may start now.
    drop(lock);
    drop(spectators);
    Ok(())
}

/// Who deletes the socket (a logout that clears the user's runtime folder) makes room for another agent: two would look
/// after the same previews, so this one drains. Costs no wake-up: the kernel tells.
fn leave_with_the_socket(socket: PathBuf, stop: Arc<watch::Sender<bool>>) -> Option<notify::RecommendedWatcher> {
    use notify::Watcher;
    let folder = socket.parent()?.to_owned();
    let gone = move |_event: notify::Result<notify::Event>| {
        if !socket.exists() && !*stop.borrow() {
            tracing::warn!(socket = %socket.display(), "the socket is gone, so this agent stops; previews go on running");
            stop.send_replace(true);
        }
    };
    let watching = notify::recommended_watcher(gone)
        .and_then(|mut watcher| watcher.watch(&folder, notify::RecursiveMode::NonRecursive).map(|()| watcher));
    watching.inspect_err(|error| tracing::warn!(%error, "the socket's folder cannot be watched")).ok()
}

/// One agent per user and socket folder; the lock goes with the process, however it ends.
fn lock(path: &Path) -> Result<File, Problem> {
    let fail = |error: std::io::Error| {
        Problem::new("places", 500, format!("cannot use the lock `{}`: {error}", path.display()))
    };
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let title = format!("an agent runs already (it holds `{}`)", path.display());
            Err(Problem::new("already_running", 409, title)
                .hint("`pdev agent status` shows it, `pdev agent stop` ends it."))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(fail(error)),
    }
}

fn listen(path: &Path) -> Result<UnixListener, Problem> {
    // Ours by the lock: what lies there is left from an agent that was killed.
    drop(std::fs::remove_file(path));
    UnixListener::bind(path)
        .map_err(|error| Problem::new("places", 500, format!("cannot listen on `{}`: {error}", path.display())))
}

type Proxied = Option<(Listeners, Routes)>;

async fn assemble(places: &AgentPlaces, options: &AgentOptions) -> Result<(Arc<Shared>, Journal, Proxied), Problem> {
    let (registry, notes) = Registry::open(places.state.join("registry"));
    for note in notes {
        tracing::warn!("{note}");
    }
    let journal = Journal::open(&places.state.join("journal.db"));
    let delivery =
        credentials::Delivery::open(&places.runtime).map_err(|error| Problem::new("places", 500, error.to_string()))?;
    let routes = Routes::new();
    let listeners = proxy::bind(remembered_port(places, options)).await;
    let port = listeners.as_ref().ok().map(Listeners::port);
    if let Some(port) = port {
        drop(crate::disk::replace_file(&places.state.join("proxy-port"), port.to_string().as_bytes(), 0o600));
    }
    let proxied = match listeners {
        Ok(listeners) => Some((listeners, routes.clone())),
        Err(error) => {
            tracing::warn!(%error, "no port for the proxy; previews have no URLs");
            None
        }
    };
    let bus = Bus::new(journal.last_id + 1);
    let descriptors = raise_descriptors();
    let launcher = descriptors.map(|descriptors| Launcher { program: own_program(), descriptors });
    let trusted = broker(&bus, launcher, &places.state)?;
    let routing = Routing::new(routes, port);
    let shared = Shared::new(places.clone(), engines(places, descriptors), registry, bus, delivery, trusted, routing);
    Ok((shared, journal, proxied))
}

/// The broker, its changes as events on the bus, and who may act as whom.
fn broker(bus: &Bus, launcher: Option<Launcher>, state: &Path) -> Result<(Arc<Broker>, Gate), Problem> {
    let place = credentials::Place::find().ok_or_else(|| Problem::new("places", 500, "no home folder is known"))?;
    // A wrong PDEV_VAULT concerns only those who ask for a credential; they are told by their own process.
    let choice = Choice::from_environment().unwrap_or_default();
    let sessions = Sessions::open(place.sessions(), &Running);
    crate::sessions::refuse_below_unknown(&sessions, state)?;
    let gate = Gate::new(Approvals::open(place.approvals()), sessions);
    let broker = Broker::launching(place, choice, Exchanges::in_a_process(), launcher);
    let (mut changes, bus) = (broker.changes(), bus.clone());
    let teller = Arc::clone(&broker);
    tokio::spawn(async move {
        loop {
            match changes.recv().await {
                Ok(change) => {
                    tell_the_desktop(&teller, &change);
                    drop(bus.publish(PreviewRef::default(), None, convert::identity_changed(change)));
                }
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "changes of identities were missed"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok((broker, gate))
}

#[cfg(target_os = "linux")]
fn tell_the_desktop(broker: &Broker, change: &credentials::broker::Change) {
    use crate::desktop;
    if let Some(words) = desktop::words(broker, change)
        && desktop::is_wanted(|name| std::env::var(name).ok())
    {
        // Beside the stream of changes: a desktop that takes its time holds no event back.
        drop(tokio::spawn(desktop::show(words)));
    }
}

#[cfg(not(target_os = "linux"))]
fn tell_the_desktop(_: &Broker, _: &credentials::broker::Change) {}

fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("pdev"))
}

fn engines(places: &AgentPlaces, descriptors: Option<u64>) -> Engines {
    let docker = drivers::docker::Docker::new(drivers::docker::Surroundings::from_env());
    let process = drivers::process::ProcessDriver::new(own_program(), places.state.join("previews"))
        .with_descriptors(descriptors);
    Engines::new(Some(Arc::new(docker)), Some(Arc::new(process)))
}

/// The port that URLs were printed with before, or the usual one.
fn remembered_port(places: &AgentPlaces, options: &AgentOptions) -> u16 {
    let written = || std::fs::read_to_string(places.state.join("proxy-port")).ok()?.trim().parse().ok();
    options.proxy_port.or_else(written).unwrap_or(PROXY_PORT)
}

async fn write_history(bus: Bus, journal: Journal) {
    let (_, mut events) = bus.subscribe(None);
    loop {
        match events.recv().await {
            Ok(event) => journal.record(&event),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the journal missed events");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// An actor for every remembered preview; what was under way is finished or undone, what runs is adopted.
async fn recover(shared: &Arc<Shared>) {
    for record in shared.registry.all() {
        let handle = naming::handle(shared, convert::preview(&record.name), record.folder.display().to_string());
        if record.intent != Intent::Idle {
            handle.recover("the agent started").await;
        }
    }
}

async fn signals(stop: Arc<watch::Sender<bool>>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    let mut seen = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        seen += 1;
        if seen > 1 {
            std::process::exit(130);
        }
        stop.send_replace(true);
    }
}

/// Serves until told to stop, then lets what is being answered end within the drain limit. What is left are the
/// connections of spectators.
async fn accept(
    listener: UnixListener,
    api: axum::Router,
    mut stopped: watch::Receiver<bool>,
    mut spectators: watch::Receiver<usize>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let us = rustix::process::getuid().as_raw();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stopped) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if peer_is(&stream, us) && connections.len() < CONNECTIONS_MAX => {
                connections.spawn(connection(stream, api.clone(), stopped.clone()));
            }
            Ok(_) => tracing::warn!("a connection was refused: another user's, or too many at once"),
            // Out of descriptors: one has to end first.
            Err(_) => drop(connections.join_next().await),
        }
    }
    drop(listener);
    let answered = async {
        while connections.len() > *spectators.borrow_and_update() {
            tokio::select! {
                _ended = connections.join_next() => {}
                Ok(()) = spectators.changed() => {}
            }
        }
    };
    drop(tokio::time::timeout(DRAIN_LIMIT, answered).await);
    connections
}

async fn told(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await.map(|_| ()));
}

fn peer_is(stream: &UnixStream, uid: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == uid)
}

async fn connection(stream: UnixStream, api: axum::Router, mut stopped: watch::Receiver<bool>) {
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let peer = Peer { pid: stream.peer_cred().ok().and_then(|peer| peer.pid()) };
    let api = TowerToHyperService::new(api);
    let knowing_its_peer = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        api.call(request)
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), knowing_its_peer);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ended = serving.as_mut() => {}
        () = told(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            let _ended = serving.await;
        }
    }
}
