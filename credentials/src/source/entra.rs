//! Microsoft Entra: an application by its client secret, or by another provider's token (OAuth 2.0 client credentials,
//! RFC 6749 section 4.4 and RFC 7523 section 2.2). A person signs in by `oidc`.

use serde::Deserialize;

use super::oidc::{Refusal, said};
use super::{Means, Purpose, SourceProblem, now};
use crate::http::Answer;
use crate::identity::Identity;
use crate::lease::{Lease, Material, Times};
use crate::secret::Secret;

const AUTHORITY: &str = "https://login.microsoftonline.com";
const SCOPE: &str = "https://management.azure.com/.default";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(super) async fn lease(identity: &Identity, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    let kept = means.vault()?.get(&super::login_item(identity))?;
    let never = || SourceProblem::NeedsLogin(format!("the client secret of `{}` was never given", identity.name));
    let secret = kept.ok_or_else(never)?;
    let secret = zeroize::Zeroizing::new(String::from_utf8_lossy(secret.expose()).into_owned());
    let answer = ask(identity, means, &[("client_secret", secret.as_str())]).await?;
    leased(identity, &answer)
}

pub(super) async fn federated(identity: &Identity, means: &Means<'_>) -> Result<Lease, SourceProblem> {
    let token = means.token(identity)?;
    let proof = [("client_assertion_type", JWT_BEARER), ("client_assertion", token.as_str())];
    let answer = ask(identity, means, &proof).await?;
    leased(identity, &answer)
}

pub(super) fn server(identity: &Identity) -> String {
    identity.text("endpoint").unwrap_or(AUTHORITY).to_owned()
}

async fn ask(identity: &Identity, means: &Means<'_>, proof: &[(&str, &str)]) -> Result<Answer, SourceProblem> {
    let authority = identity.text("endpoint").unwrap_or(AUTHORITY).trim_end_matches('/');
    let tenant = crate::http::encoded(identity.text("tenant").unwrap_or_default());
    let scopes = match (means.purpose, identity.list("scopes")) {
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
    means.http()?.post_form(&format!("{authority}/{tenant}/oauth2/v2.0/token"), &fields).await
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
    expires_in: u64,
}

fn leased(identity: &Identity, answer: &Answer) -> Result<Lease, SourceProblem> {
    if !answer.is_fine() {
        let refusal: Refusal = answer.json().unwrap_or_default();
        return Err(match refusal.error.as_str() {
            "" => answer.unexpected(),
            "temporarily_unavailable" | "server_error" => SourceProblem::Passing(said(&refusal)),
            // AADSTS7000215 and 7000222: a wrong or an ended client secret; a new one is given by a login.
            "invalid_client" if identity.kind == "entra" => SourceProblem::NeedsLogin(said(&refusal)),
            _ => SourceProblem::Refused(said(&refusal)),
        });
    }
    let tokens: Tokens = answer.json()?;
    let life = std::time::Duration::from_secs(tokens.expires_in);
    let times = Times { skew: answer.skew, ..Times::lasting(now(), life) };
    Ok(Lease::new(Material::Token(Secret::new(tokens.access_token.into_bytes())), times))
}
