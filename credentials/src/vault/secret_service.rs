//! The desktop's keyring over D-Bus (freedesktop.org Secret Service API, draft 0.2).
//!
//! The default collection's `Locked` property is asked first: services answer a search in a locked collection with
//! nothing, which would look like a vault without its key.

use std::collections::HashMap;
use std::time::Duration;

use secret_service::{Collection, EncryptionType, Error, SecretService};

use super::holder::{Choice, Holder, decoded, encoded};
use super::{DataKey, VaultProblem};

const HOLDER: Holder = Holder::SecretService;

pub(super) async fn get(id: &str, choice: &Choice) -> Result<Option<DataKey>, VaultProblem> {
    let service = connect(choice).await?;
    let collection = unlocked(&service, choice).await?;
    let read = async {
        let Some(item) = collection.search_items(attributes(id)).await?.into_iter().next() else { return Ok(None) };
        item.get_secret().await.map(Some)
    };
    let Some(text) = within(choice.limit, read).await?.map(zeroize::Zeroizing::new) else { return Ok(None) };
    decoded(&text).map(Some).ok_or(VaultProblem::OtherKey(HOLDER))
}

pub(super) async fn set(id: &str, key: &DataKey, choice: &Choice) -> Result<(), VaultProblem> {
    let service = connect(choice).await?;
    let collection = unlocked(&service, choice).await?;
    let text = encoded(key);
    let create = collection.create_item(
        "pdev: key of the credential vault",
        attributes(id),
        text.as_bytes(),
        true,
        "text/plain",
    );
    within(choice.limit, create).await.map(drop)
}

/// The attributes that Python's keyring uses too, so that a second tool can show the item.
fn attributes(id: &str) -> HashMap<&str, &str> {
    HashMap::from([("service", "pdev"), ("username", id), ("application", "pdev")])
}

async fn connect(choice: &Choice) -> Result<SecretService<'static>, VaultProblem> {
    match tokio::time::timeout(choice.limit, SecretService::connect(EncryptionType::Dh)).await {
        Ok(Ok(service)) => Ok(service),
        Ok(Err(Error::Unavailable)) => Err(VaultProblem::Absent("no service on the session bus offers one".to_owned())),
        Ok(Err(Error::Zbus(_) | Error::ZbusFdo(_))) if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none() => {
            Err(VaultProblem::Absent("there is no session bus (DBUS_SESSION_BUS_ADDRESS is not set)".to_owned()))
        }
        Ok(Err(Error::Zbus(error))) => Err(VaultProblem::Absent(format!("the session bus cannot be used: {error}"))),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(hanging(choice.limit)),
    }
}

async fn unlocked<'a>(service: &'a SecretService<'static>, choice: &Choice) -> Result<Collection<'a>, VaultProblem> {
    let ask = async {
        let collection = service.get_default_collection().await?;
        let locked = collection.is_locked().await?;
        Ok((collection, locked))
    };
    let (collection, locked) = within(choice.limit, ask).await?;
    if !locked {
        return Ok(collection);
    }
    if !choice.may_prompt {
        return Err(VaultProblem::Locked(HOLDER));
    }
    match tokio::time::timeout(choice.prompt_limit, collection.unlock()).await {
        Ok(Ok(())) => {}
        Ok(Err(Error::Prompt | Error::PromptDisconnected | Error::Locked | Error::NoResult)) => {
            return Err(VaultProblem::Locked(HOLDER));
        }
        Ok(Err(error)) => return Err(told(&error)),
        Err(_) => return Err(hanging(choice.prompt_limit)),
    }
    // A dismissed question counts as an answer for some services.
    match within(choice.limit, collection.is_locked()).await? {
        true => Err(VaultProblem::Locked(HOLDER)),
        false => Ok(collection),
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, VaultProblem> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| told(&error)),
        Err(_) => Err(hanging(limit)),
    }
}

fn hanging(limit: Duration) -> VaultProblem {
    VaultProblem::Hanging { holder: HOLDER, seconds: limit.as_secs() }
}

fn told(error: &Error) -> VaultProblem {
    match error {
        Error::Locked | Error::Prompt | Error::PromptDisconnected => VaultProblem::Locked(HOLDER),
        Error::NoResult => {
            VaultProblem::Absent("the desktop's keyring has no default collection; it was never set up".to_owned())
        }
        Error::Unavailable => VaultProblem::Absent("no service on the session bus offers one".to_owned()),
        other => {
            let words = other.to_string();
            if words.contains("AccessDenied") {
                VaultProblem::Denied { holder: HOLDER, words }
            } else {
                VaultProblem::Failing { holder: HOLDER, words }
            }
        }
    }
}
