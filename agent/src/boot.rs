//! The agent's life cycle: locations, lock, socket, recovery, serving, drain.
//!
//! All components are built here and passed down; nothing is global. The first signal drains, the second one exits.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use credentials::broker::{Broker, IdentityChange};
use credentials::exchange::ExchangeRunner;
use credentials::launch::Launcher;
use credentials::vault::VaultOptions;
use drivers::DriverSettings;
use host::locations::AgentFiles;
use host::unix_socket::SocketAddressPath;
use hyper::Request;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use protocol::Problem;
use protocol::status::PreviewRef;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::api::{Api, router};
use crate::approvals::AccessControl;
use crate::bus::Bus;
use crate::journal::Journal;
use crate::locations::AgentLocations;
use crate::peer::Peer;
use crate::preview::discovery::publish_restored;
use crate::preview::naming;
use crate::proxy::Routes;
use crate::proxy::{Limits, ListToken, Listeners, Proxy};
use crate::registry::{Intent, Registry};
use crate::routing::Routing;
use crate::runtimes::RuntimeDrivers;
use crate::shared::Shared;
use crate::{convert, proxy};
use credentials::approval::Approvals;
use credentials::approval::ancestry::SystemProcesses;
use credentials::session::Sessions;
use tasks::OwnedTask;

/// How long open requests may take to finish after the first signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Connections served at the same time; each client needs one.
const CONNECTIONS_MAX: usize = 1024;
const DEFAULT_PROXY_PORT: u16 = 8642;
const DESCRIPTOR_LIMIT: u64 = 65_536;
const RESTORED_UNITS_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The folder of the socket.
    pub socket_folder: PathBuf,
    /// Leave the terminal's session, print `ready` or a problem to standard output, then close standard output.
    pub background: bool,
    pub proxy_port: Option<u16>,
}

/// Runs the agent until a signal or a request stops it. Returns the exit code.
pub fn run(options: &AgentOptions) -> u8 {
    // Always needed: the agent holds leases in memory even if it never opens a vault.
    credentials::memory::make_undumpable();
    if options.background {
        // In its own session the agent does not receive the terminal's Ctrl-C and hang-up.
        let _new_session = rustix::process::setsid();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let options = options.clone();
            // Serve on a worker thread, not on this one: the worker that accepts a connection then answers it without
            // waking another thread, which would take longer than the answer.
            let serving = async move { tokio::spawn(async move { serve(&options).await }).await };
            let result = runtime.block_on(serving).unwrap_or_else(|error| {
                Err(Problem::new("internal", 500, format!("the agent stopped unexpectedly: {error}")))
            });
            // A blocking read from a stuck disk must not keep a stopped agent alive.
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

/// Raises the soft limit of open files and returns the previous one.
///
/// The proxy holds two descriptors per connection, and the usual soft limit is 1,024. Programs that the agent starts
/// get the previous limit back (see the keeper's start), because some programs walk through all possible descriptors.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = maximum.unwrap_or(DESCRIPTOR_LIMIT).min(DESCRIPTOR_LIMIT);
    if current.is_some_and(|current| current < raised) {
        // With the previous limit the agent still works, only with fewer connections.
        let _unchanged_on_error = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum });
    }
    current
}

/// Prints one line for the process that started the agent. In the background, that is a client waiting on a pipe.
fn print_startup_line(options: &AgentOptions, line: &str) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone already; the agent runs without it.
    let _written = writeln!(out, "{line}").and_then(|()| out.flush());
    if options.background
        && let Ok(null) = File::options().read(true).write(true).open("/dev/null")
    {
        // The client reads until end of file, so an open pipe would keep it waiting.
        let _closed = rustix::stdio::dup2_stdout(&null);
    }
}

