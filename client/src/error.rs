//! Errors of a call: the agent cannot be reached, or it rejects the request. Each error has a hint.

use std::path::PathBuf;

use protocol::Problem;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot use the socket folder `{}`: {message}", folder.display())]
    UnusableFolder { folder: PathBuf, message: String },

    #[error(
        "`PDEV_SOCKET_DIR` is `{}`, but the agent of this user's state listens in `{}`",
        chosen.display(),
        running.display()
    )]
    OtherSocketFolder { chosen: PathBuf, running: PathBuf },

    /// No agent listens, and the caller did not request a start.
    #[error("the agent is not running")]
    NotRunning { socket: PathBuf },

    #[error("cannot connect to the agent at `{}`: {message}", socket.display())]
    Denied { socket: PathBuf, message: String, denial: Denial },

    #[error("the agent's socket `{}` belongs to uid `{uid}`, not to you", socket.display())]
    ForeignPeer { socket: PathBuf, uid: u32 },

    /// The new agent reported a problem, or exited without a message.
    #[error("the agent did not start: {message}")]
    NotStarted { message: String, hint: Option<String>, log: Option<PathBuf> },

    #[error("the agent was started but did not listen within {seconds} s")]
    StartTimeout { seconds: u64, log: Option<PathBuf> },

    #[error(
        "the running agent is older: it is pdev {version}, protocol {agent_protocol}; this command speaks protocol {client_protocol}"
    )]
    AgentOlder { version: String, agent_protocol: u32, client_protocol: u32 },

    #[error(
        "the running agent is newer: it is pdev {version}, protocol {agent_protocol}; this command speaks protocol {client_protocol}"
    )]
    AgentNewer { version: String, agent_protocol: u32, client_protocol: u32 },

    /// The agent rejected the request.
    #[error("{0}")]
    Problem(Box<Problem>),

    /// The connection broke during a reply, usually because the agent was stopped or killed.
    #[error("the connection to the agent broke: {0}")]
    ConnectionBroken(String),

    #[error("the agent did not answer within {seconds} s")]
    Timeout { seconds: u64 },

    #[error("the agent sent an invalid reply: {0}")]
    InvalidReply(String),
}

/// Cause of a denied connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// EPERM, or EACCES in the user's own folder: a sandbox (seccomp, Landlock, Seatbelt) forbids unix sockets.
    Sandbox,
    /// Any other error of the operating system.
    Other,
}

impl ClientError {
    /// What to do next: one complete sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnusableFolder { .. } => Some(
                "Remove or repair that folder (`chmod 700`), or set `PDEV_SOCKET_DIR` to another folder.".to_owned(),
            ),
            Self::OtherSocketFolder { .. } => Some(
                "Unset `PDEV_SOCKET_DIR`. For a second agent, set `XDG_STATE_HOME` and `XDG_DATA_HOME` to other folders too."
                    .to_owned(),
            ),
            Self::NotRunning { .. } => Some("Run `pdev up` to start it.".to_owned()),
            Self::Denied { denial: Denial::Sandbox, socket, .. } => Some(format!(
                "A sandbox seems to forbid unix sockets: allow `{}` in its settings, or run this command outside the sandbox.",
                socket.display()
            )),
            Self::Denied { .. } | Self::ConnectionBroken(_) => {
                Some("Run `pdev doctor` and `pdev agent logs` to find the cause.".to_owned())
            }
            Self::ForeignPeer { .. } => Some("Set `PDEV_SOCKET_DIR` to a folder that you own.".to_owned()),
            Self::NotStarted { hint: Some(hint), .. } => Some(hint.clone()),
            Self::NotStarted { log, .. } | Self::StartTimeout { log, .. } => Some(match log {
                Some(log) => {
                    format!("Read `{}`, or run `pdev agent run` to start it in the foreground.", log.display())
                }
                None => "Run `pdev agent run` to start it in the foreground.".to_owned(),
            }),
            Self::AgentOlder { .. } => Some(
                "Run `pdev agent stop` and try again: the next command starts this version, and previews keep running."
                    .to_owned(),
            ),
            Self::AgentNewer { .. } => {
                Some("Install that version of pdev: this version does not support its protocol.".to_owned())
            }
            Self::Problem(problem) => problem.hint.clone(),
            Self::Timeout { .. } => {
                Some("Read `pdev agent logs`, and run `pdev agent stop` if the agent hangs.".to_owned())
            }
            Self::InvalidReply(_) => {
                Some("Run `pdev agent status` and compare its version with `pdev --version`.".to_owned())
            }
        }
    }

    /// The problem's HTTP status if the agent answered, so that callers can recognise "no such preview".
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }
}

/// The operating system's message, in lower case and without Rust's "(os error 13)".
pub(crate) fn os_error_message(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let mut text = text[..end].to_owned();
    if let Some(first) = text.get(..1).map(str::to_lowercase) {
        text.replace_range(..1, &first);
    }
    text
}
