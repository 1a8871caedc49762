//! Google: service accounts by their key (RFC 7523), users by the refresh token of gcloud's login, service accounts by
//! impersonation, and anybody by another provider's token (RFC 8693).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::oidc::{Refusal, claims, said};
use super::{Asking, Means, Purpose, SourceProblem, now, words};
use crate::exchange::Errand;
use crate::http::{Answer, FORM, form};
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::secret::Secret;
use crate::session::rule::Bound;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// What a coding agent's session is given of it.
const READ_ONLY: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// An assertion lives at most an hour.
const ASSERTION_SECONDS: i64 = 3600;
/// What Google allows an assertion to be off.
const SKEW_MAX: i64 = 4 * 60_000;

/// The file that Google's console or gcloud wrote. A renewed refresh token is put back into it.
fn document(secret: &Secret) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(secret.expose()).map_err(|_| "it is no JSON".to_owned())?;
    let needed: &[&str] = match value["type"].as_str() {
        Some("service_account") => &["client_email", "private_key"],
        Some("authorized_user") => &["client_id", "client_secret", "refresh_token"],
        Some("external_account") => return Err("it holds no secret; use `source = \"google-federation\"`".to_owned()),
        Some("impersonated_service_account") => {
            return Err(
                "it is two in one: keep its `source_credentials`, and use `google-impersonation` on it".to_owned()
            );
        }
        _ => return Err("its `type` is neither `service_account` nor `authorized_user`".to_owned()),
    };
    match needed.iter().find(|field| value[**field].as_str().is_none_or(str::is_empty)) {
        Some(field) => Err(format!("it has no `{field}`")),
        None => Ok(value),
    }
}

pub(super) fn check(secret: &Secret) -> Result<(), String> {
    let document = document(secret)?;
    if document["type"] == "service_account" {
        key_pair(document["private_key"].as_str().unwrap_or_default())?;
    }
    Ok(())
}

pub(super) async fn lease(identity: &Identity, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    let kept = means
        .vault()?
        .get(&super::login_item(identity))?
        .ok_or_else(|| SourceProblem::NeedsLogin(format!("the key or login of `{}` was never given", identity.name)))?;
    let document = document(&kept).map_err(SourceProblem::NeedsLogin)?;
    if document["type"] == "service_account" {
        return by_key(identity, &document, means).await;
    }
    if matches!(means.purpose, Purpose::IdToken(_)) {
        return Err(SourceProblem::Refused("a person gets no id token for an audience at Google".to_owned()));
    }
    let scopes = scopes(identity, means);
    // What is asked for must have been granted; without the field Google gives all of it.
    let scope = (means.bound.is_some() || identity.list("scopes").is_some()).then(|| scopes.clone());
    let answer = means.spend(&Errand::new(identity).asking_for(scope)).await?;
    let tokens = given(identity, means, &answer)?;
    // A session is not handed more than it was asked for, whatever the server makes of a scope.
    let more = tokens.scope.split(' ').find(|scope| !scope.is_empty() && !scopes.split(' ').any(|one| one == *scope));
    if let Some(more) = more.filter(|_| means.bound.is_some()) {
        return Err(not_narrow(identity, means, &format!("Google gave the scope `{}`", words(more))));
    }
    Ok(tokens.lease(answer.skew))
}

/// RFC 6749, section 6.
pub(super) fn asking(kept: &Secret, scope: Option<&str>) -> Result<Asking, SourceProblem> {
    let document = document(kept).map_err(SourceProblem::NeedsLogin)?;
    let field = |name: &str| document[name].as_str().unwrap_or_default();
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", field("client_id")),
        ("client_secret", field("client_secret")),
        ("refresh_token", field("refresh_token")),
    ];
    let fields: Vec<(&str, &str)> = fields.into_iter().chain(scope.map(|scope| ("scope", scope))).collect();
    let (url, body) = (token_url(&document).to_owned(), form(&fields).into_bytes());
    Ok(Asking { url, media: FORM, body })
}

pub(super) fn kept(kept: &Secret, answer: &Answer) -> Result<Option<Secret>, SourceProblem> {
    let mut document = document(kept).map_err(SourceProblem::NeedsLogin)?;
    let answered: Value = answer.json()?;
    let next = answered["refresh_token"].as_str().filter(|next| !next.is_empty());
    Ok(next.filter(|next| Some(*next) != document["refresh_token"].as_str()).map(|next| {
        document["refresh_token"] = next.into();
        Secret::wiped(Zeroizing::new(document.to_string().into_bytes()))
    }))
}

fn token_url(document: &Value) -> &str {
    document["token_uri"].as_str().unwrap_or(TOKEN_URL)
}

fn scopes(identity: &Identity, means: &Means<'_>) -> String {
    if means.bound.is_some() {
        return identity.list("session_scopes").map_or_else(|| READ_ONLY.to_owned(), |scopes| scopes.join(" "));
    }
    identity.list("scopes").map_or_else(|| SCOPE.to_owned(), |scopes| scopes.join(" "))
}

