//! Any OpenID Connect provider: a person signs in once, the refresh token stays in the vault, and each renewal that
//! rotates it (RFC 6749, section 6) is made in a process of its own (`exchange`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use super::device_poll::{CODE_EXPIRED, DevicePoll, PollStep};
use super::loopback::LoopbackListener;
use super::{
    LoginPrompt, OAuthFlow, Purpose, SourceContext, SourceProblem, TokenRequest, login_problem, now, sanitize_text,
};
use crate::exchange::ExchangeRequest;
use crate::http::{FORM_MEDIA_TYPE, HttpResponse, encode_form};
use crate::identity::Identity;
use crate::lease::{Lease, LoginEnd, Material, Times};
use crate::secret::Secret;

/// When the provider does not say how long a token lives.
const DEFAULT_LIFETIME_SECONDS: u64 = 300;
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What the vault keeps. Field names are on the disk: new ones need a default.
#[derive(Serialize, Deserialize, Default)]
struct StoredLogin {
    issuer: String,
    client_id: String,
    token_endpoint: String,
    #[serde(default)]
    refresh_token: Option<String>,
    /// Kept only where there is no refresh token: then it is all there is.
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
    /// How long the refresh token lives; in no RFC, but Keycloak says it by the first name, others by the second.
    #[serde(default)]
    refresh_expires_in: Option<i64>,
    #[serde(default)]
    refresh_token_expires_in: Option<i64>,
}

