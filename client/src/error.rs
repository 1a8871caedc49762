//! Why the agent could not be reached or did not do what was asked, each with the way out.

use std::path::PathBuf;

use protocol::Problem;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot use the socket folder `{}`: {message}", folder.display())]
    UnusableFolder { folder: PathBuf, message: String },

    /// Nobody listens, and the caller did not ask to start an agent.
    #[error("the agent is not running")]
    NotRunning { socket: PathBuf },

    #[error("cannot connect to the agent at `{}`: {message}", socket.display())]
    Denied { socket: PathBuf, message: String, denial: Denial },

    #[error("the agent's socket `{}` is held by uid `{uid}`, not by you", socket.display())]
    ForeignPeer { socket: PathBuf, uid: u32 },

    /// The agent was started and said why it cannot go on, or ended without a word.
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

    /// The agent answered, and said no.
    #[error("{0}")]
    Problem(Box<Problem>),

    /// The connection broke in the middle of an answer: most often the agent was stopped or killed.
    #[error("the connection to the agent broke: {0}")]
    ConnectionBroken(String),

    #[error("the agent did not answer within {seconds} s")]
    Timeout { seconds: u64 },

    #[error("the agent gave an answer that is not understood: {0}")]
    InvalidReply(String),
}

/// Who stood in the way of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// EPERM, or EACCES on our own folder: a sandbox (seccomp, Landlock, Seatbelt) forbids unix sockets.
    Sandbox,
    /// Anything else of the operating system.
    Other,
}

impl ClientError {
    /// One whole sentence: the next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnusableFolder { .. } => Some(
                "Remove or repair that folder (`chmod 700`), or name another one in `PDEV_SOCKET_DIR`.".to_owned(),
            ),
            Self::NotRunning { .. } => Some("`pdev up` starts it.".to_owned()),
            Self::Denied { denial: Denial::Sandbox, socket, .. } => Some(format!(
                "A sandbox seems to forbid unix sockets: allow `{}` in its settings, or run this command outside of it.",
                socket.display()
            )),
            Self::Denied { .. } | Self::ConnectionBroken(_) => Some("Look at `pdev doctor` and `pdev agent logs`.".to_owned()),
            Self::ForeignPeer { .. } => Some("Name a folder of your own in `PDEV_SOCKET_DIR`.".to_owned()),
            Self::NotStarted { hint: Some(hint), .. } => Some(hint.clone()),
            Self::NotStarted { log, .. } | Self::StartTimeout { log, .. } => Some(match log {
                Some(log) => format!("Read `{}`, or run `pdev agent run` to see it start.", log.display()),
                None => "Run `pdev agent run` to see it start.".to_owned(),
            }),
            Self::AgentOlder { .. } => Some(
                "Run `pdev agent stop` and try again: the next command starts this version, and previews go on running."
                    .to_owned(),
            ),
            Self::AgentNewer { .. } => Some("Install that version of pdev: this one cannot speak to it.".to_owned()),
            Self::Problem(problem) => problem.hint.clone(),
            Self::Timeout { .. } => {
                Some("Look at `pdev agent logs`; `pdev agent stop` ends an agent that hangs.".to_owned())
            }
            Self::InvalidReply(_) => Some("Look at `pdev agent status`: is it the same version?".to_owned()),
        }
    }

    /// The problem's status when the agent answered, so that callers can tell "no such preview" from the rest.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// The agent is gone or cannot be reached, in contrast to one that said no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        !matches!(self, Self::Problem(_))
    }
}
