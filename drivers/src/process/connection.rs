//! The driver's side of the keeper's socket: connects, starts a keeper if there is none, sends one request, reads
//! replies.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use host::unix_socket::SocketAddressPath;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::record::{RecordStore, create_private_folder};
use super::wire::{
    BUSY, DESCRIPTOR_LIMIT_ENV, Greeting, LINE_MAX, PROTOCOL_VERSION, READY, Reply, Request, socket_path,
};
use crate::problem::{Problem, ProblemKind};
use crate::scope::Locations;

/// Deadline for every reply except the end of a program.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection to a keeper. It carries one request.
pub(crate) struct KeeperConnection {
    stream: BufReader<UnixStream>,
}

impl KeeperConnection {
    /// `None` if no keeper is running.
    pub(crate) async fn open(locations: &Locations) -> Result<Option<Self>, Problem> {
        let path = socket_path(&locations.runtime);
        let connected = match SocketAddressPath::new(&path) {
            Ok(address) => UnixStream::connect(address.path()).await,
            Err(error) => Err(error),
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) if is_keeper_absent(&error) => return Ok(None),
            Err(error) => return Err(Problem::io(format!("cannot reach the keeper at `{}`", path.display()), &error)),
        };
        // Another user's process at this path would receive every unit's environment.
        let own_uid = rustix::process::geteuid().as_raw();
        let peer = stream.peer_cred().map_err(|error| Problem::io("cannot determine the keeper's user", &error))?;
        if peer.uid() != own_uid && peer.uid() != 0 {
            let message = format!("the keeper at `{}` belongs to user id `{}`, not to you", path.display(), peer.uid());
            return Err(Problem::new(ProblemKind::PermissionDenied, message));
        }
        let mut connection = Self { stream: BufReader::new(stream) };
        let greeting = match connection.receive_timeout::<Greeting>(REPLY_TIMEOUT).await {
            Ok(Some(greeting)) => greeting,
            // The keeper is shutting down: it accepted the connection but closed it without a greeting.
            Ok(None) => return Ok(None),
            Err(problem) if problem.kind == ProblemKind::Unavailable => return Ok(None),
            Err(problem) => return Err(problem),
        };
        if greeting.pdev_keeper != PROTOCOL_VERSION {
            let message = format!(
                "the keeper uses protocol version `{}`, this pdev uses `{PROTOCOL_VERSION}`",
                greeting.pdev_keeper
            );
            let hint = "Run `pdev down` with the version of pdev that started this preview, then `pdev up` again.";
            return Err(Problem::new(ProblemKind::Refused, message).hint(hint));
        }
        Ok(Some(connection))
    }

    pub(crate) async fn send(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Problem> {
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("cannot write a request: {error}")))?;
        line.push(b'\n');
        if line.len() > LINE_MAX {
            return Err(Problem::new(ProblemKind::Refused, "the command and its environment exceed 4 MiB".to_owned()));
        }
        let result =
            tokio::time::timeout(REPLY_TIMEOUT, send_with_descriptors(self.stream.get_ref(), &line, descriptors)).await;
        result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| keeper_gone_problem(&error))
    }

    /// The next line; `None` if the keeper closed the connection.
    pub(crate) async fn receive_timeout<T: DeserializeOwned>(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<T>, Problem> {
        match tokio::time::timeout(timeout, self.receive()).await {
            Ok(result) => result,
            Err(_) => Err(Problem::new(ProblemKind::Timeout, "the keeper does not answer".to_owned())),
        }
    }

    /// Like [`Self::receive_timeout`] without a deadline, for event streams that may be silent for days.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Problem> {
        let mut line = Vec::new();
        let limit = LINE_MAX as u64;
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)
            .await
            .map_err(|error| keeper_gone_problem(&error))?;
        // Without a line end, the keeper closed the connection or the line exceeds the limit.
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let message = serde_json::from_slice(&line);
        message.map(Some).map_err(|error| {
            Problem::new(ProblemKind::Internal, format!("the keeper sent an unexpected message: {error}"))
        })
    }

    pub(crate) async fn call(&mut self, request: &Request, timeout: Duration) -> Result<Reply, Problem> {
        self.send(request, &[]).await?;
        self.receive_timeout(timeout).await?.ok_or_else(|| keeper_gone_problem(&io::ErrorKind::UnexpectedEof.into()))
    }
}

/// True if there is no socket, or if its keeper is gone or is shutting down.
fn is_keeper_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

