//! AWS IAM Identity Center (IAM Identity Center OIDC API and portal API references): one login per session, for any
//! number of accounts and roles.
//!
//! Its OIDC API uses JSON with different field names and its own client registration, so the source `oidc` cannot be
//! used.

use host::clock::now_milliseconds;
use http::Method;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strings::to_hex;
use tokio::sync::mpsc;

use super::device_poll::{CODE_EXPIRED, DevicePoll, PollStep};
use super::loopback::LoopbackListener;
use super::{LoginPrompt, OAuthFlow, SourceContext, TokenRequest, sanitize_text, send_prompt};
use crate::form_encoding::encode_form;
use crate::http::HttpResponse;
use crate::identity::Identity;
use crate::lease::{Lease, LoginEnd, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;
use crate::source::exchange::ExchangeRequest;
use crate::vault::Vault;

const SCOPE: &str = "sso:account:access";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const REDIRECT_PATH: &str = "/oauth/callback";
/// The token of the session is renewed if less than this time is left.
const TOKEN_MARGIN: i64 = 10 * 60_000;

/// The login in the vault, shared by all identities of a session. Field names are on disk.
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
    /// The end of the client that pdev registered for this login. Afterwards, the login cannot be renewed.
    #[serde(default)]
    client_ends_at: Option<i64>,
}

impl StoredLogin {
    /// The end of the login, as far as it is known. Identity Center does not announce an administrator's limit of the
    /// session.
    fn login_end(&self, identity: &Identity) -> Option<LoginEnd> {
        let ends_at = if self.refresh_token.is_some() { self.client_ends_at? } else { self.expires_at };
        Some(LoginEnd { identity: identity.name.clone(), started_at: self.signed_in_at?, ends_at })
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
    format!("login/sso.{}", to_hex(&digest(&SHA256, name.as_bytes()).as_ref()[..8]))
}

pub(super) fn oidc_url(identity: &Identity, path: &str) -> String {
    let default_url = || format!("https://oidc.{}.amazonaws.com", identity.text("region").unwrap_or_default());
    let base = identity.text("oidc_endpoint").map_or_else(default_url, str::to_owned);
    format!("{}{path}", base.trim_end_matches('/'))
}

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let (mut stored, mut login) = read_login(identity, context)?;
    let mut is_renewed = false;
    if login.expires_at - now_milliseconds() < TOKEN_MARGIN {
        (stored, login) = renew_login(identity, context, &stored).await?;
        is_renewed = true;
    }
    let mut response = request_role_credentials(identity, context, &login).await?;
    if response.status == 401 && !is_renewed {
        // The portal ended the token early: an administrator closed the session, or the clock is wrong.
        (_, login) = renew_login(identity, context, &stored).await?;
        response = request_role_credentials(identity, context, &login).await?;
    }
    Ok(parse_lease(identity, &response)?.with_login_end(login.login_end(identity)))
}

fn read_login(identity: &Identity, context: &SourceContext<'_>) -> Result<(Secret, StoredLogin), SourceProblem> {
    let stored = context.vault()?.get(&login_item(identity))?.ok_or_else(|| not_signed_in(identity))?;
    let login = serde_json::from_slice(stored.expose()).map_err(|_| not_signed_in(identity))?;
    Ok((stored, login))
}

fn not_signed_in(identity: &Identity) -> SourceProblem {
    SourceProblem::NeedsLogin(format!("no user has signed in as `{}`", identity.name))
}

async fn request_role_credentials(
    identity: &Identity,
    context: &SourceContext<'_>,
    login: &StoredLogin,
) -> Result<HttpResponse, SourceProblem> {
    let default_url = || format!("https://portal.sso.{}.amazonaws.com", identity.text("region").unwrap_or_default());
    let base = identity.text("portal_endpoint").map_or_else(default_url, str::to_owned);
    let parameters = [
        ("role_name", identity.text("role").unwrap_or_default()),
        ("account_id", identity.text("account").unwrap_or_default()),
    ];
    let url = format!("{}/federation/credentials?{}", base.trim_end_matches('/'), encode_form(&parameters));
    context.http()?.get(&url, &[("x-amz-sso_bearer_token", &login.access_token)]).await
}

