//! AWS IAM Identity Center (IAM Identity Center OIDC API and portal API references): one login per session, any number of
//! accounts and roles out of it.
//!
//! Its OIDC speaks JSON with its own field names and its own registration, so the generic source does not serve.

use http::Method;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::device_poll::{CODE_EXPIRED, DevicePoll, PollStep};
use super::loopback::LoopbackListener;
use super::{LoginPrompt, OAuthFlow, SourceContext, SourceProblem, TokenRequest, now, sanitize_text, send_prompt};
use crate::exchange::ExchangeRequest;
use crate::http::{HttpResponse, encode_form};
use crate::identity::Identity;
use crate::lease::{Lease, LoginEnd, Material, Times};
use crate::secret::Secret;
use crate::vault::{Vault, hex};

const SCOPE: &str = "sso:account:access";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const REDIRECT_PATH: &str = "/oauth/callback";
/// The session's own token is renewed when less than this is left of it.
const TOKEN_MARGIN: i64 = 10 * 60_000;

/// What the vault keeps, shared by all identities of a session. Field names are on the disk.
#[derive(Serialize, Deserialize, Default)]
struct StoredLogin {
    client_id: String,
    client_secret: String,
    access_token: String,
    expires_at: i64,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    signed_in_at: Option<i64>,
    /// Of the client that pdev registered for this login; nothing is renewed with it afterwards.
    #[serde(default)]
    client_ends_at: Option<i64>,
}

