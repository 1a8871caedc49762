//! Leases for the programs of a coding agent's session. They are separate from the user's own leases and dropped with
//! the session.

use host::clock::now_milliseconds;

use super::{Broker, Requester};
use crate::approval::identity_digest;
use crate::identity::Identity;
use crate::lease::Purpose;
use crate::problem::BrokerProblem;
use crate::session::Session;
use crate::session::rule::{self, SessionAccess, SessionRestriction};

use std::collections::BTreeMap;

/// The session of a requesting program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionMember {
    pub session: Session,
    /// Identities that the user temporarily allowed this session in full.
    pub allowed_identities: Vec<String>,
}

impl SessionMember {
    pub(super) fn audit_label(&self) -> String {
        format!("{} {}", self.session.name, self.session.id)
    }
}

pub(super) fn session_label(restriction: &SessionRestriction) -> String {
    format!("{} {}", restriction.name, restriction.session)
}

/// Where the broker stores a lease. A session's lease carries the tags of that session, so it serves no other session.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LeaseKey {
    pub(super) identity: String,
    /// The id of the coding agent's session; `None` for the user's own lease.
    pub(super) session: Option<String>,
    pub(super) purpose: Purpose,
}

impl LeaseKey {
    pub(super) fn new(identity: &str, restriction: Option<&SessionRestriction>, purpose: Purpose) -> Self {
        let session = restriction.map(|restriction| restriction.session.clone());
        Self { identity: identity.to_owned(), session, purpose }
    }

    /// Whether the lease is the user's own, and not one of a coding agent's session.
    pub(super) fn is_personal(&self) -> bool {
        self.session.is_none()
    }
}

/// The purpose of a lease, and its restriction if it belongs to a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LeaseRequest {
    pub(super) purpose: Purpose,
    pub(super) restriction: Option<SessionRestriction>,
}

impl LeaseRequest {
    pub(super) fn lease_key(&self, identity: &str) -> LeaseKey {
        LeaseKey::new(identity, self.restriction.as_ref(), self.purpose.clone())
    }

    pub(super) fn is_session_over(&self, now: i64) -> bool {
        self.restriction.as_ref().is_some_and(|restriction| now >= restriction.until)
    }
}

impl Broker {
    /// The restriction of the requester's session; `None` for full access.
    pub(super) fn session_restriction(
        &self,
        identity: &Identity,
        purpose: &Purpose,
        requester: &Requester,
    ) -> Result<Option<SessionRestriction>, BrokerProblem> {
        let Some(member) = &requester.session else { return Ok(None) };
        let is_allowed = member.allowed_identities.contains(&identity.name);
        match rule::decide_access(&member.session, &self.identity_chain(identity)?, is_allowed, now_milliseconds())? {
            SessionAccess::Full => Ok(None),
            SessionAccess::Restricted(_) if matches!(purpose, Purpose::IdToken(_)) => {
                Err(rule::id_token_refusal(identity))
            }
            SessionAccess::Restricted(restriction) => Ok(Some(restriction)),
        }
    }

    /// Checks whether the session of a requester may use an identity, without a request to the source.
    ///
    /// # Errors
    /// The rule that refuses, its reason and its fix.
    pub fn check_session_access(&self, name: &str, requester: &Requester) -> Result<(), BrokerProblem> {
        self.session_restriction(&self.identity(name)?, &Purpose::General, requester).map(drop)
    }

    /// The identity and all identities that it is built on.
    fn identity_chain(&self, identity: &Identity) -> Result<Vec<Identity>, BrokerProblem> {
        let mut chain = vec![identity.clone()];
        // The parser of identities.toml refuses cycles, so the loop ends.
        while let Some(from) = chain.last().and_then(|last| last.text("from")) {
            chain.push(self.identity(from)?);
        }
        Ok(chain)
    }

    /// Digests of all identities at the start of a session. Later changes do not count, because the session's programs
    /// can write the configuration.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn identity_digests(&self) -> Result<BTreeMap<String, String>, BrokerProblem> {
        Ok(self
            .load_identities()?
            .all
            .values()
            .map(|identity| (identity.name.clone(), identity_digest(identity)))
            .collect())
    }

    /// Drops every lease of a session.
    pub fn forget_session(&self, session: &str) {
        self.lock_entries().retain(|key, _| key.session.as_deref() != Some(session));
    }
}
