//! Google: service accounts by their key (RFC 7523), users by the refresh token of gcloud's login, service accounts by
//! impersonation, and anybody by another provider's token (RFC 8693).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::oidc::{ErrorResponse, decode_claims, describe_error};
use super::{Purpose, SourceContext, SourceProblem, TokenRequest, now, sanitize_text};
use crate::exchange::ExchangeRequest;
use crate::http::{FORM_MEDIA_TYPE, HttpResponse, encode_form};
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::secret::Secret;
use crate::session::rule::SessionRestriction;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// What a coding agent's session is given of it.
const READ_ONLY_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// An assertion lives at most an hour.
const ASSERTION_SECONDS: i64 = 3600;
/// What Google allows an assertion to be off.
const SKEW_MAX: i64 = 4 * 60_000;

/// The file that Google's console or gcloud wrote. A renewed refresh token is put back into it.
fn parse_credentials_file(secret: &Secret) -> Result<Value, String> {
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

pub(super) fn check_secret(secret: &Secret) -> Result<(), String> {
    let document = parse_credentials_file(secret)?;
    if document["type"] == "service_account" {
        parse_key_pair(document["private_key"].as_str().unwrap_or_default())?;
    }
    Ok(())
}

pub(super) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let kept = means
        .vault()?
        .get(&super::login_item(identity))?
        .ok_or_else(|| SourceProblem::NeedsLogin(format!("the key or login of `{}` was never given", identity.name)))?;
    let document = parse_credentials_file(&kept).map_err(SourceProblem::NeedsLogin)?;
    if document["type"] == "service_account" {
        return fetch_lease_by_key(identity, &document, means).await;
    }
    if matches!(means.purpose, Purpose::IdToken(_)) {
        return Err(SourceProblem::Refused("a person gets no id token for an audience at Google".to_owned()));
    }
    let scopes = requested_scopes(identity, means);
    // What is asked for must have been granted; without the field Google gives all of it.
    let scope = (means.restriction.is_some() || identity.list("scopes").is_some()).then(|| scopes.clone());
    let answer = means.run_exchange(&ExchangeRequest::new(identity).with_scope(scope)).await?;
    let tokens = parse_tokens(identity, means, &answer)?;
    // A session is not handed more than it was asked for, whatever the server makes of a scope.
    let more = tokens.scope.split(' ').find(|scope| !scope.is_empty() && !scopes.split(' ').any(|one| one == *scope));
    if let Some(more) = more.filter(|_| means.restriction.is_some()) {
        return Err(not_restrictable(identity, means, &format!("Google gave the scope `{}`", sanitize_text(more))));
    }
    Ok(tokens.into_lease(answer.skew))
}

/// RFC 6749, section 6.
pub(super) fn token_request(kept: &Secret, scope: Option<&str>) -> Result<TokenRequest, SourceProblem> {
    let document = parse_credentials_file(kept).map_err(SourceProblem::NeedsLogin)?;
    let field = |name: &str| document[name].as_str().unwrap_or_default();
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", field("client_id")),
        ("client_secret", field("client_secret")),
        ("refresh_token", field("refresh_token")),
    ];
    let fields: Vec<(&str, &str)> = fields.into_iter().chain(scope.map(|scope| ("scope", scope))).collect();
    let (url, body) = (token_url(&document).to_owned(), encode_form(&fields).into_bytes());
    Ok(TokenRequest { url, media_type: FORM_MEDIA_TYPE, body })
}

pub(super) fn updated_secret(kept: &Secret, answer: &HttpResponse) -> Result<Option<Secret>, SourceProblem> {
    let mut document = parse_credentials_file(kept).map_err(SourceProblem::NeedsLogin)?;
    let answered: Value = answer.json()?;
    let next = answered["refresh_token"].as_str().filter(|next| !next.is_empty());
    Ok(next.filter(|next| Some(*next) != document["refresh_token"].as_str()).map(|next| {
        document["refresh_token"] = next.into();
        Secret::from_zeroizing(Zeroizing::new(document.to_string().into_bytes()))
    }))
}

fn token_url(document: &Value) -> &str {
    document["token_uri"].as_str().unwrap_or(TOKEN_URL)
}

fn requested_scopes(identity: &Identity, means: &SourceContext<'_>) -> String {
    if means.restriction.is_some() {
        return identity.list("session_scopes").map_or_else(|| READ_ONLY_SCOPE.to_owned(), |scopes| scopes.join(" "));
    }
    identity.list("scopes").map_or_else(|| SCOPE.to_owned(), |scopes| scopes.join(" "))
}

