//! Why a call to a driver failed.

use std::io;

use plan::step::Action;

/// Why a call failed: a kind for decisions, a message for the user, and a hint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub kind: ProblemKind,
    /// Lowercase fragment: "cannot reach the Docker engine at `unix:///var/run/docker.sock`: connection refused".
    pub message: String,
    /// One sentence with the next step to try.
    pub hint: Option<String>,
    /// Output that explains the failure, such as the last lines of a failed build step.
    pub output: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProblemKind {
    /// The runtime cannot be reached (engine stopped, keeper gone). A later retry may succeed.
    Unavailable,
    ImageNotFound,
    PullDenied,
    BuildFailed,
    BuildInputMissing,
    PortTaken,
    ProgramNotFound,
    /// EPERM, EACCES.
    PermissionDenied,
    ReadOnlyFilesystem,
    ExecFormat,
    OutOfMemory,
    DiskFull,
    Timeout,
    NotFound,
    /// The runtime rejects the request, for example a bad raw field or an invalid mount.
    Refused,
    Internal,
}

impl Problem {
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, output: Vec::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn output(mut self, lines: Vec<String>) -> Self {
        self.output = lines;
        self
    }

    /// The step is not for this driver: the agent performs it, or the runtime has other steps for the same purpose.
    #[must_use]
    pub fn unsupported(action: &Action) -> Self {
        Self::new(ProblemKind::Internal, format!("the runtime has no step `{action}`"))
    }

    /// An operating system error; `context` says what failed ("cannot write `PATH`").
    pub fn io(context: impl std::fmt::Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ProblemKind::NotFound,
            io::ErrorKind::PermissionDenied => ProblemKind::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ProblemKind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem => ProblemKind::ReadOnlyFilesystem,
            io::ErrorKind::TimedOut => ProblemKind::Timeout,
            _ => ProblemKind::Internal,
        };
        Self::new(kind, format!("{context}: {error}"))
    }
}
