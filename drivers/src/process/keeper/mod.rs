//! The keeper: one small process per preview that is the parent of all its programs.
//!
//! It is this same binary, re-run as `pdev keeper <runtime dir> <state dir>`. It outlives the agent, holds exit codes
//! and logs, adopts every grandchild that tries to escape (subreaper), and ends when its last unit is removed. It
//! decides nothing: no restarts, no health, no order; the agent does. Idle, it sleeps in one `epoll_wait`.

mod orphans;
mod output;
mod slot;
mod socket;
mod spawn;
mod units;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::kernel::Identity;
use super::leftovers;
use super::record::{KeeperRecord, Records, StopRecord, UnitRecord, private_folder, remove_file};
use super::wire::{Answer, Event, PROTOCOL, Spawn};
use output::Mark;
use units::Keeper;

pub(crate) use output::now_milliseconds;

/// Said on standard output once the socket answers; then standard output is closed.
pub(crate) const READY: &str = "ready";
/// Another keeper holds this preview.
pub(crate) const BUSY: &str = "busy";

/// Clients at once; the next ones wait in the listener's backlog.
const CLIENTS_MAX: usize = 256;

/// What the socket asks of the one task that owns all state.
pub(crate) enum Order {
    Start {
        record: Box<UnitRecord>,
        spawn: Box<Spawn>,
        reply: oneshot::Sender<Answer>,
    },
    Stop {
        unit: String,
        stop: Option<StopRecord>,
        remove: bool,
        reply: oneshot::Sender<Answer>,
    },
    Follow {
        reply: oneshot::Sender<broadcast::Receiver<Event>>,
    },
    Output {
        unit: String,
        reply: oneshot::Sender<Option<watch::Receiver<Mark>>>,
    },
    Exec {
        spawn: Box<Spawn>,
        descriptors: Vec<OwnedFd>,
        cancelled: oneshot::Receiver<()>,
        reply: mpsc::Sender<Answer>,
    },
    /// The client of an exec went away.
    Cancel {
        slot: u64,
    },
    /// All output of this slot is in its log.
    Drained {
        slot: u64,
    },
}

/// Runs a keeper to its end. Arguments: the preview's runtime folder and its state folder.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (Some(runtime_folder), Some(state)) = (arguments.next(), arguments.next()) else {
        return failed("usage: keeper <runtime dir> <state dir>");
    };
    detach();
    limit_descriptors();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("the keeper cannot begin: {error}")),
    };
    match runtime.block_on(keep(PathBuf::from(runtime_folder), Records::new(Path::new(&state)))) {
        Ok(code) => code,
        Err(error) => failed(&format!("the keeper ended: {error}")),
    }
}

async fn keep(runtime: PathBuf, records: Records) -> io::Result<ExitCode> {
    // Before anyone can find this process by its record and signal it: unhandled, a hangup would end it.
    let signals = Signals::new()?;
    let Some(home) = Home::claim(runtime, records)? else { return Ok(last_word(BUSY)) };
    let outcome = home.run(signals).await;
    home.leave();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The agent raised its own soft limit; programs get the one that the user's shell has.
fn limit_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let told = std::env::var(super::connection::DESCRIPTORS).ok().and_then(|text| text.parse().ok());
    if let Some(limit) = told {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let _higher_is_no_harm = setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum });
    }
}

fn failed(message: &str) -> ExitCode {
    drop(writeln!(io::stdout(), "{message}"));
    drop(writeln!(io::stderr(), "{message}"));
    ExitCode::FAILURE
}

/// Says how it went to whoever started this keeper, who waits for the end of its output.
fn last_word(word: &str) -> ExitCode {
    let said = writeln!(io::stdout(), "{word}").and_then(|()| io::stdout().flush());
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Own session, no terminal, no folder kept busy, no descriptor of others; all orphans below come to us.
fn detach() {
    spawn::close_inherited();
    // Fails only for a group leader, which then has a session already.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// The keeper's place on disk while it lives.
struct Home {
    records: Records,
    runtime: PathBuf,
    record: KeeperRecord,
    _lock: File,
}

impl Home {
    /// None when another keeper lives here. Cleans up what a killed predecessor left.
    fn claim(runtime: PathBuf, records: Records) -> io::Result<Option<Self>> {
        private_folder(&runtime)?;
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700))?;
        let Some(lock) = take_lock(&records.lock())? else { return Ok(None) };
        leftovers::clean(&records)?;
        let process = Identity::of(std::process::id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        let record = KeeperRecord { process, nonce: nonce()?, protocol: PROTOCOL };
        records.write_keeper(&record)?;
        Ok(Some(Self { records, runtime, record, _lock: lock }))
    }

    async fn run(&self, mut signals: Signals) -> io::Result<()> {
        let mut listener = self.bind()?;
        last_word(READY);
        let (mailbox, mut orders) = mpsc::channel(64);
        let mut keeper = Keeper::new(self.records.clone(), self.record.nonce.clone(), mailbox.clone());
        let mut clients = JoinSet::new();
        while !keeper.finished() {
            let deadline = keeper.deadline();
            tokio::select! {
                Some(order) = orders.recv() => keeper.obey(order),
                _ = signals.child.recv() => keeper.reap(),
                _ = signals.terminate.recv() => keeper.terminate(),
                // The socket's folder was swept away (a logout): its owner asks for a new one.
                // A socket that is there is left alone: clients may wait in its backlog.
                _ = signals.hangup.recv() => if !self.socket().exists() {
                    listener = self.bind()?;
                },
                Ok((stream, _)) = listener.accept(), if clients.len() < CLIENTS_MAX => {
                    clients.spawn(socket::serve(stream, self.record.nonce.clone(), mailbox.clone()));
                }
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
                () = until(deadline), if deadline.is_some() => keeper.look_again(),
            }
        }
        keeper.end();
        // Last answers are still on their way to clients.
        drop(orders);
        drop(keeper);
        let farewell = async { while clients.join_next().await.is_some() {} };
        drop(tokio::time::timeout(Duration::from_millis(200), farewell).await);
        Ok(())
    }

    fn bind(&self) -> io::Result<UnixListener> {
        private_folder(&self.runtime)?;
        let path = self.socket();
        remove_file(&path)?;
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    fn socket(&self) -> PathBuf {
        super::connection::socket(&self.runtime)
    }

    fn leave(&self) {
        // What cannot be removed now is removed by the next keeper or by `down`.
        drop(remove_file(&self.socket()));
        if self.records.units().is_ok_and(|units| units.is_empty()) {
            drop(self.records.remove_rest());
            drop(std::fs::remove_dir(&self.runtime));
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Signals {
    child: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// A predecessor that was just leaving may have removed the file that we locked: then the lock protects nothing.
pub(crate) fn take_lock(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..16 {
        if let Some(folder) = path.parent() {
            private_folder(folder)?;
        }
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if std::fs::metadata(path).is_ok_and(|found| file.metadata().is_ok_and(|ours| ours.ino() == found.ino())) {
            return Ok(Some(file));
        }
    }
    Err(io::Error::other("the keeper's lock file is removed again and again"))
}

fn nonce() -> io::Result<String> {
    let mut bytes = [0; 12];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
