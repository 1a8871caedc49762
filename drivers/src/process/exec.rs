//! Commands that run alongside a unit: `pdev exec`, build commands, first-time initialisation.
//!
//! The keeper starts them as its children, on descriptors that the driver created, so their bytes do not pass through
//! the keeper. When the driver's connection closes, the keeper ends the command and all processes that it started.

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
use crate::driver::{ExecInput, ExecOutput, ExecRequest, ExecSession};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Scope};

/// Maximum chunks of input and of output that wait for a slow consumer.
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
        // A relative `dir` starts at the project folder or the data folder; an absolute one replaces it.
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
            None => self.exec_with_pipes(&scope.locations, &unit.name, spawn, None).await,
            Some((rows, columns)) => self.exec_with_terminal(&scope.locations, &unit.name, spawn, rows, columns).await,
        }
    }

    async fn exec_with_pipes(
        &self,
        locations: &Locations,
        unit: &str,
        spawn: SpawnSpec,
        exclusive: Option<String>,
    ) -> Result<ExecSession, Problem> {
        let io_problem = |error: io::Error| Problem::io("cannot create a pipe", &error);
        let (input, input_writer) = io::pipe().map_err(io_problem)?;
        let (read_output, output) = io::pipe().map_err(io_problem)?;
        let (read_error, error) = io::pipe().map_err(io_problem)?;
        // `start_exec` takes the program's ends and drops them: with a copy left here, the output would never end.
        let descriptors = [input.into(), output.into(), error.into()];
        let connection = self.start_exec(locations, unit, spawn, exclusive, descriptors).await?;
        let input_writer = pipe::Sender::from_owned_fd(input_writer.into()).map_err(io_problem)?;
        let output = pipe::Receiver::from_owned_fd(read_output.into()).map_err(io_problem)?;
        let error = pipe::Receiver::from_owned_fd(read_error.into()).map_err(io_problem)?;
        Ok(spawn_session(|inputs, outputs| async move {
            let input_task = forward_input_to_pipe(input_writer, inputs);
            let output_task = async {
                tokio::join!(
                    forward_output(&output, &outputs, ExecOutput::Stdout),
                    forward_output(&error, &outputs, ExecOutput::Stderr),
                );
            };
            forward_until_exit(connection, input_task, output_task, &outputs).await;
        }))
    }

    async fn exec_with_terminal(
        &self,
        locations: &Locations,
        unit: &str,
        mut spawn: SpawnSpec,
        rows: u16,
        columns: u16,
    ) -> Result<ExecSession, Problem> {
        let io_problem = |error: io::Error| Problem::io("cannot create a terminal", &error);
        let (master, slave) = open_terminal(rows, columns).map_err(io_problem)?;
        spawn.terminal = true;
        let copies = [slave.try_clone().map_err(io_problem)?, slave.try_clone().map_err(io_problem)?, slave];
        let connection = self.start_exec(locations, unit, spawn, None, copies).await?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| io_problem(error.into()))?;
        // The master is not a pipe, hence `unchecked`, but it is read and written like one.
        let input_writer =
            pipe::Sender::from_owned_fd_unchecked(master.try_clone().map_err(io_problem)?).map_err(io_problem)?;
        let output = pipe::Receiver::from_owned_fd_unchecked(master).map_err(io_problem)?;
        Ok(spawn_session(|inputs, outputs| async move {
            let input_task = forward_input_to_terminal(input_writer, inputs);
            let output_task = forward_output(&output, &outputs, ExecOutput::Stdout);
            forward_until_exit(connection, input_task, output_task, &outputs).await;
        }))
    }

    /// Returns once the program runs. By then, the driver's copies of the program's descriptors are closed.
    async fn start_exec(
        &self,
        locations: &Locations,
        unit: &str,
        spawn: SpawnSpec,
        exclusive: Option<String>,
        descriptors: [OwnedFd; 3],
    ) -> Result<KeeperConnection, Problem> {
        let mut connection = self.starter.connect_or_start(locations).await?;
        let request = Request::Exec { spawn: Box::new(spawn.clone()), exclusive };
        connection.send(&request, &descriptors.each_ref().map(AsFd::as_fd)).await?;
        match connection.receive_timeout(REPLY_TIMEOUT).await? {
            Some(Reply::Started { .. }) => Ok(connection),
            Some(Reply::SpawnFailed { errno }) => Err(spawn_problem(unit, &spawn, errno)),
            Some(Reply::Failed { message }) => Err(Problem::new(ProblemKind::Internal, message)),
            other => {
                Err(Problem::new(ProblemKind::Unavailable, format!("lost the connection to the keeper ({other:?})")))
            }
        }
    }

    /// Runs a command to its end, alone under its key; passes each line of output to `on_line`, and returns the exit code.
    pub(super) async fn run_to_end(
        &self,
        locations: &Locations,
        unit: &str,
        spawn: SpawnSpec,
        exclusive: String,
        mut on_line: impl FnMut(String) + Send,
    ) -> Result<i32, Problem> {
        let mut session = self.exec_with_pipes(locations, unit, spawn, Some(exclusive)).await?;
        // Dropping the sender closes standard input.
        drop(session.input);
        let mut lines = [Vec::new(), Vec::new()];
        let mut exit = None;
        while let Some(output) = session.output.next().await {
            match output {
                ExecOutput::Stdout(bytes) => split_lines(&mut lines[0], &bytes, &mut on_line),
                ExecOutput::Stderr(bytes) => split_lines(&mut lines[1], &bytes, &mut on_line),
                ExecOutput::Exit(code) => exit = Some(code),
            }
        }
        for partial_line in lines.iter().filter(|partial_line| !partial_line.is_empty()) {
            on_line(String::from_utf8_lossy(partial_line).into_owned());
        }
        Ok(exit.unwrap_or(-1))
    }
}

