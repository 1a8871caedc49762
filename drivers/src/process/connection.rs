//! The driver's end of the keeper's socket: find it, start a keeper when there is none, say one thing, hear the answer.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;

use super::keeper::{BUSY, READY};
use super::record::{RecordStore, create_private_folder};
use super::wire::{Greeting, LINE_MAX, PROTOCOL_VERSION, Reply, Request};
use crate::driver::{Locations, Problem, ProblemKind};

/// Everything but the end of a program is answered within this.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn socket_path(runtime: &Path) -> PathBuf {
    runtime.join("keeper.sock")
}

/// An open connection with one request said.
pub(crate) struct KeeperConnection {
    stream: BufReader<UnixStream>,
}

impl KeeperConnection {
    /// None when no keeper is there.
    pub(crate) async fn open(places: &Locations) -> Result<Option<Self>, Problem> {
        let path = socket_path(&places.runtime);
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error) if is_keeper_absent(&error) => return Ok(None),
            Err(error) => return Err(Problem::io(format!("cannot reach the keeper at `{}`", path.display()), &error)),
        };
        let me = rustix::process::geteuid().as_raw();
        let peer = stream.peer_cred().map_err(|error| Problem::io("cannot tell who the keeper is", &error))?;
        if peer.uid() != me && peer.uid() != 0 {
            let message = format!("the keeper at `{}` belongs to user id `{}`, not to you", path.display(), peer.uid());
            return Err(Problem::new(ProblemKind::PermissionDenied, message));
        }
        let mut connection = Self { stream: BufReader::new(stream) };
        let greeting = match connection.receive_timeout::<Greeting>(REPLY_TIMEOUT).await {
            Ok(Some(greeting)) => greeting,
            // It was just leaving.
            Ok(None) => return Ok(None),
            Err(problem) if problem.kind == ProblemKind::Unavailable => return Ok(None),
            Err(problem) => return Err(problem),
        };
        if greeting.pdev_keeper != PROTOCOL_VERSION {
            let message = format!("the keeper speaks version `{}`, this pdev {PROTOCOL_VERSION}", greeting.pdev_keeper);
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
            return Err(Problem::new(ProblemKind::Refused, "command and environment are longer than 4 MiB".to_owned()));
        }
        let sent =
            tokio::time::timeout(REPLY_TIMEOUT, send_with_descriptors(self.stream.get_ref(), &line, descriptors)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| keeper_gone_problem(&error))
    }

    /// The next line; None when the keeper closed.
    pub(crate) async fn receive_timeout<T: DeserializeOwned>(
        &mut self,
        patience: Duration,
    ) -> Result<Option<T>, Problem> {
        match tokio::time::timeout(patience, self.receive()).await {
            Ok(heard) => heard,
            Err(_) => Err(Problem::new(ProblemKind::Timeout, "the keeper does not answer".to_owned())),
        }
    }

    /// As [`Self::hear`], for streams that may rightly be quiet for days.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Problem> {
        let mut line = Vec::new();
        let limit = LINE_MAX as u64;
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)
            .await
            .map_err(|error| keeper_gone_problem(&error))?;
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&line);
        parsed.map(Some).map_err(|error| {
            Problem::new(ProblemKind::Internal, format!("the keeper said something unexpected: {error}"))
        })
    }

    pub(crate) async fn call(&mut self, request: &Request, patience: Duration) -> Result<Reply, Problem> {
        self.send(request, &[]).await?;
        self.receive_timeout(patience).await?.ok_or_else(|| keeper_gone_problem(&io::ErrorKind::UnexpectedEof.into()))
    }
}

/// No socket, or one whose keeper is gone or just leaving.
fn is_keeper_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

fn keeper_gone_problem(error: &io::Error) -> Problem {
    Problem::new(ProblemKind::Unavailable, format!("the keeper went away: {error}"))
}

