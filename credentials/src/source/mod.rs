//! Sources of leases. Each source provides leases through [`fetch_lease`]; the one-time manual step is in [`login`].

mod aws_signature;
mod device_poll;
mod entra;
pub mod exchange;
mod exec;
mod google;
mod loopback;
mod mfa;
mod oidc;
mod sso;
mod static_secret;
mod sts;
mod vault_server;

use std::time::Duration;

use tokio::sync::mpsc;

use exchange::{ExchangeRequest, ExchangeRunner};

use crate::http::{HttpClient, HttpResponse};
use crate::identity::Identity;
use crate::launch::Launcher;
use crate::lease::{Lease, Material, Purpose};
use crate::problem::{BrokerProblem, SourceProblem};
use crate::secret::Secret;
use crate::session::rule::SessionRestriction;
use crate::vault::Vault;

/// The services that a source may use.
pub(crate) struct SourceContext<'a> {
    /// Absent for sources without stored data.
    pub vault: Option<&'a Vault>,
    pub http: Option<&'a HttpClient>,
    /// Exchanges stored logins.
    pub exchange_runner: &'a ExchangeRunner,
    /// The lease of the identity that this one is built on.
    pub base_lease: Option<&'a Lease>,
    pub purpose: &'a Purpose,
    /// The restriction, for a lease of a coding agent's session.
    pub restriction: Option<&'a SessionRestriction>,
    /// Starts programs with another open-file limit; `None` to start them directly.
    pub launcher: Option<&'a Launcher>,
    pub now: i64,
}

/// Reduces a purpose to one that the source supports. The error is the reason why the source supports none.
pub(crate) fn reduce_to_supported_purpose(identity: &Identity, purpose: Purpose) -> Result<Purpose, String> {
    match (purpose, identity.kind) {
        // Other sources have one token for all resources. The token may still suit the request, so this is no error.
        (Purpose::Resource(_), kind) if !matches!(kind, "entra" | "entra-federation" | "oidc" | "exec") => {
            Ok(Purpose::General)
        }
        (Purpose::IdToken(_), kind) if !matches!(kind, "google" | "google-impersonation") => {
            Err("gives access tokens, and no id tokens for an audience".to_owned())
        }
        (purpose, _) => Ok(purpose),
    }
}

impl<'a> SourceContext<'a> {
    fn http(&self) -> Result<&'a HttpClient, SourceProblem> {
        self.http.ok_or_else(|| SourceProblem::Refused("there is no network client".to_owned()))
    }

    fn base_lease(&self) -> Result<&'a Lease, SourceProblem> {
        self.base_lease.ok_or_else(|| SourceProblem::Refused("it is not built on another identity".to_owned()))
    }

    /// The token of the identity that this one is built on.
    fn base_token(&self, identity: &Identity) -> Result<String, SourceProblem> {
        match &self.base_lease()?.material {
            Material::Token(token) => Ok(String::from_utf8_lossy(token.expose()).into_owned()),
            other => Err(SourceProblem::Refused(format!(
                "`{}` gives {}, and a token is needed",
                identity.text("from").unwrap_or_default(),
                other.description()
            ))),
        }
    }

    async fn run_exchange(&self, request: &ExchangeRequest) -> Result<HttpResponse, SourceProblem> {
        self.exchange_runner.run(self.vault()?, request).await
    }

    fn vault(&self) -> Result<&'a Vault, SourceProblem> {
        self.vault.ok_or_else(|| SourceProblem::Refused("the vault is not open".to_owned()))
    }
}

