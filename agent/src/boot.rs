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
use credentials::exchange::ExchangeRunner;
use credentials::launch::Launcher;
use credentials::vault::VaultOptions;
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
use crate::approvals::AccessControl;
use crate::bus::Bus;
use crate::journal::Journal;
use crate::locations::AgentLocations;
use crate::preview::naming;
use crate::proxy::Routes;
use crate::proxy::{Limits, Listeners, Proxy};
use crate::registry::{Intent, Registry};
use crate::routing::Routing;
use crate::runtimes::RuntimeDrivers;
use crate::shared::Shared;
use crate::{convert, proxy};
use credentials::approval::Approvals;
use credentials::approval::ancestry::SystemProcesses;
use credentials::session::Sessions;

/// What runs after the first signal may take this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Connections served at once; a client needs one.
const CONNECTIONS_MAX: usize = 1024;
const DEFAULT_PROXY_PORT: u16 = 8642;
const DESCRIPTOR_LIMIT: u64 = 65_536;

#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The folder of the socket.
    pub socket_folder: PathBuf,
    /// Leave the terminal's session, say `ready` or a problem on standard output, and close it.
    pub background: bool,
    pub proxy_port: Option<u16>,
}

/// Runs the agent until it is told to stop.
pub fn run(options: &AgentOptions) -> u8 {
    // Leases are held here even where no vault is ever opened.
    credentials::memory::make_undumpable();
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
            print_startup_line(options, &serde_json::to_string(&problem).unwrap_or_else(|_| problem.title.clone()));
            1
        }
    }
}

/// Gives the soft limit as it was. The proxy holds two descriptors a connection, and 1,024 is the usual soft limit. Programs started from here get the
/// old one back (see the keeper's start): some walk through all they might have.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(DESCRIPTOR_LIMIT).min(DESCRIPTOR_LIMIT);
    if current.is_some_and(|current| current < wanted) {
        let _lower_is_no_harm = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
    current
}