fn split_lines(partial: &mut Vec<u8>, bytes: &[u8], on_line: &mut impl FnMut(String)) {
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        partial.extend_from_slice(piece);
        if partial.ends_with(b"\n") || partial.len() > CHUNK_SIZE {
            on_line(String::from_utf8_lossy(partial).trim_end_matches(['\n', '\r']).to_owned());
            partial.clear();
        }
    }
}

/// Runs `work` in a task that ends when the command ends or when the caller drops the output, whichever comes first.
fn spawn_session<F>(work: impl FnOnce(mpsc::Receiver<ExecInput>, mpsc::Sender<ExecOutput>) -> F) -> ExecSession
where
    F: Future<Output = ()> + Send + 'static,
{
    let (input, inputs) = mpsc::channel(QUEUE_CAPACITY);
    let (outputs, output) = mpsc::channel(QUEUE_CAPACITY);
    let reader_gone = outputs.clone();
    let work = work(inputs, outputs);
    let task = tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            // The output has no reader any more. Dropping `work` closes the connection, so the keeper ends the command.
            () = reader_gone.closed() => {}
        }
    });
    let output =
        stream::unfold(
            (output, task),
            |(mut output, task)| async move { Some((output.recv().await?, (output, task))) },
        );
    ExecSession { input, output: output.boxed() }
}

/// Sends all output first, then the exit code, and nothing after it.
async fn forward_until_exit(
    mut connection: KeeperConnection,
    input_task: impl Future<Output = ()>,
    output_task: impl Future<Output = ()>,
    outputs: &mpsc::Sender<ExecOutput>,
) {
    let exit_code_task = async {
        let exit = connection.receive::<Reply>().await;
        match exit {
            Ok(Some(Reply::Exited { exit })) => exit_code(&exit),
            // 128 + SIGKILL: the keeper was killed, and the command with it.
            _ => 137,
        }
    };
    let run = async {
        tokio::pin!(output_task);
        tokio::pin!(exit_code_task);
        tokio::select! {
            () = &mut output_task => exit_code_task.await,
            code = &mut exit_code_task => {
                // No process of the command is left, but the pipe may still contain output.
                drop(tokio::time::timeout(Duration::from_secs(2), output_task).await);
                code
            }
        }
    };
    tokio::pin!(input_task);
    tokio::pin!(run);
    let code = tokio::select! {
        code = &mut run => code,
        () = &mut input_task => run.await,
    };
    drop(outputs.send(ExecOutput::Exit(code)).await);
}

fn exit_code(exit: &ExitRecord) -> i32 {
    exit.code.or(exit.signal.map(|signal| 128 + signal)).unwrap_or(-1)
}

async fn forward_input_to_pipe(mut input_writer: pipe::Sender, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        match input {
            ExecInput::Bytes(bytes) => {
                if input_writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            ExecInput::Close => return,
            ExecInput::Resize { .. } => {}
        }
    }
}

/// Copies until the end of file. A terminal reports an error instead, when the last process that has it open is gone.
async fn forward_output(pipe: &pipe::Receiver, outputs: &mpsc::Sender<ExecOutput>, wrap: fn(Bytes) -> ExecOutput) {
    let mut buffer = vec![0; CHUNK_SIZE];
    while pipe.readable().await.is_ok() {
        match pipe.try_read(&mut buffer) {
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

/// Sets close-on-exec in a second call, since `openpt` takes no such flag here. A program that starts in between may
/// inherit the terminal and hold it open.
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

async fn forward_input_to_terminal(mut input_writer: pipe::Sender, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        let bytes = match input {
            ExecInput::Bytes(bytes) => bytes,
            // A terminal cannot be closed for input. Ctrl-D (EOT) signals the end to a program that reads lines.
            ExecInput::Close => Bytes::from_static(&[4]),
            ExecInput::Resize { rows, columns } => {
                // At worst, the program keeps its old size.
                drop(resize_terminal(&input_writer, rows, columns));
                continue;
            }
        };
        if input_writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
