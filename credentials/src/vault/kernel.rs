//! The Linux kernel's user keyring (keyrings(7)). It needs no service, but loses its keys at a reboot.

use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use zeroize::Zeroizing;

use super::key_store::{KeyStore, decode_key, encode_key};
use super::{DataKey, VaultProblem};

pub(super) fn get(id: &str) -> Result<Option<DataKey>, VaultProblem> {
    let key = match user_keyring().and_then(|ring| ring.search(&description(id))) {
        Ok(key) => key,
        Err(error) if is_gone(error) => return Ok(None),
        Err(error) => return Err(to_vault_problem(error)),
    };
    let text = Zeroizing::new(key.read_to_vec().map_err(to_vault_problem)?);
    decode_key(&text).map(Some).ok_or(VaultProblem::WrongKey(KeyStore::Kernel))
}

pub(super) fn set(id: &str, key: &DataKey) -> Result<(), VaultProblem> {
    let store = || -> Result<Key, KeyError> {
        let key = user_keyring()?.add_key(&description(id), encode_key(key).as_str())?;
        // A session without a link to the user keyring does not possess the key. The permissions of the user allow it
        // to read the key.
        let permissions = KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(Permission::ALL).build();
        key.set_perms(permissions)?;
        Ok(key)
    };
    store().map(drop).map_err(to_vault_problem)
}

fn user_keyring() -> Result<KeyRing, KeyError> {
    // A link from the session keyring gives possession. It may already exist, or not be allowed, so errors are ignored.
    if let Ok(session) = KeyRing::from_special_id(KeyRingIdentifier::Session, false) {
        let _linked = session.link_keyring_id(KeyRingIdentifier::User);
    }
    KeyRing::from_special_id(KeyRingIdentifier::User, true)
}

fn description(id: &str) -> String {
    format!("pdev:vault:{id}")
}

fn is_gone(error: KeyError) -> bool {
    matches!(error, KeyError::KeyDoesNotExist | KeyError::KeyExpired | KeyError::KeyRevoked)
}

fn to_vault_problem(error: KeyError) -> VaultProblem {
    let key_store = KeyStore::Kernel;
    match error {
        KeyError::AccessDenied | KeyError::PermissionDenied => {
            VaultProblem::Denied { key_store, reason: error.to_string() }
        }
        KeyError::QuotaExceeded => VaultProblem::KeyStoreFull(key_store),
        KeyError::OperationNotSupported => VaultProblem::KeyStoreUnavailable("this kernel has no keyrings".to_owned()),
        _ => VaultProblem::KeyStoreFailed { key_store, reason: error.to_string() },
    }
}
