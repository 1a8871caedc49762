//! Commands beside a unit: `pdev exec`, build commands, first-time initialisation.
//!
//! The keeper starts them as its children with descriptors that the driver made, so bytes do not pass through the
//! keeper; when the driver's side goes away, the keeper ends the command and all that came from it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use plan::application::{Argv, ProcessDir, Unit};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::ProcessDriver;
use super::connection::{KeeperConnection, REPLY_TIMEOUT};
use super::launch::Launcher;
use super::record::ExitRecord;
use super::units::spawn_problem;
use super::wire::{Reply, Request, SpawnSpec};
use crate::driver::{ExecInput, ExecOutput, ExecRequest, ExecSession, Locations, Problem, ProblemKind, Scope};

/// Pieces of input and output that may wait for a slow side.
const QUEUE_CAPACITY: usize = 64;
const CHUNK_SIZE: usize = 16 * 1024;

impl ProcessDriver {
    pub(super) async fn exec_command(
        &self,
        scope: &Scope,
        unit: &Unit,
        request: ExecRequest,
    ) -> Result<ExecSession, Problem> {
        let mut launcher = Launcher::new(scope, unit, &self.inherited_env)?;
        launcher.user = request.user.clone().or(launcher.user);
        if let Some(user) = request.user.filter(|_| !rustix::process::geteuid().is_root()) {
            let message = format!("cannot run as `{user}`: only root may change the user of a process");
            return Err(Problem::new(ProblemKind::PermissionDenied, message));
        }
        let dir = match (&request.dir, &launcher.spec.dir) {
            (Some(dir), ProcessDir::Project(_)) => scope.locations.project.join(dir),
            (Some(dir), ProcessDir::Data) => launcher.data_folder().join(dir),
            (None, _) => launcher.resolve_working_folder()?,
        };
        let mut spawn = launcher.build_spawn_spec(&Argv::List(request.argv), &dir)?;
        if request.terminal_size.is_some() {
            spawn.env.insert("TERM".to_owned(), "xterm-256color".to_owned());
        }
        spawn.env.extend(request.env);
        match request.terminal_size {
            None => self.exec_with_pipes(&scope.locations, &unit.name, spawn).await,
            Some((rows, columns)) => self.exec_with_terminal(&scope.locations, &unit.name, spawn, rows, columns).await,
        }
    }

    async fn exec_with_pipes(&self, places: &Locations, unit: &str, spawn: SpawnSpec) -> Result<ExecSession, Problem> {
        let broken = |error: io::Error| Problem::io("cannot make a pipe", &error);
        let (input, feed) = io::pipe().map_err(broken)?;
        let (read_output, output) = io::pipe().map_err(broken)?;
        let (read_error, error) = io::pipe().map_err(broken)?;
        let connection = self.start_exec(places, unit, spawn, [input.into(), output.into(), error.into()]).await?;
        let feed = pipe::Sender::from_owned_fd(feed.into()).map_err(broken)?;
        let output = pipe::Receiver::from_owned_fd(read_output.into()).map_err(broken)?;
        let error = pipe::Receiver::from_owned_fd(read_error.into()).map_err(broken)?;
        Ok(spawn_session(|inputs, outputs| async move {
            let feeding = forward_input_to_pipe(feed, inputs);
            let copying = async {
                tokio::join!(
                    forward_output(&output, &outputs, ExecOutput::Stdout),
                    forward_output(&error, &outputs, ExecOutput::Stderr),
                );
            };
            forward_until_exit(connection, feeding, copying, &outputs).await;
        }))
    }

    async fn exec_with_terminal(
        &self,
        places: &Locations,
        unit: &str,
        mut spawn: SpawnSpec,
        rows: u16,
        columns: u16,
    ) -> Result<ExecSession, Problem> {
        let broken = |error: io::Error| Problem::io("cannot make a terminal", &error);
        let (master, slave) = open_terminal(rows, columns).map_err(broken)?;
        spawn.terminal = true;
        let copies = [slave.try_clone().map_err(broken)?, slave.try_clone().map_err(broken)?, slave];
        let connection = self.start_exec(places, unit, spawn, copies).await?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| broken(error.into()))?;
        // Neither end is a pipe, but both are read and written like one.
        let feed = pipe::Sender::from_owned_fd_unchecked(master.try_clone().map_err(broken)?).map_err(broken)?;
        let output = pipe::Receiver::from_owned_fd_unchecked(master).map_err(broken)?;
        Ok(spawn_session(|inputs, outputs| async move {
            let feeding = forward_input_to_terminal(feed, inputs);
            let copying = forward_output(&output, &outputs, ExecOutput::Stdout);
            forward_until_exit(connection, feeding, copying, &outputs).await;
        }))
    }

    /// Returns once the program runs; our copies of its descriptors are closed then.
    async fn start_exec(
        &self,
        places: &Locations,
        unit: &str,
        spawn: SpawnSpec,
        descriptors: [OwnedFd; 3],
    ) -> Result<KeeperConnection, Problem> {
        let mut connection = self.starter.connect_or_start(places).await?;
        let request = Request::Exec { spawn: Box::new(spawn.clone()) };
        connection.send(&request, &descriptors.each_ref().map(AsFd::as_fd)).await?;
        match connection.receive_timeout(REPLY_TIMEOUT).await? {
            Some(Reply::Started { .. }) => Ok(connection),
            Some(Reply::SpawnFailed { errno }) => Err(spawn_problem(unit, &spawn, errno)),
            Some(Reply::Failed { message }) => Err(Problem::new(ProblemKind::Internal, message)),
            other => Err(Problem::new(ProblemKind::Unavailable, format!("the keeper went away ({other:?})"))),
        }
    }

    /// Runs a command to its end, each line of output to `line`. Returns the exit code.
    pub(super) async fn run_to_end(
        &self,
        places: &Locations,
        unit: &str,
        spawn: SpawnSpec,
        mut line: impl FnMut(String) + Send,
    ) -> Result<i32, Problem> {
        let mut session = self.exec_with_pipes(places, unit, spawn).await?;
        drop(session.input);
        let mut lines = [Vec::new(), Vec::new()];
        let mut exit = None;
        while let Some(output) = session.output.next().await {
            match output {
                ExecOutput::Stdout(bytes) => split_lines(&mut lines[0], &bytes, &mut line),
                ExecOutput::Stderr(bytes) => split_lines(&mut lines[1], &bytes, &mut line),
                ExecOutput::Exit(code) => exit = Some(code),
            }
        }
        for rest in lines.iter().filter(|rest| !rest.is_empty()) {
            line(String::from_utf8_lossy(rest).into_owned());
        }
        Ok(exit.unwrap_or(-1))
    }
}