async fn send_with_descriptors(stream: &UnixStream, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = 0;
    while sent < line.len() {
        sent += stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                // They travel with the first byte.
                if sent == 0 && !descriptors.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(descriptors));
                }
                Ok(sendmsg(stream.as_fd(), &[IoSlice::new(&line[sent..])], &mut control, SendFlags::empty())?)
            })
            .await?;
    }
    Ok(())
}

/// Tells the keeper the soft limit of open files that it and its programs are to have.
pub(crate) const DESCRIPTOR_LIMIT_ENV: &str = "PDEV_KEEPER_DESCRIPTORS";
/// Where the dynamic loader finds what this binary needs, on systems that keep it in no usual place.
const LOADER_ENV: [&str; 2] = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// Starts keepers. One at a time: the second of two calls finds the first one's keeper.
pub(crate) struct KeeperStarter {
    program: PathBuf,
    pub(crate) descriptor_limit: Option<u64>,
    start_lock: tokio::sync::Mutex<()>,
}

impl KeeperStarter {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, descriptor_limit: None, start_lock: tokio::sync::Mutex::new(()) }
    }

    pub(crate) async fn connect_or_start(&self, places: &Locations) -> Result<KeeperConnection, Problem> {
        if let Some(connection) = KeeperConnection::open(places).await? {
            return Ok(connection);
        }
        let _one_at_a_time = self.start_lock.lock().await;
        for attempt in 0..20 {
            if let Some(connection) = KeeperConnection::open(places).await? {
                return Ok(connection);
            }
            if attempt > 0 {
                // The keeper that holds the lock is just binding its socket, or just leaving.
                tokio::time::sleep(Duration::from_millis(10 * attempt)).await;
            }
            self.start_keeper(places).await?;
        }
        Err(Problem::new(
            ProblemKind::Unavailable,
            "the preview's keeper holds its lock but does not answer".to_owned(),
        )
        .hint("Run `pdev down`, or end the process named in `keeper.json` of the preview's state folder."))
    }

    /// Returns when the keeper's socket answers, or when another keeper turned out to be there.
    async fn start_keeper(&self, places: &Locations) -> Result<(), Problem> {
        let records = RecordStore::new(&places.state);
        let problem = |error: &io::Error| Problem::io("cannot start the preview's keeper", error);
        create_private_folder(&places.state).map_err(|error| problem(&error))?;
        let log = places.state.join("keeper.log");
        let log = File::options().create(true).append(true).open(log).map_err(|error| problem(&error))?;
        let mut command = tokio::process::Command::new(&self.program);
        // Nothing of the agent's environment: it may hold a secret of whoever started that one, this process stays for
        // as long as the preview, and others of its user can read it. Programs are told theirs one by one.
        command.arg("keeper").arg(&places.runtime).arg(&places.state).env_clear();
        // What the binary itself may need to be loaded.
        command.envs(LOADER_ENV.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        if let Some(limit) = self.descriptor_limit {
            command.env(DESCRIPTOR_LIMIT_ENV, limit.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(log));
        let mut child = command.spawn().map_err(|error| problem(&error))?;
        let mut said = String::new();
        if let Some(output) = child.stdout.take() {
            let reading = tokio::time::timeout(REPLY_TIMEOUT, output.take(4096).read_to_string(&mut said)).await;
            let read = reading.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            read.map_err(|error| problem(&error))?;
        }
        match said.trim() {
            READY => Ok(()),
            BUSY => request_new_socket(&records),
            other => Err(Problem::new(ProblemKind::Unavailable, format!("cannot start the preview's keeper: {other}"))),
        }
    }
}

/// A living keeper whose socket was swept away binds a new one when told.
fn request_new_socket(records: &RecordStore) -> Result<(), Problem> {
    let keeper = records.read_living_keeper().map_err(|error| Problem::io("cannot read `keeper.json`", &error))?;
    if let Some(keeper) = keeper {
        keeper.process.signal(rustix::process::Signal::HUP);
    }
    Ok(())
}
