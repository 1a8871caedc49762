//! Sign-in and sign-out: stores logins, secrets and MFA codes of identities, and drops the leases that waited for them.

use std::sync::Arc;

use host::clock::now_milliseconds;
use tokio::sync::mpsc;

use super::problem::to_broker_problem;
use super::{Broker, ChangeKind, LeaseEntry};
use crate::audit::Entry as AuditEntry;
use crate::lease::Purpose;
use crate::problem::BrokerProblem;
use crate::secret::Secret;
use crate::source::{self, LoginPrompt, OAuthFlow, SourceContext};
use crate::vault;

impl Broker {
    /// Signs the user in. The steps for the user are sent as prompts. Dropping the future cancels the login.
    ///
    /// # Errors
    /// The reason why the login failed.
    pub async fn login(
        &self,
        name: &str,
        flow: OAuthFlow,
        prompts: &mpsc::Sender<LoginPrompt>,
    ) -> Result<(), BrokerProblem> {
        let requested = self.identity(name)?;
        let identity = self.load_identities()?.login_identity(name).cloned().unwrap_or(requested);
        let name = identity.name.as_str();
        if !identity.needs_login() || identity.secret_description().is_some() {
            let (message, hint) = match identity.secret_description() {
                Some(description) => (
                    format!("`{name}` needs {description}, which is entered in a terminal"),
                    format!("Run `pdev login {name}` in a terminal."),
                ),
                None => (
                    format!("`{name}` comes from `{}`, which has no login", identity.kind),
                    "Run `pdev identity` to see its status.".to_owned(),
                ),
            };
            return Err(BrokerProblem::new("identity_wrong", message, hint));
        }
        // Fail before the user signs in if the vault cannot be opened.
        let vault = self.open_vault().await?;
        let http = self.http().map_err(|problem| to_broker_problem(name, problem))?;
        let context = SourceContext {
            vault: Some(&vault),
            http: Some(http),
            exchange_runner: &self.exchange_runner,
            base_lease: None,
            purpose: &Purpose::General,
            restriction: None,
            launcher: None,
            now: now_milliseconds(),
        };
        source::login(&identity, &context, flow, prompts).await.map_err(|problem| to_broker_problem(name, problem))?;
        self.finish_login(name)
    }

    /// Stores the secret that the user enters at a login.
    ///
    /// # Errors
    /// When the source has no secret, the secret is invalid, or the vault cannot be used.
    pub async fn store_secret(self: &Arc<Self>, name: &str, secret: &Secret) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if identity.secret_description().is_none() {
            let message = format!("`{name}` comes from `{}`, which takes no secret", identity.kind);
            return Err(BrokerProblem::new("identity_wrong", message, format!("Run `pdev login {name}` to sign in.")));
        }
        source::check_secret(&identity, secret).map_err(|reason| {
            let hint = match identity.needs_mfa_code() {
                true => format!("Run `pdev login {name}` again."),
                false => format!("Run `pdev login {name} < FILE`; nothing was stored."),
            };
            BrokerProblem::new("secret_wrong", format!("`{name}`: {reason}"), hint)
        })?;
        let vault = self.open_vault().await?;
        // Only an MFA code is sent at once, with a lease of the identity below. Other secrets are just stored.
        let base_lease = match identity.text("from").filter(|_| identity.needs_mfa_code()) {
            Some(from) => Some(Box::pin(self.obtain_lease(from)).await?),
            None => None,
        };
        let (http, purpose) = (self.http().ok(), &Purpose::General);
        let context = SourceContext {
            vault: Some(&vault),
            http,
            exchange_runner: &self.exchange_runner,
            base_lease: base_lease.as_deref(),
            purpose,
            restriction: None,
            launcher: None,
            now: now_milliseconds(),
        };
        source::accept_secret(&identity, &context, secret).await.map_err(|problem| {
            match to_broker_problem(name, problem) {
                refusal if refusal.code == "source_refused" && identity.needs_mfa_code() => {
                    let hint =
                        format!("Each code works once: wait for the next code, then run `pdev login {name}` again.");
                    BrokerProblem { hint: Some(hint), ..refusal }
                }
                other => other,
            }
        })?;
        self.finish_login(name)
    }

    fn finish_login(&self, name: &str) -> Result<(), BrokerProblem> {
        let item = |name: &str| self.identity(name).ok().map(|identity| source::login_item(&identity));
        let login = item(name);
        for (key, entry) in self.lock_entries().iter_mut() {
            // Also reset identities of the same AWS session and identities that are built on this one: they waited for
            // the same sign-in.
            let needed_login = entry.problem.as_ref().is_some_and(|problem| problem.code == "needs_login");
            let login_end = entry.lease.as_ref().and_then(|lease| lease.login_end.as_ref());
            let had_same_login = login_end.is_some_and(|end| item(&end.identity) == login);
            if key.identity == name || needed_login || had_same_login {
                // Keep `last_used`, because login warnings depend on it.
                *entry = LeaseEntry { last_used: entry.last_used.take(), ..LeaseEntry::default() };
            }
        }
        if let Some(login) = login {
            self.lock_announced_logins().remove(&login);
        }
        self.publish_change(name, ChangeKind::SignedIn);
        self.append_audit_entry(AuditEntry {
            action: "signed_in".into(),
            identity: name.to_owned(),
            ..AuditEntry::default()
        })
    }

    /// Removes the stored login. Returns whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn sign_out(&self, name: &str) -> Result<bool, BrokerProblem> {
        let identity = self.identity(name)?;
        // Removing needs no key, so a sign-out also works with a locked keyring.
        let existed = vault::remove(&self.paths.vault(), &source::login_item(&identity))?;
        self.lock_entries().retain(|key, _| key.identity != name);
        self.publish_change(name, ChangeKind::SignedOut);
        self.append_audit_entry(AuditEntry {
            action: "signed_out".into(),
            identity: name.to_owned(),
            ..AuditEntry::default()
        })?;
        Ok(existed)
    }
}
