//! Microsoft Entra: an application with its client secret or with another provider's token (OAuth 2.0 client
//! credentials, RFC 6749 section 4.4 and RFC 7523 section 2.2). Users sign in with the source `oidc`.

use host::clock::now_milliseconds;
use serde::Deserialize;

use super::SourceContext;
use super::oidc::{ErrorResponse, describe_error};
use crate::http::HttpResponse;
use crate::identity::Identity;
use crate::lease::Purpose;
use crate::lease::{Lease, Material, Times};
use crate::problem::SourceProblem;
use crate::secret::Secret;

const AUTHORITY: &str = "https://login.microsoftonline.com";
const SCOPE: &str = "https://management.azure.com/.default";
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(super) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    let stored = context.vault()?.get(&super::login_item(identity))?;
    let missing = || SourceProblem::NeedsLogin(format!("no client secret is stored for `{}`", identity.name));
    let secret = stored.ok_or_else(missing)?;
    let secret = zeroize::Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
    let response = request_token(identity, context, &[("client_secret", secret.as_str())]).await?;
    parse_lease(identity, &response)
}

pub(super) async fn fetch_federated_lease(
    identity: &Identity,
    context: &SourceContext<'_>,
) -> Result<Lease, SourceProblem> {
    let token = context.base_token(identity)?;
    let proof = [("client_assertion_type", CLIENT_ASSERTION_TYPE), ("client_assertion", token.as_str())];
    let response = request_token(identity, context, &proof).await?;
    parse_lease(identity, &response)
}

pub(super) fn server_url(identity: &Identity) -> String {
    identity.text("endpoint").unwrap_or(AUTHORITY).to_owned()
}

async fn request_token(
    identity: &Identity,
    context: &SourceContext<'_>,
    proof: &[(&str, &str)],
) -> Result<HttpResponse, SourceProblem> {
    let authority = identity.text("endpoint").unwrap_or(AUTHORITY).trim_end_matches('/');
    let tenant = crate::form_encoding::percent_encode(identity.text("tenant").unwrap_or_default());
    let scopes = match (context.purpose, identity.list("scopes")) {
        (Purpose::Resource(resource), _) => format!("{resource}/.default"),
        (_, Some(scopes)) => scopes.join(" "),
        _ => SCOPE.to_owned(),
    };
    let mut fields = vec![
        ("grant_type", "client_credentials"),
        ("client_id", identity.text("client_id").unwrap_or_default()),
        ("scope", scopes.as_str()),
    ];
    fields.extend(proof);
    context.http()?.post_form(&format!("{authority}/{tenant}/oauth2/v2.0/token"), &fields).await
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    expires_in: u64,
}

fn parse_lease(identity: &Identity, response: &HttpResponse) -> Result<Lease, SourceProblem> {
    if !response.is_success() {
        let refusal: ErrorResponse = response.json().unwrap_or_default();
        return Err(match refusal.error.as_str() {
            "" => response.unexpected_status_problem(),
            "temporarily_unavailable" | "server_error" => SourceProblem::Transient(describe_error(&refusal)),
            // AADSTS7000215 and 7000222: a wrong or an expired client secret. A login replaces it.
            "invalid_client" if identity.kind == "entra" => SourceProblem::NeedsLogin(describe_error(&refusal)),
            _ => SourceProblem::Refused(describe_error(&refusal)),
        });
    }
    let tokens: TokenResponse = response.json()?;
    let lifetime = std::time::Duration::from_secs(tokens.expires_in);
    let times = Times { skew: response.skew, ..Times::from_lifetime(now_milliseconds(), lifetime) };
    Ok(Lease::new(Material::Token(Secret::new(tokens.access_token.into_bytes())), times))
}
