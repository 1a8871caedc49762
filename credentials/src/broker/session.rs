//! Leases for the programs of a coding agent's session: held apart from the person's own, and dropped with it.

use super::{Asker, Broker, BrokerProblem, now};
use crate::approval::meaning;
use crate::identity::Identity;
use crate::outlet::Outlet;
use crate::session::Session;
use crate::session::rule::{self, Bound, Reach};
use crate::source::Purpose;

use std::collections::BTreeMap;

/// A program of a session, as it asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub session: Session,
    /// Identities that a person allowed this session, for now.
    pub raised: Vec<String>,
}

impl Member {
    pub(super) fn told(&self) -> String {
        format!("{} {}", self.session.name, self.session.id)
    }
}

pub(super) fn told(bound: &Bound) -> String {
    format!("{} {}", bound.name, bound.session)
}

/// What a lease is for, and what it is held to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wanted {
    pub(super) purpose: Purpose,
    pub(super) bound: Option<Bound>,
}

impl Wanted {
    /// Leases are kept by it; one of a session serves no other session, whose tags it does not carry.
    pub(super) fn key(&self, name: &str) -> String {
        match &self.bound {
            // Before the purpose, which others choose the words of.
            Some(bound) => self.purpose.key(&format!("{name} session {}", bound.session)),
            None => self.purpose.key(name),
        }
    }

    pub(super) fn of(purpose: Purpose, asker: &Asker) -> Self {
        let bound = asker.session.as_ref().map(|member| rule::bound(&member.session));
        Self { purpose, bound }
    }

    pub(super) fn is_over(&self, now: i64) -> bool {
        self.bound.as_ref().is_some_and(|bound| now >= bound.until)
    }
}

/// The session of a lease's key.
pub(super) fn session_of(key: &str) -> Option<&str> {
    let mut words = key.split(' ').skip(1);
    if words.next() == Some("session") { words.next() } else { None }
}

impl Broker {
    /// What the asker's session holds a lease to; `None` where it may have all.
    pub(super) fn bound(
        &self,
        identity: &Identity,
        outlet: &Outlet,
        asker: &Asker,
    ) -> Result<Option<Bound>, BrokerProblem> {
        let Some(member) = &asker.session else { return Ok(None) };
        let raised = member.raised.contains(&identity.name);
        match rule::judge(&member.session, &self.own(identity)?, raised, now())? {
            Reach::Full => Ok(None),
            Reach::Bound(_) if matches!(outlet.purpose(), Purpose::IdToken(_)) => Err(rule::no_id_token(identity)),
            Reach::Bound(bound) => Ok(Some(bound)),
        }
    }

    /// Whether an asker's session may have something of an identity, without asking for it.
    ///
    /// # Errors
    /// The rule that refuses, its reason and the way out.
    pub fn allows(&self, name: &str, asker: &Asker) -> Result<(), BrokerProblem> {
        self.bound(&self.identity(name)?, &Outlet::Env, asker).map(drop)
    }

    /// The identity and all that it is built on.
    fn own(&self, identity: &Identity) -> Result<Vec<Identity>, BrokerProblem> {
        let mut own = vec![identity.clone()];
        // No chain comes back to its start: the reader of the file refuses that.
        while let Some(from) = own.last().and_then(|last| last.text("from")) {
            own.push(self.identity(from)?);
        }
        Ok(own)
    }

    /// What every identity is now, for a session that begins: later changes are not a person's word to it.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn meanings(&self) -> Result<BTreeMap<String, String>, BrokerProblem> {
        Ok(self.identities()?.all.values().map(|identity| (identity.name.clone(), meaning(identity))).collect())
    }

    /// Drops every lease of a session.
    pub fn forget_session(&self, session: &str) {
        self.entries().retain(|key, _| session_of(key) != Some(session));
    }
}