fn parse_lease(identity: &Identity, response: &HttpResponse) -> Result<Lease, SourceProblem> {
    let account = identity.text("account").unwrap_or_default();
    match response.status {
        200..300 => {}
        401 => return Err(session_ended(identity)),
        403 | 404 => {
            let role = identity.text("role").unwrap_or_default();
            let message = response.json::<Value>().ok().and_then(|body| body["message"].as_str().map(sanitize_text));
            let detail = message.map(|message| format!(": {message}")).unwrap_or_default();
            return Err(SourceProblem::Refused(format!("you have no role `{role}` in the account {account}{detail}")));
        }
        _ => return Err(response.unexpected_status_problem()),
    }
    let RoleCredentials { access_key_id, secret_access_key, session_token, expiration } =
        response.json::<RoleCredentialsResponse>()?.role_credentials;
    let material = Material::Aws {
        access_key_id,
        secret_access_key: Secret::new(secret_access_key.into_bytes()),
        session_token: Some(Secret::new(session_token.into_bytes())),
        account: Some(account.to_owned()),
    };
    Ok(Lease::new(material, Times { issued_at: now_milliseconds(), expires_at: Some(expiration), skew: response.skew }))
}

/// Renews the tokens of the session, unless another identity of the session has already renewed them.
async fn renew_login(
    identity: &Identity,
    context: &SourceContext<'_>,
    outdated: &Secret,
) -> Result<(Secret, StoredLogin), SourceProblem> {
    let response = context.run_exchange(&ExchangeRequest::new(identity).unless_exchanged(outdated)).await?;
    if !response.is_success() {
        let refusal: ErrorResponse = response.json().unwrap_or_default();
        return Err(match refusal.error.as_str() {
            // The registration of this client lasts 90 days. The next login creates another one.
            "invalid_grant" | "expired_token" | "invalid_client" | "unauthorized_client" => session_ended(identity),
            "" => response.unexpected_status_problem(),
            _ => SourceProblem::Refused(describe_error(&refusal)),
        });
    }
    read_login(identity, context)
}

fn session_ended(identity: &Identity) -> SourceProblem {
    SourceProblem::NeedsLogin(format!("the session of `{}` has ended", identity.name))
}