async fn serve(options: &AgentOptions) -> Result<(), Problem> {
    let locations = AgentLocations::prepare(&options.socket_folder)
        .map_err(|error| Problem::new("places", 500, error.to_string()))?;
    let files = AgentFiles::in_state_folder(&locations.state);
    let locks = acquire_locks(&files, &options.socket_folder)?;
    // For people and scripts only: clients detect a running agent by the lock, never by this file.
    drop(std::fs::write(options.socket_folder.join("agent.pid"), std::process::id().to_string()));
    let listener = bind_socket(&locations.socket_path())?;
    record_socket_folder(&files, &options.socket_folder);
    let (shared, journal, listeners) = build_components(&locations, options).await?;
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let history = tokio::spawn(record_events(shared.bus.clone(), journal));
    let proxy = listeners.map(|(listeners, routes)| Proxy::start(listeners, routes, &Limits::default()));
    let _signals = OwnedTask::spawn(handle_signals(Arc::clone(&stop)));
    let _watcher = stop_on_socket_removal(locations.socket_path(), Arc::clone(&stop));
    crate::sessions::resume_watching(&shared);
    crate::endpoint::program::reopen_endpoints(&shared);
    recover_previews(&shared).await;
    print_startup_line(options, "ready");
    tracing::info!(socket = %locations.socket_path().display(), "listening");
    let api = router(Api { shared: Arc::clone(&shared), stop });
    let streaming_connections = accept_connections(listener, api, stopped, shared.open_streams()).await;
    shared.start_draining();
    for handle in shared.preview_handles() {
        handle.stop().await;
    }
    drop(std::fs::remove_file(locations.socket_path()));
    if let Some(proxy) = proxy {
        proxy.shutdown(DRAIN_LIMIT).await;
    }
    history.abort();
    // Release the lock before the streams close: clients take the end of a stream for the end of the agent, and may
    // start the next agent right away.
    drop(std::fs::remove_file(&files.socket_folder));
    drop(locks);
    drop(streaming_connections);
    Ok(())
}

/// Drains this agent when its socket is deleted, for example by a logout that clears the user's runtime folder.
///
/// Without the socket, clients start another agent, and two agents would manage the same previews. The kernel reports
/// the removal, so an idle agent needs no timer.
fn stop_on_socket_removal(socket: PathBuf, stop: Arc<watch::Sender<bool>>) -> Option<notify::RecommendedWatcher> {
    use notify::Watcher;
    let folder = socket.parent()?.to_owned();
    let on_change = move |_event: notify::Result<notify::Event>| {
        if !socket.exists() && !*stop.borrow() {
            tracing::warn!(socket = %socket.display(), "the socket was deleted, so this agent stops; previews keep running");
            stop.send_replace(true);
        }
    };
    let watcher = notify::recommended_watcher(on_change)
        .and_then(|mut watcher| watcher.watch(&folder, notify::RecursiveMode::NonRecursive).map(|()| watcher));
    watcher.inspect_err(|error| tracing::warn!(%error, "the socket's folder cannot be watched")).ok()
}

/// Allows one agent per state folder and machine, because two agents would manage the same previews, and one per socket
/// folder, because the second would take the socket of the first.
fn acquire_locks(files: &AgentFiles, socket_folder: &Path) -> Result<[File; 2], Problem> {
    if let Some(folder) = files.lock.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Problem::new("places", 500, format!("cannot create the folder `{}`: {error}", folder.display()))
        })?;
    }
    Ok([acquire_lock(&files.lock)?, acquire_lock(&socket_folder.join("agent.lock"))?])
}

/// Tells clients of shells with other variables where this agent listens.
fn record_socket_folder(files: &AgentFiles, socket_folder: &Path) {
    let written = host::files::replace_file(&files.socket_folder, socket_folder.as_os_str().as_bytes(), 0o600);
    if let Err(error) = written {
        tracing::warn!(path = %files.socket_folder.display(), %error, "the socket's folder cannot be recorded");
    }
}

/// The kernel releases the lock when the process ends, however it ends.
fn acquire_lock(path: &Path) -> Result<File, Problem> {
    let fail = |error: std::io::Error| {
        Problem::new("places", 500, format!("cannot use the lock `{}`: {error}", path.display()))
    };
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let title = format!("an agent is already running (it holds `{}`)", path.display());
            Err(Problem::new("already_running", 409, title)
                .hint("Run `pdev agent status` to see it, or `pdev agent stop` to stop it."))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(fail(error)),
    }
}

