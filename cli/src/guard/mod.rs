//! The two processes above a coding agent's session: `pdev session run`, and below it the guard, which starts the program.
//!
//! Each adopts what is let go below it, and ends it all when the other one is gone, so that killing either leaves no
//! program that nobody can tell from a person's own. What the session may have is the background agent's to decide.

mod descendants;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use client::{Client, SocketLocation};
use protocol::session::{SessionRequest, SessionView};
use rustix::process::{Pid, Signal, WaitStatus, getppid, kill_process};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::context::Context;
use crate::exit::{EXEC_FAILED, Failure, INTERRUPTED, Outcome};
use crate::humanize;
use crate::render::terminal::{Color, Terminal};

/// The first argument of the guard; no command of this name exists.
pub(crate) const SUBCOMMAND: &str = agent::sessions::GUARD_COMMAND;
/// Names the session for its programs. Nothing is decided by it.
pub(crate) const SESSION_VARIABLE: &str = "PDEV_SESSION";

/// The client's own limits are below it.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What the guard is told: the wish, and whether it is to be quiet.
#[derive(serde::Serialize, serde::Deserialize)]
struct GuardOptions {
    request: SessionRequest,
    quiet: bool,
}

/// How it ended, as a shell tells it.
fn exit_code(status: WaitStatus) -> u8 {
    let signalled = || status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or_else(signalled).unwrap_or_default();
    u8::try_from(code).unwrap_or(EXEC_FAILED)
}

struct SignalStreams {
    children: Signals,
    terminate: Signals,
    hangup: Signals,
    /// Meant for the program, which has the terminal as well; these two only must not end of them.
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

    /// The child's end, or `None` when this process is told to end. `late` is called once, after `time`.
    async fn wait_for_child(&mut self, child: Pid, time: Option<Duration>, late: impl FnOnce()) -> Option<WaitStatus> {
        let far = time.unwrap_or(Duration::MAX);
        let over = tokio::time::sleep(far);
        tokio::pin!(over);
        let mut late = time.map(|_| late);
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
                () = &mut over, if late.is_some() => if let Some(late) = late.take() { late() },
            }
        }
    }
}

fn become_subreaper() {
    #[cfg(target_os = "linux")]
    let _kernels_since_3_4_can = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

fn pid_of(child: &std::process::Child) -> Result<Pid, Failure> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::failed("the program has no process number"))
}

/// Starts the guard and stays above it.
pub(crate) fn run_guarded(wish: SessionRequest, program: &[OsString], context: &Context) -> Outcome {
    let order = serde_json::to_string(&GuardOptions { request: wish, quiet: context.quiet });
    let order = order.map_err(|error| Failure::failed(error.to_string()))?;
    let own = std::env::current_exe()?;
    Context::block_on(async {
        start_detached_agent(&own).await;
        drop(Context::connect().await?);
        let mut waits = SignalStreams::new()?;
        become_subreaper();
        let mut guard = Command::new(own);
        let guard = guard.args([SUBCOMMAND, &order]).args(program).current_dir(&context.folder).spawn()?;
        let guard = pid_of(&guard)?;
        let mut ended = waits.wait_for_child(guard, None, || {}).await;
        if ended.is_none() {
            let _gone_is_fine = kill_process(guard, Signal::TERM);
            ended = waits.wait_for_child(guard, None, || {}).await;
        }
        // The guard ends them itself, unless it was killed.
        descendants::terminate_all(guard, &mut waits.children).await;
        Ok(ended.map_or(INTERRUPTED, exit_code))
    })
}

/// By a program that ends at once. An agent below this process would end with the session, and people's previews with it.
async fn start_detached_agent(own: &Path) {
    if Client::connect(&SocketLocation::from_environment()).await.is_ok() {
        return;
    }
    let mut starter = tokio::process::Command::new(own);
    starter.args(["session", "list"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Why there is none is told by the connection that follows.
    drop(tokio::time::timeout(START_TIMEOUT, starter.kill_on_drop(true).status()).await);
}

/// The guard's own life. Arguments: the order, then the program.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let terminal = Terminal::new(Color::Auto);
    let mut arguments = arguments.into_iter();
    let order = arguments.next().and_then(|text| serde_json::from_str::<GuardOptions>(text.to_str()?).ok());
    let Some(order) = order else {
        terminal.eprint_line("this is a part of `pdev session run`");
        return crate::exit::INVALID_INPUT;
    };
    let program: Vec<OsString> = arguments.collect();
    match run_session(&order, &program, &terminal) {
        Ok(code) => code,
        Err(failure) => {
            crate::print_failure(&failure, &terminal, false);
            failure.exit_code
        }
    }
}

fn run_session(order: &GuardOptions, program: &[OsString], terminal: &Terminal) -> Outcome {
    let Some((name, arguments)) = program.split_first() else {
        return Err(Failure::invalid_input("no program is given"));
    };
    Context::block_on(async {
        let mut waits = SignalStreams::new()?;
        terminate_with_parent()?;
        become_subreaper();
        let session = Context::connect().await?.begin_session(&order.request).await?;
        if !order.quiet {
            terminal.eprint_line(&format!("session {} ({}): {}", session.name, session.id, describe_session(&session)));
        }
        let mut started = Command::new(name);
        let child = match started.args(arguments).env(SESSION_VARIABLE, &session.id).spawn() {
            Ok(child) => pid_of(&child)?,
            Err(error) => return Err(start_failure(name, &error)),
        };
        let left = session.until.saturating_sub(humanize::now_milliseconds());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        let late = || {
            terminal.eprint_line(&format!(
                "the time of the session {} is over: its programs go on, and are given no credentials any more",
                session.name
            ));
        };
        let ended = waits.wait_for_child(child, Some(left), late).await;
        descendants::terminate_all(child, &mut waits.children).await;
        Ok(ended.map_or(128 + 15, exit_code))
    })
}

/// Told to end when the process above is gone, even if that was killed.
fn terminate_with_parent() -> Result<(), Failure> {
    let parent = getppid();
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::failed(humanize::io_error(&error.into())))?;
    // It may have gone before that.
    if getppid() == parent { Ok(()) } else { Err(Failure::failed("what started this is gone")) }
}

fn describe_session(session: &SessionView) -> String {
    let minutes = humanize::duration(u64::try_from(session.until - session.begun_at).unwrap_or_default());
    let which = match session.identities.as_slice() {
        [] => "identities that are not production".to_owned(),
        names => names.join(", "),
    };
    format!("for {minutes}, {which}, read-only where their source can say so")
}

fn start_failure(name: &OsString, error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("cannot start `{}`: {}", Path::new(name).display(), humanize::io_error(error));
    Failure::new(code, "program_not_started", message)
}
