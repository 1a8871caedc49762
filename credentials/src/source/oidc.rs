//! Any OpenID Connect provider. The user signs in once, and the vault stores the refresh token. Each renewal that
//! rotates the token (RFC 6749, section 6) runs in a separate process (`exchange`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use host::clock::now_milliseconds;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use super::device_poll::{CODE_EXPIRED, DevicePoll, PollStep};
use super::loopback::LoopbackListener;
use super::{LoginPrompt, OAuthFlow, SourceContext, TokenRequest, login_problem, sanitize_text};
use crate::form_encoding::encode_form;
use crate::http::{FORM_MEDIA_TYPE, HttpResponse};
use crate::identity::Identity;
use crate::lease::Purpose;
use crate::lease::{Lease, LoginEnd, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;
use crate::source::exchange::ExchangeRequest;

/// The lifetime if the provider does not specify one.
const DEFAULT_LIFETIME_SECONDS: u64 = 300;
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The login in the vault. Field names are on disk: new ones need a default.
#[derive(Serialize, Deserialize, Default)]
struct StoredLogin {
    issuer: String,
    client_id: String,
    token_endpoint: String,
    #[serde(default)]
    refresh_token: Option<String>,
    /// Stored only if there is no refresh token.
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    expires_at: Option<i64>,
    #[serde(default)]
    signed_in_at: Option<i64>,
}

#[derive(Deserialize)]
struct ProviderMetadata {
    issuer: String,
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    /// Lifetime of the refresh token. No RFC defines it; Keycloak uses the first name, other providers the second.
    #[serde(default)]
    refresh_expires_in: Option<i64>,
    #[serde(default)]
    refresh_token_expires_in: Option<i64>,
}

impl TokenResponse {
    /// The end of the login, if the provider announces it. 0 means no end (Keycloak's offline tokens).
    fn login_end(&self, identity: &Identity, since: i64) -> Option<LoginEnd> {
        let seconds = self.refresh_expires_in.or(self.refresh_token_expires_in).filter(|seconds| *seconds > 0)?;
        let ends_at = now_milliseconds().saturating_add(seconds.saturating_mul(1000));
        Some(LoginEnd { identity: identity.name.clone(), started_at: since, ends_at })
    }
}

/// RFC 6749, section 5.2.
#[derive(Deserialize, Default)]
pub(super) struct ErrorResponse {
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub error_description: Option<String>,
}

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let stored = context.vault()?.get(&super::login_item(identity))?.ok_or_else(|| not_signed_in(identity))?;
    let login = read_login(identity, &stored)?;
    if login.refresh_token.is_none() {
        return lease_without_refresh(identity, login, context.now);
    }
    // Refresh tokens of Microsoft Entra are valid for every resource that the user consented to.
    let scope = match context.purpose {
        Purpose::Resource(resource) => Some(format!("{resource}/.default offline_access")),
        _ => None,
    };
    let response = context.run_exchange(&ExchangeRequest::new(identity).with_scope(scope)).await?;
    if !response.is_success() {
        let refusal: ErrorResponse = response.json().unwrap_or_default();
        return Err(match refusal.error.as_str() {
            "invalid_grant" => SourceProblem::NeedsLogin(format!(
                "the login of `{}` has ended or was revoked ({})",
                identity.name,
                describe_error(&refusal)
            )),
            _ => refusal_problem(&response, &refusal),
        });
    }
    let tokens: TokenResponse = response.json()?;
    // Some providers count the lifetime from the last use, so the renewal restarts it. For other providers, the warning
    // appears earlier than needed.
    let login_end = tokens.login_end(identity, now_milliseconds());
    Ok(to_lease(identity, tokens, response.skew)?.with_login_end(login_end))
}

fn read_login(identity: &Identity, stored: &Secret) -> Result<StoredLogin, SourceProblem> {
    let login: StoredLogin = serde_json::from_slice(stored.expose()).map_err(|_| not_signed_in(identity))?;
    if Some(login.issuer.as_str()) != identity.text("issuer")
        || Some(login.client_id.as_str()) != identity.text("client_id")
    {
        let reason = format!("the provider or client of `{}` was changed since the last login", identity.name);
        return Err(SourceProblem::NeedsLogin(reason));
    }
    Ok(login)
}

