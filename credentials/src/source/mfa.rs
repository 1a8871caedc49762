//! What a person's MFA code gave: the session of a role or user, kept in the vault until it ends, so that the code is
//! asked for once. Nothing renews it; the next one wants the next code.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{SourceContext, SourceProblem, now, sts};
use crate::identity::Identity;
use crate::lease::{Lease, LoginEnd, Material, Times};
use crate::secret::Secret;

/// Field names are on the disk: new ones need a default.
#[derive(Serialize, Deserialize)]
struct MfaSession {
    /// What the identity was when the code was given.
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

/// A session of another role or device is not this identity's.
fn identity_fields(identity: &Identity) -> String {
    let fields = ["from", "role_arn", "mfa_serial", "external_id", "endpoint"];
    fields.map(|field| identity.text(field).unwrap_or_default()).join("\n")
}

/// Six digits, as every device of AWS shows them; people type a space in the middle.
pub(super) fn parse_code(secret: &Secret) -> Result<Zeroizing<String>, String> {
    let text = Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
    let digits: Zeroizing<String> = Zeroizing::new(text.chars().filter(|letter| !letter.is_whitespace()).collect());
    match digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(digits),
        false => Err("that is no code of six digits".to_owned()),
    }
}

/// Spends the code, and keeps what it gave.
pub(super) async fn login(
    identity: &Identity,
    means: &SourceContext<'_>,
    secret: &Secret,
) -> Result<(), SourceProblem> {
    let code = parse_code(secret).map_err(SourceProblem::Refused)?;
    let (item, vault) = (super::login_item(identity), means.vault()?);
    let lease = sts::fetch_with_mfa_code(identity, means, &code).await?;
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
        since: now(),
        expires_at,
        skew: lease.times.skew,
    };
    let bytes = Zeroizing::new(serde_json::to_vec(&session).unwrap_or_default());
    let _alone = vault.lock_login(&item).await?;
    Ok(vault.put(&item, &Secret::from_zeroizing(bytes))?)
}

pub(super) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let (item, vault) = (super::login_item(identity), means.vault()?);
    let _alone = vault.lock_login(&item).await?;
    let needed =
        |why: &str| SourceProblem::NeedsLogin(format!("{why} `{}`: it wants a code of its MFA device", identity.name));
    let kept = vault.get(&item)?.ok_or_else(|| needed("nobody has signed in as"))?;
    let session: MfaSession = serde_json::from_slice(kept.expose()).map_err(|_| needed("nobody has signed in as"))?;
    if session.identity_fields != identity_fields(identity) {
        return Err(needed("since the last login somebody changed"));
    }
    if now().saturating_add(session.skew) >= session.expires_at {
        // What has ended is worth nothing, and a look at the vault then tells that a person is needed.
        vault.remove(&item)?;
        return Err(needed("the session has ended of"));
    }
    let material = Material::Aws {
        access_key_id: session.access_key_id,
        secret_access_key: Secret::new(session.secret_access_key.into_bytes()),
        session_token: Some(Secret::new(session.session_token.into_bytes())),
        account: session.account,
    };
    // Counted from now: reading it again gives the same session, so it is not worth doing often.
    let times = Times { issued_at: now(), expires_at: Some(session.expires_at), skew: session.skew };
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
