//! Delivers the secrets of one `up` to a preview.

use client::{Client, ClientError};
use protocol::request::{DeliverSecretsRequest, LocateRequest};
use protocol::status::{LocateReply, PreviewRef};

use super::CollectedSecrets;
use super::stored::{has_passphrase_key, read_from_vault};
use crate::context::Context;
use crate::exit::Failure;

pub(crate) async fn deliver_secrets(
    client: &mut Client,
    folder: String,
    environment: Option<String>,
    secrets: CollectedSecrets,
    context: &Context,
) -> Result<(), Failure> {
    let found = locate(client, folder, environment).await?;
    deliver_to(client, &found.preview, secrets, context).await
}

/// Like [`deliver_secrets`], but does nothing for a preview that the agent does not know.
pub(crate) async fn deliver_to_known(
    client: &mut Client,
    folder: String,
    environment: Option<String>,
    secrets: CollectedSecrets,
    context: &Context,
) -> Result<(), Failure> {
    let found = locate(client, folder, environment).await?;
    if found.known { deliver_to(client, &found.preview, secrets, context).await } else { Ok(()) }
}

async fn locate(client: &mut Client, folder: String, environment: Option<String>) -> Result<LocateReply, Failure> {
    // `up` uses this environment by default, even if the folder's only preview has another one.
    let environment = environment.or_else(|| Some(agent::preview::naming::DEFAULT_ENVIRONMENT.to_owned()));
    Ok(client.locate(&LocateRequest { folder, environment }).await?)
}

async fn deliver_to(
    client: &mut Client,
    preview: &PreviewRef,
    secrets: CollectedSecrets,
    context: &Context,
) -> Result<(), Failure> {
    let CollectedSecrets { mut values, in_vault } = secrets;
    if !in_vault.names.is_empty() {
        // If the agent refuses, this process reads the vault and reports why it does not open. An agent of an older
        // version does not have this route.
        let is_delivered = has_passphrase_key()
            && match client.deliver_secrets(&preview.id, &in_vault).await {
                Ok(_) => true,
                Err(ClientError::Problem(_)) => false,
                Err(error) => return Err(error.into()),
            };
        if !is_delivered {
            values.extend(read_vault_on_thread(&in_vault, context)?);
        }
    }
    for (name, value) in values {
        client.put_secret(&preview.id, &name, value).await?;
    }
    Ok(())
}

/// In a separate thread, because opening the vault blocks on a second runtime, which tokio forbids within this one. The
/// wait blocks this runtime too, but it has no other task here.
fn read_vault_on_thread(
    in_vault: &DeliverSecretsRequest,
    context: &Context,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let result = std::thread::scope(|scope| scope.spawn(|| read_from_vault(in_vault, context)).join());
    result.unwrap_or_else(|_| Err(Failure::failed("the thread that reads the vault panicked")))
}