/// Calls CreateToken with the refresh token.
pub(super) fn token_request(identity: &Identity, stored: &Secret) -> Result<TokenRequest, SourceProblem> {
    let login: StoredLogin = serde_json::from_slice(stored.expose()).map_err(|_| not_signed_in(identity))?;
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

pub(super) fn updated_secret(stored: &Secret, response: &HttpResponse) -> Result<Secret, SourceProblem> {
    let mut login: StoredLogin = serde_json::from_slice(stored.expose()).unwrap_or_default();
    apply_tokens(&mut login, response.json()?);
    Ok(Secret::new(serde_json::to_vec(&login).unwrap_or_default()))
}

fn apply_tokens(login: &mut StoredLogin, tokens: TokenResponse) {
    login.expires_at = now_milliseconds().saturating_add(tokens.expires_in.saturating_mul(1000));
    login.access_token = tokens.access_token;
    if tokens.refresh_token.is_some() {
        login.refresh_token = tokens.refresh_token;
    }
}

fn store_login(vault: &Vault, item: &str, login: &StoredLogin) -> Result<(), SourceProblem> {
    Ok(vault.put(item, &Secret::new(serde_json::to_vec(login).unwrap_or_default()))?)
}

async fn post(context: &SourceContext<'_>, url: &str, body: &Value) -> Result<HttpResponse, SourceProblem> {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    context.http()?.send(Method::POST, url, &[("content-type", "application/json")], bytes).await
}

async fn call<T: DeserializeOwned>(context: &SourceContext<'_>, url: &str, body: &Value) -> Result<T, SourceProblem> {
    let response = post(context, url, body).await?;
    if response.is_success() {
        return response.json();
    }
    let refusal: ErrorResponse = response.json().unwrap_or_default();
    Err(if refusal.error.is_empty() {
        response.unexpected_status_problem()
    } else {
        SourceProblem::Refused(describe_error(&refusal))
    })
}

fn describe_error(refusal: &ErrorResponse) -> String {
    let detail =
        refusal.error_description.as_deref().map(|text| format!(": {}", sanitize_text(text))).unwrap_or_default();
    format!("Identity Center answered `{}`{detail}", sanitize_text(&refusal.error))
}

pub(super) async fn login(
    identity: &Identity,
    context: &SourceContext<'_>,
    flow: OAuthFlow,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(), SourceProblem> {
    let (registration, tokens) = match flow {
        OAuthFlow::Browser => login_with_browser(identity, context, prompts).await?,
        OAuthFlow::Device => login_with_device_code(identity, context, prompts).await?,
    };
    let ends_at = registration.client_secret_expires_at.filter(|seconds| *seconds > 0);
    let mut login = StoredLogin {
        client_id: registration.client_id,
        client_secret: registration.client_secret,
        signed_in_at: Some(now_milliseconds()),
        client_ends_at: ends_at.map(|seconds| seconds.saturating_mul(1000)),
        ..StoredLogin::default()
    };
    apply_tokens(&mut login, tokens);
    let (item, vault) = (login_item(identity), context.vault()?);
    // Lock only for the write: the login may have taken minutes, and must not block renewals.
    let _login_guard = vault.lock_login(&item).await?;
    store_login(vault, &item, &login)
}

async fn login_with_browser(
    identity: &Identity,
    context: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(Registration, TokenResponse), SourceProblem> {
    let loopback = LoopbackListener::bind(identity, 0, REDIRECT_PATH).await?;
    let (redirect, challenge, verifier) = (loopback.redirect_uri(), loopback.challenge(), loopback.verifier.clone());
    // The redirect URI is registered without a port and used with one (RFC 8252, section 7.3), as in the AWS CLI.
    let registration_request = json!({
        "clientName": "pdev", "clientType": "public", "scopes": [SCOPE],
        "grantTypes": ["authorization_code", "refresh_token"],
        "redirectUris": [format!("http://127.0.0.1{REDIRECT_PATH}")],
        "issuerUrl": identity.text("start_url"),
    });
    let registration: Registration =
        call(context, &oidc_url(identity, "/client/register"), &registration_request).await?;
    let query = encode_form(&[
        ("response_type", "code"),
        ("client_id", &registration.client_id),
        ("redirect_uri", &redirect),
        ("state", &loopback.state),
        ("code_challenge_method", "S256"),
        ("scopes", SCOPE),
        ("code_challenge", &challenge),
    ]);
    send_prompt(prompts, LoginPrompt::Open { url: format!("{}?{query}", oidc_url(identity, "/authorize")) }).await?;
    let code = loopback.wait_for_code(None).await?;
    let body = json!({
        "clientId": registration.client_id, "clientSecret": registration.client_secret,
        "grantType": "authorization_code", "code": code, "redirectUri": redirect, "codeVerifier": verifier,
    });
    let tokens = call(context, &oidc_url(identity, "/token"), &body).await?;
    Ok((registration, tokens))
}

async fn login_with_device_code(
    identity: &Identity,
    context: &SourceContext<'_>,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(Registration, TokenResponse), SourceProblem> {
    let registration_request = json!({
        "clientName": "pdev", "clientType": "public", "scopes": [SCOPE], "grantTypes": [DEVICE_GRANT, "refresh_token"],
    });
    let registration: Registration =
        call(context, &oidc_url(identity, "/client/register"), &registration_request).await?;
    let (id, secret) = (&registration.client_id, &registration.client_secret);
    let start = json!({ "clientId": id, "clientSecret": secret, "startUrl": identity.text("start_url") });
    let code: DeviceCodeResponse = call(context, &oidc_url(identity, "/device_authorization"), &start).await?;
    let prompt = LoginPrompt::Code {
        url: code.verification_uri,
        code: code.user_code,
        complete_url: code.verification_uri_complete,
    };
    send_prompt(prompts, prompt).await?;
    let body =
        json!({ "clientId": id, "clientSecret": secret, "grantType": DEVICE_GRANT, "deviceCode": code.device_code });
    let url = oidc_url(identity, "/token");
    // At most an hour, so that a wrong `expires_in` cannot keep the loop running.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(code.expires_in.min(3600));
    let mut poll = DevicePoll::new(code.interval);
    loop {
        if tokio::time::Instant::now() + poll.interval() > deadline {
            return Err(SourceProblem::NotCompleted(CODE_EXPIRED.to_owned()));
        }
        tokio::time::sleep(poll.interval()).await;
        let response = match post(context, &url, &body).await {
            Ok(response) if response.is_success() => return Ok((registration, response.json()?)),
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
        } else if let PollStep::Failed(words) = poll.handle_error(&refusal.error, refusal.error_description.as_deref())
        {
            return Err(SourceProblem::NotCompleted(words));
        }
    }
}
