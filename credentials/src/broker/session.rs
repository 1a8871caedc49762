//! Leases for the programs of a coding agent's session: held apart from the person's own, and dropped with it.

use super::{Broker, BrokerProblem, Requester, now};
use crate::approval::identity_digest;
use crate::format::CredentialFormat;
use crate::identity::Identity;
use crate::session::Session;
use crate::session::rule::{self, SessionAccess, SessionRestriction};
use crate::source::Purpose;

use std::collections::BTreeMap;

/// A program of a session, as it asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionMember {
    pub session: Session,
    /// Identities that a person allowed this session, for now.
    pub allowed_identities: Vec<String>,
}

impl SessionMember {
    pub(super) fn audit_label(&self) -> String {
        format!("{} {}", self.session.name, self.session.id)
    }
}

pub(super) fn session_label(bound: &SessionRestriction) -> String {
    format!("{} {}", bound.name, bound.session)
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

/// What a lease is for, and what it is held to.
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
        self.restriction.as_ref().is_some_and(|bound| now >= bound.until)
    }
}

impl Broker {
    /// What the asker's session holds a lease to; `None` where it may have all.
    pub(super) fn session_restriction(
        &self,
        identity: &Identity,
        outlet: &CredentialFormat,
        asker: &Requester,
    ) -> Result<Option<SessionRestriction>, BrokerProblem> {
        let Some(member) = &asker.session else { return Ok(None) };
        let raised = member.allowed_identities.contains(&identity.name);
        match rule::decide_access(&member.session, &self.identity_chain(identity)?, raised, now())? {
            SessionAccess::Full => Ok(None),
            SessionAccess::Restricted(_) if matches!(outlet.purpose(), Purpose::IdToken(_)) => {
                Err(rule::id_token_refusal(identity))
            }
            SessionAccess::Restricted(bound) => Ok(Some(bound)),
        }
    }

    /// Whether an asker's session may have something of an identity, without asking for it.
    ///
    /// # Errors
    /// The rule that refuses, its reason and the way out.
    pub fn check_session_access(&self, name: &str, asker: &Requester) -> Result<(), BrokerProblem> {
        self.session_restriction(&self.identity(name)?, &CredentialFormat::Env, asker).map(drop)
    }

    /// The identity and all that it is built on.
    fn identity_chain(&self, identity: &Identity) -> Result<Vec<Identity>, BrokerProblem> {
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