/// Why a session is given nothing, where only Google can tell.
fn not_narrow(identity: &Identity, means: &Means<'_>, told: &str) -> SourceProblem {
    let words = format!("`{}` cannot be held to `{}`: {told}", identity.name, scopes(identity, means));
    let by_login = "`gcloud auth application-default login --scopes=...` with that scope too, given again by `pdev login`, or \
                    `session_scopes` in identities.toml, makes it read-only.";
    let hint =
        if identity.kind == "google" { by_login } else { "`session_scopes` in identities.toml says other ones." };
    SourceProblem::Said(crate::session::rule::not_narrow(words, hint))
}

async fn by_key(identity: &Identity, document: &Value, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    let ask = async |skew: i64| {
        let assertion = assertion(identity, document, means, now() + skew).map_err(SourceProblem::Refused)?;
        let fields = [("grant_type", JWT_BEARER), ("assertion", assertion.as_str())];
        means.http()?.post_form(token_url(document), &fields).await
    };
    let mut answer = ask(0).await?;
    // The server's own clock is in its answer, and decides.
    if !answer.is_fine() && answer.skew.abs() > SKEW_MAX {
        answer = ask(answer.skew).await?;
    }
    Ok(given(identity, means, &answer)?.lease(answer.skew))
}

/// RFC 7523, section 3, signed by RS256 (RFC 7518, section 3.3).
fn assertion(identity: &Identity, document: &Value, means: &Means<'_>, at: i64) -> Result<String, String> {
    let issued = at / 1000;
    let mut claims = json!({
        "iss": document["client_email"],
        // Always this one, wherever it is sent, as Google's own clients do.
        "aud": TOKEN_URL,
        "iat": issued,
        "exp": issued + ASSERTION_SECONDS,
    });
    match means.purpose {
        Purpose::IdToken(audience) => claims["target_audience"] = audience.as_str().into(),
        _ => claims["scope"] = scopes(identity, means).into(),
    }
    if let Some(subject) = identity.text("subject") {
        claims["sub"] = subject.into();
    }
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": document["private_key_id"] });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let key = key_pair(document["private_key"].as_str().unwrap_or_default())?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| "the key cannot sign".to_owned())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// PEM of PKCS #8, as Google writes it.
fn key_pair(pem: &str) -> Result<RsaKeyPair, String> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let bytes = STANDARD.decode(lines).map(Zeroizing::new).map_err(|_| "its `private_key` is no PEM".to_owned())?;
    RsaKeyPair::from_pkcs8(&bytes).map_err(|error| format!("its `private_key` is no RSA key in PKCS #8: {error}"))
}

/// RFC 8693 at Google's STS.
pub(super) async fn federated(identity: &Identity, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    let (token, scopes) = (means.token(identity)?, scopes(identity, means));
    let url = format!("{}/v1/token", base(identity, "https://sts.googleapis.com"));
    let fields = [
        ("grant_type", EXCHANGE),
        ("audience", identity.text("audience").unwrap_or_default()),
        ("scope", scopes.as_str()),
        ("requested_token_type", ACCESS_TOKEN),
        ("subject_token", token.as_str()),
        ("subject_token_type", JWT),
    ];
    let answer = means.http()?.post_form(&url, &fields).await?;
    Ok(given(identity, means, &answer)?.lease(answer.skew))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: String,
    expire_time: String,
}

#[derive(Deserialize)]
struct IdToken {
    token: String,
}

/// IAM Service Account Credentials API, `generateAccessToken` and `generateIdToken`.
pub(super) async fn impersonated(identity: &Identity, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    let token = means.token(identity)?;
    let account = crate::http::encoded(identity.text("service_account").unwrap_or_default());
    let base = base(identity, "https://iamcredentials.googleapis.com");
    let verb = if matches!(means.purpose, Purpose::IdToken(_)) { "generateIdToken" } else { "generateAccessToken" };
    let url = format!("{base}/v1/projects/-/serviceAccounts/{account}:{verb}");
    let seconds = identity.duration("duration").map_or(3600, |duration| duration.as_secs()).clamp(60, 43_200);
    // As long as the session lasts; from five minutes on Google's own client libraries ask once.
    let left = |bound: &Bound| u64::try_from(bound.until - means.now).unwrap_or_default() / 1000;
    let seconds = means.bound.map_or(seconds, |bound| seconds.min(3600).min(left(bound).max(300)));
    let scopes: Vec<String> = scopes(identity, means).split(' ').map(str::to_owned).collect();
    let body = match means.purpose {
        Purpose::IdToken(audience) => json!({ "audience": audience, "includeEmail": true }),
        _ => json!({ "scope": scopes, "lifetime": format!("{seconds}s") }),
    };
    let body = body.to_string();
    let authorization = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
    let answer = means.http()?.send(http::Method::POST, &url, &headers, body.into_bytes()).await?;
    if !answer.is_fine() {
        let refusal: Value = answer.json().unwrap_or_default();
        let Some(message) = refusal["error"]["message"].as_str() else { return Err(answer.unexpected()) };
        if answer.status == 400 && means.bound.is_some() {
            return Err(not_narrow(identity, means, &format!("Google answered 400: {}", words(message))));
        }
        let from = identity.text("from").unwrap_or_default();
        let told = format!("Google answered {}: {} (asked as `{from}`)", answer.status, words(message));
        return Err(if answer.status >= 500 || answer.status == 429 {
            SourceProblem::Passing(told)
        } else {
            SourceProblem::Refused(told)
        });
    }
    if matches!(means.purpose, Purpose::IdToken(_)) {
        let given: IdToken = answer.json()?;
        return Ok(id_lease(given.token, answer.skew));
    }
    let given: Impersonated = answer.json()?;
    let end = super::exec::moment(&given.expire_time);
    let end = end.ok_or_else(|| SourceProblem::Passing("Google answered with an end that is no time".to_owned()))?;
    let times = Times { issued_at: now(), expires_at: Some(end), skew: answer.skew };
    Ok(Lease::new(Material::Token(Secret::new(given.access_token.into_bytes())), times))
}

