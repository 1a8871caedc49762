//! The desktop's keyring over D-Bus (freedesktop.org Secret Service API, draft 0.2).
//!
//! The default collection's `Locked` property is asked first: services answer a search in a locked collection with
//! nothing, which would look like a vault without its key.

use std::collections::HashMap;
use std::time::Duration;

use secret_service::{Collection, EncryptionType, Error, SecretService};

use super::key_store::{KeyStore, VaultOptions, decode_key, encode_key};
use super::{DataKey, VaultProblem};

const KEY_STORE: KeyStore = KeyStore::SecretService;

pub(super) async fn get(id: &str, choice: &VaultOptions) -> Result<Option<DataKey>, VaultProblem> {
    let service = connect(choice).await?;
    let collection = unlock_collection(&service, choice).await?;
    let read = async {
        let Some(item) = collection.search_items(attributes(id)).await?.into_iter().next() else { return Ok(None) };
        item.get_secret().await.map(Some)
    };
    let Some(text) = with_timeout(choice.timeout, read).await?.map(zeroize::Zeroizing::new) else { return Ok(None) };
    decode_key(&text).map(Some).ok_or(VaultProblem::WrongKey(KEY_STORE))
}

pub(super) async fn set(id: &str, key: &DataKey, choice: &VaultOptions) -> Result<(), VaultProblem> {
    let service = connect(choice).await?;
    let collection = unlock_collection(&service, choice).await?;
    let text = encode_key(key);
    let create = collection.create_item(
        "pdev: key of the credential vault",
        attributes(id),
        text.as_bytes(),
        true,
        "text/plain",
    );
    with_timeout(choice.timeout, create).await.map(drop)
}

/// The attributes that Python's keyring uses too, so that a second tool can show the item.
fn attributes(id: &str) -> HashMap<&str, &str> {
    HashMap::from([("service", "pdev"), ("username", id), ("application", "pdev")])
}

async fn connect(choice: &VaultOptions) -> Result<SecretService<'static>, VaultProblem> {
    match tokio::time::timeout(choice.timeout, SecretService::connect(EncryptionType::Dh)).await {
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
        Err(_) => Err(timeout_problem(choice.timeout)),
    }
}

async fn unlock_collection<'a>(
    service: &'a SecretService<'static>,
    choice: &VaultOptions,
) -> Result<Collection<'a>, VaultProblem> {
    let ask = async {
        let collection = service.get_default_collection().await?;
        let locked = collection.is_locked().await?;
        Ok((collection, locked))
    };
    let (collection, locked) = with_timeout(choice.timeout, ask).await?;
    if !locked {
        return Ok(collection);
    }
    if !choice.can_prompt {
        return Err(VaultProblem::Locked(KEY_STORE));
    }
    match tokio::time::timeout(choice.prompt_timeout, collection.unlock()).await {
        Ok(Ok(())) => {}
        Ok(Err(Error::Prompt | Error::PromptDisconnected | Error::Locked | Error::NoResult)) => {
            return Err(VaultProblem::Locked(KEY_STORE));
        }
        Ok(Err(error)) => return Err(to_vault_problem(&error)),
        Err(_) => return Err(timeout_problem(choice.prompt_timeout)),
    }
    // A dismissed question counts as an answer for some services.
    match with_timeout(choice.timeout, collection.is_locked()).await? {
        true => Err(VaultProblem::Locked(KEY_STORE)),
        false => Ok(collection),
    }
}

async fn with_timeout<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, VaultProblem> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| to_vault_problem(&error)),
        Err(_) => Err(timeout_problem(limit)),
    }
}

fn timeout_problem(limit: Duration) -> VaultProblem {
    VaultProblem::KeyStoreTimeout { key_store: KEY_STORE, seconds: limit.as_secs() }
}

fn to_vault_problem(error: &Error) -> VaultProblem {
    match error {
        Error::Locked | Error::Prompt | Error::PromptDisconnected => VaultProblem::Locked(KEY_STORE),
        Error::NoResult => VaultProblem::KeyStoreUnavailable(
            "the desktop's keyring has no default collection; it was never set up".to_owned(),
        ),
        Error::Unavailable => VaultProblem::KeyStoreUnavailable("no service on the session bus offers one".to_owned()),
        other => {
            let words = other.to_string();
            if words.contains("AccessDenied") {
                VaultProblem::Denied { key_store: KEY_STORE, reason: words }
            } else {
                VaultProblem::KeyStoreFailed { key_store: KEY_STORE, reason: words }
            }
        }
    }
}
