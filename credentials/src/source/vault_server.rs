//! HashiCorp Vault and OpenBao: one path is read, with a token or after signing in by AppRole (HTTP API, version 1).
//!
//! Leases are not renewed there but read anew: a secrets engine may cap a lease's life, and a new one is what tools expect.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{SourceContext, SourceProblem, now, sanitize_text};
use crate::http::HttpResponse;
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
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

pub(super) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let kept = means.vault()?.get(&super::login_item(identity))?;
    let never = || SourceProblem::NeedsLogin(format!("the token or secret id of `{}` was never given", identity.name));
    let secret = kept.ok_or_else(never)?;
    let secret = Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
    let (token, token_seconds) = match identity.text("role_id") {
        Some(role) => {
            let mount = identity.text("mount").unwrap_or("approle").trim_matches('/');
            let body = json!({ "role_id": role, "secret_id": *secret }).to_string();
            let answer =
                send_request(identity, means, Method::POST, &format!("auth/{mount}/login"), None, body).await?;
            let signed_in: LoginResponse = parse_response(identity, &answer, true)?;
            (Zeroizing::new(signed_in.auth.client_token), signed_in.auth.lease_duration)
        }
        None => (secret, 0),
    };
    let path = identity.text("path").unwrap_or_default().trim_matches('/');
    let answer = send_request(identity, means, Method::GET, path, Some(&token), String::new()).await?;
    let read: ReadResponse = parse_response(identity, &answer, false)?;
    // What a token made ends with the token; 0 stands for no end.
    let own = read.data["token_ttl"].as_u64().unwrap_or_default();
    let life = [read.lease_duration, token_seconds, own].into_iter().filter(|seconds| *seconds > 0).min();
    let times = match life {
        Some(seconds) => Times { skew: answer.skew, ..Times::from_lifetime(now(), Duration::from_secs(seconds)) },
        None => Times { issued_at: now(), expires_at: None, skew: answer.skew },
    };
    let known = parse_material(&read.data).or_else(|| parse_material(&read.data["data"]));
    let words = "holds neither `access_key` and `secret_key`, nor `username` and `password`, nor `token`";
    let material = known.ok_or_else(|| SourceProblem::Refused(format!("`{path}` {words}")))?;
    Ok(Lease::new(material, times))
}

async fn send_request(
    identity: &Identity,
    means: &SourceContext<'_>,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: String,
) -> Result<HttpResponse, SourceProblem> {
    let address = identity.text("address").unwrap_or_default().trim_end_matches('/');
    let mut headers = vec![("x-vault-request", "true"), ("content-type", "application/json")];
    headers.extend(token.map(|token| ("x-vault-token", token)));
    headers.extend(identity.text("namespace").map(|namespace| ("x-vault-namespace", namespace)));
    means.http()?.send(method, &format!("{address}/v1/{path}"), &headers, body.into_bytes()).await
}

fn parse_response<T: serde::de::DeserializeOwned>(
    identity: &Identity,
    answer: &HttpResponse,
    signing_in: bool,
) -> Result<T, SourceProblem> {
    if answer.is_success() {
        return answer.json();
    }
    let refusal: Value = answer.json().unwrap_or_default();
    let errors = refusal["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let told: Vec<String> = errors.iter().filter_map(Value::as_str).map(sanitize_text).collect();
    if told.is_empty() && answer.status != 404 {
        return Err(answer.unexpected_status_problem());
    }
    let said = format!("the server answered {}: {}", answer.status, told.join(", "));
    let ended = told.iter().any(|one| one.contains("invalid token") || one.contains("invalid secret id"));
    Err(match answer.status {
        _ if ended => SourceProblem::NeedsLogin(said),
        400 | 403 if signing_in => SourceProblem::NeedsLogin(said),
        403 if identity.text("role_id").is_none() => {
            SourceProblem::Refused(format!("{said}; the token may have ended too: `pdev login` gives another"))
        }
        404 => SourceProblem::Refused(format!("there is nothing at `{}`", identity.text("path").unwrap_or_default())),
        429 | 500.. => SourceProblem::Transient(said),
        _ => SourceProblem::Refused(said),
    })
}

/// By the names that the engines for AWS, databases and Google Cloud give.
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
        let shown = |data: Value| parse_material(&data).map_or("nothing", |material| material.description());
        for (data, expected) in [
            (json!({ "access_key": "A", "secret_key": "s", "security_token": null }), "AWS credentials"),
            (json!({ "username": "u", "password": "p" }), "a password"),
            (json!({ "token": "t", "expires_at_seconds": 1 }), "a token"),
            (json!({ "username": "u" }), "nothing"),
            (Value::Null, "nothing"),
        ] {
            assert_eq!(shown(data), expected);
        }
    }
}