/// Whose clock counts: of the calls that this kind of identity makes first.
pub(super) fn server(identity: &Identity) -> String {
    let usual = match identity.kind {
        "google-impersonation" => "https://iamcredentials.googleapis.com",
        "google-federation" => "https://sts.googleapis.com",
        _ => "https://oauth2.googleapis.com",
    };
    base(identity, usual).to_owned()
}

fn base<'a>(identity: &'a Identity, usual: &'a str) -> &'a str {
    identity.text("endpoint").unwrap_or(usual).trim_end_matches('/')
}

/// An id token says itself when it ends.
fn id_lease(token: String, skew: i64) -> Lease {
    let end = claims(&token).and_then(|claims| claims["exp"].as_i64()).map(|seconds| seconds.saturating_mul(1000));
    let times = Times { issued_at: now(), expires_at: end, skew };
    Lease::new(Material::Token(Secret::new(token.into_bytes())), times)
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    access_token: String,
    /// In place of the other, where an audience was named.
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    scope: String,
}

impl Tokens {
    fn lease(self, skew: i64) -> Lease {
        if let Some(token) = self.id_token.filter(|_| self.access_token.is_empty()) {
            return id_lease(token, skew);
        }
        let life = std::time::Duration::from_secs(self.expires_in.unwrap_or(300));
        let times = Times { skew, ..Times::lasting(now(), life) };
        Lease::new(Material::Token(Secret::new(self.access_token.into_bytes())), times)
    }
}

fn given(identity: &Identity, means: &Means<'_>, answer: &Answer) -> Result<Tokens, SourceProblem> {
    if answer.is_fine() {
        let tokens: Tokens = answer.json()?;
        if tokens.access_token.is_empty() && tokens.id_token.is_none() {
            return Err(answer.unexpected());
        }
        return Ok(tokens);
    }
    let refusal: Refusal = answer.json().unwrap_or_default();
    let by_person = identity.kind == "google";
    Err(match refusal.error.as_str() {
        "" => answer.unexpected(),
        // Scopes that a login was not granted, or a domain not delegated.
        "invalid_scope" | "unauthorized_client" if means.bound.is_some() => {
            not_narrow(identity, means, &said(&refusal))
        }
        _ if answer.status >= 500 => SourceProblem::Passing(said(&refusal)),
        "invalid_grant" if answer.skew.abs() > SKEW_MAX => {
            let minutes = answer.skew.abs() / 60_000;
            SourceProblem::Refused(format!("{} (this machine's clock is {minutes} minutes off)", said(&refusal)))
        }
        // A revoked key, an ended login, or Google's daily demand to sign in again (`invalid_rapt`).
        "invalid_grant" if by_person => SourceProblem::NeedsLogin(format!(
            "{}; make the file anew (`gcloud auth application-default login` for a person), and give it again",
            said(&refusal)
        )),
        _ => SourceProblem::Refused(said(&refusal)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_google() {
        for (text, expected) in [
            ("canary", "it is no JSON"),
            ("{}", "its `type` is neither `service_account` nor `authorized_user`"),
            (r#"{"type":"authorized_user","client_id":"c","client_secret":"s"}"#, "it has no `refresh_token`"),
            (r#"{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r"}"#, ""),
            (r#"{"type":"service_account","client_email":"e"}"#, "it has no `private_key`"),
            (r#"{"type":"service_account","client_email":"e","private_key":"canary!"}"#, "its `private_key` is no PEM"),
            (r#"{"type":"external_account"}"#, "it holds no secret; use `source = \"google-federation\"`"),
        ] {
            let secret = Secret::new(text.as_bytes().to_vec());
            assert_eq!(check(&secret).err().unwrap_or_default(), expected, "{text}");
        }
    }
}
