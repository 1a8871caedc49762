//! A person signs in and out: logins, secrets and codes that identities are given, and what waited for them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::problem::{BrokerProblem, to_broker_problem};
use super::{Broker, ChangeKind, LeaseEntry, now};
use crate::audit::Entry as AuditEntry;
use crate::secret::Secret;
use crate::source::{self, LoginPrompt, OAuthFlow, Purpose, SourceContext};
use crate::vault;

impl Broker {
    /// Signs a person in; what they have to do arrives as prompts. Dropping the future ends it.
    ///
    /// # Errors
    /// Why nobody is signed in.
    pub async fn login(
        &self,
        name: &str,
        flow: OAuthFlow,
        prompts: &mpsc::Sender<LoginPrompt>,
    ) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if !identity.needs_login() || identity.secret_description().is_some() {
            let (message, hint) = match identity.secret_description() {
                Some(what) => {
                    (format!("`{name}` takes {what}, in a terminal"), format!("`pdev login {name}` asks for it there."))
                }
                None => (
                    format!("`{name}` comes from `{}`, which nobody signs in to", identity.kind),
                    "`pdev identity` shows how it stands.".to_owned(),
                ),
            };
            return Err(BrokerProblem::new("identity_wrong", message, hint));
        }
        let vault = self.open_vault().await?;
        let http = self.http().map_err(|problem| to_broker_problem(name, problem))?;
        let means = SourceContext {
            vault: Some(&vault),
            http: Some(http),
            exchange_runner: &self.exchange_runner,
            base_lease: None,
            purpose: &Purpose::General,
            restriction: None,
            launcher: None,
            now: now(),
        };
        source::login(&identity, &means, flow, prompts).await.map_err(|problem| to_broker_problem(name, problem))?;
        self.finish_login(name)
    }

    /// Keeps the secret of an identity whose login is giving one.
    ///
    /// # Errors
    /// When it is of another source, or the vault cannot be used.
    pub async fn store_secret(self: &Arc<Self>, name: &str, secret: &Secret) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if identity.secret_description().is_none() {
            let message = format!("`{name}` comes from `{}`, and takes no secret", identity.kind);
            return Err(BrokerProblem::new("identity_wrong", message, format!("`pdev login {name}` signs in to it.")));
        }
        source::check_secret(&identity, secret).map_err(|words| {
            let hint = match identity.needs_mfa_code() {
                true => format!("`pdev login {name}` asks for it again."),
                false => format!("`pdev login {name} < FILE`; nothing was kept."),
            };
            BrokerProblem::new("secret_wrong", format!("`{name}`: {words}"), hint)
        })?;
        let vault = self.open_vault().await?;
        // Only a code is spent at once, by what the identity is built on.
        let from = match identity.text("from").filter(|_| identity.needs_mfa_code()) {
            Some(from) => Some(Box::pin(self.obtain_lease(from)).await?),
            None => None,
        };
        let (http, purpose) = (self.http().ok(), &Purpose::General);
        let means = SourceContext {
            vault: Some(&vault),
            http,
            exchange_runner: &self.exchange_runner,
            base_lease: from.as_deref(),
            purpose,
            restriction: None,
            launcher: None,
            now: now(),
        };
        source::accept_secret(&identity, &means, secret).await.map_err(|problem| {
            match to_broker_problem(name, problem) {
                refused if refused.code == "source_refused" && identity.needs_mfa_code() => {
                    let hint = format!("Each code works once: wait for the next one, then `pdev login {name}` again.");
                    BrokerProblem { hint: Some(hint), ..refused }
                }
                other => other,
            }
        })?;
        self.finish_login(name)
    }

    fn finish_login(&self, name: &str) -> Result<(), BrokerProblem> {
        let item = |name: &str| self.identity(name).ok().map(|identity| source::login_item(&identity));
        let login = item(name);
        for (known, entry) in self.lock_entries().iter_mut() {
            // Identities of the same session, and those that are built on this one, waited for the same person.
            let waited = entry.problem.as_ref().is_some_and(|problem| problem.code == "needs_login");
            let lease = entry.lease.as_ref().and_then(|lease| lease.login_end.as_ref());
            let ended = lease.is_some_and(|end| item(&end.identity) == login);
            if known.identity == name || waited || ended {
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

    /// Forgets what a person signed in with. Tells whether there was something.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn sign_out(&self, name: &str) -> Result<bool, BrokerProblem> {
        let identity = self.identity(name)?;
        let was = vault::remove(&self.paths.vault(), &source::login_item(&identity))?;
        self.lock_entries().retain(|key, _| key.identity != name);
        self.publish_change(name, ChangeKind::SignedOut);
        self.append_audit_entry(AuditEntry {
            action: "signed_out".into(),
            identity: name.to_owned(),
            ..AuditEntry::default()
        })?;
        Ok(was)
    }
}