fn bind_socket(path: &Path) -> Result<UnixListener, Problem> {
    // This agent holds the lock, so an existing socket was left behind by a killed agent.
    drop(std::fs::remove_file(path));
    let bound = SocketAddressPath::new(path).and_then(|address| UnixListener::bind(address.path()));
    bound.map_err(|error| {
        Problem::new("places", 500, format!("cannot listen on `{}`: {error}", path.display()))
            .hint("Set `PDEV_SOCKET_DIR` to another folder.")
    })
}

type BoundProxy = Option<(Listeners, Routes)>;

async fn build_components(
    locations: &AgentLocations,
    options: &AgentOptions,
) -> Result<(Arc<Shared>, Journal, BoundProxy), Problem> {
    let (registry, notes) = Registry::open(locations.state.join("registry"));
    for note in notes {
        tracing::warn!("{note}");
    }
    let journal = Journal::open(&locations.state.join("journal.db"));
    let delivery = credentials::SecretDelivery::open(&locations.runtime)
        .map_err(|error| Problem::new("places", 500, error.to_string()))?;
    let routes = Routes::new();
    let listeners = proxy::bind(choose_proxy_port(locations, options)).await;
    let port = listeners.as_ref().ok().map(Listeners::port);
    if let Some(port) = port {
        drop(host::files::replace_file(&locations.state.join("proxy-port"), port.to_string().as_bytes(), 0o600));
    }
    let bound_proxy = match listeners {
        Ok(listeners) => {
            // Without a token, the list is closed.
            let token = ListToken::load_or_create(&locations.state).unwrap_or_default();
            Some((listeners.with_list_token(token), routes.clone()))
        }
        Err(error) => {
            tracing::warn!(%error, "the proxy has no port, so previews have no URLs");
            None
        }
    };
    let bus = Bus::new(journal.last_id + 1);
    let descriptors = raise_descriptor_limit();
    let launcher =
        descriptors.map(|descriptors| Launcher { program: current_executable(), open_files_limit: descriptors });
    let broker_and_access = start_broker(launcher, &locations.state)?;
    let routing = Routing::new(routes, port);
    let drivers = build_drivers(locations, descriptors);
    let identity_changes = broker_and_access.0.subscribe();
    let shared = Shared::new(locations.clone(), drivers, registry, bus, delivery, broker_and_access, routing);
    shared.tasks.spawn(publish_identity_changes(Arc::clone(&shared), identity_changes));
    Ok((shared, journal, bound_proxy))
}

/// Starts the broker and loads the approvals and sessions.
fn start_broker(launcher: Option<Launcher>, state: &Path) -> Result<(Arc<Broker>, AccessControl), Problem> {
    let paths =
        credentials::CredentialPaths::find().ok_or_else(|| Problem::new("places", 500, "no home folder is known"))?;
    // A wrong PDEV_VAULT affects only callers that request a credential, and their own process reports it to them.
    let vault_options = VaultOptions::from_environment().unwrap_or_default();
    let sessions = Sessions::open(paths.sessions(), &SystemProcesses);
    crate::sessions::refuse_unknown_session(&sessions, state)?;
    let access = AccessControl::new(Approvals::open(paths.approvals()), sessions);
    let broker = Broker::with_launcher(paths, vault_options, ExchangeRunner::with_child_process(), launcher);
    Ok((broker, access))
}

