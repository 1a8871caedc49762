//! Decides the access of a session to an identity: full, restricted, or none with the rule and its fix.
//!
//! Pure: it depends only on the session, the current definition of the identity, and the decision of the user.

use super::Session;
use crate::approval::identity_digest;
use crate::identity::Identity;
use crate::problem::BrokerProblem;

/// The access of a session to an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionAccess {
    /// The same as the user.
    Full,
    /// A restricted lease of the source.
    Restricted(SessionRestriction),
}

/// The session that a restricted lease belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRestriction {
    pub session: String,
    pub name: String,
    /// The session's end; no lease is renewed after it.
    pub until: i64,
}

/// Sources whose protocol supports reduced credentials.
const RESTRICTABLE_SOURCES: [&str; 5] =
    ["aws-role", "aws-web-identity", "google", "google-impersonation", "google-federation"];

/// Decides the access of a session. `chain` is the identity and all identities that it is built on, itself first.
/// `is_allowed` is set if the user allowed the full identity for this session.
///
/// # Errors
/// The rule that refuses, its reason and its fix.
pub fn decide_access(
    session: &Session,
    chain: &[Identity],
    is_allowed: bool,
    now: i64,
) -> Result<SessionAccess, BrokerProblem> {
    let Some(identity) = chain.first() else { return Ok(SessionAccess::Full) };
    if session.is_over(now) {
        let message = format!("the session `{}` of this program is over, so it gets no credentials", session.name);
        return Err(refusal("session_over", message, HINT_SESSION_ENDED));
    }
    // After the decision of the user, only the end of the session counts.
    if is_allowed {
        return Ok(SessionAccess::Full);
    }
    let (name, session_name) = (&identity.name, &session.name);
    if !session.identities.is_empty() && !session.identities.contains(name) {
        let message = format!("`{name}` is none of the identities that the session `{session_name}` was started with");
        return Err(refusal("session_not_listed", message, HINT_OUTSIDE_SESSION));
    }
    if let Some(changed) =
        chain.iter().find(|identity| session.identity_digests.get(&identity.name) != Some(&identity_digest(identity)))
    {
        let message = format!("`{}` was changed after the session `{session_name}` began", changed.name);
        return Err(refusal("session_changed", message, HINT_OUTSIDE_SESSION));
    }
    if let Some(production) = chain.iter().find(|identity| identity.flag("production") == Some(true)) {
        let message = format!(
            "`{}` is production, and a coding agent's session (`{session_name}`) gets no such credentials",
            production.name
        );
        return Err(refusal("session_production", message, HINT_OUTSIDE_SESSION));
    }
    match identity.text("sessions").unwrap_or("read-only") {
        "full" => Ok(SessionAccess::Full),
        // The code was entered for one lease, and that lease is the user's.
        "read-only" if identity.text("mfa_serial").is_some() => {
            let message = format!("`{name}` needs an MFA code, and its one lease cannot be restricted");
            Err(refusal("session_not_narrow", message, restriction_hint(identity.kind)))
        }
        "read-only" if RESTRICTABLE_SOURCES.contains(&identity.kind) => {
            Ok(SessionAccess::Restricted(restriction_of(session)))
        }
        "read-only" => {
            let message = format!(
                "`{name}` comes from `{}`, which has no reduced credentials, and a coding agent's session \
                 (`{session_name}`) gets read-only access",
                identity.kind
            );
            Err(refusal("session_not_narrow", message, restriction_hint(identity.kind)))
        }
        _ => Err(refusal("session_refused", format!("`{name}` has `sessions = \"none\"`"), HINT_OUTSIDE_SESSION)),
    }
}

#[must_use]
pub fn restriction_of(session: &Session) -> SessionRestriction {
    SessionRestriction { session: session.id.clone(), name: session.name.clone(), until: session.until }
}

/// The refusal for an identity that only its source could detect as not restrictable.
pub(crate) fn not_restrictable(message: String, hint: &str) -> BrokerProblem {
    refusal("session_not_narrow", message, hint)
}

/// An id token states an identity, which cannot be restricted.
pub(crate) fn id_token_refusal(identity: &Identity) -> BrokerProblem {
    let message = format!("`{}` gives id tokens, which cannot be read-only", identity.name);
    refusal("session_not_narrow", message, HINT_OUTSIDE_SESSION)
}

const HINT_SESSION_ENDED: &str = "Ask the user to start another session with `pdev session run -- PROGRAM`. A preview of this session is the user's \
     again after `pdev down` and `pdev up`.";
const HINT_OUTSIDE_SESSION: &str = "Ask the user to do this outside of the session.";

fn restriction_hint(kind: &str) -> &'static str {
    match kind {
        "aws-sso" | "aws-session" | "aws-role" | "static" | "exec" | "vault-server" => {
            "Put an `aws-role` identity on top, which can be read-only, or set `sessions = \"full\"` in identities.toml."
        }
        _ => "Set `sessions = \"full\"` in identities.toml to give it unchanged.",
    }
}

fn refusal(code: &'static str, message: String, hint: &str) -> BrokerProblem {
    BrokerProblem { code, message, hint: Some(hint.to_owned()), login_identity: None }
}