impl TokenResponse {
    /// When the login ends, as far as the provider says so; 0 stands for no end (Keycloak's offline tokens).
    fn login_end(&self, identity: &Identity, since: i64) -> Option<LoginEnd> {
        let seconds = self.refresh_expires_in.or(self.refresh_token_expires_in).filter(|seconds| *seconds > 0)?;
        let at = now().saturating_add(seconds.saturating_mul(1000));
        Some(LoginEnd { identity: identity.name.clone(), started_at: since, ends_at: at })
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

pub(super) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let kept = means.vault()?.get(&super::login_item(identity))?.ok_or_else(|| not_signed_in(identity))?;
    let login = read_login(identity, &kept)?;
    if login.refresh_token.is_none() {
        return lease_without_refresh(identity, login, means.now);
    }
    // Microsoft Entra's refresh tokens are good for every resource that was consented to.
    let scope = match means.purpose {
        Purpose::Resource(resource) => Some(format!("{resource}/.default offline_access")),
        _ => None,
    };
    let answer = means.run_exchange(&ExchangeRequest::new(identity).with_scope(scope)).await?;
    if !answer.is_success() {
        let refusal: ErrorResponse = answer.json().unwrap_or_default();
        return Err(match refusal.error.as_str() {
            "invalid_grant" => SourceProblem::NeedsLogin(format!(
                "the login of `{}` has ended or was revoked ({})",
                identity.name,
                describe_error(&refusal)
            )),
            _ => refusal_problem(&answer, &refusal),
        });
    }
    let tokens: TokenResponse = answer.json()?;
    // A provider that counts from the last use has begun anew; one that does not is told earlier than needed.
    let end = tokens.login_end(identity, now());
    Ok(to_lease(identity, tokens, answer.skew)?.with_login_end(end))
}

fn read_login(identity: &Identity, kept: &Secret) -> Result<StoredLogin, SourceProblem> {
    let login: StoredLogin = serde_json::from_slice(kept.expose()).map_err(|_| not_signed_in(identity))?;
    if Some(login.issuer.as_str()) != identity.text("issuer")
        || Some(login.client_id.as_str()) != identity.text("client_id")
    {
        let words = format!("`{}` was pointed at another provider or client since the last login", identity.name);
        return Err(SourceProblem::NeedsLogin(words));
    }
    Ok(login)
}

/// RFC 6749, section 6.
pub(super) fn token_request(
    identity: &Identity,
    kept: &Secret,
    scope: Option<&str>,
) -> Result<TokenRequest, SourceProblem> {
    let login = read_login(identity, kept)?;
    let refresh_token = login.refresh_token.as_deref().ok_or_else(|| not_signed_in(identity))?;
    let fields =
        [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", login.client_id.as_str())];
    let scope = scope.map(|scope| ("scope", scope));
    let fields: Vec<(&str, &str)> = fields.into_iter().chain(scope).collect();
    Ok(TokenRequest { body: encode_form(&fields).into_bytes(), media_type: FORM_MEDIA_TYPE, url: login.token_endpoint })
}

/// A token that was rotated is kept, whatever else is wrong with the answer.
pub(super) fn updated_secret(kept: &Secret, answer: &HttpResponse) -> Result<Option<Secret>, SourceProblem> {
    #[derive(Deserialize)]
    struct RotatedToken {
        #[serde(default)]
        refresh_token: Option<String>,
    }
    let mut login: StoredLogin = serde_json::from_slice(kept.expose()).unwrap_or_default();
    let RotatedToken { refresh_token: next } = answer.json()?;
    if next.as_deref().is_none_or(str::is_empty) || next == login.refresh_token {
        return Ok(None);
    }
    login.refresh_token = next;
    Ok(Some(Secret::new(serde_json::to_vec(&login).unwrap_or_default())))
}

fn not_signed_in(identity: &Identity) -> SourceProblem {
    SourceProblem::NeedsLogin(format!("nobody has signed in as `{}`", identity.name))
}

/// Without a refresh token, until the one token ends.
fn lease_without_refresh(identity: &Identity, login: StoredLogin, now: i64) -> Result<Lease, SourceProblem> {
    let lasts = login.expires_at.is_none_or(|end| end > now);
    match login.token.filter(|_| lasts) {
        Some(token) => {
            let times = Times { issued_at: now, expires_at: login.expires_at, skew: 0 };
            let since = login.signed_in_at.unwrap_or(now);
            let end =
                login.expires_at.map(|at| LoginEnd { identity: identity.name.clone(), started_at: since, ends_at: at });
            Ok(Lease::new(Material::Token(Secret::new(token.into_bytes())), times).with_login_end(end))
        }
        None => Err(SourceProblem::NeedsLogin(format!(
            "the login of `{}` has ended, and its provider gave no refresh token",
            identity.name
        ))),
    }
}

fn to_lease(identity: &Identity, tokens: TokenResponse, skew: i64) -> Result<Lease, SourceProblem> {
    let (now, life) = (now(), tokens.expires_in.unwrap_or(DEFAULT_LIFETIME_SECONDS));
    let mut times = Times::from_lifetime(now, std::time::Duration::from_secs(life));
    let token = match identity.text("token") {
        Some("id") => {
            let token = tokens.id_token.ok_or_else(|| {
                SourceProblem::Refused("the provider gave no id token; is `openid` among the scopes?".to_owned())
            })?;
            // An absolute end by the provider's clock.
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

/// Signs a person in; what they have to do is sent as prompts.
pub(super) async fn login(
    identity: &Identity,
    means: &SourceContext<'_>,
    flow: OAuthFlow,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(), SourceProblem> {
    let issuer = identity.text("issuer").unwrap_or_default();
    let metadata = discover_metadata(issuer, means).await?;
    let tokens = match flow {
        OAuthFlow::Browser => login_with_browser(identity, &metadata, means, prompts).await?,
        OAuthFlow::Device => login_with_device_code(identity, &metadata, means, prompts).await?,
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
        signed_in_at: Some(now()),
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
    let vault = means.vault()?;
    let _alone = vault.lock_login(&item).await?;
    store_login(vault, &item, &login)
}

async fn discover_metadata(issuer: &str, means: &SourceContext<'_>) -> Result<ProviderMetadata, SourceProblem> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let answer = means.http()?.get(&url, &[("accept", "application/json")]).await?;
    if !answer.is_success() {
        return Err(answer.unexpected_status_problem());
    }
    let metadata: ProviderMetadata = answer.json()?;
    // OpenID Connect Discovery, section 4.3: the names must be the same, or another provider could take its place.
    if metadata.issuer != issuer {
        let words = format!("`{url}` speaks for `{}`; write exactly that as `issuer`", sanitize_text(&metadata.issuer));
        return Err(SourceProblem::Refused(words));
    }
    Ok(metadata)
}

fn requested_scopes(identity: &Identity) -> String {
    identity.list("scopes").map_or_else(|| "openid offline_access".to_owned(), |scopes| scopes.join(" "))
}

async fn login_with_browser(
    identity: &Identity,
    metadata: &ProviderMetadata,
    means: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<TokenResponse, SourceProblem> {
    let endpoint = metadata.authorization_endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| SourceProblem::Refused("the provider has no sign-in page".to_owned()))?;
    let port = identity.number("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let loopback = LoopbackListener::bind(identity, port, "/callback").await?;
    let (redirect, challenge, verifier) = (loopback.redirect_uri(), loopback.challenge(), loopback.verifier.clone());
    let client_id = identity.text("client_id").unwrap_or_default();
    let scopes = requested_scopes(identity);
    let mut asked = vec![
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
        asked.push(("prompt", "consent"));
    }
    let glue = if endpoint.contains('?') { '&' } else { '?' };
    super::send_prompt(prompts, LoginPrompt::Open { url: format!("{endpoint}{glue}{}", encode_form(&asked)) }).await?;
    let issuer = (metadata.issuer.as_str(), metadata.authorization_response_iss_parameter_supported);
    let code = loopback.wait_for_code(Some(issuer)).await?;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", redirect.as_str()),
        ("client_id", client_id),
        ("code_verifier", verifier.as_str()),
    ];
    let answer = means.http()?.post_form(&metadata.token_endpoint, &fields).await?;
    if !answer.is_success() {
        return Err(refusal_problem(&answer, &answer.json().unwrap_or_default()));
    }
    answer.json()
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
    means: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<TokenResponse, SourceProblem> {
    let endpoint = metadata.device_authorization_endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| {
        let hint = format!(
            "`pdev login {name} --flow browser`; over SSH set `port` in identities.toml and start it under `ssh -L PORT:127.0.0.1:PORT`.",
            name = identity.name
        );
        login_problem(identity, "the provider offers no sign-in by code".to_owned(), hint)
    })?;
    let (client_id, scopes) = (identity.text("client_id").unwrap_or_default(), requested_scopes(identity));
    let mut fields = vec![("client_id", client_id), ("scope", scopes.as_str())];
    if scopes.contains("offline_access") {
        fields.push(("prompt", "consent"));
    }
    let answer = means.http()?.post_form(endpoint, &fields).await?;
    if !answer.is_success() {
        return Err(refusal_problem(&answer, &answer.json().unwrap_or_default()));
    }
    let code: DeviceCodeResponse = answer.json()?;
    let prompt = LoginPrompt::Code {
        url: code.verification_uri,
        code: code.user_code,
        complete_url: code.verification_uri_complete,
    };
    super::send_prompt(prompts, prompt).await?;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(code.expires_in.min(3600));
    let mut poll = DevicePoll::new(code.interval);
    let fields = [("grant_type", DEVICE_GRANT), ("device_code", code.device_code.as_str()), ("client_id", client_id)];
    loop {
        if tokio::time::Instant::now() + poll.interval() > deadline {
            return Err(SourceProblem::NotCompleted(CODE_EXPIRED.to_owned()));
        }
        tokio::time::sleep(poll.interval()).await;
        let answer = match means.http()?.post_form(&metadata.token_endpoint, &fields).await {
            Ok(answer) if answer.is_success() => return answer.json(),
            Ok(answer) => answer,
            Err(SourceProblem::Transient(_)) => {
                poll.handle_no_response();
                continue;
            }
            Err(other) => return Err(other),
        };
        let refusal: ErrorResponse = answer.json().unwrap_or_default();
        if refusal.error.is_empty() {
            match answer.unexpected_status_problem() {
                SourceProblem::Transient(_) => poll.handle_no_response(),
                other => return Err(other),
            }
        } else if let PollStep::Failed(words) = poll.handle_error(&refusal.error, refusal.error_description.as_deref())
        {
            return Err(SourceProblem::NotCompleted(words));
        }
    }
}

/// A refusal that nothing is known to do about. A server in trouble may say so in the form of a refusal.
fn refusal_problem(answer: &HttpResponse, refusal: &ErrorResponse) -> SourceProblem {
    match refusal.error.as_str() {
        "" => answer.unexpected_status_problem(),
        "server_error" | "temporarily_unavailable" => SourceProblem::Transient(describe_error(refusal)),
        _ if answer.status >= 500 || answer.status == 429 => SourceProblem::Transient(describe_error(refusal)),
        _ => SourceProblem::Refused(describe_error(refusal)),
    }
}

pub(super) fn describe_error(refusal: &ErrorResponse) -> String {
    let more =
        refusal.error_description.as_deref().map(|text| format!(": {}", sanitize_text(text))).unwrap_or_default();
    format!("the provider answered `{}`{more}", sanitize_text(&refusal.error))
}

/// The claims of a token, unverified: it came straight from the token endpoint over TLS, which OpenID Connect Core,
/// section 3.1.3.7 point 6 takes in place of the signature.
pub(super) fn decode_claims(token: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?).ok()
}

fn check_id_token(token: &str, issuer: &str, client_id: &str) -> Result<(), SourceProblem> {
    let claims = decode_claims(token).ok_or_else(|| SourceProblem::Refused("the id token is no JWT".to_owned()))?;
    let audience = match &claims["aud"] {
        Value::Array(all) => all.iter().any(|one| one == client_id),
        one => one == client_id,
    };
    if claims["iss"] != issuer || !audience {
        return Err(SourceProblem::Refused("the id token was made by or for somebody else (`iss`, `aud`)".to_owned()));
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