/// A step for the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginPrompt {
    /// Open this page in a browser on this machine.
    Open { url: String },
    /// Open `url` on any device and enter `code` there. `complete_url` already contains the code.
    Code { url: String, code: String, complete_url: Option<String> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OAuthFlow {
    Browser,
    Device,
}

/// Signs the user in. Dropping the future cancels the login.
pub(crate) async fn login(
    identity: &Identity,
    context: &SourceContext<'_>,
    flow: OAuthFlow,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(), SourceProblem> {
    match identity.kind {
        "oidc" => oidc::login(identity, context, flow, prompts).await,
        "aws-sso" => sso::login(identity, context, flow, prompts).await,
        other => Err(SourceProblem::Refused(format!("the source `{other}` needs no login"))),
    }
}

/// An error of a login whose fix is not in the section of the identity.
fn login_problem(identity: &Identity, reason: String, hint: String) -> SourceProblem {
    let message = format!("`{}`: {reason}", identity.name);
    SourceProblem::Described(BrokerProblem { code: "source_refused", message, hint: Some(hint), login_identity: None })
}

async fn send_prompt(prompts: &mpsc::Sender<LoginPrompt>, prompt: LoginPrompt) -> Result<(), SourceProblem> {
    let disconnected = |_| SourceProblem::Transient("the client that started this login has disconnected".to_owned());
    prompts.send(prompt).await.map_err(disconnected)
}

/// Cleans a text of a server for use in a message: one line, no control characters, at most 200 characters.
fn sanitize_text(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}

/// Whether the source needs stored data from a login.
pub(crate) fn needs_vault(identity: &Identity) -> bool {
    identity.needs_login()
}

pub(crate) async fn fetch_lease(identity: &Identity, context: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    match identity.kind {
        _ if identity.needs_mfa_code() => mfa::fetch_lease(identity, context).await,
        "exec" => exec::fetch_lease(identity, context).await,
        "oidc" => oidc::fetch_lease(identity, context).await,
        "aws-sso" => sso::fetch_lease(identity, context).await,
        "aws-role" => sts::assume_role(identity, context).await,
        "aws-session" => sts::get_session_token(identity, context).await,
        "aws-web-identity" => sts::assume_role_with_web_identity(identity, context).await,
        "static" => static_secret::fetch_lease(identity, context),
        "google" => google::fetch_lease(identity, context).await,
        "google-impersonation" => google::fetch_impersonated_lease(identity, context).await,
        "google-federation" => google::fetch_federated_lease(identity, context).await,
        "entra" => entra::fetch_lease(identity, context).await,
        "entra-federation" => entra::fetch_federated_lease(identity, context).await,
        "vault-server" => vault_server::fetch_lease(identity, context).await,
        other => Err(SourceProblem::Refused(format!("the source `{other}` cannot be used yet"))),
    }
}

/// The request that exchanges a stored login.
pub(crate) struct TokenRequest {
    pub url: String,
    pub media_type: &'static str,
    pub body: Vec<u8>,
}

/// Builds the request that exchanges a stored login at its provider.
pub(crate) fn token_request(
    identity: &Identity,
    stored: &Secret,
    scope: Option<&str>,
) -> Result<TokenRequest, SourceProblem> {
    match identity.kind {
        "oidc" => oidc::token_request(identity, stored, scope),
        "aws-sso" => sso::token_request(identity, stored),
        "google" => google::token_request(stored, scope),
        other => Err(SourceProblem::Refused(format!("the source `{other}` has no exchangeable login"))),
    }
}

/// The data to store after a successful response of the provider; `None` if it is unchanged.
pub(crate) fn updated_secret(
    identity: &Identity,
    stored: &Secret,
    response: &HttpResponse,
) -> Result<Option<Secret>, SourceProblem> {
    match identity.kind {
        "oidc" => oidc::updated_secret(stored, response),
        "aws-sso" => sso::updated_secret(stored, response).map(Some),
        "google" => google::updated_secret(stored, response),
        _ => Ok(None),
    }
}

/// The server of the source, for the clock comparison.
pub(crate) fn server_url(identity: &Identity) -> Option<String> {
    match identity.kind {
        "oidc" => identity.text("issuer").map(str::to_owned),
        "aws-sso" => Some(sso::oidc_url(identity, "/")),
        "aws-role" | "aws-session" | "aws-web-identity" => Some(sts::endpoint(identity).0),
        "google" | "google-impersonation" | "google-federation" => Some(google::server_url(identity)),
        "entra" | "entra-federation" => Some(entra::server_url(identity)),
        "vault-server" => identity.text("address").map(str::to_owned),
        _ => None,
    }
}

/// Validates a secret before it is stored. The error does not contain the secret.
pub(crate) fn check_secret(identity: &Identity, secret: &Secret) -> Result<(), String> {
    match identity.kind {
        _ if identity.needs_mfa_code() => mfa::parse_code(secret).map(drop),
        "google" => google::check_secret(secret),
        _ => Ok(()),
    }
}

/// The maximum time for any source. After it, the requester gets an error.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(120);

/// Processes the input of the user: stores a secret, uses a code.
pub(crate) async fn accept_secret(
    identity: &Identity,
    context: &SourceContext<'_>,
    secret: &Secret,
) -> Result<(), SourceProblem> {
    match identity.needs_mfa_code() {
        true => mfa::login(identity, context, secret).await,
        false => Ok(static_secret::store_secret(context.vault()?, identity, secret)?),
    }
}

/// The name of the vault item with the identity's login.
pub(crate) fn login_item(identity: &Identity) -> String {
    match identity.kind {
        "aws-sso" => sso::login_item(identity),
        _ => static_secret::login_item(&identity.name),
    }
}
