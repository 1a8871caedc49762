//! One exchange from the lock to the disk: what the vault keeps is read, spent, and replaced by what came for it.
//!
//! Everything that can fail without the provider is done before it is asked: the login's lock, reading, and the room on the disk
//! for what will come. After its answer there is only a write into that room and a rename.

use std::time::Duration;

use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::ExchangeRequest;
use crate::broker::BrokerProblem;
use crate::http::{HttpClient, HttpResponse};
use crate::identity::Identity;
use crate::secret::Secret;
use crate::source::{self, SourceProblem};
use crate::vault::{Vault, VaultProblem, hex};

/// A write that fails after the provider's answer is tried so often, at this distance.
const WRITE_ATTEMPTS_MAX: u32 = 20;
const WRITE_PAUSE: Duration = Duration::from_millis(500);

/// `sent` is called when the provider is about to be asked: from then on an end in the middle costs the login.
pub(super) async fn exchange_token(
    vault: &Vault,
    http: &HttpClient,
    errand: &ExchangeRequest,
    sent: &(dyn Fn() + Sync),
) -> Result<HttpResponse, SourceProblem> {
    let (identity, item) = (errand.identity(), errand.item());
    let _alone = vault.lock_login_unbounded(&item).await?;
    if !vault.is_current() {
        return Err(SourceProblem::Transient("its vault was set aside meanwhile".to_owned()));
    }
    let never = || SourceProblem::NeedsLogin(format!("nobody is signed in as `{}`", identity.name));
    let kept = vault.get(&item)?.ok_or_else(never)?;
    if errand.secret_digest.as_deref().is_some_and(|seen| seen != secret_digest(&kept)) {
        return Ok(already_exchanged());
    }
    let asking = source::token_request(&identity, &kept, errand.scope.as_deref())?;
    let room = vault.reserve_item(&item)?;
    sent();
    let mut answer = http.post(&asking.url, asking.media_type, asking.body).await?;
    if answer.is_success()
        && let Some(next) = source::updated_secret(&identity, &kept, &answer)?
    {
        // Signed out meanwhile: what came is not what anybody wants to keep.
        if !vault.has(&item)? {
            return Err(never());
        }
        let written = match room.commit(vault, &item, &next) {
            Ok(()) => Ok(()),
            Err(_) => put_with_retries(vault, &item, &next).await,
        };
        written.map_err(|problem| lost_login_problem(&identity, &problem))?;
    }
    if identity.kind == "aws-sso" {
        // All of it is in the vault now, where the agent reads it.
        answer.body = Zeroizing::default();
    }
    Ok(answer)
}

/// What was kept when an exchange was found needed; it is another after the exchange.
pub(super) fn secret_digest(kept: &Secret) -> String {
    hex(digest(&SHA256, kept.expose()).as_ref())
}

fn already_exchanged() -> HttpResponse {
    HttpResponse { status: 200, skew: 0, has_date: false, body: Zeroizing::default(), host: String::new() }
}

/// The room was there, so the disk itself is in trouble; what is in hand is the only one of its kind.
async fn put_with_retries(vault: &Vault, item: &str, next: &Secret) -> Result<(), VaultProblem> {
    let mut tried = 0;
    loop {
        tried += 1;
        match vault.put(item, next) {
            Err(problem) if tried == WRITE_ATTEMPTS_MAX => return Err(problem),
            Err(_) => tokio::time::sleep(WRITE_PAUSE).await,
            Ok(()) => return Ok(()),
        }
    }
}

fn lost_login_problem(identity: &Identity, problem: &VaultProblem) -> SourceProblem {
    let name = &identity.name;
    SourceProblem::Described(BrokerProblem {
        code: problem.code(),
        message: format!(
            "`{name}` was renewed and the new login could not be kept, so the old one is spent: {problem}"
        ),
        hint: Some(format!("Put the disk right, then `pdev login {name}`.")),
        login_identity: Some(name.clone()),
    })
}
