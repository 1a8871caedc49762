//! The exit codes of commands (docs/exit-codes.md), and their failures.

use client::ClientError;
use protocol::Problem;

pub(crate) const OK: u8 = 0;
/// The operation failed.
pub(crate) const FAILED: u8 = 1;
/// A wrong manifest or a wrong command line; nothing was changed.
pub(crate) const INVALID_INPUT: u8 = 2;
/// The agent could not be reached or started.
pub(crate) const UNREACHABLE: u8 = 3;
/// No such preview, unit, code or field.
pub(crate) const NOT_FOUND: u8 = 4;
pub(crate) const TIMEOUT: u8 = 124;
/// `exec`: pdev itself failed, not the command.
pub(crate) const EXEC_FAILED: u8 = 125;
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit code of a command, or the failure that ended it.
pub(crate) type Outcome = Result<u8, Failure>;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit_code: u8,
    /// `--json` prints it unchanged; otherwise it is rendered as text.
    pub(crate) problem: Box<Problem>,
}

impl Failure {
    pub(crate) fn new(exit_code: u8, code: &str, message: impl Into<String>) -> Self {
        Self { exit_code, problem: Box::new(Problem::new(code, 0, message)) }
    }

    pub(crate) fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(INVALID_INPUT, "usage", message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, "failed", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, "not_found", message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = error.hint();
        if let ClientError::Problem(problem) = error {
            return Self { exit_code: exit_code_of(&problem), problem };
        }
        let exit_code = if matches!(error, ClientError::Timeout { .. }) { TIMEOUT } else { UNREACHABLE };
        let mut problem = Problem::new("agent_unreachable", 0, error.to_string());
        problem.hint = hint;
        Self { exit_code, problem: Box::new(problem) }
    }
}

fn exit_code_of(problem: &Problem) -> u8 {
    match problem.status {
        404 => NOT_FOUND,
        400 | 422 => INVALID_INPUT,
        408 | 504 => TIMEOUT,
        _ if problem.diagnostics.iter().any(|diagnostic| diagnostic.severity == "error") => INVALID_INPUT,
        _ => FAILED,
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(crate::humanize::io_error(&error))
    }
}
