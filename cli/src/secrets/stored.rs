//! The secrets in the vault that belong to a repository.

use std::path::Path;

use credentials::CredentialPaths;
use credentials::secrets::RepositorySecrets;
use credentials::vault::{self, Vault};
use protocol::request::DeliverSecretsRequest;

use crate::context::Context;
use crate::exit::Failure;
use crate::manifest_location;
use crate::vault_access::{credential_paths, open_vault, vault_failure};

/// The secrets of the repository, which all its worktrees share. Without git, of the manifest's folder, else of
/// `folder`.
pub(crate) fn repository_scope(folder: &Path) -> RepositorySecrets {
    let without_git =
        || manifest_location::find_above(folder).map_or_else(|| folder.to_owned(), |location| location.folder);
    let path = host::checkout::find_checkout(folder).map_or_else(without_git, |checkout| checkout.common_dir);
    RepositorySecrets::new(&path.canonicalize().unwrap_or(path))
}

/// Those of `names` whose values the vault contains. It reads only names, so it does not need the keyring.
pub(crate) fn find_in_vault(names: &[String], folder: &Path) -> Result<DeliverSecretsRequest, Failure> {
    let scope = repository_scope(folder);
    let mut in_vault = DeliverSecretsRequest { repository: scope.path().display().to_string(), names: Vec::new() };
    if let Some(paths) = CredentialPaths::find().filter(|paths| Vault::exists(&paths.vault())) {
        let stored = scope.names(&paths.vault()).map_err(|problem| vault_failure(&problem))?;
        in_vault.names.extend(names.iter().filter(|name| stored.contains(name)).cloned());
    }
    Ok(in_vault)
}

/// Whether the vault's key is derived from a passphrase. That takes a fifth of a second, which the agent spends only
/// once, so the agent reads the vault. With a keyring this process reads it: it may prompt the user, and it requests
/// the key each time, so a locked keyring also locks the secrets.
pub(crate) fn has_passphrase_key() -> bool {
    let key_store = CredentialPaths::find().and_then(|paths| vault::key_store_of(&paths.vault()).ok().flatten());
    key_store == Some(vault::KeyStore::Passphrase)
}

/// The values of the secrets. This process may prompt the user to unlock the vault.
pub(crate) fn read_from_vault(
    in_vault: &DeliverSecretsRequest,
    context: &Context,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let vault = open_vault(&credential_paths()?, context)?;
    let scope = RepositorySecrets::new(Path::new(&in_vault.repository));
    let mut values = Vec::new();
    for name in &in_vault.names {
        if let Some((secret, _)) = scope.get(&vault, name).map_err(|problem| vault_failure(&problem))? {
            let mut bytes = Vec::new();
            secret.write_to(&mut bytes)?;
            values.push((name.clone(), bytes));
        }
    }
    Ok(values)
}