/// Why a session is given nothing, where only Google can tell.
fn not_restrictable(identity: &Identity, means: &SourceContext<'_>, told: &str) -> SourceProblem {
    let words = format!("`{}` cannot be held to `{}`: {told}", identity.name, requested_scopes(identity, means));
    let by_login = "`gcloud auth application-default login --scopes=...` with that scope too, given again by `pdev login`, or \
                    `session_scopes` in identities.toml, makes it read-only.";
    let hint =
        if identity.kind == "google" { by_login } else { "`session_scopes` in identities.toml says other ones." };
    SourceProblem::Described(crate::session::rule::not_restrictable(words, hint))
}

async fn fetch_lease_by_key(
    identity: &Identity,
    document: &Value,
    means: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let ask = async |skew: i64| {
        let assertion = build_assertion(identity, document, means, now() + skew).map_err(SourceProblem::Refused)?;
        let fields = [("grant_type", JWT_BEARER_GRANT), ("assertion", assertion.as_str())];
        means.http()?.post_form(token_url(document), &fields).await
    };
    let mut answer = ask(0).await?;
    // The server's own clock is in its answer, and decides.
    if !answer.is_success() && answer.skew.abs() > SKEW_MAX {
        answer = ask(answer.skew).await?;
    }
    Ok(parse_tokens(identity, means, &answer)?.into_lease(answer.skew))
}

/// RFC 7523, section 3, signed by RS256 (RFC 7518, section 3.3).
fn build_assertion(
    identity: &Identity,
    document: &Value,
    means: &SourceContext<'_>,
    at: i64,
) -> Result<String, String> {
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
        _ => claims["scope"] = requested_scopes(identity, means).into(),
    }
    if let Some(subject) = identity.text("subject") {
        claims["sub"] = subject.into();
    }
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": document["private_key_id"] });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let key = parse_key_pair(document["private_key"].as_str().unwrap_or_default())?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| "the key cannot sign".to_owned())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// PEM of PKCS #8, as Google writes it.
fn parse_key_pair(pem: &str) -> Result<RsaKeyPair, String> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let bytes = STANDARD.decode(lines).map(Zeroizing::new).map_err(|_| "its `private_key` is no PEM".to_owned())?;
    RsaKeyPair::from_pkcs8(&bytes).map_err(|error| format!("its `private_key` is no RSA key in PKCS #8: {error}"))
}

