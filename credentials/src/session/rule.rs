//! What a session's programs are given of an identity: all, less, or nothing with the rule and the way out.
//!
//! Pure: the session, what the identity is now, and what a person allowed go in; an answer comes out.

use super::Session;
use crate::approval::identity_digest;
use crate::broker::BrokerProblem;
use crate::identity::Identity;

/// How much of an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionAccess {
    /// What its person gets.
    Full,
    /// What the source can narrow it to.
    Restricted(SessionRestriction),
}

/// What a narrower lease is bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRestriction {
    pub session: String,
    pub name: String,
    /// The session's end; no lease is renewed after it.
    pub until: i64,
}

/// Sources whose protocol can give less than the identity has.
const RESTRICTABLE_SOURCES: [&str; 5] =
    ["aws-role", "aws-web-identity", "google", "google-impersonation", "google-federation"];

/// `own` is the identity and all that it is built on, itself first. `raised` is a person's word for this session.
///
/// # Errors
/// The rule that refuses, its reason and the way out.
pub fn decide_access(
    session: &Session,
    own: &[Identity],
    raised: bool,
    now: i64,
) -> Result<SessionAccess, BrokerProblem> {
    let Some(identity) = own.first() else { return Ok(SessionAccess::Full) };
    if session.is_over(now) {
        let words = format!("the session `{}` of this program is over, and gets no credentials", session.name);
        return Err(refusal("session_over", words, HINT_SESSION_ENDED));
    }
    if raised {
        return Ok(SessionAccess::Full);
    }
    let (name, session_name) = (&identity.name, &session.name);
    if !session.identities.is_empty() && !session.identities.contains(name) {
        let words = format!("`{name}` is none of the identities that the session `{session_name}` was started with");
        return Err(refusal("session_not_listed", words, HINT_OUTSIDE_SESSION));
    }
    if let Some(changed) = own.iter().find(|one| session.identity_digests.get(&one.name) != Some(&identity_digest(one)))
    {
        let words = format!("`{}` was changed after the session `{session_name}` began", changed.name);
        return Err(refusal("session_changed", words, HINT_OUTSIDE_SESSION));
    }
    if let Some(production) = own.iter().find(|one| one.flag("production") == Some(true)) {
        let words = format!(
            "`{}` is production, and a coding agent's session (`{session_name}`) gets none of that",
            production.name
        );
        return Err(refusal("session_production", words, HINT_OUTSIDE_SESSION));
    }
    match identity.text("sessions").unwrap_or("read-only") {
        "full" => Ok(SessionAccess::Full),
        // What a code was given for is one lease, and it is the person's.
        "read-only" if identity.text("mfa_serial").is_some() => {
            let words = format!("`{name}` wants a code, and its one lease is all that it has");
            Err(refusal("session_not_narrow", words, restriction_hint(identity.kind)))
        }
        "read-only" if RESTRICTABLE_SOURCES.contains(&identity.kind) => {
            Ok(SessionAccess::Restricted(restriction_of(session)))
        }
        "read-only" => {
            let words = format!(
                "`{name}` comes from `{}`, which cannot give less than everything, and a coding agent's session \
                 (`{session_name}`) gets read-only",
                identity.kind
            );
            Err(refusal("session_not_narrow", words, restriction_hint(identity.kind)))
        }
        _ => Err(refusal("session_refused", format!("`{name}` says `sessions = \"none\"`"), HINT_OUTSIDE_SESSION)),
    }
}

#[must_use]
pub fn restriction_of(session: &Session) -> SessionRestriction {
    SessionRestriction { session: session.id.clone(), name: session.name.clone(), until: session.until }
}

/// What only its source could tell: it gives no less than everything.
pub(crate) fn not_restrictable(words: String, hint: &str) -> BrokerProblem {
    refusal("session_not_narrow", words, hint)
}

/// An id token says who somebody is, and cannot say it by half.
pub(crate) fn id_token_refusal(identity: &Identity) -> BrokerProblem {
    let words = format!("`{}` gives id tokens, which cannot be read-only", identity.name);
    refusal("session_not_narrow", words, HINT_OUTSIDE_SESSION)
}

const HINT_SESSION_ENDED: &str = "A person starts another one: `pdev session run -- PROGRAM`; a preview that it brought up is a person's again \
                    after `pdev down` and `pdev up`.";
const HINT_OUTSIDE_SESSION: &str = "A person does that outside of the session.";

fn restriction_hint(kind: &str) -> &'static str {
    match kind {
        "aws-sso" | "aws-session" | "aws-role" | "static" | "exec" | "vault-server" => {
            "Another `aws-role` identity on top can be read-only; `sessions = \"full\"` in identities.toml gives it as it is."
        }
        _ => "`sessions = \"full\"` in identities.toml gives it as it is.",
    }
}

fn refusal(code: &'static str, message: String, hint: &str) -> BrokerProblem {
    BrokerProblem { code, message, hint: Some(hint.to_owned()), login_identity: None }
}
