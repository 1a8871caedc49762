//! Starts the agent if none listens: spawns it and waits for one line on a pipe. The socket is polled only if another
//! process has started an agent that does not listen yet.
//!
//! The pipe is the standard output of the new process. The agent writes one line, [`READY_WORD`] once it listens or a
//! [`Problem`] as JSON, and then closes the pipe. The agent itself creates its process session (`setsid`).
//!
//! Two locks are involved. The *start lock* belongs to the client that starts an agent; the *agent lock* belongs to the
//! running agent.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protocol::Problem;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::time::Instant;

use crate::connection::{self, Connection};
use crate::error::{ClientError, os_error_message};
use crate::socket_location::SocketLocation;

/// The line that the agent writes once it listens.
pub const READY_WORD: &str = "ready";

/// Limit of the agent's first line: a program that is not an agent could write without end.
const STARTUP_LINE_BYTES_MAX: u64 = 64 << 10;

/// A log that is larger than this is renamed when the next agent is started. A running agent does not rotate its log.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// An agent that holds the agent lock normally listens well within this time. If it does not, the client tries to start
/// an agent again: the holder of the lock may be a killed agent that has not released it yet.
const LISTEN_GRACE: Duration = Duration::from_millis(250);

/// How often a client checks whether the other agent listens: short, because the user is waiting.
const LISTEN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How to start the agent.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    /// The arguments of `program`.
    pub arguments: Vec<String>,
    /// The time for everything from the start lock to the agent's first line.
    pub timeout: Duration,
}

impl Launch {
    /// The current executable, as `agent run --background`.
    ///
    /// # Errors
    /// When the operating system does not return the path of the current executable.
    pub fn this_program() -> Result<Self, ClientError> {
        let program = std::env::current_exe().map_err(|error| ClientError::NotStarted {
            message: format!("cannot determine the path of the pdev executable: {}", os_error_message(&error)),
            hint: None,
            log: None,
        })?;
        let arguments = ["agent", "run", "--background"].map(str::to_owned).to_vec();
        Ok(Self { program, arguments, timeout: Duration::from_secs(5) })
    }
}

/// Connects, and starts an agent if none listens. If two clients start at once, the second client waits until the first
/// one releases the start lock, and then finds the agent of the first one.
pub(crate) async fn open_or_start(
    location: &SocketLocation,
    launch: &Launch,
) -> Result<(Connection, SocketLocation), ClientError> {
    location.prepare_folder()?;
    if let Some(connection) = connection::open(&location.socket_path()).await? {
        return Ok((connection, location.clone()));
    }
    let deadline = Instant::now() + launch.timeout;
    let start_timeout =
        || ClientError::StartTimeout { seconds: launch.timeout.as_secs(), log: Some(location.log_path()) };
    let _start_lock = tokio::time::timeout_at(deadline, acquire_start_lock(location.start_lock_path()))
        .await
        .map_err(|_| start_timeout())??;
    // The client that held the start lock before may have started an agent.
    if let Some(connection) = connection::open(&location.socket_path()).await? {
        return Ok((connection, location.clone()));
    }
    loop {
        match tokio::time::timeout_at(deadline, spawn_agent(location, launch)).await.map_err(|_| start_timeout())? {
            Ok(()) => break,
            // Another agent (started by systemd or by hand) holds the agent lock but does not listen yet, or a killed
            // agent has not released the agent lock yet.
            Err(StartFailure { is_already_running: true, .. }) => {
                let grace_end = deadline.min(Instant::now() + LISTEN_GRACE);
                match tokio::time::timeout_at(grace_end, wait_until_listening(location)).await {
                    Ok(result) => return result,
                    Err(_elapsed) if Instant::now() >= deadline => return Err(start_timeout()),
                    // The agent lock may be free now, so the loop tries to start an agent again.
                    Err(_elapsed) => {}
                }
            }
            Err(StartFailure { error, .. }) => return Err(error),
        }
    }
    let connection = connection::open(&location.socket_path()).await?.ok_or_else(|| ClientError::NotStarted {
        message: format!(
            "the agent reported `{READY_WORD}`, but no process listens on `{}`",
            location.socket_path().display()
        ),
        hint: None,
        log: Some(location.log_path()),
    })?;
    Ok((connection, location.clone()))
}