/// RFC 8693 at Google's STS.
pub(super) async fn fetch_federated_lease(
    identity: &Identity,
    means: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let (token, scopes) = (means.base_token(identity)?, requested_scopes(identity, means));
    let url = format!("{}/v1/token", base_url(identity, "https://sts.googleapis.com"));
    let fields = [
        ("grant_type", TOKEN_EXCHANGE_GRANT),
        ("audience", identity.text("audience").unwrap_or_default()),
        ("scope", scopes.as_str()),
        ("requested_token_type", ACCESS_TOKEN_TYPE),
        ("subject_token", token.as_str()),
        ("subject_token_type", JWT_TYPE),
    ];
    let answer = means.http()?.post_form(&url, &fields).await?;
    Ok(parse_tokens(identity, means, &answer)?.into_lease(answer.skew))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImpersonationResponse {
    access_token: String,
    expire_time: String,
}

#[derive(Deserialize)]
struct IdTokenResponse {
    token: String,
}

/// IAM Service Account Credentials API, `generateAccessToken` and `generateIdToken`.
pub(super) async fn fetch_impersonated_lease(
    identity: &Identity,
    means: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let token = means.base_token(identity)?;
    let account = crate::http::percent_encode(identity.text("service_account").unwrap_or_default());
    let base = base_url(identity, "https://iamcredentials.googleapis.com");
    let verb = if matches!(means.purpose, Purpose::IdToken(_)) { "generateIdToken" } else { "generateAccessToken" };
    let url = format!("{base}/v1/projects/-/serviceAccounts/{account}:{verb}");
    let seconds = identity.duration("duration").map_or(3600, |duration| duration.as_secs()).clamp(60, 43_200);
    // As long as the session lasts; from five minutes on Google's own client libraries ask once.
    let left = |bound: &SessionRestriction| u64::try_from(bound.until - means.now).unwrap_or_default() / 1000;
    let seconds = means.restriction.map_or(seconds, |bound| seconds.min(3600).min(left(bound).max(300)));
    let scopes: Vec<String> = requested_scopes(identity, means).split(' ').map(str::to_owned).collect();
    let body = match means.purpose {
        Purpose::IdToken(audience) => json!({ "audience": audience, "includeEmail": true }),
        _ => json!({ "scope": scopes, "lifetime": format!("{seconds}s") }),
    };
    let body = body.to_string();
    let authorization = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
    let answer = means.http()?.send(http::Method::POST, &url, &headers, body.into_bytes()).await?;
    if !answer.is_success() {
        let refusal: Value = answer.json().unwrap_or_default();
        let Some(message) = refusal["error"]["message"].as_str() else {
            return Err(answer.unexpected_status_problem());
        };
        if answer.status == 400 && means.restriction.is_some() {
            return Err(not_restrictable(identity, means, &format!("Google answered 400: {}", sanitize_text(message))));
        }
        let from = identity.text("from").unwrap_or_default();
        let told = format!("Google answered {}: {} (asked as `{from}`)", answer.status, sanitize_text(message));
        return Err(if answer.status >= 500 || answer.status == 429 {
            SourceProblem::Transient(told)
        } else {
            SourceProblem::Refused(told)
        });
    }
    if matches!(means.purpose, Purpose::IdToken(_)) {
        let given: IdTokenResponse = answer.json()?;
        return Ok(id_token_lease(given.token, answer.skew));
    }
    let given: ImpersonationResponse = answer.json()?;
    let end = super::exec::parse_rfc3339(&given.expire_time);
    let end = end.ok_or_else(|| SourceProblem::Transient("Google answered with an end that is no time".to_owned()))?;
    let times = Times { issued_at: now(), expires_at: Some(end), skew: answer.skew };
    Ok(Lease::new(Material::Token(Secret::new(given.access_token.into_bytes())), times))
}

/// Whose clock counts: of the calls that this kind of identity makes first.
pub(super) fn server_url(identity: &Identity) -> String {
    let usual = match identity.kind {
        "google-impersonation" => "https://iamcredentials.googleapis.com",
        "google-federation" => "https://sts.googleapis.com",
        _ => "https://oauth2.googleapis.com",
    };
    base_url(identity, usual).to_owned()
}

fn base_url<'a>(identity: &'a Identity, usual: &'a str) -> &'a str {
    identity.text("endpoint").unwrap_or(usual).trim_end_matches('/')
}

/// An id token says itself when it ends.
fn id_token_lease(token: String, skew: i64) -> Lease {
    let end =
        decode_claims(&token).and_then(|claims| claims["exp"].as_i64()).map(|seconds| seconds.saturating_mul(1000));
    let times = Times { issued_at: now(), expires_at: end, skew };
    Lease::new(Material::Token(Secret::new(token.into_bytes())), times)
}

#[derive(Deserialize)]
struct TokenResponse {
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

impl TokenResponse {
    fn into_lease(self, skew: i64) -> Lease {
        if let Some(token) = self.id_token.filter(|_| self.access_token.is_empty()) {
            return id_token_lease(token, skew);
        }
        let life = std::time::Duration::from_secs(self.expires_in.unwrap_or(300));
        let times = Times { skew, ..Times::from_lifetime(now(), life) };
        Lease::new(Material::Token(Secret::new(self.access_token.into_bytes())), times)
    }
}

fn parse_tokens(
    identity: &Identity,
    means: &SourceContext<'_>,
    answer: &HttpResponse,
) -> Result<TokenResponse, SourceProblem> {
    if answer.is_success() {
        let tokens: TokenResponse = answer.json()?;
        if tokens.access_token.is_empty() && tokens.id_token.is_none() {
            return Err(answer.unexpected_status_problem());
        }
        return Ok(tokens);
    }
    let refusal: ErrorResponse = answer.json().unwrap_or_default();
    let by_person = identity.kind == "google";
    Err(match refusal.error.as_str() {
        "" => answer.unexpected_status_problem(),
        // Scopes that a login was not granted, or a domain not delegated.
        "invalid_scope" | "unauthorized_client" if means.restriction.is_some() => {
            not_restrictable(identity, means, &describe_error(&refusal))
        }
        _ if answer.status >= 500 => SourceProblem::Transient(describe_error(&refusal)),
        "invalid_grant" if answer.skew.abs() > SKEW_MAX => {
            let minutes = answer.skew.abs() / 60_000;
            SourceProblem::Refused(format!(
                "{} (this machine's clock is {minutes} minutes off)",
                describe_error(&refusal)
            ))
        }
        // A revoked key, an ended login, or Google's daily demand to sign in again (`invalid_rapt`).
        "invalid_grant" if by_person => SourceProblem::NeedsLogin(format!(
            "{}; make the file anew (`gcloud auth application-default login` for a person), and give it again",
            describe_error(&refusal)
        )),
        _ => SourceProblem::Refused(describe_error(&refusal)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn google_credentials_files_are_validated() {
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
            assert_eq!(check_secret(&secret).err().unwrap_or_default(), expected, "{text}");
        }
    }
}