fn keeper_gone_problem(error: &io::Error) -> Problem {
    Problem::new(ProblemKind::Unavailable, format!("lost the connection to the keeper: {error}"))
}

async fn send_with_descriptors(stream: &UnixStream, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = 0;
    while sent < line.len() {
        sent += stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                // The kernel delivers descriptors with the first byte, so they are attached once, to the first write.
                if sent == 0 && !descriptors.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(descriptors));
                }
                Ok(sendmsg(stream.as_fd(), &[IoSlice::new(&line[sent..])], &mut control, SendFlags::empty())?)
            })
            .await?;
    }
    Ok(())
}

/// Variables that the dynamic loader needs to start this binary where libraries are not in a default location.
const LOADER_ENV: [&str; 2] = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// Starts keepers, one at a time: the second of two concurrent calls finds the keeper that the first call started.
pub(crate) struct KeeperStarter {
    program: PathBuf,
    pub(crate) descriptor_limit: Option<u64>,
    start_lock: tokio::sync::Mutex<()>,
}

impl KeeperStarter {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, descriptor_limit: None, start_lock: tokio::sync::Mutex::new(()) }
    }

    pub(crate) async fn connect_or_start(&self, locations: &Locations) -> Result<KeeperConnection, Problem> {
        if let Some(connection) = KeeperConnection::open(locations).await? {
            return Ok(connection);
        }
        let _start_guard = self.start_lock.lock().await;
        // The pauses add up to about 2 s, which covers a keeper that is starting or shutting down.
        for attempt in 0..20 {
            if let Some(connection) = KeeperConnection::open(locations).await? {
                return Ok(connection);
            }
            if attempt > 0 {
                // The keeper that holds the lock is about to bind its socket, or is shutting down.
                tokio::time::sleep(Duration::from_millis(10 * attempt)).await;
            }
            self.start_keeper(locations).await?;
        }
        Err(Problem::new(
            ProblemKind::Unavailable,
            "the preview's keeper holds its lock but does not answer".to_owned(),
        )
        .hint("Run `pdev down`, or end the process named in `keeper.json` of the preview's state folder."))
    }

    /// Returns when the keeper's socket accepts connections, or when another keeper turns out to be running.
    async fn start_keeper(&self, locations: &Locations) -> Result<(), Problem> {
        let records = RecordStore::new(&locations.state);
        let problem = |error: &io::Error| Problem::io("cannot start the preview's keeper", error);
        create_private_folder(&locations.state).map_err(|error| problem(&error))?;
        let log_file = locations.state.join("keeper.log");
        let log_file = File::options().create(true).append(true).open(log_file).map_err(|error| problem(&error))?;
        let mut command = tokio::process::Command::new(&self.program);
        // Pass nothing of the agent's environment. It may hold a secret of the user who started the agent, the keeper
        // lives as long as the preview, and other processes of its user can read its environment. Each program
        // receives its own environment in the start request.
        command.arg("keeper").arg(&locations.runtime).arg(&locations.state).env_clear();
        // The binary itself may need these to be loaded.
        command.envs(LOADER_ENV.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        if let Some(limit) = self.descriptor_limit {
            command.env(DESCRIPTOR_LIMIT_ENV, limit.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(log_file));
        let mut child = command.spawn().map_err(|error| problem(&error))?;
        let mut startup_line = String::new();
        // The keeper writes one word and then closes its standard output, so reading to the end waits until it is
        // ready.
        if let Some(output) = child.stdout.take() {
            let result = tokio::time::timeout(REPLY_TIMEOUT, output.take(4096).read_to_string(&mut startup_line)).await;
            let result = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            result.map_err(|error| problem(&error))?;
        }
        match startup_line.trim() {
            READY => Ok(()),
            BUSY => request_new_socket(&records, &locations.runtime),
            // The keeper writes its error message instead of a word.
            other => Err(Problem::new(ProblemKind::Unavailable, format!("cannot start the preview's keeper: {other}"))),
        }
    }
}

/// Asks a living keeper to bind a new socket in this folder: its socket was deleted, or the folder of the agent's socket
/// is another one since the keeper was started.
pub(super) fn request_new_socket(records: &RecordStore, runtime: &Path) -> Result<(), Problem> {
    let keeper = records.read_living_keeper().map_err(|error| Problem::io("cannot read `keeper.json`", &error))?;
    if let Some(keeper) = keeper {
        let written = records.write_socket_folder(runtime);
        written.map_err(|error| Problem::io("cannot record the folder of the keeper's socket", &error))?;
        keeper.process.signal(rustix::process::Signal::HUP);
    }
    Ok(())
}
