//! The problems of sources and of the broker. They are below both, because sources use credentials of other identities.

use crate::vault::VaultProblem;

/// The reason why there is no lease. `code` is for programs, `message` and `hint` are for users.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerProblem {
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// The identity that the user must sign in to.
    pub login_identity: Option<String>,
}

impl BrokerProblem {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: Some(hint.into()), login_identity: None }
    }
}

impl From<VaultProblem> for BrokerProblem {
    fn from(problem: VaultProblem) -> Self {
        Self { code: problem.code(), message: problem.to_string(), hint: problem.hint(), login_identity: None }
    }
}

/// The reason why a source provided no lease.
#[derive(Debug, thiserror::Error)]
pub enum SourceProblem {
    /// The user must sign in (again).
    #[error("{0}")]
    NeedsLogin(String),
    /// A retry may help: the network, an overloaded server.
    #[error("{0}")]
    Transient(String),
    /// A retry gives the same result.
    #[error("{0}")]
    Refused(String),
    /// The user did not complete a step, or not in time. A new login may succeed.
    #[error("{0}")]
    NotCompleted(String),
    /// The identity that this one is built on failed.
    #[error(transparent)]
    BaseIdentity(#[from] BrokerProblem),
    /// Already a complete error with its fix.
    #[error(transparent)]
    Described(BrokerProblem),
    #[error(transparent)]
    Vault(#[from] VaultProblem),
}
