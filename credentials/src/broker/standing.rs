//! How each identity stands, for people: what is held, until when, who has to sign in.

use std::sync::Arc;

use super::problem::{BrokerProblem, late};
use super::{Broker, is_of, lasts, now, session};
use crate::identity::Identity;
use crate::lease::LoginEnd;
use crate::{schedule, source, vault};

/// How an identity stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub identity: Identity,
    pub expires_at: Option<i64>,
    pub has_lease: bool,
    /// Whether the lease may end up in the swap.
    pub is_swappable: bool,
    /// Sources that want a person: whether one has signed in.
    pub signed_in: Option<bool>,
    pub problem: Option<BrokerProblem>,
    pub last_used: Option<(i64, String)>,
    /// When the login behind the lease ends, where that is known.
    pub login: Option<LoginEnd>,
}

impl Standing {
    /// Whom a person has to sign in as: now, or soon (then it is said when the login ends).
    #[must_use]
    pub fn wants_login(&self) -> Option<(&str, Option<i64>)> {
        let problem = self.problem.as_ref().and_then(|problem| problem.login.as_deref());
        let absent = (self.signed_in == Some(false)).then_some(self.identity.name.as_str());
        if let Some(name) = problem.or(absent) {
            return Some((name, None));
        }
        let ending = self.login.as_ref().filter(|login| now() >= schedule::tell_at(login))?;
        Some((&ending.identity, Some(ending.at)))
    }
}

impl Broker {
    /// Asks the source as a tool's request would, hands nothing out, and tells how the identity stands then.
    ///
    /// # Errors
    /// When there is no such identity, or the configuration cannot be read. What the source says is in the standing.
    pub async fn check(self: &Arc<Self>, name: &str) -> Result<Standing, BrokerProblem> {
        self.identity(name)?;
        let outcome = self.lease(name).await;
        let mut standing = self.standings()?.into_iter().find(|standing| standing.identity.name == name);
        if let (Some(standing), Err(problem)) = (&mut standing, outcome) {
            standing.problem = Some(problem);
        }
        standing.ok_or_else(|| late(name))
    }

    /// Every identity, and how it stands; asks no source and no keyring.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn standings(&self) -> Result<Vec<Standing>, BrokerProblem> {
        let identities = self.identities()?;
        let logins = vault::names(&self.place.vault(), "login/")?;
        let mut entries = self.entries();
        // What belongs to nobody any more is not held on to; no name has a space.
        entries.retain(|key, _| key.split(' ').next().is_some_and(|name| identities.all.contains_key(name)));
        let standing = |identity: &Identity| {
            let own = entries.iter().filter(|(key, _)| is_own(key, &identity.name)).map(|(_, entry)| entry);
            let entry = own
                .max_by_key(|entry| entry.last_used.as_ref().map(|(at, _)| *at))
                .filter(|entry| entry.identity.as_ref().is_none_or(|known| known == identity));
            let lease = entry.and_then(|entry| entry.lease.as_ref()).filter(|lease| lasts(lease, now()));
            Standing {
                identity: identity.clone(),
                expires_at: lease.and_then(|lease| lease.times.expires_at),
                has_lease: lease.is_some(),
                is_swappable: lease.is_some_and(|lease| lease.material.is_swappable()),
                signed_in: identity.needs_login().then(|| logins.contains(&source::login_item(identity))),
                problem: entry.and_then(|entry| entry.problem.clone()),
                last_used: entry.and_then(|entry| entry.last_used.clone()),
                login: lease.and_then(|lease| lease.login.clone()),
            }
        };
        Ok(identities.all.values().map(standing).collect())
    }

    /// The identity that a person has to sign in to before this one gives anything, or goes on to: itself, or one it is
    /// built on; with the time that is left, if there is some.
    #[must_use]
    pub fn awaits_login(&self, name: &str) -> Option<(String, Option<i64>)> {
        let standings = self.standings().ok()?;
        let mut name = name;
        // A chain cannot be longer than there are identities.
        for _ in 0..standings.len() {
            let standing = standings.iter().find(|standing| standing.identity.name == name)?;
            if let Some((login, at)) = standing.wants_login() {
                return Some((login.to_owned(), at));
            }
            name = standing.identity.text("from")?;
        }
        None
    }
}

/// Whether it is a lease of the person's own, and not of a coding agent's session.
fn is_own(key: &str, name: &str) -> bool {
    is_of(key, name) && session::session_of(key).is_none()
}