/// Publishes the broker's changes on the bus and on the desktop.
async fn publish_identity_changes(shared: Arc<Shared>, mut changes: broadcast::Receiver<IdentityChange>) {
    loop {
        match changes.recv().await {
            Ok(change) => {
                notify_desktop(&shared, &change);
                drop(shared.bus.publish(PreviewRef::default(), None, convert::identity_changed_event(change)));
            }
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "changes of identities were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(target_os = "linux")]
fn notify_desktop(shared: &Shared, change: &IdentityChange) {
    use crate::desktop_notification;
    if let Some(notification) = desktop_notification::notification_for(&shared.broker, change)
        && desktop_notification::is_enabled(|name| std::env::var(name).ok())
    {
        // In a separate task, so that a slow desktop does not delay the events.
        shared.tasks.spawn(desktop_notification::show(notification));
    }
}

#[cfg(not(target_os = "linux"))]
fn notify_desktop(_: &Shared, _: &IdentityChange) {}

fn current_executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("pdev"))
}

fn build_drivers(locations: &AgentLocations, descriptors: Option<u64>) -> RuntimeDrivers {
    RuntimeDrivers::new(drivers::driver_factories(DriverSettings {
        keeper_program: current_executable(),
        previews_folder: locations.state.join("previews"),
        owner: locations.owner(),
        descriptor_limit: descriptors,
    }))
}

/// The configured port, else the port of URLs that were printed before, else the default.
fn choose_proxy_port(locations: &AgentLocations, options: &AgentOptions) -> u16 {
    let previous_port = || std::fs::read_to_string(locations.state.join("proxy-port")).ok()?.trim().parse().ok();
    options.proxy_port.or_else(previous_port).unwrap_or(DEFAULT_PROXY_PORT)
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

/// Starts an actor for every recorded preview. Running units are adopted; interrupted operations are finished or
/// undone.
async fn recover_previews(shared: &Arc<Shared>) {
    let records = shared.registry.all();
    for record in &records {
        let handle = naming::find_or_start_actor(
            shared,
            convert::preview_ref(&record.name),
            record.folder.display().to_string(),
        );
        if record.intent != Intent::Idle {
            handle.recover("the agent started").await;
        }
    }
    // Nothing supervises these, so only their list of units is read again.
    let restored = records.into_iter().filter(|record| record.is_restored);
    let publications: Vec<_> = restored.map(|record| publish_restored(Arc::clone(shared), record)).collect();
    if !publications.is_empty() {
        let (done, finished) = tokio::sync::oneshot::channel();
        shared.tasks.spawn(async move {
            futures_util::future::join_all(publications).await;
            // The start no longer waits if the engine took too long.
            let _unwanted = done.send(());
        });
        // The first client should see them, but an engine that does not answer must not delay the start.
        drop(tokio::time::timeout(RESTORED_UNITS_LIMIT, finished).await);
    }
}

async fn handle_signals(stop: Arc<watch::Sender<bool>>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    let mut signals = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        signals += 1;
        if signals > 1 {
            std::process::exit(130);
        }
        stop.send_replace(true);
    }
}

/// Serves until `stopped` is set, then waits at most the drain limit for open requests. Returns the connections that
/// are left: those with event or log streams.
async fn accept_connections(
    listener: UnixListener,
    api: axum::Router,
    mut stopped: watch::Receiver<bool>,
    mut open_streams: watch::Receiver<usize>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let own_uid = rustix::process::getuid().as_raw();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = wait_for_stop(&mut stopped) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if is_peer_uid(&stream, own_uid) && connections.len() < CONNECTIONS_MAX => {
                connections.spawn(serve_connection(stream, api.clone(), stopped.clone()));
            }
            Ok(_) => tracing::warn!("refused a connection: it is another user's, or too many are open"),
            // Out of descriptors: wait until a connection ends before accepting the next one.
            Err(_) => drop(connections.join_next().await),
        }
    }
    drop(listener);
    // Streams end only with the agent, so the drain waits for all other connections.
    let requests_done = async {
        while connections.len() > *open_streams.borrow_and_update() {
            tokio::select! {
                _ended = connections.join_next() => {}
                Ok(()) = open_streams.changed() => {}
            }
        }
    };
    drop(tokio::time::timeout(DRAIN_LIMIT, requests_done).await);
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
    let api_with_peer = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        api.call(request)
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), api_with_peer);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ended = serving.as_mut() => {}
        () = wait_for_stop(&mut stopped) => {
            // Finish the request that is being answered, but accept no further one on this connection.
            serving.as_mut().graceful_shutdown();
            let _ended = serving.await;
        }
    }
}
