//! Starting the agent when nobody listens: spawn it, and wait for its one word on a pipe instead of polling.
//!
//! The pipe is the new process's standard output. It writes one line there, [`READY_WORD`] once it listens or a
//! [`Problem`] as JSON, and then lets go of it. Putting itself into a session of its own is the agent's part.

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

/// What the agent writes, with a line feed, once it listens.
pub const READY_WORD: &str = "ready";

/// An agent's words are cut here: a program that is no agent could write for ever.
const STARTUP_LINE_BYTES_MAX: u64 = 64 * 1024;

/// The log of agents started in the background is set aside once it is this long.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// An agent that has its lock listens long before; after this time it is dead, and another one is started.
const LISTEN_GRACE: Duration = Duration::from_millis(250);

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub deadline: Duration,
}

impl Launch {
    /// This very program as `agent run --background`.
    ///
    /// # Errors
    /// When the operating system does not tell which program runs.
    pub fn this_program() -> Result<Self, ClientError> {
        let program = std::env::current_exe().map_err(|error| ClientError::NotStarted {
            message: format!("cannot tell which program this is: {}", os_error_message(&error)),
            hint: None,
            log: None,
        })?;
        let arguments = ["agent", "run", "--background"].map(str::to_owned).to_vec();
        Ok(Self { program, arguments, deadline: Duration::from_secs(5) })
    }
}

/// Connects, starting an agent if nobody listens. Of two clients that start at once the second waits for the first
/// one's lock and finds its agent.
pub(crate) async fn open_or_start(place: &SocketLocation, launch: &Launch) -> Result<Connection, ClientError> {
    place.prepare_folder()?;
    if let Some(connection) = connection::open(&place.socket_path()).await? {
        return Ok(connection);
    }
    let deadline = Instant::now() + launch.deadline;
    let late = || ClientError::StartTimeout { seconds: launch.deadline.as_secs(), log: Some(place.log_path()) };
    let _lock =
        tokio::time::timeout_at(deadline, acquire_start_lock(place.start_lock_path())).await.map_err(|_| late())??;
    if let Some(connection) = connection::open(&place.socket_path()).await? {
        return Ok(connection);
    }
    loop {
        match tokio::time::timeout_at(deadline, spawn_agent(place, launch)).await.map_err(|_| late())? {
            Ok(()) => break,
            // Somebody else's agent (systemd's, or one started by hand) is between its lock and its socket, or one that was
            // killed has not let go of its lock yet.
            Err(StartFailure { already_running: true, .. }) => {
                let soon = deadline.min(Instant::now() + LISTEN_GRACE);
                match tokio::time::timeout_at(soon, wait_until_listening(place)).await {
                    Ok(connection) => return connection,
                    Err(_) if Instant::now() >= deadline => return Err(late()),
                    Err(_) => {}
                }
            }
            Err(StartFailure { error, .. }) => return Err(error),
        }
    }
    connection::open(&place.socket_path()).await?.ok_or_else(|| ClientError::NotStarted {
        message: format!("it said `{READY_WORD}`, but nobody listens on `{}`", place.socket_path().display()),
        hint: None,
        log: Some(place.log_path()),
    })
}

/// Only reached in the instant between another agent's lock and its listening; the caller bounds it.
async fn wait_until_listening(place: &SocketLocation) -> Result<Connection, ClientError> {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        let _now = tick.tick().await;
        if let Some(connection) = connection::open(&place.socket_path()).await? {
            return Ok(connection);
        }
    }
}

async fn acquire_start_lock(path: PathBuf) -> Result<File, ClientError> {
    let locked = tokio::task::spawn_blocking(move || {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(file)
    });
    let failed =
        |words: String| ClientError::NotStarted { message: format!("the start lock: {words}"), hint: None, log: None };
    match locked.await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(failed(os_error_message(&error))),
        Err(error) => Err(failed(error.to_string())),
    }
}

struct StartFailure {
    already_running: bool,
    error: ClientError,
}

async fn spawn_agent(place: &SocketLocation, launch: &Launch) -> Result<(), StartFailure> {
    let refuse = |words: String, hint: Option<String>| StartFailure {
        already_running: false,
        error: ClientError::NotStarted { message: words, hint, log: Some(place.log_path()) },
    };
    let log =
        open_log(&place.log_path()).map_err(|error| refuse(format!("its log: {}", os_error_message(&error)), None))?;
    let mut command = Command::new(&launch.program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(should_not_inherit)) {
        command.env_remove(name);
    }
    // Not the user's folder: an agent that stays there would keep it from being unmounted.
    let mut child = command
        .args(&launch.arguments)
        .env("PDEV_SOCKET_DIR", place.folder())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(false)
        .spawn()
        .map_err(|error| refuse(format!("`{}`: {}", launch.program.display(), os_error_message(&error)), None))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        let read = BufReader::new(output.take(STARTUP_LINE_BYTES_MAX)).read_line(&mut line).await;
        read.map_err(|error| refuse(os_error_message(&error), None))?;
    }
    let line = line.trim();
    if line == READY_WORD {
        return Ok(());
    }
    if line.is_empty() {
        let ended = child.wait().await.map(|status| status.to_string());
        return Err(refuse(format!("it ended without a word ({})", ended.unwrap_or_default()), None));
    }
    match serde_json::from_str::<Problem>(line) {
        Ok(problem) => {
            let already_running = problem.code == "already_running";
            Err(StartFailure { already_running, ..refuse(problem.title, problem.hint) })
        }
        Err(_) => Err(refuse(line.to_owned(), None)),
    }
}

/// What was given to one command must not stay in a process of days, nor end up in what that one starts: secrets of an
/// `up`, and what `pdev run --in-env` puts into a program's environment.
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
        for (variable, kept) in [
            ("PDEV_SECRET_STRIPE_KEY", false),
            ("PDEV_TOKEN", false),
            ("AWS_SESSION_TOKEN", false),
            ("AWS_PROFILE", true),
            ("PDEV_VAULT_PASSPHRASE_FILE", true),
            ("HTTPS_PROXY", true),
        ] {
            assert_eq!(should_not_inherit(variable), !kept, "{variable}");
        }
    }
}
