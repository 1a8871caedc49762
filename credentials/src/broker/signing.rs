//! A person signs in and out: logins, secrets and codes that identities are given, and what waited for them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::problem::{BrokerProblem, told};
use super::{Broker, Entry, What, is_of, now};
use crate::audit::Entry as AuditEntry;
use crate::secret::Secret;
use crate::source::{self, Flow, Means, Prompt, Purpose};
use crate::vault;

impl Broker {
    /// Signs a person in; what they have to do arrives as prompts. Dropping the future ends it.
    ///
    /// # Errors
    /// Why nobody is signed in.
    pub async fn login(&self, name: &str, flow: Flow, prompts: &mpsc::Sender<Prompt>) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if !identity.needs_login() || identity.secret().is_some() {
            let (message, hint) = match identity.secret() {
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
        let vault = self.vault().await?;
        let http = self.http().map_err(|problem| told(name, problem))?;
        let means = Means {
            vault: Some(&vault),
            http: Some(http),
            exchanges: &self.exchanges,
            from: None,
            purpose: &Purpose::Usual,
            bound: None,
            launcher: None,
            now: now(),
        };
        source::login(&identity, &means, flow, prompts).await.map_err(|problem| told(name, problem))?;
        self.signed_in(name)
    }

    /// Keeps the secret of an identity whose login is giving one.
    ///
    /// # Errors
    /// When it is of another source, or the vault cannot be used.
    pub async fn keep(self: &Arc<Self>, name: &str, secret: &Secret) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if identity.secret().is_none() {
            let message = format!("`{name}` comes from `{}`, and takes no secret", identity.kind);
            return Err(BrokerProblem::new("identity_wrong", message, format!("`pdev login {name}` signs in to it.")));
        }
        source::check_secret(&identity, secret).map_err(|words| {
            let hint = match identity.wants_code() {
                true => format!("`pdev login {name}` asks for it again."),
                false => format!("`pdev login {name} < FILE`; nothing was kept."),
            };
            BrokerProblem::new("secret_wrong", format!("`{name}`: {words}"), hint)
        })?;
        let vault = self.vault().await?;
        // Only a code is spent at once, by what the identity is built on.
        let from = match identity.text("from").filter(|_| identity.wants_code()) {
            Some(from) => Some(Box::pin(self.lease(from)).await?),
            None => None,
        };
        let (http, purpose) = (self.http().ok(), &Purpose::Usual);
        let means = Means {
            vault: Some(&vault),
            http,
            exchanges: &self.exchanges,
            from: from.as_deref(),
            purpose,
            bound: None,
            launcher: None,
            now: now(),
        };
        source::keep(&identity, &means, secret).await.map_err(|problem| match told(name, problem) {
            refused if refused.code == "source_refused" && identity.wants_code() => {
                let hint = format!("Each code works once: wait for the next one, then `pdev login {name}` again.");
                BrokerProblem { hint: Some(hint), ..refused }
            }
            other => other,
        })?;
        self.signed_in(name)
    }

    fn signed_in(&self, name: &str) -> Result<(), BrokerProblem> {
        let item = |name: &str| self.identity(name).ok().map(|identity| source::login_item(&identity));
        let login = item(name);
        for (known, entry) in self.entries().iter_mut() {
            // Identities of the same session, and those that are built on this one, waited for the same person.
            let waited = entry.problem.as_ref().is_some_and(|problem| problem.code == "needs_login");
            let lease = entry.lease.as_ref().and_then(|lease| lease.login.as_ref());
            let ended = lease.is_some_and(|end| item(&end.identity) == login);
            if is_of(known, name) || waited || ended {
                *entry = Entry { last_used: entry.last_used.take(), ..Entry::default() };
            }
        }
        if let Some(login) = login {
            self.announced().remove(&login);
        }
        self.tell(name, What::SignedIn);
        self.note(AuditEntry { what: "signed_in".into(), identity: name.to_owned(), ..AuditEntry::default() })
    }

    /// Forgets what a person signed in with. Tells whether there was something.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn sign_out(&self, name: &str) -> Result<bool, BrokerProblem> {
        let identity = self.identity(name)?;
        let was = vault::remove(&self.place.vault(), &source::login_item(&identity))?;
        self.entries().retain(|key, _| !is_of(key, name));
        self.tell(name, What::SignedOut);
        self.note(AuditEntry { what: "signed_out".into(), identity: name.to_owned(), ..AuditEntry::default() })?;
        Ok(was)
    }
}
