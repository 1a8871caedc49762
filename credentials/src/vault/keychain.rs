//! The login keychain of macOS. This code was written from its documentation and compiled, but has not run on a Mac
//! yet.

use security_framework::base::Error;
use security_framework::os::macos::keychain::SecKeychain;
use security_framework::passwords::{get_generic_password, set_generic_password};
use zeroize::Zeroizing;

use super::key_store::{KeyStore, decode_key, encode_key};
use super::{DataKey, VaultOptions, VaultProblem};

const KEY_STORE: KeyStore = KeyStore::Keychain;
const SERVICE: &str = "pdev";
/// Codes of SecBase.h, in this order: no such item; the user cancelled; a prompt is needed but not allowed; access
/// refused; no such keychain; no default keychain.
const ITEM_NOT_FOUND: i32 = -25300;
const USER_CANCELED: i32 = -128;
const INTERACTION_NOT_ALLOWED: i32 = -25308;
const AUTH_FAILED: i32 = -25293;
const NO_SUCH_KEYCHAIN: i32 = -25294;
const NO_DEFAULT_KEYCHAIN: i32 = -25307;

pub(super) async fn get(id: &str, options: &VaultOptions) -> Result<Option<DataKey>, VaultProblem> {
    let account = id.to_owned();
    let found = call_keychain(options, move || get_generic_password(SERVICE, &account).map(Zeroizing::new)).await?;
    match found {
        Ok(text) => decode_key(&text).map(Some).ok_or(VaultProblem::WrongKey(KEY_STORE)),
        Err(error) if error.code() == ITEM_NOT_FOUND => Ok(None),
        Err(error) => Err(to_vault_problem(&error)),
    }
}

pub(super) async fn set(id: &str, key: &DataKey, options: &VaultOptions) -> Result<(), VaultProblem> {
    let (account, text) = (id.to_owned(), encode_key(key));
    let result = call_keychain(options, move || set_generic_password(SERVICE, &account, text.as_bytes())).await?;
    result.map_err(|error| to_vault_problem(&error))
}

/// Runs a blocking keychain call. It also blocks during a prompt. After the timeout, its thread remains until the
/// process ends.
async fn call_keychain<T: Send + 'static>(
    options: &VaultOptions,
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Result<T, Error>, VaultProblem> {
    let can_prompt = options.can_prompt;
    let timeout = if can_prompt { options.prompt_timeout } else { options.timeout };
    let call_without_prompt = move || {
        // Held during the call, so that the agent opens no unexpected window.
        let _prompt_guard = if can_prompt { None } else { SecKeychain::disable_user_interaction().ok() };
        call()
    };
    match tokio::time::timeout(timeout, tokio::task::spawn_blocking(call_without_prompt)).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(VaultProblem::KeyStoreFailed { key_store: KEY_STORE, reason: error.to_string() }),
        Err(_) => Err(VaultProblem::KeyStoreTimeout { key_store: KEY_STORE, seconds: timeout.as_secs() }),
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
