//! The keeper: one small process per preview, the parent of all its programs.
//!
//! It is this same binary, started as `pdev keeper <runtime dir> <state dir>`. It outlives the agent, records exit
//! codes and logs, adopts every descendant that loses its parent (subreaper), and exits when its last unit is removed.
//! It makes no decisions about restarts, health or order; the agent does. While idle, it sleeps in one `epoll_wait`.

mod orphans;
mod output;
mod slot;
mod socket;
mod spawn;
mod state;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use plan::shell_environment::ShellEnvironment;
use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use host::unix_socket::SocketAddressPath;

use super::cleanup;
use super::kernel::ProcessIdentity;
use super::record::{KeeperRecord, RecordStore, StopRecord, UnitRecord, create_private_folder, remove_if_exists};
use super::wire::{self, BUSY, DESCRIPTOR_LIMIT_ENV, Event, PROTOCOL_VERSION, READY, Reply, SpawnSpec};
use output::LogProgress;
use state::Keeper;
use strings::to_hex;

/// Maximum concurrent clients; further ones wait in the listener's backlog.
const CLIENTS_MAX: usize = 256;

/// Requests from the socket tasks to the one task that owns all state.
pub(crate) enum KeeperCommand {
    Start {
        record: Box<UnitRecord>,
        spawn: Box<SpawnSpec>,
        shell_environment: Option<ShellEnvironment>,
        reply: oneshot::Sender<Reply>,
    },
    ReadShellEnvironment {
        reply: oneshot::Sender<Option<ShellEnvironment>>,
    },
    Stop {
        unit: String,
        stop: Option<StopRecord>,
        remove: bool,
        reply: oneshot::Sender<Reply>,
    },
    Follow {
        reply: oneshot::Sender<broadcast::Receiver<Event>>,
    },
    WatchOutput {
        unit: String,
        reply: oneshot::Sender<Option<watch::Receiver<LogProgress>>>,
    },
    Exec(Box<ExecStart>),
    /// The client of an exec disconnected.
    CancelExec {
        slot: u64,
    },
    /// All output of one of this slot's pipes is in the log.
    OutputDrained {
        slot: u64,
    },
}

/// A request to run a command.
pub(crate) struct ExecStart {
    spawn: Box<SpawnSpec>,
    exclusive: Option<String>,
    descriptors: Vec<OwnedFd>,
    cancelled: oneshot::Receiver<()>,
    reply: mpsc::Sender<Reply>,
}

/// Runs a keeper until it exits. Arguments: the preview's runtime folder and its state folder.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(runtime_folder), Some(state)) = (arguments.next(), arguments.next()) else {
        return report_failure("usage: keeper <runtime dir> <state dir>");
    };
    detach();
    limit_descriptors();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return report_failure(&format!("the keeper cannot start: {error}")),
    };
    match runtime.block_on(run_keeper(PathBuf::from(runtime_folder), RecordStore::new(Path::new(&state)))) {
        Ok(code) => code,
        Err(error) => report_failure(&format!("the keeper failed: {error}")),
    }
}

async fn run_keeper(runtime: PathBuf, records: RecordStore) -> io::Result<ExitCode> {
    // Install handlers before the record makes this process discoverable: an unhandled SIGHUP would end it.
    let signals = SignalStreams::new()?;
    let Some(mut instance) = KeeperInstance::claim(runtime, records)? else { return Ok(report_startup(BUSY)) };
    let outcome = instance.run(signals).await;
    instance.remove_files();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Restores the soft limit of the user's shell for programs, because the agent raised its own.
fn limit_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = std::env::var(DESCRIPTOR_LIMIT_ENV).ok().and_then(|text| text.parse().ok());
    if let Some(limit) = limit {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let _unchanged_limit_is_fine = setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum });
    }
}

fn report_failure(message: &str) -> ExitCode {
    drop(writeln!(io::stdout(), "{message}"));
    drop(writeln!(io::stderr(), "{message}"));
    ExitCode::FAILURE
}