/// One line to whoever started us. In the background that is a client waiting on a pipe.
fn print_startup_line(options: &AgentOptions, line: &str) {
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
    let places = AgentLocations::prepare(&options.socket_folder)
        .map_err(|error| Problem::new("places", 500, error.to_string()))?;
    let lock = acquire_lock(&options.socket_folder.join("agent.lock"))?;
    // For people and scripts; whether an agent runs is told by the lock, never by this file.
    drop(std::fs::write(options.socket_folder.join("agent.pid"), std::process::id().to_string()));
    let listener = bind_socket(&places.socket_path())?;
    let (shared, journal, listeners) = build_components(&places, options).await?;
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let history = tokio::spawn(record_events(shared.bus.clone(), journal));
    let proxy = listeners.map(|(listeners, routes)| Proxy::start(listeners, routes, &Limits::default()));
    tokio::spawn(handle_signals(Arc::clone(&stop)));
    let _watcher = stop_on_socket_removal(places.socket_path(), Arc::clone(&stop));
    crate::sessions::resume_watching(&shared);
    crate::endpoint::program::reopen_endpoints(&shared);
    recover_previews(&shared).await;
    print_startup_line(options, "ready");
    tracing::info!(socket = %places.socket_path().display(), "listening");
    let api = router(Api { shared: Arc::clone(&shared), stop });
    let spectators = accept_connections(listener, api, stopped, shared.open_streams()).await;
    shared.start_draining();
    for handle in shared.preview_handles() {
        handle.stop().await;
    }
    drop(std::fs::remove_file(places.socket_path()));
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
fn stop_on_socket_removal(socket: PathBuf, stop: Arc<watch::Sender<bool>>) -> Option<notify::RecommendedWatcher> {
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
fn acquire_lock(path: &Path) -> Result<File, Problem> {
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

fn bind_socket(path: &Path) -> Result<UnixListener, Problem> {
    // Ours by the lock: what lies there is left from an agent that was killed.
    drop(std::fs::remove_file(path));
    UnixListener::bind(path)
        .map_err(|error| Problem::new("places", 500, format!("cannot listen on `{}`: {error}", path.display())))
}

type BoundProxy = Option<(Listeners, Routes)>;

async fn build_components(
    places: &AgentLocations,
    options: &AgentOptions,
) -> Result<(Arc<Shared>, Journal, BoundProxy), Problem> {
    let (registry, notes) = Registry::open(places.state.join("registry"));
    for note in notes {
        tracing::warn!("{note}");
    }
    let journal = Journal::open(&places.state.join("journal.db"));
    let delivery = credentials::SecretDelivery::open(&places.runtime)
        .map_err(|error| Problem::new("places", 500, error.to_string()))?;
    let routes = Routes::new();
    let listeners = proxy::bind(choose_proxy_port(places, options)).await;
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
    let descriptors = raise_descriptor_limit();
    let launcher =
        descriptors.map(|descriptors| Launcher { program: current_executable(), open_files_limit: descriptors });
    let trusted = start_broker(&bus, launcher, &places.state)?;
    let routing = Routing::new(routes, port);
    let shared =
        Shared::new(places.clone(), build_drivers(places, descriptors), registry, bus, delivery, trusted, routing);
    Ok((shared, journal, proxied))
}

/// The broker, its changes as events on the bus, and who may act as whom.
fn start_broker(bus: &Bus, launcher: Option<Launcher>, state: &Path) -> Result<(Arc<Broker>, AccessControl), Problem> {
    let place =
        credentials::CredentialPaths::find().ok_or_else(|| Problem::new("places", 500, "no home folder is known"))?;
    // A wrong PDEV_VAULT concerns only those who ask for a credential; they are told by their own process.
    let choice = VaultOptions::from_environment().unwrap_or_default();
    let sessions = Sessions::open(place.sessions(), &SystemProcesses);
    crate::sessions::refuse_unknown_session(&sessions, state)?;
    let gate = AccessControl::new(Approvals::open(place.approvals()), sessions);
    let broker = Broker::with_launcher(place, choice, ExchangeRunner::with_child_process(), launcher);
    let (mut changes, bus) = (broker.subscribe(), bus.clone());
    let teller = Arc::clone(&broker);
    tokio::spawn(async move {
        loop {
            match changes.recv().await {
                Ok(change) => {
                    notify_desktop(&teller, &change);
                    drop(bus.publish(PreviewRef::default(), None, convert::identity_changed_event(change)));
                }
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "changes of identities were missed"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok((broker, gate))
}

#[cfg(target_os = "linux")]
fn notify_desktop(broker: &Broker, change: &credentials::broker::IdentityChange) {
    use crate::desktop_notification;
    if let Some(words) = desktop_notification::notification_for(broker, change)
        && desktop_notification::is_enabled(|name| std::env::var(name).ok())
    {
        // Beside the stream of changes: a desktop that takes its time holds no event back.
        drop(tokio::spawn(desktop_notification::show(words)));
    }
}

#[cfg(not(target_os = "linux"))]
fn notify_desktop(_: &Broker, _: &credentials::broker::IdentityChange) {}

fn current_executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("pdev"))
}

fn build_drivers(places: &AgentLocations, descriptors: Option<u64>) -> RuntimeDrivers {
    let docker = drivers::docker::DockerDriver::new(drivers::docker::DockerEnv::from_env());
    let process = drivers::process::ProcessDriver::new(current_executable(), places.state.join("previews"))
        .with_descriptor_limit(descriptors);
    RuntimeDrivers::new(Some(Arc::new(docker)), Some(Arc::new(process)))
}

/// The port that URLs were printed with before, or the usual one.
fn choose_proxy_port(places: &AgentLocations, options: &AgentOptions) -> u16 {
    let written = || std::fs::read_to_string(places.state.join("proxy-port")).ok()?.trim().parse().ok();
    options.proxy_port.or_else(written).unwrap_or(DEFAULT_PROXY_PORT)
}

async fn record_events(bus: Bus, journal: Journal) {
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
async fn recover_previews(shared: &Arc<Shared>) {
    for record in shared.registry.all() {
        let handle = naming::find_or_start_actor(
            shared,
            convert::preview_ref(&record.name),
            record.folder.display().to_string(),
        );
        if record.intent != Intent::Idle {
            handle.recover("the agent started").await;
        }
    }
}

async fn handle_signals(stop: Arc<watch::Sender<bool>>) {
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
async fn accept_connections(
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
            () = wait_for_stop(&mut stopped) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if is_peer_uid(&stream, us) && connections.len() < CONNECTIONS_MAX => {
                connections.spawn(serve_connection(stream, api.clone(), stopped.clone()));
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

async fn wait_for_stop(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await.map(|_| ()));
}

fn is_peer_uid(stream: &UnixStream, uid: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == uid)
}

async fn serve_connection(stream: UnixStream, api: axum::Router, mut stopped: watch::Receiver<bool>) {
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
        () = wait_for_stop(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            let _ended = serving.await;
        }
    }
}
