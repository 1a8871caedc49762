//! How each identity stands, for people: what is held, until when, who has to sign in.

use std::sync::Arc;

use super::problem::{BrokerProblem, timeout_problem};
use super::{Broker, is_unexpired, now};
use crate::identity::Identity;
use crate::lease::LoginEnd;
use crate::{schedule, source, vault};

/// How an identity stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentitySnapshot {
    pub identity: Identity,
    pub expires_at: Option<i64>,
    pub has_lease: bool,
    /// Whether the lease may end up in the swap.
    pub is_swappable: bool,
    /// Sources that want a person: whether one has signed in.
    pub is_signed_in: Option<bool>,
    pub problem: Option<BrokerProblem>,
    pub last_used: Option<(i64, String)>,
    /// When the login behind the lease ends, where that is known.
    pub login_end: Option<LoginEnd>,
}

impl IdentitySnapshot {
    /// Whom a person has to sign in as: now, or soon (then it is said when the login ends).
    #[must_use]
    pub fn pending_login(&self) -> Option<(&str, Option<i64>)> {
        let problem = self.problem.as_ref().and_then(|problem| problem.login_identity.as_deref());
        let absent = (self.is_signed_in == Some(false)).then_some(self.identity.name.as_str());
        if let Some(name) = problem.or(absent) {
            return Some((name, None));
        }
        let ending = self.login_end.as_ref().filter(|login| now() >= schedule::warn_at(login))?;
        Some((&ending.identity, Some(ending.ends_at)))
    }
}

impl Broker {
    /// Asks the source as a tool's request would, hands nothing out, and tells how the identity stands then.
    ///
    /// # Errors
    /// When there is no such identity, or the configuration cannot be read. What the source says is in the standing.
    pub async fn check_identity(self: &Arc<Self>, name: &str) -> Result<IdentitySnapshot, BrokerProblem> {
        self.identity(name)?;
        let outcome = self.obtain_lease(name).await;
        let mut standing = self.identity_snapshots()?.into_iter().find(|standing| standing.identity.name == name);
        if let (Some(standing), Err(problem)) = (&mut standing, outcome) {
            standing.problem = Some(problem);
        }
        standing.ok_or_else(|| timeout_problem(name))
    }

    /// Every identity, and how it stands; asks no source and no keyring.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn identity_snapshots(&self) -> Result<Vec<IdentitySnapshot>, BrokerProblem> {
        let identities = self.load_identities()?;
        let logins = vault::names(&self.paths.vault(), "login/")?;
        let mut entries = self.lock_entries();
        // Drop the leases of identities that are no longer configured.
        entries.retain(|key, _| identities.all.contains_key(&key.identity));
        let standing = |identity: &Identity| {
            let own = entries.iter().filter(|(key, _)| key.identity == identity.name && key.is_personal());
            let entry = own
                .map(|(_, entry)| entry)
                .max_by_key(|entry| entry.last_used.as_ref().map(|(at, _)| *at))
                .filter(|entry| entry.identity.as_ref().is_none_or(|known| known == identity));
            let lease = entry.and_then(|entry| entry.lease.as_ref()).filter(|lease| is_unexpired(lease, now()));
            IdentitySnapshot {
                identity: identity.clone(),
                expires_at: lease.and_then(|lease| lease.times.expires_at),
                has_lease: lease.is_some(),
                is_swappable: lease.is_some_and(|lease| lease.material.is_swappable()),
                is_signed_in: identity.needs_login().then(|| logins.contains(&source::login_item(identity))),
                problem: entry.and_then(|entry| entry.problem.clone()),
                last_used: entry.and_then(|entry| entry.last_used.clone()),
                login_end: lease.and_then(|lease| lease.login_end.clone()),
            }
        };
        Ok(identities.all.values().map(standing).collect())
    }

    /// The identity that a person has to sign in to before this one gives anything, or goes on to: itself, or one it is
    /// built on; with the time that is left, if there is some.
    #[must_use]
    pub fn pending_login_of(&self, name: &str) -> Option<(String, Option<i64>)> {
        let standings = self.identity_snapshots().ok()?;
        let mut name = name;
        // A chain cannot be longer than there are identities.
        for _ in 0..standings.len() {
            let standing = standings.iter().find(|standing| standing.identity.name == name)?;
            if let Some((login, at)) = standing.pending_login() {
                return Some((login.to_owned(), at));
            }
            name = standing.identity.text("from")?;
        }
        None
    }
}
