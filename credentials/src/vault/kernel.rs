//! The Linux kernel's user keyring (keyrings(7)): fast and needs nothing, but forgets at a reboot.

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
        // A session without a link to the user's keyring does not possess the key; the user's own bits let it read.
        let permissions = KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(Permission::ALL).build();
        key.set_perms(permissions)?;
        Ok(key)
    };
    store().map(drop).map_err(to_vault_problem)
}

fn user_keyring() -> Result<KeyRing, KeyError> {
    // Possession comes by a link from the session's keyring; it may be there already, or not be allowed.
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
    let holder = KeyStore::Kernel;
    match error {
        KeyError::AccessDenied | KeyError::PermissionDenied => {
            VaultProblem::Denied { key_store: holder, reason: error.to_string() }
        }
        KeyError::QuotaExceeded => VaultProblem::KeyStoreFull(holder),
        KeyError::OperationNotSupported => VaultProblem::KeyStoreUnavailable("this kernel has no keyrings".to_owned()),
        _ => VaultProblem::KeyStoreFailed { key_store: holder, reason: error.to_string() },
    }
}
