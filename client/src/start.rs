//! Starts the agent if none listens: spawns it and waits for one line on a pipe, instead of polling the socket.
//!
//! The pipe is the standard output of the new process. The agent writes one line, [`READY_WORD`] once it listens or a
//! [`Problem`] as JSON, and then closes the pipe. The agent itself creates its process session (`setsid`).

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
use crate::error::ClientError;
use crate::socket_location::{SocketLocation, os_error_message};

/// The line that the agent writes once it listens.
pub const READY_WORD: &str = "ready";

/// Limit of the agent's first line: a program that is not an agent could write without end.
const STARTUP_LINE_BYTES_MAX: u64 = 64 * 1024;

/// The log of agents started in the background is rotated at this size.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// An agent that holds its lock listens well within this time. Otherwise it is considered dead, and another is started.
const LISTEN_GRACE: Duration = Duration::from_millis(250);

/// The program to start as the agent.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub deadline: Duration,
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
        Ok(Self { program, arguments, deadline: Duration::from_secs(5) })
    }
}

/// Connects, and starts an agent if none listens. If two clients start at once, the second waits for the first one's
/// lock and then finds its agent.
pub(crate) async fn open_or_start(location: &SocketLocation, launch: &Launch) -> Result<Connection, ClientError> {
    location.prepare_folder()?;
    if let Some(connection) = connection::open(&location.socket_path()).await? {
        return Ok(connection);
    }
    let deadline = Instant::now() + launch.deadline;
    let start_timeout =
        || ClientError::StartTimeout { seconds: launch.deadline.as_secs(), log: Some(location.log_path()) };
    let _lock = tokio::time::timeout_at(deadline, acquire_start_lock(location.start_lock_path()))
        .await
        .map_err(|_| start_timeout())??;
    // The client that held the lock before may have started an agent.
    if let Some(connection) = connection::open(&location.socket_path()).await? {
        return Ok(connection);
    }
    loop {
        match tokio::time::timeout_at(deadline, spawn_agent(location, launch)).await.map_err(|_| start_timeout())? {
            Ok(()) => break,
            // Another agent (started by systemd or by hand) holds the lock but does not listen yet, or a killed agent
            // has not released its lock yet.
            Err(StartFailure { already_running: true, .. }) => {
                let grace_end = deadline.min(Instant::now() + LISTEN_GRACE);
                match tokio::time::timeout_at(grace_end, wait_until_listening(location)).await {
                    Ok(connection) => return connection,
                    Err(_) if Instant::now() >= deadline => return Err(start_timeout()),
                    Err(_) => {}
                }
            }
            Err(StartFailure { error, .. }) => return Err(error),
        }
    }
    connection::open(&location.socket_path()).await?.ok_or_else(|| ClientError::NotStarted {
        message: format!(
            "it reported `{READY_WORD}`, but no process listens on `{}`",
            location.socket_path().display()
        ),
        hint: None,
        log: Some(location.log_path()),
    })
}

/// Polls the socket. Used only while another agent holds its lock but does not listen yet; the caller sets the limit.
async fn wait_until_listening(location: &SocketLocation) -> Result<Connection, ClientError> {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tick.tick().await;
        if let Some(connection) = connection::open(&location.socket_path()).await? {
            return Ok(connection);
        }
    }
}

async fn acquire_start_lock(path: PathBuf) -> Result<File, ClientError> {
    // `flock` blocks the thread until the other client releases the lock.
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
    already_running: bool,
    error: ClientError,
}

async fn spawn_agent(location: &SocketLocation, launch: &Launch) -> Result<(), StartFailure> {
    let failure = |message: String, hint: Option<String>| StartFailure {
        already_running: false,
        error: ClientError::NotStarted { message, hint, log: Some(location.log_path()) },
    };
    let log = open_log(&location.log_path())
        .map_err(|error| failure(format!("cannot open its log: {}", os_error_message(&error)), None))?;
    let mut command = Command::new(&launch.program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(should_not_inherit)) {
        command.env_remove(name);
    }
    let mut child = command
        .args(&launch.arguments)
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
        read.map_err(|error| failure(os_error_message(&error), None))?;
    }
    let line = line.trim();
    if line == READY_WORD {
        return Ok(());
    }
    if line.is_empty() {
        // A program may close its standard output and keep running; the caller's timeout limits this wait.
        let exit_status = child.wait().await.map(|status| status.to_string());
        return Err(failure(format!("it exited without a message ({})", exit_status.unwrap_or_default()), None));
    }
    match serde_json::from_str::<Problem>(line) {
        Ok(problem) => {
            let already_running = problem.code == "already_running";
            Err(StartFailure { already_running, ..failure(problem.title, problem.hint) })
        }
        Err(_) => Err(failure(line.to_owned(), None)),
    }
}

/// Secrets of one command must not stay in a process that lives for days, nor reach the programs that it starts. They
/// are the secrets of an `up`, and the credentials that `pdev run --in-env` puts into a program's environment.
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

fn open_log(path: &Path) -> std::io::Result<File> {
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
