//! The login keychain of macOS. Written against its documentation and compiled for it; it has not run on a Mac yet.

use security_framework::base::Error;
use security_framework::os::macos::keychain::SecKeychain;
use security_framework::passwords::{get_generic_password, set_generic_password};
use zeroize::Zeroizing;

use super::key_store::{KeyStore, decode_key, encode_key};
use super::{DataKey, VaultOptions, VaultProblem};

const KEY_STORE: KeyStore = KeyStore::Keychain;
const SERVICE: &str = "pdev";
/// SecBase.h: no such item; the person said no; a question would be needed and none may be asked; refused; no keychain.
const ITEM_NOT_FOUND: i32 = -25300;
const USER_CANCELED: i32 = -128;
const INTERACTION_NOT_ALLOWED: i32 = -25308;
const AUTH_FAILED: i32 = -25293;
const NO_SUCH_KEYCHAIN: i32 = -25294;
const NO_DEFAULT_KEYCHAIN: i32 = -25307;

pub(super) async fn get(id: &str, choice: &VaultOptions) -> Result<Option<DataKey>, VaultProblem> {
    let account = id.to_owned();
    let found = call_keychain(choice, move || get_generic_password(SERVICE, &account).map(Zeroizing::new)).await?;
    match found {
        Ok(text) => decode_key(&text).map(Some).ok_or(VaultProblem::WrongKey(KEY_STORE)),
        Err(error) if error.code() == ITEM_NOT_FOUND => Ok(None),
        Err(error) => Err(to_vault_problem(&error)),
    }
}

pub(super) async fn set(id: &str, key: &DataKey, choice: &VaultOptions) -> Result<(), VaultProblem> {
    let (account, text) = (id.to_owned(), encode_key(key));
    let kept = call_keychain(choice, move || set_generic_password(SERVICE, &account, text.as_bytes())).await?;
    kept.map_err(|error| to_vault_problem(&error))
}

/// The calls block, while a person is asked too; a thread that is left behind then ends with the process.
async fn call_keychain<T: Send + 'static>(
    choice: &VaultOptions,
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Result<T, Error>, VaultProblem> {
    let can_prompt = choice.can_prompt;
    let limit = if can_prompt { choice.prompt_timeout } else { choice.timeout };
    let quiet = move || {
        // Held while asking: an agent opens no window that nobody expects.
        let _silence = if can_prompt { None } else { SecKeychain::disable_user_interaction().ok() };
        call()
    };
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(quiet)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(VaultProblem::KeyStoreFailed { key_store: KEY_STORE, reason: error.to_string() }),
        Err(_) => Err(VaultProblem::KeyStoreTimeout { key_store: KEY_STORE, seconds: limit.as_secs() }),
    }
}

fn to_vault_problem(error: &Error) -> VaultProblem {
    match error.code() {
        USER_CANCELED | INTERACTION_NOT_ALLOWED => VaultProblem::Locked(KEY_STORE),
        AUTH_FAILED => VaultProblem::Denied { key_store: KEY_STORE, reason: error.to_string() },
        NO_SUCH_KEYCHAIN | NO_DEFAULT_KEYCHAIN => {
            VaultProblem::KeyStoreUnavailable("there is no login keychain".to_owned())
        }
        _ => VaultProblem::KeyStoreFailed { key_store: KEY_STORE, reason: error.to_string() },
    }
}
