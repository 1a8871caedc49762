//! One exchange, from the lock to the disk: reads the stored login, sends it to the provider, and stores its successor.
//!
//! Everything that can fail without the provider is done before the request: the lock of the login, the read, and the
//! reservation of disk space. After the response, only a write into the reserved space and a rename remain.

use std::time::Duration;

use ring::digest::{SHA256, digest};
use strings::to_hex;
use zeroize::Zeroizing;

use super::ExchangeRequest;
use crate::http::{HttpClient, HttpResponse};
use crate::identity::Identity;
use crate::problem::{BrokerProblem, SourceProblem};
use crate::secret::Secret;
use crate::source;
use crate::vault::{Vault, VaultProblem};

/// Attempts and pause for a write that fails after the response of the provider.
const WRITE_ATTEMPTS_MAX: u32 = 20;
const WRITE_PAUSE: Duration = Duration::from_millis(500);

/// `mark_sent` is called just before the request is sent. From then on, an interruption can cost the login.
pub(super) async fn exchange_token(
    vault: &Vault,
    http: &HttpClient,
    request: &ExchangeRequest,
    mark_sent: &(dyn Fn() + Sync),
) -> Result<HttpResponse, SourceProblem> {
    let (identity, item) = (request.identity(), request.item());
    let _login_guard = vault.lock_login_unbounded(&item).await?;
    if !vault.is_current() {
        return Err(SourceProblem::Transient("its vault was set aside meanwhile".to_owned()));
    }
    let not_signed_in = || SourceProblem::NeedsLogin(format!("no user has signed in as `{}`", identity.name));
    let stored = vault.get(&item)?.ok_or_else(not_signed_in)?;
    // Another process made the exchange while this one waited for the lock. The caller reads the vault again.
    if request.secret_digest.as_deref().is_some_and(|expected| expected != secret_digest(&stored)) {
        return Ok(already_exchanged());
    }
    let token_request = source::token_request(&identity, &stored, request.scope.as_deref())?;
    // A full disk must be detected while the old token is still valid.
    let reserved_item = vault.reserve_item(&item)?;
    mark_sent();
    let mut response = http.post(&token_request.url, token_request.media_type, token_request.body).await?;
    if response.is_success()
        && let Some(successor) = source::updated_secret(&identity, &stored, &response)?
    {
        // The user signed out in the meantime, so do not store the new login.
        if !vault.has(&item)? {
            return Err(not_signed_in());
        }
        let write_result = match reserved_item.commit(vault, &item, &successor) {
            Ok(()) => Ok(()),
            Err(_) => put_with_retries(vault, &item, &successor).await,
        };
        write_result.map_err(|problem| lost_login_problem(&identity, &problem))?;
    }
    if identity.kind == "aws-sso" {
        // The agent reads the new tokens from the vault, so do not copy them into the reply.
        response.body = Zeroizing::default();
    }
    Ok(response)
}

/// Identifies the stored login that an exchange is needed for. It differs after the exchange.
pub(super) fn secret_digest(stored: &Secret) -> String {
    to_hex(digest(&SHA256, stored.expose()))
}

fn already_exchanged() -> HttpResponse {
    HttpResponse { status: 200, skew: 0, has_date: false, body: Zeroizing::default(), host: String::new() }
}

/// Retries a failed write. The space was reserved, so the disk itself has a problem, and this value is the only copy.
async fn put_with_retries(vault: &Vault, item: &str, successor: &Secret) -> Result<(), VaultProblem> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match vault.put(item, successor) {
            Err(problem) if attempts == WRITE_ATTEMPTS_MAX => return Err(problem),
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
            "`{name}` was renewed, but the new login could not be stored, and the old one is spent: {problem}"
        ),
        hint: Some(format!("Repair the disk, then run `pdev login {name}`.")),
        login_identity: Some(name.clone()),
    })
}
