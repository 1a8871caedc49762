//! The two processes above a coding agent's session: `pdev session run`, and its child, the guard, which starts the
//! program.
//!
//! Both are subreapers, and each ends all programs of the session if the other one ends. So after a `kill -9` of
//! either, no program of the session remains that looks like one of the user's own. The background agent decides which
//! access the session gets.

mod descendants;
#[cfg(target_os = "linux")]
pub(crate) mod hidden_sockets;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use client::{Client, SocketLocation};
use host::clock::now_milliseconds;
use protocol::session::{SessionRequest, SessionView};
use rustix::process::{Pid, Signal, WaitStatus, getppid, kill_process};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::context::Context;
use crate::exit::{EXEC_FAILED, Failure, INTERRUPTED, Outcome};
use crate::humanize;
use crate::terminal::{Color, Terminal};

/// The first argument of the guard; no command of this name exists.
pub(crate) const SUBCOMMAND: &str = agent::sessions::GUARD_COMMAND;
/// Tells the programs the id of their session. It decides nothing: programs could change it.
pub(crate) const SESSION_VARIABLE: &str = "PDEV_SESSION";

/// Longer than the client's own limits for starting the agent.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The argument of the guard, as JSON.
#[derive(serde::Serialize, serde::Deserialize)]
struct GuardOptions {
    request: SessionRequest,
    quiet: bool,
    /// Leave the sockets of multiplexers, engines and the session bus to the session.
    open_sockets: bool,
}

/// The exit code as in a shell: 128 + n after signal n.
fn exit_code(status: WaitStatus) -> u8 {
    let from_signal = || status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or_else(from_signal).unwrap_or_default();
    u8::try_from(code).unwrap_or(EXEC_FAILED)
}

struct SignalStreams {
    children: Signals,
    terminate: Signals,
    hangup: Signals,
    /// Ctrl-C and Ctrl-\ reach the program too, because it shares the terminal. Received here only so that these two
    /// processes do not end.
    interrupt: Signals,
    quit: Signals,
}

impl SignalStreams {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            children: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for the child and returns its status, or `None` if this process gets SIGTERM or SIGHUP. Calls `on_expiry`
    /// once, after `limit`.
    async fn wait_for_child(
        &mut self,
        child: Pid,
        limit: Option<Duration>,
        on_expiry: impl FnOnce(),
    ) -> Option<WaitStatus> {
        let expiry = tokio::time::sleep(limit.unwrap_or(Duration::MAX));
        tokio::pin!(expiry);
        let mut on_expiry = limit.map(|_| on_expiry);
        loop {
            if let Some(status) = descendants::reap_children(child) {
                return Some(status);
            }
            tokio::select! {
                _ = self.children.recv() => {}
                _ = self.terminate.recv() => return None,
                _ = self.hangup.recv() => return None,
                _ = self.interrupt.recv() => {}
                _ = self.quit.recv() => {}
                () = &mut expiry, if on_expiry.is_some() => if let Some(on_expiry) = on_expiry.take() { on_expiry() },
            }
        }
    }
}

/// Adopts descendants whose parent ends, so that they cannot leave the session.
fn become_subreaper() {
    // Cannot fail since Linux 3.4.
    #[cfg(target_os = "linux")]
    let _ignored = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

fn pid_of(child: &std::process::Child) -> Result<Pid, Failure> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::failed("the program has no process id"))
}

/// Starts the guard and waits for it.
pub(crate) fn run_guarded(
    request: SessionRequest,
    open_sockets: bool,
    program: &[OsString],
    context: &Context,
) -> Outcome {
    let options = serde_json::to_string(&GuardOptions { request, quiet: context.quiet, open_sockets });
    let options = options.map_err(|error| Failure::failed(error.to_string()))?;
    let own_program = std::env::current_exe()?;
    Context::block_on(async {
        start_detached_agent(&own_program).await;
        // Reports why no agent runs, before anything is started.
        drop(Context::connect().await?);
        // Before the spawn, so no signal and no orphan is missed.
        let mut signals = SignalStreams::new()?;
        become_subreaper();
        let mut guard = Command::new(own_program);
        let guard = guard.args([SUBCOMMAND, &options]).args(program).current_dir(&context.folder).spawn()?;
        let guard = pid_of(&guard)?;
        let mut status = signals.wait_for_child(guard, None, || {}).await;
        if status.is_none() {
            // Passed on. A second signal ends the wait.
            let _has_ended = kill_process(guard, Signal::TERM);
            status = signals.wait_for_child(guard, None, || {}).await;
        }
        // Normally the guard has ended all programs. If it was killed, they are now children of this process.
        descendants::terminate_all(guard, &mut signals.children).await;
        Ok(status.map_or(INTERRUPTED, exit_code))
    })
}