/// Polls the socket without a limit; the caller sets a timeout.
async fn wait_until_listening(location: &SocketLocation) -> Result<(Connection, SocketLocation), ClientError> {
    let mut tick = tokio::time::interval(LISTEN_POLL_INTERVAL);
    loop {
        tick.tick().await;
        let location = location.running_agent().unwrap_or_else(|| location.clone());
        if let Some(connection) = connection::open(&location.socket_path()).await? {
            return Ok((connection, location));
        }
    }
}

async fn acquire_start_lock(path: PathBuf) -> Result<File, ClientError> {
    // `flock` blocks its thread until the other client releases the lock, so it must not run on an async thread.
    let lock_task = tokio::task::spawn_blocking(move || {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    });
    let lock_error = |message: String| ClientError::NotStarted {
        message: format!("cannot take the start lock: {message}"),
        hint: None,
        log: None,
    };
    match lock_task.await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(lock_error(os_error_message(&error))),
        Err(error) => Err(lock_error(error.to_string())),
    }
}

struct StartFailure {
    is_already_running: bool,
    error: ClientError,
}

async fn spawn_agent(location: &SocketLocation, launch: &Launch) -> Result<(), StartFailure> {
    let failure = |message: String, hint: Option<String>| StartFailure {
        is_already_running: false,
        error: ClientError::NotStarted { message, hint, log: Some(location.log_path()) },
    };
    let log = rotate_and_open_log(&location.log_path())
        .map_err(|error| failure(format!("cannot open its log: {}", os_error_message(&error)), None))?;
    let mut command = Command::new(&launch.program);
    for (name, _value) in std::env::vars_os() {
        if name.to_str().is_some_and(should_not_inherit) {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(&launch.arguments)
        // The caller chooses the location, so it may differ from the one in the environment.
        .env("PDEV_SOCKET_DIR", location.folder())
        // A long-lived process in the user's folder would prevent that file system from being unmounted.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // The agent outlives this command, even if this future is cancelled.
        .kill_on_drop(false)
        .spawn()
        .map_err(|error| failure(format!("`{}`: {}", launch.program.display(), os_error_message(&error)), None))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        let read = BufReader::new(output.take(STARTUP_LINE_BYTES_MAX)).read_line(&mut line).await;
        read.map_err(|error| failure(format!("cannot read its first line: {}", os_error_message(&error)), None))?;
    }
    let line = line.trim();
    if line == READY_WORD {
        return Ok(());
    }
    if line.is_empty() {
        // A program may close its standard output and keep running; the caller's timeout limits this wait.
        let exit_status = match child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => os_error_message(&error),
        };
        return Err(failure(format!("the agent exited without a message ({exit_status})"), None));
    }
    match serde_json::from_str::<Problem>(line) {
        Ok(problem) => {
            let is_already_running = problem.code == "already_running";
            Err(StartFailure { is_already_running, ..failure(problem.title, problem.hint) })
        }
        // The line is no message of an agent. Show it unchanged, because it may name the cause.
        Err(_) => Err(failure(line.to_owned(), None)),
    }
}

/// Whether a variable may contain a secret of the command that starts the agent. Such a secret must not stay in a
/// process that lives for days, nor reach the programs that the agent starts.
///
/// `pdev up` reads secrets from `PDEV_SECRET_*`. `pdev run --in-env` sets the other variables, so that they exist if the
/// program that it runs starts the agent.
fn should_not_inherit(variable: &str) -> bool {
    const EXACT: [&str; 7] = [
        "PDEV_TOKEN",
        "PDEV_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_CREDENTIAL_EXPIRATION",
    ];
    variable.starts_with("PDEV_SECRET_") || EXACT.contains(&variable)
}

fn rotate_and_open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::should_not_inherit;

    #[test]
    fn agent_does_not_inherit_secret_variables() {
        for (variable, is_inherited) in [
            ("PDEV_SECRET_STRIPE_KEY", false),
            ("PDEV_TOKEN", false),
            ("AWS_SESSION_TOKEN", false),
            ("AWS_PROFILE", true),
            ("PDEV_VAULT_PASSPHRASE_FILE", true),
            ("HTTPS_PROXY", true),
        ] {
            assert_eq!(should_not_inherit(variable), !is_inherited, "{variable}");
        }
    }
}