impl StoredLogin {
    /// An administrator's limit of the session is told to no client; these ends are.
    fn login_end(&self, identity: &Identity) -> Option<LoginEnd> {
        let at = if self.refresh_token.is_some() { self.client_ends_at? } else { self.expires_at };
        Some(LoginEnd { identity: identity.name.clone(), started_at: self.signed_in_at?, ends_at: at })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    client_id: String,
    client_secret: String,
    /// Unix seconds.
    #[serde(default)]
    client_secret_expires_at: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenResponse {
    access_token: String,
    expires_in: i64,
    #[serde(default)]
    refresh_token: Option<String>,
}

#[derive(Deserialize, Default)]
struct ErrorResponse {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleCredentialsResponse {
    role_credentials: RoleCredentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// Unix milliseconds.
    expiration: i64,
}

/// Identities with the same session (or start URL) and region share a login.
pub(super) fn login_item(identity: &Identity) -> String {
    let session = identity.text("session").or(identity.text("start_url")).unwrap_or_default();
    let name = format!("{session}\n{}", identity.text("region").unwrap_or_default());
    format!("login/sso.{}", hex(&digest(&SHA256, name.as_bytes()).as_ref()[..8]))
}

pub(super) fn oidc_url(identity: &Identity, path: &str) -> String {
    let usual = || format!("https://oidc.{}.amazonaws.com", identity.text("region").unwrap_or_default());
    let base = identity.text("oidc_endpoint").map_or_else(usual, str::to_owned);
    format!("{}{path}", base.trim_end_matches('/'))
}

pub(super) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let (mut kept, mut login) = read_login(identity, means)?;
    let mut fresh = false;
    if login.expires_at - now() < TOKEN_MARGIN {
        (kept, login) = renew_login(identity, means, &kept).await?;
        fresh = true;
    }
    let mut answer = request_role_credentials(identity, means, &login).await?;
    if answer.status == 401 && !fresh {
        // Ended on their side before its time: an administrator closed the session, or the clock is wrong.
        (_, login) = renew_login(identity, means, &kept).await?;
        answer = request_role_credentials(identity, means, &login).await?;
    }
    Ok(parse_lease(identity, &answer)?.with_login_end(login.login_end(identity)))
}

fn read_login(identity: &Identity, means: &SourceContext<'_>) -> Result<(Secret, StoredLogin), SourceProblem> {
    let kept = means.vault()?.get(&login_item(identity))?.ok_or_else(|| not_signed_in(identity))?;
    let login = serde_json::from_slice(kept.expose()).map_err(|_| not_signed_in(identity))?;
    Ok((kept, login))
}

fn not_signed_in(identity: &Identity) -> SourceProblem {
    SourceProblem::NeedsLogin(format!("nobody has signed in as `{}`", identity.name))
}

async fn request_role_credentials(
    identity: &Identity,
    means: &SourceContext<'_>,
    login: &StoredLogin,
) -> Result<HttpResponse, SourceProblem> {
    let usual = || format!("https://portal.sso.{}.amazonaws.com", identity.text("region").unwrap_or_default());
    let base = identity.text("portal_endpoint").map_or_else(usual, str::to_owned);
    let wanted = [
        ("role_name", identity.text("role").unwrap_or_default()),
        ("account_id", identity.text("account").unwrap_or_default()),
    ];
    let url = format!("{}/federation/credentials?{}", base.trim_end_matches('/'), encode_form(&wanted));
    means.http()?.get(&url, &[("x-amz-sso_bearer_token", &login.access_token)]).await
}

fn parse_lease(identity: &Identity, answer: &HttpResponse) -> Result<Lease, SourceProblem> {
    let account = identity.text("account").unwrap_or_default();
    match answer.status {
        200..300 => {}
        401 => return Err(session_ended(identity)),
        403 | 404 => {
            let role = identity.text("role").unwrap_or_default();
            let message = answer.json::<Value>().ok().and_then(|body| body["message"].as_str().map(sanitize_text));
            let more = message.map(|message| format!(": {message}")).unwrap_or_default();
            return Err(SourceProblem::Refused(format!("you have no role `{role}` in the account {account}{more}")));
        }
        _ => return Err(answer.unexpected_status_problem()),
    }
    let RoleCredentials { access_key_id, secret_access_key, session_token, expiration } =
        answer.json::<RoleCredentialsResponse>()?.role_credentials;
    let material = Material::Aws {
        access_key_id,
        secret_access_key: Secret::new(secret_access_key.into_bytes()),
        session_token: Some(Secret::new(session_token.into_bytes())),
        account: Some(account.to_owned()),
    };
    Ok(Lease::new(material, Times { issued_at: now(), expires_at: Some(expiration), skew: answer.skew }))
}

/// The session's tokens after their renewal, which another identity of the session may have made meanwhile.
async fn renew_login(
    identity: &Identity,
    means: &SourceContext<'_>,
    seen: &Secret,
) -> Result<(Secret, StoredLogin), SourceProblem> {
    let answer = means.run_exchange(&ExchangeRequest::new(identity).unless_exchanged(seen)).await?;
    if !answer.is_success() {
        let refusal: ErrorResponse = answer.json().unwrap_or_default();
        return Err(match refusal.error.as_str() {
            // The registration of this client lasts 90 days; a new one comes with the next login.
            "invalid_grant" | "expired_token" | "invalid_client" | "unauthorized_client" => session_ended(identity),
            "" => answer.unexpected_status_problem(),
            _ => SourceProblem::Refused(describe_error(&refusal)),
        });
    }
    read_login(identity, means)
}

fn session_ended(identity: &Identity) -> SourceProblem {
    SourceProblem::NeedsLogin(format!("the session of `{}` has ended", identity.name))
}

/// CreateToken with the refresh token.
pub(super) fn token_request(identity: &Identity, kept: &Secret) -> Result<TokenRequest, SourceProblem> {
    let login: StoredLogin = serde_json::from_slice(kept.expose()).map_err(|_| not_signed_in(identity))?;
    let refresh_token = login.refresh_token.ok_or_else(|| session_ended(identity))?;
    let body = json!({
        "clientId": login.client_id, "clientSecret": login.client_secret,
        "grantType": "refresh_token", "refreshToken": refresh_token,
    });
    Ok(TokenRequest {
        url: oidc_url(identity, "/token"),
        media_type: "application/json",
        body: body.to_string().into_bytes(),
    })
}

pub(super) fn updated_secret(kept: &Secret, answer: &HttpResponse) -> Result<Secret, SourceProblem> {
    let mut login: StoredLogin = serde_json::from_slice(kept.expose()).unwrap_or_default();
    apply_tokens(&mut login, answer.json()?);
    Ok(Secret::new(serde_json::to_vec(&login).unwrap_or_default()))
}

fn apply_tokens(login: &mut StoredLogin, tokens: TokenResponse) {
    login.expires_at = now().saturating_add(tokens.expires_in.saturating_mul(1000));
    login.access_token = tokens.access_token;
    if tokens.refresh_token.is_some() {
        login.refresh_token = tokens.refresh_token;
    }
}

fn store_login(vault: &Vault, item: &str, login: &StoredLogin) -> Result<(), SourceProblem> {
    Ok(vault.put(item, &Secret::new(serde_json::to_vec(login).unwrap_or_default()))?)
}

async fn post(means: &SourceContext<'_>, url: &str, body: &Value) -> Result<HttpResponse, SourceProblem> {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    means.http()?.send(Method::POST, url, &[("content-type", "application/json")], bytes).await
}

async fn call<T: DeserializeOwned>(means: &SourceContext<'_>, url: &str, body: &Value) -> Result<T, SourceProblem> {
    let answer = post(means, url, body).await?;
    if answer.is_success() {
        return answer.json();
    }
    let refusal: ErrorResponse = answer.json().unwrap_or_default();
    Err(if refusal.error.is_empty() {
        answer.unexpected_status_problem()
    } else {
        SourceProblem::Refused(describe_error(&refusal))
    })
}

fn describe_error(refusal: &ErrorResponse) -> String {
    let more =
        refusal.error_description.as_deref().map(|text| format!(": {}", sanitize_text(text))).unwrap_or_default();
    format!("Identity Center answered `{}`{more}", sanitize_text(&refusal.error))
}

pub(super) async fn login(
    identity: &Identity,
    means: &SourceContext<'_>,
    flow: OAuthFlow,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(), SourceProblem> {
    let (registration, tokens) = match flow {
        OAuthFlow::Browser => login_with_browser(identity, means, prompts).await?,
        OAuthFlow::Device => login_with_device_code(identity, means, prompts).await?,
    };
    let ends_at = registration.client_secret_expires_at.filter(|seconds| *seconds > 0);
    let mut login = StoredLogin {
        client_id: registration.client_id,
        client_secret: registration.client_secret,
        signed_in_at: Some(now()),
        client_ends_at: ends_at.map(|seconds| seconds.saturating_mul(1000)),
        ..StoredLogin::default()
    };
    apply_tokens(&mut login, tokens);
    let (item, vault) = (login_item(identity), means.vault()?);
    let _alone = vault.lock_login(&item).await?;
    store_login(vault, &item, &login)
}

async fn login_with_browser(
    identity: &Identity,
    means: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(Registration, TokenResponse), SourceProblem> {
    let loopback = LoopbackListener::bind(identity, 0, REDIRECT_PATH).await?;
    let (redirect, challenge, verifier) = (loopback.redirect_uri(), loopback.challenge(), loopback.verifier.clone());
    // Registered without a port, used with one (RFC 8252, section 7.3), as the AWS CLI does.
    let wanted = json!({
        "clientName": "pdev", "clientType": "public", "scopes": [SCOPE],
        "grantTypes": ["authorization_code", "refresh_token"],
        "redirectUris": [format!("http://127.0.0.1{REDIRECT_PATH}")],
        "issuerUrl": identity.text("start_url"),
    });
    let registration: Registration = call(means, &oidc_url(identity, "/client/register"), &wanted).await?;
    let asked = encode_form(&[
        ("response_type", "code"),
        ("client_id", &registration.client_id),
        ("redirect_uri", &redirect),
        ("state", &loopback.state),
        ("code_challenge_method", "S256"),
        ("scopes", SCOPE),
        ("code_challenge", &challenge),
    ]);
    send_prompt(prompts, LoginPrompt::Open { url: format!("{}?{asked}", oidc_url(identity, "/authorize")) }).await?;
    let code = loopback.wait_for_code(None).await?;
    let body = json!({
        "clientId": registration.client_id, "clientSecret": registration.client_secret,
        "grantType": "authorization_code", "code": code, "redirectUri": redirect, "codeVerifier": verifier,
    });
    let tokens = call(means, &oidc_url(identity, "/token"), &body).await?;
    Ok((registration, tokens))
}

async fn login_with_device_code(
    identity: &Identity,
    means: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(Registration, TokenResponse), SourceProblem> {
    let wanted = json!({
        "clientName": "pdev", "clientType": "public", "scopes": [SCOPE], "grantTypes": [DEVICE_GRANT, "refresh_token"],
    });
    let registration: Registration = call(means, &oidc_url(identity, "/client/register"), &wanted).await?;
    let (id, secret) = (&registration.client_id, &registration.client_secret);
    let start = json!({ "clientId": id, "clientSecret": secret, "startUrl": identity.text("start_url") });
    let code: DeviceCodeResponse = call(means, &oidc_url(identity, "/device_authorization"), &start).await?;
    let shown = LoginPrompt::Code {
        url: code.verification_uri,
        code: code.user_code,
        complete_url: code.verification_uri_complete,
    };
    send_prompt(prompts, shown).await?;
    let body =
        json!({ "clientId": id, "clientSecret": secret, "grantType": DEVICE_GRANT, "deviceCode": code.device_code });
    let url = oidc_url(identity, "/token");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(code.expires_in.min(3600));
    let mut poll = DevicePoll::new(code.interval);
    loop {
        if tokio::time::Instant::now() + poll.interval() > deadline {
            return Err(SourceProblem::NotCompleted(CODE_EXPIRED.to_owned()));
        }
        tokio::time::sleep(poll.interval()).await;
        let answer = match post(means, &url, &body).await {
            Ok(answer) if answer.is_success() => return Ok((registration, answer.json()?)),
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
