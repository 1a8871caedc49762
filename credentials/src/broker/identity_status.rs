//! The status of identities, for display: the current lease, its end, and the logins that are needed.

use std::sync::Arc;

use host::clock::now_milliseconds;

use super::problem::timeout_problem;
use super::{Broker, is_unexpired};
use crate::identity::Identity;
use crate::lease::LoginEnd;
use crate::problem::BrokerProblem;
use crate::{schedule, source, vault};

/// The status of one identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentitySnapshot {
    pub identity: Identity,
    pub expires_at: Option<i64>,
    pub has_lease: bool,
    /// Whether the lease may be written to the swap.
    pub is_swappable: bool,
    /// For sources with a login: whether the user is signed in.
    pub is_signed_in: Option<bool>,
    pub problem: Option<BrokerProblem>,
    pub last_used: Option<(i64, String)>,
    /// The end of the login behind the lease, if known.
    pub login_end: Option<LoginEnd>,
}

impl IdentitySnapshot {
    /// The identity that the user must sign in to. The time is `None` if the login is needed now; otherwise it is the
    /// time at which the current login ends.
    #[must_use]
    pub fn pending_login(&self) -> Option<(&str, Option<i64>)> {
        let problem = self.problem.as_ref().and_then(|problem| problem.login_identity.as_deref());
        let signed_out = (self.is_signed_in == Some(false)).then_some(self.identity.name.as_str());
        if let Some(name) = problem.or(signed_out) {
            return Some((name, None));
        }
        let ending = self.login_end.as_ref().filter(|login| now_milliseconds() >= schedule::warn_at(login))?;
        Some((&ending.identity, Some(ending.ends_at)))
    }
}

impl Broker {
    /// Requests a lease from the source as a tool would, but hands out no credential. Returns the resulting status.
    ///
    /// # Errors
    /// When the identity does not exist, or the configuration cannot be read. Errors of the source are part of the
    /// status.
    pub async fn check_identity(self: &Arc<Self>, name: &str) -> Result<IdentitySnapshot, BrokerProblem> {
        self.identity(name)?;
        let outcome = self.obtain_lease(name).await;
        let mut status = self.identity_snapshots()?.into_iter().find(|status| status.identity.name == name);
        if let (Some(status), Err(problem)) = (&mut status, outcome) {
            status.problem = Some(problem);
        }
        status.ok_or_else(|| timeout_problem(name))
    }

    /// The status of every identity. Asks no source and no keyring.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn identity_snapshots(&self) -> Result<Vec<IdentitySnapshot>, BrokerProblem> {
        let identities = self.load_identities()?;
        let logins = vault::names(&self.paths.vault(), "login/")?;
        let mut entries = self.lock_entries();
        // Drop the leases of identities that are no longer configured.
        entries.retain(|key, _| identities.all.contains_key(&key.identity));
        let status_of = |identity: &Identity| {
            let own_entries = entries.iter().filter(|(key, _)| key.identity == identity.name && key.is_personal());
            let entry = own_entries
                .map(|(_, entry)| entry)
                // An identity may have leases for several purposes. The most recently used one represents it.
                .max_by_key(|entry| entry.last_used.as_ref().map(|(at, _)| *at))
                .filter(|entry| entry.identity.as_ref().is_none_or(|fetched_for| fetched_for == identity));
            let lease =
                entry.and_then(|entry| entry.lease.as_ref()).filter(|lease| is_unexpired(lease, now_milliseconds()));
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
        Ok(identities.all.values().map(status_of).collect())
    }

    /// The identity that the user must sign in to before this identity works, or to keep it working: itself, or an
    /// identity that it is built on. The time is the end of the current login, if there is one.
    #[must_use]
    pub fn pending_login_of(&self, name: &str) -> Option<(String, Option<i64>)> {
        let statuses = self.identity_snapshots().ok()?;
        let mut name = name;
        // A chain cannot have more steps than there are identities.
        for _ in 0..statuses.len() {
            let status = statuses.iter().find(|status| status.identity.name == name)?;
            if let Some((login, at)) = status.pending_login() {
                return Some((login.to_owned(), at));
            }
            name = status.identity.text("from")?;
        }
        None
    }
}
