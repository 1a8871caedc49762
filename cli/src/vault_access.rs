//! Finds and opens the user's vault.

use credentials::CredentialPaths;
use credentials::vault::{Vault, VaultOptions, VaultProblem};

use crate::context::Context;
use crate::exit::{self, Failure};

pub(crate) fn credential_paths() -> Result<CredentialPaths, Failure> {
    CredentialPaths::find()
        .ok_or_else(|| Failure::failed("no home folder is set").hint("Set HOME, or XDG_CONFIG_HOME and XDG_DATA_HOME."))
}

/// Opens the vault, or creates it. On a terminal, a locked keyring may prompt the user.
pub(crate) fn open_vault(paths: &CredentialPaths, context: &Context) -> Result<Vault, Failure> {
    let mut options = VaultOptions::from_environment().map_err(|problem| vault_failure(&problem))?;
    options.can_prompt = context.terminal.is_interactive;
    Context::block_on_value(Vault::open(&paths.vault(), &options))?.map_err(|problem| vault_failure(&problem))
}

pub(crate) fn vault_failure(problem: &VaultProblem) -> Failure {
    let failure = Failure::new(exit::FAILED, problem.code(), problem.to_string());
    match problem.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