/// RFC 6749, section 6.
pub(super) fn token_request(
    identity: &Identity,
    stored: &Secret,
    scope: Option<&str>,
) -> Result<TokenRequest, SourceProblem> {
    let login = read_login(identity, stored)?;
    let refresh_token = login.refresh_token.as_deref().ok_or_else(|| not_signed_in(identity))?;
    let fields =
        [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", login.client_id.as_str())];
    let scope = scope.map(|scope| ("scope", scope));
    let fields: Vec<(&str, &str)> = fields.into_iter().chain(scope).collect();
    Ok(TokenRequest { body: encode_form(&fields).into_bytes(), media_type: FORM_MEDIA_TYPE, url: login.token_endpoint })
}

/// A rotated token is stored even if the rest of the response is invalid, because the old one is spent.
pub(super) fn updated_secret(stored: &Secret, response: &HttpResponse) -> Result<Option<Secret>, SourceProblem> {
    #[derive(Deserialize)]
    struct RotatedToken {
        #[serde(default)]
        refresh_token: Option<String>,
    }
    let mut login: StoredLogin = serde_json::from_slice(stored.expose()).unwrap_or_default();
    let RotatedToken { refresh_token: rotated } = response.json()?;
    if rotated.as_deref().is_none_or(str::is_empty) || rotated == login.refresh_token {
        return Ok(None);
    }
    login.refresh_token = rotated;
    Ok(Some(Secret::new(serde_json::to_vec(&login).unwrap_or_default())))
}

fn not_signed_in(identity: &Identity) -> SourceProblem {
    SourceProblem::NeedsLogin(format!("no user has signed in as `{}`", identity.name))
}

/// Serves the only token of a login without a refresh token, until it ends.
fn lease_without_refresh(identity: &Identity, login: StoredLogin, now: i64) -> Result<Lease, SourceProblem> {
    let is_valid = login.expires_at.is_none_or(|expires_at| expires_at > now);
    match login.token.filter(|_| is_valid) {
        Some(token) => {
            let times = Times { issued_at: now, expires_at: login.expires_at, skew: 0 };
            let since = login.signed_in_at.unwrap_or(now);
            let login_end =
                login.expires_at.map(|at| LoginEnd { identity: identity.name.clone(), started_at: since, ends_at: at });
            Ok(Lease::new(Material::Token(Secret::new(token.into_bytes())), times).with_login_end(login_end))
        }
        None => Err(SourceProblem::NeedsLogin(format!(
            "the login of `{}` has ended, and its provider gave no refresh token",
            identity.name
        ))),
    }
}

fn to_lease(identity: &Identity, tokens: TokenResponse, skew: i64) -> Result<Lease, SourceProblem> {
    let (now, lifetime_seconds) = (now_milliseconds(), tokens.expires_in.unwrap_or(DEFAULT_LIFETIME_SECONDS));
    let mut times = Times::from_lifetime(now, std::time::Duration::from_secs(lifetime_seconds));
    let token = match identity.text("token") {
        Some("id") => {
            let token = tokens.id_token.ok_or_else(|| {
                SourceProblem::Refused("the provider gave no id token; is `openid` among the scopes?".to_owned())
            })?;
            // `exp` is absolute and by the provider's clock, unlike `expires_in`.
            if let Some(end) = decode_claims(&token).and_then(|claims| claims["exp"].as_i64()) {
                times = Times { expires_at: Some(end * 1000), skew, ..times };
            }
            token
        }
        _ => tokens.access_token,
    };
    Ok(Lease::new(Material::Token(Secret::new(token.into_bytes())), times))
}

fn store_login(vault: &crate::vault::Vault, item: &str, login: &StoredLogin) -> Result<(), SourceProblem> {
    let bytes = serde_json::to_vec(login).unwrap_or_default();
    Ok(vault.put(item, &Secret::new(bytes))?)
}

/// Signs the user in. The steps for the user are sent as prompts.
pub(super) async fn login(
    identity: &Identity,
    context: &SourceContext<'_>,
    flow: OAuthFlow,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(), SourceProblem> {
    let issuer = identity.text("issuer").unwrap_or_default();
    let metadata = discover_metadata(issuer, context).await?;
    let tokens = match flow {
        OAuthFlow::Browser => login_with_browser(identity, &metadata, context, prompts).await?,
        OAuthFlow::Device => login_with_device_code(identity, &metadata, context, prompts).await?,
    };
    let client_id = identity.text("client_id").unwrap_or_default().to_owned();
    if let Some(token) = &tokens.id_token {
        check_id_token(token, issuer, &client_id)?;
    }
    let mut login = StoredLogin {
        issuer: issuer.to_owned(),
        client_id,
        token_endpoint: metadata.token_endpoint,
        refresh_token: tokens.refresh_token.clone(),
        signed_in_at: Some(now_milliseconds()),
        ..StoredLogin::default()
    };
    if login.refresh_token.is_none() {
        let lease = to_lease(identity, tokens, 0)?;
        login.expires_at = lease.times.expires_at;
        if let Material::Token(token) = &lease.material {
            login.token = Some(String::from_utf8_lossy(token.expose()).into_owned());
        }
    }
    let item = super::login_item(identity);
    let vault = context.vault()?;
    // Lock only for the write: the login may have taken minutes, and must not block renewals.
    let _login_guard = vault.lock_login(&item).await?;
    store_login(vault, &item, &login)
}

async fn discover_metadata(issuer: &str, context: &SourceContext<'_>) -> Result<ProviderMetadata, SourceProblem> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let response = context.http()?.get(&url, &[("accept", "application/json")]).await?;
    if !response.is_success() {
        return Err(response.unexpected_status_problem());
    }
    let metadata: ProviderMetadata = response.json()?;
    // OpenID Connect Discovery, section 4.3: both names must be equal, or another provider could impersonate this one.
    if metadata.issuer != issuer {
        let reason = format!(
            "`{url}` describes the provider `{}`; set `issuer` to exactly this value",
            sanitize_text(&metadata.issuer)
        );
        return Err(SourceProblem::Refused(reason));
    }
    Ok(metadata)
}

fn requested_scopes(identity: &Identity) -> String {
    identity.list("scopes").map_or_else(|| "openid offline_access".to_owned(), |scopes| scopes.join(" "))
}

async fn login_with_browser(
    identity: &Identity,
    metadata: &ProviderMetadata,
    context: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<TokenResponse, SourceProblem> {
    let endpoint = metadata.authorization_endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| SourceProblem::Refused("the provider has no sign-in page".to_owned()))?;
    let port = identity.number("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let loopback = LoopbackListener::bind(identity, port, "/callback").await?;
    let (redirect, challenge, verifier) = (loopback.redirect_uri(), loopback.challenge(), loopback.verifier.clone());
    let client_id = identity.text("client_id").unwrap_or_default();
    let scopes = requested_scopes(identity);
    let mut parameters = vec![
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", redirect.as_str()),
        ("scope", scopes.as_str()),
        ("state", loopback.state.as_str()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    if scopes.contains("offline_access") {
        // OpenID Connect Core, section 11: without it the provider must ignore `offline_access`.
        parameters.push(("prompt", "consent"));
    }
    let separator = if endpoint.contains('?') { '&' } else { '?' };
    super::send_prompt(
        prompts,
        LoginPrompt::Open { url: format!("{endpoint}{separator}{}", encode_form(&parameters)) },
    )
    .await?;
    let issuer = (metadata.issuer.as_str(), metadata.authorization_response_iss_parameter_supported);
    let code = loopback.wait_for_code(Some(issuer)).await?;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", redirect.as_str()),
        ("client_id", client_id),
        ("code_verifier", verifier.as_str()),
    ];
    let response = context.http()?.post_form(&metadata.token_endpoint, &fields).await?;
    if !response.is_success() {
        return Err(refusal_problem(&response, &response.json().unwrap_or_default()));
    }
    response.json()
}

#[derive(Deserialize)]
struct DeviceCodeResponse {
    device_code: String,
    user_code: String,
    verification_uri: String,
    #[serde(default)]
    verification_uri_complete: Option<String>,
    expires_in: u64,
    #[serde(default)]
    interval: Option<u64>,
}

async fn login_with_device_code(
    identity: &Identity,
    metadata: &ProviderMetadata,
    context: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<TokenResponse, SourceProblem> {
    let endpoint = metadata.device_authorization_endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| {
        let hint = format!(
            "Run `pdev login {name} --flow browser`; over SSH, set `port` in identities.toml and use `ssh -L PORT:127.0.0.1:PORT`.",
            name = identity.name
        );
        login_problem(identity, "the provider offers no sign-in by code".to_owned(), hint)
    })?;
    let (client_id, scopes) = (identity.text("client_id").unwrap_or_default(), requested_scopes(identity));
    let mut fields = vec![("client_id", client_id), ("scope", scopes.as_str())];
    if scopes.contains("offline_access") {
        fields.push(("prompt", "consent"));
    }
    let response = context.http()?.post_form(endpoint, &fields).await?;
    if !response.is_success() {
        return Err(refusal_problem(&response, &response.json().unwrap_or_default()));
    }
    let code: DeviceCodeResponse = response.json()?;
    let prompt = LoginPrompt::Code {
        url: code.verification_uri,
        code: code.user_code,
        complete_url: code.verification_uri_complete,
    };
    super::send_prompt(prompts, prompt).await?;
    // At most an hour, so that a wrong `expires_in` cannot keep the loop running.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(code.expires_in.min(3600));
    let mut poll = DevicePoll::new(code.interval);
    let fields = [("grant_type", DEVICE_GRANT), ("device_code", code.device_code.as_str()), ("client_id", client_id)];
    loop {
        if tokio::time::Instant::now() + poll.interval() > deadline {
            return Err(SourceProblem::NotCompleted(CODE_EXPIRED.to_owned()));
        }
        tokio::time::sleep(poll.interval()).await;
        let response = match context.http()?.post_form(&metadata.token_endpoint, &fields).await {
            Ok(response) if response.is_success() => return response.json(),
            Ok(response) => response,
            Err(SourceProblem::Transient(_)) => {
                poll.handle_no_response();
                continue;
            }
            Err(other) => return Err(other),
        };
        let refusal: ErrorResponse = response.json().unwrap_or_default();
        if refusal.error.is_empty() {
            match response.unexpected_status_problem() {
                SourceProblem::Transient(_) => poll.handle_no_response(),
                other => return Err(other),
            }
        } else if let PollStep::Failed(reason) = poll.handle_error(&refusal.error, refusal.error_description.as_deref())
        {
            return Err(SourceProblem::NotCompleted(reason));
        }
    }
}

/// The error for a refusal without a known fix. A server error may also have the form of a refusal.
fn refusal_problem(response: &HttpResponse, refusal: &ErrorResponse) -> SourceProblem {
    match refusal.error.as_str() {
        "" => response.unexpected_status_problem(),
        "server_error" | "temporarily_unavailable" => SourceProblem::Transient(describe_error(refusal)),
        _ if response.status >= 500 || response.status == 429 => SourceProblem::Transient(describe_error(refusal)),
        _ => SourceProblem::Refused(describe_error(refusal)),
    }
}

pub(super) fn describe_error(refusal: &ErrorResponse) -> String {
    let detail =
        refusal.error_description.as_deref().map(|text| format!(": {}", sanitize_text(text))).unwrap_or_default();
    format!("the provider answered `{}`{detail}", sanitize_text(&refusal.error))
}

/// The claims of a token, without a check of its signature. The token comes directly from the token endpoint over TLS,
/// which OpenID Connect Core, section 3.1.3.7 point 6 accepts instead of the signature.
pub(super) fn decode_claims(token: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?).ok()
}

fn check_id_token(token: &str, issuer: &str, client_id: &str) -> Result<(), SourceProblem> {
    let claims = decode_claims(token).ok_or_else(|| SourceProblem::Refused("the id token is no JWT".to_owned()))?;
    let is_for_client = match &claims["aud"] {
        Value::Array(all) => all.iter().any(|audience| audience == client_id),
        audience => audience == client_id,
    };
    if claims["iss"] != issuer || !is_for_client {
        return Err(SourceProblem::Refused(
            "the id token is from another provider or for another client (`iss`, `aud`)".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode_token(claims: &str) -> String {
        format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn id_tokens_of_others_are_refused() {
        let check = |claims: &str| check_id_token(&encode_token(claims), "https://i", "me").is_ok();
        assert!(check(r#"{"iss":"https://i","aud":"me"}"#));
        assert!(check(r#"{"iss":"https://i","aud":["other","me"]}"#));
        assert!(!check(r#"{"iss":"https://i","aud":"other"}"#));
        assert!(!check(r#"{"iss":"https://j","aud":"me"}"#));
        assert!(check_id_token("garbage", "https://i", "me").is_err());
    }
}