/// Reports the startup result to the parent process, which reads until this closes standard output.
fn report_startup(word: &str) -> ExitCode {
    let result = writeln!(io::stdout(), "{word}").and_then(|()| io::stdout().flush());
    // Replacing standard output closes the pipe, which tells the parent that the report is complete.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Detaches from the parent: own session, no terminal, no folder in use, no inherited descriptors. Adopts all orphaned
/// descendants.
fn detach() {
    spawn::close_inherited_descriptors();
    // Fails only if this process leads a group, and then it already has its own session.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// The keeper's lock and files on disk during its life.
struct KeeperInstance {
    records: RecordStore,
    runtime_folder: PathBuf,
    record: KeeperRecord,
    _lock: File,
}

impl KeeperInstance {
    /// `None` if another keeper runs for this preview. Cleans up after a killed predecessor.
    fn claim(runtime: PathBuf, records: RecordStore) -> io::Result<Option<Self>> {
        create_private_folder(&runtime)?;
        // `create_private_folder` does not change the mode of a folder that exists.
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700))?;
        let Some(lock) = try_lock_file(&records.lock_path())? else { return Ok(None) };
        cleanup::clean_up_after_keeper(&records)?;
        let process = ProcessIdentity::of_pid(std::process::id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        let record = KeeperRecord { process, nonce: new_nonce()?, protocol: PROTOCOL_VERSION };
        records.write_keeper(&record)?;
        Ok(Some(Self { records, runtime_folder: runtime, record, _lock: lock }))
    }

    async fn run(&mut self, mut signals: SignalStreams) -> io::Result<()> {
        let mut listener = self.bind_socket()?;
        report_startup(READY);
        let (mailbox, mut commands) = mpsc::channel(64);
        let mut keeper = Keeper::new(self.records.clone(), self.record.nonce.clone(), mailbox.clone());
        let mut clients = JoinSet::new();
        while !keeper.is_finished() {
            let deadline = keeper.next_deadline();
            tokio::select! {
                Some(command) = commands.recv() => keeper.handle_command(command),
                _ = signals.child.recv() => keeper.reap_children(),
                _ = signals.terminate.recv() => keeper.terminate(),
                // A logout may delete the socket's folder, and the next agent may use another folder; a client then
                // requests a new socket with SIGHUP.
                _ = signals.hangup.recv() => match self.rebind_socket() {
                    Ok(Some(moved)) => listener = moved,
                    Ok(None) => {}
                    // The programs must not end because of that; a client may ask again.
                    Err(error) => drop(writeln!(io::stderr(), "cannot bind a new socket: {error}")),
                },
                Ok((stream, _)) = listener.accept(), if clients.len() < CLIENTS_MAX => {
                    clients.spawn(socket::serve_client(stream, self.record.nonce.clone(), mailbox.clone()));
                }
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
                () = sleep_until_deadline(deadline), if deadline.is_some() => keeper.check_deadlines(),
            }
        }
        keeper.kill_remaining();
        // Give the client tasks a moment to send the last replies.
        drop(commands);
        drop(keeper);
        let pending_clients = async { while clients.join_next().await.is_some() {} };
        drop(tokio::time::timeout(Duration::from_millis(200), pending_clients).await);
        Ok(())
    }

    /// Binds the socket where the agent expects it. An existing socket is left alone, because clients may wait in its
    /// backlog.
    fn rebind_socket(&mut self) -> io::Result<Option<UnixListener>> {
        let expected = self.records.read_socket_folder()?.unwrap_or_else(|| self.runtime_folder.clone());
        if expected == self.runtime_folder && self.socket_path().exists() {
            return Ok(None);
        }
        let previous = std::mem::replace(&mut self.runtime_folder, expected);
        let listener = match self.bind_socket() {
            Ok(listener) => listener,
            Err(error) => {
                self.runtime_folder = previous;
                return Err(error);
            }
        };
        if previous != self.runtime_folder {
            // Other files of the previous folder belong to the agent.
            drop(remove_if_exists(&wire::socket_path(&previous)));
            drop(std::fs::remove_dir(&previous));
        }
        Ok(Some(listener))
    }

    fn bind_socket(&self) -> io::Result<UnixListener> {
        create_private_folder(&self.runtime_folder)?;
        let path = self.socket_path();
        remove_if_exists(&path)?;
        let listener = UnixListener::bind(SocketAddressPath::new(&path)?.path())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    fn socket_path(&self) -> PathBuf {
        wire::socket_path(&self.runtime_folder)
    }

    fn remove_files(&self) {
        // The next keeper or `down` removes files that cannot be removed now.
        drop(remove_if_exists(&self.socket_path()));
        if self.records.read_units().is_ok_and(|units| units.is_empty()) {
            drop(self.records.remove_keeper_files());
            drop(std::fs::remove_dir(&self.runtime_folder));
        }
    }
}

async fn sleep_until_deadline(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct SignalStreams {
    child: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl SignalStreams {
    fn new() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Locks a file without waiting; `None` if it is locked. A predecessor that was shutting down may have deleted the file
/// before we locked it. Such a lock protects nothing, so this compares the inodes and tries again.
pub(crate) fn try_lock_file(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..16 {
        if let Some(folder) = path.parent() {
            create_private_folder(folder)?;
        }
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if std::fs::metadata(path)
            .is_ok_and(|current| file.metadata().is_ok_and(|locked| locked.ino() == current.ino()))
        {
            return Ok(Some(file));
        }
    }
    Err(io::Error::other("the keeper's lock file was removed repeatedly while it was being locked"))
}

fn new_nonce() -> io::Result<String> {
    let mut bytes = [0; 12];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(to_hex(bytes))
}