fn split_lines(partial: &mut Vec<u8>, bytes: &[u8], line: &mut impl FnMut(String)) {
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        partial.extend_from_slice(piece);
        if partial.ends_with(b"\n") || partial.len() > CHUNK_SIZE {
            line(String::from_utf8_lossy(partial).trim_end_matches(['\n', '\r']).to_owned());
            partial.clear();
        }
    }
}

/// The task lives as long as somebody reads the output or the command runs, whichever ends first.
fn spawn_session<F>(work: impl FnOnce(mpsc::Receiver<ExecInput>, mpsc::Sender<ExecOutput>) -> F) -> ExecSession
where
    F: Future<Output = ()> + Send + 'static,
{
    let (input, inputs) = mpsc::channel(QUEUE_CAPACITY);
    let (outputs, output) = mpsc::channel(QUEUE_CAPACITY);
    let watch = outputs.clone();
    let work = work(inputs, outputs);
    let task = tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            // Nobody listens any more: dropping the connection makes the keeper end the command.
            () = watch.closed() => {}
        }
    });
    let output =
        stream::unfold(
            (output, task),
            |(mut output, task)| async move { Some((output.recv().await?, (output, task))) },
        );
    ExecSession { input, output: output.boxed() }
}

/// All output first, then the exit code, and nothing after it.
async fn forward_until_exit(
    mut connection: KeeperConnection,
    feeding: impl Future<Output = ()>,
    copying: impl Future<Output = ()>,
    outputs: &mpsc::Sender<ExecOutput>,
) {
    let ending = async {
        let exit = connection.receive::<Reply>().await;
        match exit {
            Ok(Some(Reply::Exited { exit })) => exit_code(&exit),
            // The keeper was killed and took the command along.
            _ => 137,
        }
    };
    let all = async {
        tokio::pin!(copying);
        tokio::pin!(ending);
        tokio::select! {
            () = &mut copying => ending.await,
            code = &mut ending => {
                // Nothing of the command is left; what it wrote is in the pipe.
                drop(tokio::time::timeout(Duration::from_secs(2), copying).await);
                code
            }
        }
    };
    tokio::pin!(feeding);
    tokio::pin!(all);
    let code = tokio::select! {
        code = &mut all => code,
        () = &mut feeding => all.await,
    };
    drop(outputs.send(ExecOutput::Exit(code)).await);
}

fn exit_code(exit: &ExitRecord) -> i32 {
    exit.code.or(exit.signal.map(|signal| 128 + signal)).unwrap_or(-1)
}

async fn forward_input_to_pipe(mut feed: pipe::Sender, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        match input {
            ExecInput::Bytes(bytes) => {
                if feed.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            ExecInput::Close => return,
            ExecInput::Resize { .. } => {}
        }
    }
}

/// A terminal's end of file is an error: the last holder of its other side is gone.
async fn forward_output(from: &pipe::Receiver, outputs: &mpsc::Sender<ExecOutput>, wrap: fn(Bytes) -> ExecOutput) {
    let mut buffer = vec![0; CHUNK_SIZE];
    while from.readable().await.is_ok() {
        match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if outputs.send(wrap(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(target_os = "linux")]
fn master() -> io::Result<OwnedFd> {
    Ok(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?)
}

/// Elsewhere the flag comes a moment later: a program started meanwhile may hold the terminal open.
#[cfg(not(target_os = "linux"))]
fn master() -> io::Result<OwnedFd> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
    Ok(master)
}

fn open_terminal(rows: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = master()?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let path = PathBuf::from(name.to_string_lossy().into_owned());
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    resize_terminal(&master, rows, columns)?;
    Ok((master, slave))
}

fn resize_terminal(master: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    Ok(tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

async fn forward_input_to_terminal(mut feed: pipe::Sender, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        let bytes = match input {
            ExecInput::Bytes(bytes) => bytes,
            // A terminal has no end; this character says it to a program that reads lines.
            ExecInput::Close => Bytes::from_static(&[4]),
            ExecInput::Resize { rows, columns } => {
                // The program keeps its old size at worst.
                drop(resize_terminal(&feed, rows, columns));
                continue;
            }
        };
        if feed.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
