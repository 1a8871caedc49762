//! The session of a role or user that an MFA code provided. It is stored in the vault until it ends, so the code is
//! needed only once. It cannot be renewed; the next session needs the next code.

use host::clock::now_milliseconds;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{SourceContext, sts};
use crate::identity::Identity;
use crate::lease::{Lease, LoginEnd, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;

/// The stored session. Field names are on disk: new ones need a default.
#[derive(Serialize, Deserialize)]
struct MfaSession {
    /// The fields of the identity when the code was entered.
    #[serde(rename = "of")]
    identity_fields: String,
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    #[serde(default)]
    account: Option<String>,
    since: i64,
    expires_at: i64,
    #[serde(default)]
    skew: i64,
}

/// The fields that determine the session. A session of another role or device does not belong to this identity.
fn identity_fields(identity: &Identity) -> String {
    let fields = ["from", "role_arn", "mfa_serial", "external_id", "endpoint"];
    fields.map(|field| identity.text(field).unwrap_or_default()).join("\n")
}

/// Parses a code: six digits, as every MFA device of AWS shows. Users type spaces between them.
pub(super) fn parse_code(secret: &Secret) -> Result<Zeroizing<String>, String> {
    let text = Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
    let digits: Zeroizing<String> = Zeroizing::new(text.chars().filter(|letter| !letter.is_whitespace()).collect());
    match digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(digits),
        false => Err("that is no code of six digits".to_owned()),
    }
}

/// Uses the code, and stores the resulting session.
pub(super) async fn login(
    identity: &Identity,
    context: &SourceContext<'_>,
    secret: &Secret,
) -> Result<(), SourceProblem> {
    let code = parse_code(secret).map_err(SourceProblem::Refused)?;
    let (item, vault) = (super::login_item(identity), context.vault()?);
    let lease = sts::fetch_with_mfa_code(identity, context, &code).await?;
    let (Material::Aws { access_key_id, secret_access_key, session_token: Some(token), account }, Some(expires_at)) =
        (lease.material, lease.times.expires_at)
    else {
        return Err(SourceProblem::Transient("STS gave a session without a token or an end".to_owned()));
    };
    let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    let session = MfaSession {
        identity_fields: identity_fields(identity),
        access_key_id,
        secret_access_key: text(&secret_access_key),
        session_token: text(&token),
        account,
        since: now_milliseconds(),
        expires_at,
        skew: lease.times.skew,
    };
    let bytes = Zeroizing::new(serde_json::to_vec(&session).unwrap_or_default());
    let _login_guard = vault.lock_login(&item).await?;
    Ok(vault.put(&item, &Secret::from_zeroizing(bytes))?)
}

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let (item, vault) = (super::login_item(identity), context.vault()?);
    let _login_guard = vault.lock_login(&item).await?;
    let name = &identity.name;
    let needs_code = |reason: String| SourceProblem::NeedsLogin(format!("{reason}; it needs a code of its MFA device"));
    let not_signed_in = || needs_code(format!("no user has signed in as `{name}`"));
    let stored = vault.get(&item)?.ok_or_else(not_signed_in)?;
    let session: MfaSession = serde_json::from_slice(stored.expose()).map_err(|_| not_signed_in())?;
    if session.identity_fields != identity_fields(identity) {
        return Err(needs_code(format!("`{name}` was changed since the last login")));
    }
    if now_milliseconds().saturating_add(session.skew) >= session.expires_at {
        // Remove the ended session, so that a listing of the vault shows that the user must sign in.
        vault.remove(&item)?;
        return Err(needs_code(format!("the session of `{name}` has ended")));
    }
    let material = Material::Aws {
        access_key_id: session.access_key_id,
        secret_access_key: Secret::new(session.secret_access_key.into_bytes()),
        session_token: Some(Secret::new(session.session_token.into_bytes())),
        account: session.account,
    };
    // Count from now: a renewal would only read the same session again, so it should be rare.
    let times = Times { issued_at: now_milliseconds(), expires_at: Some(session.expires_at), skew: session.skew };
    let at = session.expires_at.saturating_sub(session.skew);
    let end = LoginEnd { identity: identity.name.clone(), started_at: session.since, ends_at: at };
    Ok(Lease::new(material, times).with_login_end(Some(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_six_digit_codes_are_accepted() {
        let read = |text: &str| parse_code(&Secret::new(text.as_bytes().to_vec())).ok().map(|code| code.to_string());
        assert_eq!(read("123456").as_deref(), Some("123456"));
        assert_eq!(read("123 456\n").as_deref(), Some("123456"));
        for wrong in ["", "12345", "1234567", "12345x", "１２３４５６"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