/// Starts the agent through a short-lived `pdev session list`. An agent below this process would be ended together with
/// the session, and with it the local previews of the user.
async fn start_detached_agent(own_program: &Path) {
    if Client::connect(&SocketLocation::from_environment()).await.is_ok() {
        return;
    }
    let mut starter = tokio::process::Command::new(own_program);
    starter.args(["session", "list"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The result is ignored: if the agent did not start, the next connection reports why.
    drop(tokio::time::timeout(START_TIMEOUT, starter.kill_on_drop(true).status()).await);
}

/// The guard process. Its arguments are [`GuardOptions`] as JSON, then the program with its arguments.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let terminal = Terminal::new(Color::Auto);
    let mut arguments = arguments.into_iter();
    let options = arguments.next().and_then(|text| serde_json::from_str::<GuardOptions>(text.to_str()?).ok());
    let Some(options) = options else {
        terminal.eprint_line("this command is internal to `pdev session run`");
        return crate::exit::INVALID_INPUT;
    };
    let program: Vec<OsString> = arguments.collect();
    match run_session(&options, &program, &terminal) {
        Ok(code) => code,
        Err(failure) => {
            crate::print_failure(&failure, &terminal, false);
            failure.exit_code
        }
    }
}

fn run_session(options: &GuardOptions, program: &[OsString], terminal: &Terminal) -> Outcome {
    let Some((name, arguments)) = program.split_first() else {
        return Err(Failure::invalid_input("no program is named"));
    };
    Context::block_on(async {
        // Before the session begins, so the guard does not outlive its parent unnoticed.
        let mut signals = SignalStreams::new()?;
        terminate_with_parent()?;
        become_subreaper();
        let session = Context::connect().await?.begin_session(&options.request).await?;
        if !options.quiet {
            terminal.eprint_line(&format!("session {} ({}): {}", session.name, session.id, describe_session(&session)));
        }
        let mut command = match options.open_sockets {
            true => Command::new(name),
            false => command_without_sockets(name)?,
        };
        let child = match command.args(arguments).env(SESSION_VARIABLE, &session.id).spawn() {
            Ok(child) => pid_of(&child)?,
            Err(error) => return Err(start_failure(name, &error)),
        };
        let remaining = session.until.saturating_sub(now_milliseconds());
        let remaining = Duration::from_millis(u64::try_from(remaining).unwrap_or_default());
        let on_expiry = || {
            terminal.eprint_line(&format!(
                "the time of session {} is over: its programs keep running, but get no more credentials",
                session.name
            ));
        };
        let status = signals.wait_for_child(child, Some(remaining), on_expiry).await;
        descendants::terminate_all(child, &mut signals.children).await;
        // Without a status, SIGTERM or SIGHUP has ended the wait.
        Ok(status.map_or(128 + 15, exit_code))
    })
}

/// The command that hides the sockets and then becomes the program.
#[cfg(target_os = "linux")]
fn command_without_sockets(program: &OsString) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(hidden_sockets::SUBCOMMAND).arg(program);
    Ok(command)
}

#[cfg(not(target_os = "linux"))]
fn command_without_sockets(program: &OsString) -> Result<Command, Failure> {
    Ok(Command::new(program))
}

/// Requests SIGTERM for this process when its parent ends, even if the parent is killed.
fn terminate_with_parent() -> Result<(), Failure> {
    let parent = getppid();
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::failed(humanize::io_error(&error.into())))?;
    // The parent may have ended before the request.
    if getppid() == parent { Ok(()) } else { Err(Failure::failed("the parent process has ended")) }
}

fn describe_session(session: &SessionView) -> String {
    let duration = humanize::duration(u64::try_from(session.until - session.begun_at).unwrap_or_default());
    let identities = match session.identities.as_slice() {
        [] => "all identities except production".to_owned(),
        names => names.join(", "),
    };
    format!("for {duration}, {identities}, read-only if their source supports it")
}

fn start_failure(name: &OsString, error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("cannot start `{}`: {}", Path::new(name).display(), humanize::io_error(error));
    Failure::new(code, "program_not_started", message)
}
