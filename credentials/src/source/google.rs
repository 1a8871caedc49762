//! Google: service accounts with their key (RFC 7523), users with the refresh token of gcloud's login, service accounts
//! by impersonation, and identities of another provider by token exchange (RFC 8693).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use host::clock::now_milliseconds;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::oidc::{ErrorResponse, decode_claims, describe_error};
use super::{SourceContext, TokenRequest, sanitize_text};
use crate::form_encoding::encode_form;
use crate::http::{FORM_MEDIA_TYPE, HttpResponse};
use crate::identity::Identity;
use crate::lease::Purpose;
use crate::lease::{Lease, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;
use crate::session::rule::SessionRestriction;
use crate::source::exchange::ExchangeRequest;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The scope for coding agents' sessions.
const READ_ONLY_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The maximum lifetime of an assertion: one hour.
const ASSERTION_SECONDS: i64 = 3600;
/// Google accepts assertions with about this clock offset. Beyond it, the request is signed again with Google's clock.
const SKEW_MAX: i64 = 4 * 60_000;

/// Parses a file of Google's console or gcloud. A rotated refresh token is written back into it.
fn parse_credentials_file(secret: &Secret) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(secret.expose()).map_err(|_| "it is no JSON".to_owned())?;
    let needed: &[&str] = match value["type"].as_str() {
        Some("service_account") => &["client_email", "private_key"],
        Some("authorized_user") => &["client_id", "client_secret", "refresh_token"],
        Some("external_account") => return Err("it holds no secret; use `source = \"google-federation\"`".to_owned()),
        Some("impersonated_service_account") => {
            return Err(
                "it combines two identities: store its `source_credentials`, and use `google-impersonation` on top"
                    .to_owned(),
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

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let stored = context
        .vault()?
        .get(&super::login_item(identity))?
        .ok_or_else(|| SourceProblem::NeedsLogin(format!("no key or login is stored for `{}`", identity.name)))?;
    let document = parse_credentials_file(&stored).map_err(SourceProblem::NeedsLogin)?;
    if document["type"] == "service_account" {
        return fetch_lease_by_key(identity, &document, context).await;
    }
    if matches!(context.purpose, Purpose::IdToken(_)) {
        return Err(SourceProblem::Refused("Google issues no id tokens for an audience to users".to_owned()));
    }
    let scopes = requested_scopes(identity, context);
    // Name scopes only if they are configured or restricted, because Google refuses scopes that the login was not
    // granted. Without this field, it returns all granted scopes.
    let scope = (context.restriction.is_some() || identity.list("scopes").is_some()).then(|| scopes.clone());
    let response = context.run_exchange(&ExchangeRequest::new(identity).with_scope(scope)).await?;
    let tokens = parse_tokens(identity, context, &response)?;
    // Check the granted scopes: a session must not get more than it requested, even if the server ignores the field.
    let excess = tokens
        .scope
        .split(' ')
        .find(|scope| !scope.is_empty() && !scopes.split(' ').any(|requested| requested == *scope));
    if let Some(excess) = excess.filter(|_| context.restriction.is_some()) {
        return Err(not_restrictable(identity, context, &format!("Google gave the scope `{}`", sanitize_text(excess))));
    }
    Ok(tokens.into_lease(response.skew))
}

/// RFC 6749, section 6.
pub(super) fn token_request(stored: &Secret, scope: Option<&str>) -> Result<TokenRequest, SourceProblem> {
    let document = parse_credentials_file(stored).map_err(SourceProblem::NeedsLogin)?;
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

pub(super) fn updated_secret(stored: &Secret, response: &HttpResponse) -> Result<Option<Secret>, SourceProblem> {
    let mut document = parse_credentials_file(stored).map_err(SourceProblem::NeedsLogin)?;
    let body: Value = response.json()?;
    let rotated = body["refresh_token"].as_str().filter(|rotated| !rotated.is_empty());
    Ok(rotated.filter(|rotated| Some(*rotated) != document["refresh_token"].as_str()).map(|rotated| {
        document["refresh_token"] = rotated.into();
        Secret::from_zeroizing(Zeroizing::new(document.to_string().into_bytes()))
    }))
}

fn token_url(document: &Value) -> &str {
    document["token_uri"].as_str().unwrap_or(TOKEN_URL)
}

fn requested_scopes(identity: &Identity, context: &SourceContext<'_>) -> String {
    if context.restriction.is_some() {
        return identity.list("session_scopes").map_or_else(|| READ_ONLY_SCOPE.to_owned(), |scopes| scopes.join(" "));
    }
    identity.list("scopes").map_or_else(|| SCOPE.to_owned(), |scopes| scopes.join(" "))
}

/// The error for a session if only Google can detect that the token cannot be restricted.
fn not_restrictable(identity: &Identity, context: &SourceContext<'_>, reason: &str) -> SourceProblem {
    let message =
        format!("`{}` cannot be restricted to `{}`: {reason}", identity.name, requested_scopes(identity, context));
    let login_hint = "Run `gcloud auth application-default login --scopes=...` with that scope too and pass the file to `pdev login`, or set \
                      `session_scopes` in identities.toml.";
    let hint =
        if identity.kind == "google" { login_hint } else { "Set `session_scopes` in identities.toml to other scopes." };
    SourceProblem::Described(crate::session::rule::not_restrictable(message, hint))
}

async fn fetch_lease_by_key(
    identity: &Identity,
    document: &Value,
    context: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let send = async |skew: i64| {
        let assertion =
            build_assertion(identity, document, context, now_milliseconds() + skew).map_err(SourceProblem::Refused)?;
        let fields = [("grant_type", JWT_BEARER_GRANT), ("assertion", assertion.as_str())];
        context.http()?.post_form(token_url(document), &fields).await
    };
    let mut response = send(0).await?;
    // Google decides by its own clock, which is in the `Date` of the response.
    if !response.is_success() && response.skew.abs() > SKEW_MAX {
        response = send(response.skew).await?;
    }
    Ok(parse_tokens(identity, context, &response)?.into_lease(response.skew))
}

/// Builds an assertion (RFC 7523, section 3), signed with RS256 (RFC 7518, section 3.3).
fn build_assertion(
    identity: &Identity,
    document: &Value,
    context: &SourceContext<'_>,
    time: i64,
) -> Result<String, String> {
    let issued = time / 1000;
    let mut claims = json!({
        "iss": document["client_email"],
        // Always this URL, even if the request goes to another one, as in Google's own clients.
        "aud": TOKEN_URL,
        "iat": issued,
        "exp": issued + ASSERTION_SECONDS,
    });
    match context.purpose {
        Purpose::IdToken(audience) => claims["target_audience"] = audience.as_str().into(),
        _ => claims["scope"] = requested_scopes(identity, context).into(),
    }
    if let Some(subject) = identity.text("subject") {
        claims["sub"] = subject.into();
    }
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": document["private_key_id"] });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signing_input = format!("{}.{}", encode(&header), encode(&claims));
    let key = parse_key_pair(document["private_key"].as_str().unwrap_or_default())?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signing_input.as_bytes(), &mut signature)
        .map_err(|_| "the key cannot sign".to_owned())?;
    Ok(format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Parses a key in PEM of PKCS #8, the format of Google.
fn parse_key_pair(pem: &str) -> Result<RsaKeyPair, String> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let bytes = STANDARD.decode(lines).map(Zeroizing::new).map_err(|_| "its `private_key` is no PEM".to_owned())?;
    RsaKeyPair::from_pkcs8(&bytes).map_err(|error| format!("its `private_key` is no RSA key in PKCS #8: {error}"))
}

/// Token exchange (RFC 8693) at the STS of Google.
pub(super) async fn fetch_federated_lease(
    identity: &Identity,
    context: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let (token, scopes) = (context.base_token(identity)?, requested_scopes(identity, context));
    let url = format!("{}/v1/token", base_url(identity, "https://sts.googleapis.com"));
    let fields = [
        ("grant_type", TOKEN_EXCHANGE_GRANT),
        ("audience", identity.text("audience").unwrap_or_default()),
        ("scope", scopes.as_str()),
        ("requested_token_type", ACCESS_TOKEN_TYPE),
        ("subject_token", token.as_str()),
        ("subject_token_type", JWT_TYPE),
    ];
    let response = context.http()?.post_form(&url, &fields).await?;
    Ok(parse_tokens(identity, context, &response)?.into_lease(response.skew))
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
    context: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let token = context.base_token(identity)?;
    let account = crate::form_encoding::percent_encode(identity.text("service_account").unwrap_or_default());
    let base = base_url(identity, "https://iamcredentials.googleapis.com");
    let verb = if matches!(context.purpose, Purpose::IdToken(_)) { "generateIdToken" } else { "generateAccessToken" };
    let url = format!("{base}/v1/projects/-/serviceAccounts/{account}:{verb}");
    let seconds = identity.duration("duration").map_or(3600, |duration| duration.as_secs()).clamp(60, 43_200);
    // No longer than the session, but at least five minutes: with less, Google's own client libraries request twice.
    let remaining_seconds =
        |restriction: &SessionRestriction| u64::try_from(restriction.until - context.now).unwrap_or_default() / 1000;
    let seconds = context
        .restriction
        .map_or(seconds, |restriction| seconds.min(3600).min(remaining_seconds(restriction).max(300)));
    let scopes: Vec<String> = requested_scopes(identity, context).split(' ').map(str::to_owned).collect();
    let body = match context.purpose {
        Purpose::IdToken(audience) => json!({ "audience": audience, "includeEmail": true }),
        _ => json!({ "scope": scopes, "lifetime": format!("{seconds}s") }),
    };
    let body = body.to_string();
    let authorization = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
    let response = context.http()?.send(http::Method::POST, &url, &headers, body.into_bytes()).await?;
    if !response.is_success() {
        let refusal: Value = response.json().unwrap_or_default();
        let Some(message) = refusal["error"]["message"].as_str() else {
            return Err(response.unexpected_status_problem());
        };
        if response.status == 400 && context.restriction.is_some() {
            return Err(not_restrictable(
                identity,
                context,
                &format!("Google answered 400: {}", sanitize_text(message)),
            ));
        }
        let from = identity.text("from").unwrap_or_default();
        let reason = format!("Google answered {}: {} (asked as `{from}`)", response.status, sanitize_text(message));
        return Err(if response.status >= 500 || response.status == 429 {
            SourceProblem::Transient(reason)
        } else {
            SourceProblem::Refused(reason)
        });
    }
    if matches!(context.purpose, Purpose::IdToken(_)) {
        let body: IdTokenResponse = response.json()?;
        return Ok(id_token_lease(body.token, response.skew));
    }
    let body: ImpersonationResponse = response.json()?;
    let expires_at = super::exec::parse_rfc3339(&body.expire_time);
    let expires_at =
        expires_at.ok_or_else(|| SourceProblem::Transient("Google answered with an end that is no time".to_owned()))?;
    let times = Times { issued_at: now_milliseconds(), expires_at: Some(expires_at), skew: response.skew };
    Ok(Lease::new(Material::Token(Secret::new(body.access_token.into_bytes())), times))
}

/// The server for the clock comparison: the one that this kind of identity calls first.
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

/// An id token contains its own end.
fn id_token_lease(token: String, skew: i64) -> Lease {
    let expires_at =
        decode_claims(&token).and_then(|claims| claims["exp"].as_i64()).map(|seconds| seconds.saturating_mul(1000));
    let times = Times { issued_at: now_milliseconds(), expires_at, skew };
    Lease::new(Material::Token(Secret::new(token.into_bytes())), times)
}

#[derive(Deserialize)]
struct TokenResponse {
    #[serde(default)]
    access_token: String,
    /// Returned instead of the access token if an audience was requested.
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
        let lifetime = std::time::Duration::from_secs(self.expires_in.unwrap_or(300));
        let times = Times { skew, ..Times::from_lifetime(now_milliseconds(), lifetime) };
        Lease::new(Material::Token(Secret::new(self.access_token.into_bytes())), times)
    }
}

fn parse_tokens(
    identity: &Identity,
    context: &SourceContext<'_>,
    response: &HttpResponse,
) -> Result<TokenResponse, SourceProblem> {
    if response.is_success() {
        let tokens: TokenResponse = response.json()?;
        if tokens.access_token.is_empty() && tokens.id_token.is_none() {
            return Err(response.unexpected_status_problem());
        }
        return Ok(tokens);
    }
    let refusal: ErrorResponse = response.json().unwrap_or_default();
    let has_login = identity.kind == "google";
    Err(match refusal.error.as_str() {
        "" => response.unexpected_status_problem(),
        // Scopes that the login was not granted, or a delegation without these scopes.
        "invalid_scope" | "unauthorized_client" if context.restriction.is_some() => {
            not_restrictable(identity, context, &describe_error(&refusal))
        }
        _ if response.status >= 500 => SourceProblem::Transient(describe_error(&refusal)),
        "invalid_grant" if response.skew.abs() > SKEW_MAX => {
            let minutes = response.skew.abs() / 60_000;
            SourceProblem::Refused(format!(
                "{} (this machine's clock is {minutes} minutes off)",
                describe_error(&refusal)
            ))
        }
        // A revoked key, an ended login, or Google's daily requirement to sign in again (`invalid_rapt`).
        "invalid_grant" if has_login => SourceProblem::NeedsLogin(format!(
            "{}; create a new file (`gcloud auth application-default login` for a user), and store it again",
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
