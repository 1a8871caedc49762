//! The desktop's keyring over D-Bus (freedesktop.org Secret Service API, draft 0.2).
//!
//! The `Locked` property of the default collection is read first. In a locked collection, services return an empty
//! search result, which would look like a vault without its key.

use std::collections::HashMap;
use std::time::Duration;

use secret_service::{Collection, EncryptionType, Error, SecretService};

use super::key_store::{KeyStore, VaultOptions, decode_key, encode_key};
use super::{DataKey, VaultProblem};

const KEY_STORE: KeyStore = KeyStore::SecretService;

pub(super) async fn get(id: &str, options: &VaultOptions) -> Result<Option<DataKey>, VaultProblem> {
    let service = connect(options).await?;
    let collection = unlock_collection(&service, options).await?;
    let read = async {
        let Some(item) = collection.search_items(attributes(id)).await?.into_iter().next() else { return Ok(None) };
        item.get_secret().await.map(Some)
    };
    let Some(text) = with_timeout(options.timeout, read).await?.map(zeroize::Zeroizing::new) else { return Ok(None) };
    decode_key(&text).map(Some).ok_or(VaultProblem::WrongKey(KEY_STORE))
}

pub(super) async fn set(id: &str, key: &DataKey, options: &VaultOptions) -> Result<(), VaultProblem> {
    let service = connect(options).await?;
    let collection = unlock_collection(&service, options).await?;
    let text = encode_key(key);
    let create = collection.create_item(
        "pdev: key of the credential vault",
        attributes(id),
        text.as_bytes(),
        true,
        "text/plain",
    );
    with_timeout(options.timeout, create).await.map(drop)
}

/// The same attributes as in Python's keyring, so that other tools can display the item.
fn attributes(id: &str) -> HashMap<&str, &str> {
    HashMap::from([("service", "pdev"), ("username", id), ("application", "pdev")])
}

async fn connect(options: &VaultOptions) -> Result<SecretService<'static>, VaultProblem> {
    match tokio::time::timeout(options.timeout, SecretService::connect(EncryptionType::Dh)).await {
        Ok(Ok(service)) => Ok(service),
        Ok(Err(Error::Unavailable)) => {
            Err(VaultProblem::KeyStoreUnavailable("no service on the session bus offers one".to_owned()))
        }
        Ok(Err(Error::Zbus(_) | Error::ZbusFdo(_))) if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none() => {
            Err(VaultProblem::KeyStoreUnavailable(
                "there is no session bus (DBUS_SESSION_BUS_ADDRESS is not set)".to_owned(),
            ))
        }
        Ok(Err(Error::Zbus(error))) => {
            Err(VaultProblem::KeyStoreUnavailable(format!("the session bus cannot be used: {error}")))
        }
        Ok(Err(error)) => Err(to_vault_problem(&error)),
        Err(_) => Err(timeout_problem(options.timeout)),
    }
}

async fn unlock_collection<'a>(
    service: &'a SecretService<'static>,
    options: &VaultOptions,
) -> Result<Collection<'a>, VaultProblem> {
    let read_state = async {
        let collection = service.get_default_collection().await?;
        let is_locked = collection.is_locked().await?;
        Ok((collection, is_locked))
    };
    let (collection, is_locked) = with_timeout(options.timeout, read_state).await?;
    if !is_locked {
        return Ok(collection);
    }
    if !options.can_prompt {
        return Err(VaultProblem::Locked(KEY_STORE));
    }
    match tokio::time::timeout(options.prompt_timeout, collection.unlock()).await {
        Ok(Ok(())) => {}
        Ok(Err(Error::Prompt | Error::PromptDisconnected | Error::Locked | Error::NoResult)) => {
            return Err(VaultProblem::Locked(KEY_STORE));
        }
        Ok(Err(error)) => return Err(to_vault_problem(&error)),
        Err(_) => return Err(timeout_problem(options.prompt_timeout)),
    }
    // Check again, because some services report a dismissed prompt as a success.
    match with_timeout(options.timeout, collection.is_locked()).await? {
        true => Err(VaultProblem::Locked(KEY_STORE)),
        false => Ok(collection),
    }
}

async fn with_timeout<T>(timeout: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, VaultProblem> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result.map_err(|error| to_vault_problem(&error)),
        Err(_) => Err(timeout_problem(timeout)),
    }
}

fn timeout_problem(timeout: Duration) -> VaultProblem {
    VaultProblem::KeyStoreTimeout { key_store: KEY_STORE, seconds: timeout.as_secs() }
}

fn to_vault_problem(error: &Error) -> VaultProblem {
    match error {
        Error::Locked | Error::Prompt | Error::PromptDisconnected => VaultProblem::Locked(KEY_STORE),
        Error::NoResult => VaultProblem::KeyStoreUnavailable(
            "the desktop's keyring has no default collection; it was never set up".to_owned(),
        ),
        Error::Unavailable => VaultProblem::KeyStoreUnavailable("no service on the session bus offers one".to_owned()),
        other => {
            let reason = other.to_string();
            // The name of the D-Bus error is only available in its text.
            if reason.contains("AccessDenied") {
                VaultProblem::Denied { key_store: KEY_STORE, reason }
            } else {
                VaultProblem::KeyStoreFailed { key_store: KEY_STORE, reason }
            }
        }
    }
}
