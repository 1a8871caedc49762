//! HashiCorp Vault and OpenBao: reads one path, with a token or after a login by AppRole (HTTP API, version 1).
//!
//! Leases of the server are not renewed but read again: a secrets engine may limit the lifetime of a lease, and tools
//! expect a new one.

use std::time::Duration;

use host::clock::now_milliseconds;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{SourceContext, sanitize_text};
use crate::http::HttpResponse;
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;

#[derive(Deserialize)]
struct ReadResponse {
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct LoginResponse {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
    #[serde(default)]
    lease_duration: u64,
}

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let stored = context.vault()?.get(&super::login_item(identity))?;
    let missing = || SourceProblem::NeedsLogin(format!("no token or secret id is stored for `{}`", identity.name));
    let secret = stored.ok_or_else(missing)?;
    let secret = Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
    let (token, token_seconds) = match identity.text("role_id") {
        Some(role_id) => {
            let mount = identity.text("mount").unwrap_or("approle").trim_matches('/');
            let body = json!({ "role_id": role_id, "secret_id": *secret }).to_string();
            let response =
                send_request(identity, context, Method::POST, &format!("auth/{mount}/login"), None, body).await?;
            let login: LoginResponse = parse_response(identity, &response, true)?;
            (Zeroizing::new(login.auth.client_token), login.auth.lease_duration)
        }
        None => (secret, 0),
    };
    let path = identity.text("path").unwrap_or_default().trim_matches('/');
    let response = send_request(identity, context, Method::GET, path, Some(&token), String::new()).await?;
    let read: ReadResponse = parse_response(identity, &response, false)?;
    // A credential ends with the token that created it. 0 means no end.
    let own_seconds = read.data["token_ttl"].as_u64().unwrap_or_default();
    let lifetime = [read.lease_duration, token_seconds, own_seconds].into_iter().filter(|seconds| *seconds > 0).min();
    let times = match lifetime {
        Some(seconds) => {
            Times { skew: response.skew, ..Times::from_lifetime(now_milliseconds(), Duration::from_secs(seconds)) }
        }
        None => Times { issued_at: now_milliseconds(), expires_at: None, skew: response.skew },
    };
    // Version 2 of the KV engine nests the fields in another `data`.
    let material = parse_material(&read.data).or_else(|| parse_material(&read.data["data"]));
    let reason = "holds neither `access_key` and `secret_key`, nor `username` and `password`, nor `token`";
    let material = material.ok_or_else(|| SourceProblem::Refused(format!("`{path}` {reason}")))?;
    Ok(Lease::new(material, times))
}

async fn send_request(
    identity: &Identity,
    context: &SourceContext<'_>,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: String,
) -> Result<HttpResponse, SourceProblem> {
    let address = identity.text("address").unwrap_or_default().trim_end_matches('/');
    let mut headers = vec![("x-vault-request", "true"), ("content-type", "application/json")];
    headers.extend(token.map(|token| ("x-vault-token", token)));
    headers.extend(identity.text("namespace").map(|namespace| ("x-vault-namespace", namespace)));
    context.http()?.send(method, &format!("{address}/v1/{path}"), &headers, body.into_bytes()).await
}

fn parse_response<T: serde::de::DeserializeOwned>(
    identity: &Identity,
    response: &HttpResponse,
    is_login: bool,
) -> Result<T, SourceProblem> {
    if response.is_success() {
        return response.json();
    }
    let refusal: Value = response.json().unwrap_or_default();
    let errors = refusal["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let messages: Vec<String> = errors.iter().filter_map(Value::as_str).map(sanitize_text).collect();
    if messages.is_empty() && response.status != 404 {
        return Err(response.unexpected_status_problem());
    }
    let message = format!("the server answered {}: {}", response.status, messages.join(", "));
    let is_expired =
        messages.iter().any(|error| error.contains("invalid token") || error.contains("invalid secret id"));
    Err(match response.status {
        _ if is_expired => SourceProblem::NeedsLogin(message),
        400 | 403 if is_login => SourceProblem::NeedsLogin(message),
        // The server answers 403 both for an expired token and for a missing permission.
        403 if identity.text("role_id").is_none() => {
            SourceProblem::Refused(format!("{message}; or the token has ended: `pdev login` stores another one"))
        }
        404 => SourceProblem::Refused(format!("there is nothing at `{}`", identity.text("path").unwrap_or_default())),
        429 | 500.. => SourceProblem::Transient(message),
        _ => SourceProblem::Refused(message),
    })
}

/// Reads the field names of the engines for AWS, databases and Google Cloud.
fn parse_material(data: &Value) -> Option<Material> {
    let text = |name: &str| data[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let secret = |name: &str| text(name).map(|text| Secret::new(text.into_bytes()));
    if let (Some(access_key_id), Some(secret_access_key)) = (text("access_key"), secret("secret_key")) {
        let session_token = secret("security_token").or_else(|| secret("session_token"));
        return Some(Material::Aws { access_key_id, secret_access_key, session_token, account: None });
    }
    if let (Some(username), Some(password)) = (text("username"), secret("password")) {
        return Some(Material::Password { username, password });
    }
    secret("token").map(Material::Token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_engine_fields_become_material() {
        let describe = |data: Value| parse_material(&data).map_or("nothing", |material| material.description());
        for (data, expected) in [
            (json!({ "access_key": "A", "secret_key": "s", "security_token": null }), "AWS credentials"),
            (json!({ "username": "u", "password": "p" }), "a password"),
            (json!({ "token": "t", "expires_at_seconds": 1 }), "a token"),
            (json!({ "username": "u" }), "nothing"),
            (Value::Null, "nothing"),
        ] {
            assert_eq!(describe(data), expected);
        }
    }
}
