//! One exchange from the lock to the disk: what the vault keeps is read, spent, and replaced by what came for it.
//!
//! Everything that can fail without the provider is done before it is asked: the login's lock, reading, and the room on the disk
//! for what will come. After its answer there is only a write into that room and a rename.

use std::time::Duration;

use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::Errand;
use crate::broker::BrokerProblem;
use crate::http::{Answer, Http};
use crate::identity::Identity;
use crate::secret::Secret;
use crate::source::{self, SourceProblem};
use crate::vault::{Vault, VaultProblem, hex};

/// A write that fails after the provider's answer is tried so often, at this distance.
const WRITES: u32 = 20;
const WRITE_PAUSE: Duration = Duration::from_millis(500);

/// `sent` is called when the provider is about to be asked: from then on an end in the middle costs the login.
pub(super) async fn spend(
    vault: &Vault,
    http: &Http,
    errand: &Errand,
    sent: &(dyn Fn() + Sync),
) -> Result<Answer, SourceProblem> {
    let (identity, item) = (errand.identity(), errand.item());
    let _alone = vault.family_to_itself(&item).await?;
    if !vault.is_current() {
        return Err(SourceProblem::Passing("its vault was set aside meanwhile".to_owned()));
    }
    let never = || SourceProblem::NeedsLogin(format!("nobody is signed in as `{}`", identity.name));
    let kept = vault.get(&item)?.ok_or_else(never)?;
    if errand.seen.as_deref().is_some_and(|seen| seen != mark(&kept)) {
        return Ok(made_already());
    }
    let asking = source::asking(&identity, &kept, errand.scope.as_deref())?;
    let room = vault.room(&item)?;
    sent();
    let mut answer = http.post(&asking.url, asking.media, asking.body).await?;
    if answer.is_fine()
        && let Some(next) = source::kept(&identity, &kept, &answer)?
    {
        // Signed out meanwhile: what came is not what anybody wants to keep.
        if !vault.has(&item)? {
            return Err(never());
        }
        let written = match room.fill(vault, &item, &next) {
            Ok(()) => Ok(()),
            Err(_) => insisting(vault, &item, &next).await,
        };
        written.map_err(|problem| lost(&identity, &problem))?;
    }
    if identity.kind == "aws-sso" {
        // All of it is in the vault now, where the agent reads it.
        answer.body = Zeroizing::default();
    }
    Ok(answer)
}

/// What was kept when an exchange was found needed; it is another after the exchange.
pub(super) fn mark(kept: &Secret) -> String {
    hex(digest(&SHA256, kept.expose()).as_ref())
}

fn made_already() -> Answer {
    Answer { status: 200, skew: 0, is_dated: false, body: Zeroizing::default(), host: String::new() }
}

/// The room was there, so the disk itself is in trouble; what is in hand is the only one of its kind.
async fn insisting(vault: &Vault, item: &str, next: &Secret) -> Result<(), VaultProblem> {
    let mut tried = 0;
    loop {
        tried += 1;
        match vault.put(item, next) {
            Err(problem) if tried == WRITES => return Err(problem),
            Err(_) => tokio::time::sleep(WRITE_PAUSE).await,
            Ok(()) => return Ok(()),
        }
    }
}

fn lost(identity: &Identity, problem: &VaultProblem) -> SourceProblem {
    let name = &identity.name;
    SourceProblem::Said(BrokerProblem {
        code: problem.code(),
        message: format!(
            "`{name}` was renewed and the new login could not be kept, so the old one is spent: {problem}"
        ),
        hint: Some(format!("Put the disk right, then `pdev login {name}`.")),
        login: Some(name.clone()),
    })
}
