//! Where leases come from. Each source is asked through [`lease`]; what a person has to do once stands in `login`.

mod exec;
mod fixed;

use std::time::Duration;

use crate::identity::Identity;
use crate::lease::Lease;
use crate::vault::{Vault, VaultProblem};

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceProblem {
    /// A person has to sign in (again).
    #[error("{0}")]
    NeedsLogin(String),
    /// Worth trying again: the network, an overloaded server.
    #[error("{0}")]
    Passing(String),
    /// Trying again gives the same answer.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Vault(#[from] VaultProblem),
}

/// What a source may use.
pub(crate) struct Means<'a> {
    /// Absent for sources that keep nothing.
    pub vault: Option<&'a Vault>,
    pub now: i64,
}

impl<'a> Means<'a> {
    fn vault(&self) -> Result<&'a Vault, SourceProblem> {
        self.vault.ok_or_else(|| SourceProblem::Refused("the vault is not open".to_owned()))
    }
}

/// Whether the next lease comes without a person, once one has signed in.
pub(crate) fn needs_vault(identity: &Identity) -> bool {
    identity.needs_login()
}

pub(crate) async fn lease(identity: &Identity, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    match identity.kind {
        "exec" => exec::lease(identity, means.now).await,
        "static" => fixed::lease(identity, means),
        other => Err(SourceProblem::Refused(format!("the source `{other}` cannot be used yet"))),
    }
}

/// Longest time any source may take; beyond it the asker is told so.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) use fixed::keep as keep_static;

/// Where the vault keeps what a person signed in with.
pub(crate) fn login_item(identity: &Identity) -> String {
    fixed::item(&identity.name)
}
