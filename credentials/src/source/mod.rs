//! Where leases come from. Each source is asked through [`lease`]; what a person has to do once stands in `login`.

mod aws_signature;
mod device_poll;
mod entra;
mod exec;
mod google;
mod loopback;
mod mfa;
mod oidc;
mod sso;
mod static_secret;
mod sts;
mod vault_server;

use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use crate::broker::BrokerProblem;
use crate::exchange::{ExchangeRequest, ExchangeRunner};
use crate::http::{HttpClient, HttpResponse};
use crate::identity::Identity;
use crate::launch::Launcher;
use crate::lease::{Lease, Material};
use crate::secret::Secret;
use crate::session::rule::SessionRestriction;
use crate::vault::{Vault, VaultProblem};

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceProblem {
    /// A person has to sign in (again).
    #[error("{0}")]
    NeedsLogin(String),
    /// Worth trying again: the network, an overloaded server.
    #[error("{0}")]
    Transient(String),
    /// Trying again gives the same answer.
    #[error("{0}")]
    Refused(String),
    /// A person did not do what was asked, or not in time: it can be asked again.
    #[error("{0}")]
    NotCompleted(String),
    /// The identity that it is built on gave nothing.
    #[error(transparent)]
    BaseIdentity(#[from] BrokerProblem),
    /// Told elsewhere already, with its way out.
    #[error(transparent)]
    Described(BrokerProblem),
    #[error(transparent)]
    Vault(#[from] VaultProblem),
}

/// What a source may use.
pub(crate) struct SourceContext<'a> {
    /// Absent for sources that keep nothing.
    pub vault: Option<&'a Vault>,
    pub http: Option<&'a HttpClient>,
    /// Where what the vault keeps is spent.
    pub exchange_runner: &'a ExchangeRunner,
    /// The lease of the identity that this one is built on.
    pub base_lease: Option<&'a Lease>,
    pub purpose: &'a Purpose,
    /// What a coding agent's session is held to.
    pub restriction: Option<&'a SessionRestriction>,
    /// How programs are started; by themselves where there is none.
    pub launcher: Option<&'a Launcher>,
    pub now: i64,
}

/// What a lease is for, beside what its identity says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Purpose {
    #[default]
    General,
    /// A token for one service of the cloud, as Azure names them.
    Resource(String),
    /// An id token that is shown to this audience.
    IdToken(String),
}

/// The purpose as far as the source knows purposes.
pub(crate) fn supported_purpose(identity: &Identity, wanted: Purpose) -> Result<Purpose, String> {
    match (wanted, identity.kind) {
        (Purpose::Resource(_), kind) if !matches!(kind, "entra" | "entra-federation" | "oidc" | "exec") => {
            Ok(Purpose::General)
        }
        (Purpose::IdToken(_), kind) if !matches!(kind, "google" | "google-impersonation") => {
            Err("gives access tokens, and no id tokens for an audience".to_owned())
        }
        (wanted, _) => Ok(wanted),
    }
}

impl<'a> SourceContext<'a> {
    fn http(&self) -> Result<&'a HttpClient, SourceProblem> {
        self.http.ok_or_else(|| SourceProblem::Refused("there is no network client".to_owned()))
    }

    fn base_lease(&self) -> Result<&'a Lease, SourceProblem> {
        self.base_lease.ok_or_else(|| SourceProblem::Refused("it is built on nothing".to_owned()))
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

    async fn run_exchange(&self, errand: &ExchangeRequest) -> Result<HttpResponse, SourceProblem> {
        self.exchange_runner.run(self.vault()?, errand).await
    }

    fn vault(&self) -> Result<&'a Vault, SourceProblem> {
        self.vault.ok_or_else(|| SourceProblem::Refused("the vault is not open".to_owned()))
    }
}

/// What a person is asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginPrompt {
    /// Open this page in a browser on this machine.
    Open { url: String },
    /// Open this page anywhere and type the code.
    Code { url: String, code: String, complete_url: Option<String> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OAuthFlow {
    Browser,
    Device,
}

/// Signs a person in. Cancelled by dropping it.
pub(crate) async fn login(
    identity: &Identity,
    means: &SourceContext<'_>,
    flow: OAuthFlow,
    prompts: &mpsc::Sender<LoginPrompt>,
) -> Result<(), SourceProblem> {
    match identity.kind {
        "oidc" => oidc::login(identity, means, flow, prompts).await,
        "aws-sso" => sso::login(identity, means, flow, prompts).await,
        other => Err(SourceProblem::Refused(format!("the source `{other}` needs no login"))),
    }
}

/// Why nobody was signed in, with the way out where it is not the identity's section.
fn login_problem(identity: &Identity, words: String, hint: String) -> SourceProblem {
    let message = format!("`{}`: {words}", identity.name);
    SourceProblem::Described(BrokerProblem { code: "source_refused", message, hint: Some(hint), login_identity: None })
}

async fn send_prompt(prompts: &mpsc::Sender<LoginPrompt>, prompt: LoginPrompt) -> Result<(), SourceProblem> {
    let gone = |_| SourceProblem::Transient("nobody waits for this login any more".to_owned());
    prompts.send(prompt).await.map_err(gone)
}

/// Another machine's words inside ours: one line, no control characters, not endless.
fn sanitize_text(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Whether the next lease comes without a person, once one has signed in.
pub(crate) fn needs_vault(identity: &Identity) -> bool {
    identity.needs_login()
}

pub(crate) async fn fetch_lease(identity: &Identity, means: &SourceContext<'_>) -> Result<Lease, SourceProblem> {
    match identity.kind {
        _ if identity.needs_mfa_code() => mfa::fetch_lease(identity, means).await,
        "exec" => exec::fetch_lease(identity, means).await,
        "oidc" => oidc::fetch_lease(identity, means).await,
        "aws-sso" => sso::fetch_lease(identity, means).await,
        "aws-role" => sts::assume_role(identity, means).await,
        "aws-session" => sts::get_session_token(identity, means).await,
        "aws-web-identity" => sts::assume_role_with_web_identity(identity, means).await,
        "static" => static_secret::fetch_lease(identity, means),
        "google" => google::fetch_lease(identity, means).await,
        "google-impersonation" => google::fetch_impersonated_lease(identity, means).await,
        "google-federation" => google::fetch_federated_lease(identity, means).await,
        "entra" => entra::fetch_lease(identity, means).await,
        "entra-federation" => entra::fetch_federated_lease(identity, means).await,
        "vault-server" => vault_server::fetch_lease(identity, means).await,
        other => Err(SourceProblem::Refused(format!("the source `{other}` cannot be used yet"))),
    }
}

/// The request that spends what the vault keeps.
pub(crate) struct TokenRequest {
    pub url: String,
    pub media_type: &'static str,
    pub body: Vec<u8>,
}

/// What a provider is asked to exchange what is kept.
pub(crate) fn token_request(
    identity: &Identity,
    kept: &Secret,
    scope: Option<&str>,
) -> Result<TokenRequest, SourceProblem> {
    match identity.kind {
        "oidc" => oidc::token_request(identity, kept, scope),
        "aws-sso" => sso::token_request(identity, kept),
        "google" => google::token_request(kept, scope),
        other => Err(SourceProblem::Refused(format!("the source `{other}` keeps nothing that is spent"))),
    }
}

/// What is kept after a provider's good answer; `None` where it is as before.
pub(crate) fn updated_secret(
    identity: &Identity,
    kept: &Secret,
    answer: &HttpResponse,
) -> Result<Option<Secret>, SourceProblem> {
    match identity.kind {
        "oidc" => oidc::updated_secret(kept, answer),
        "aws-sso" => sso::updated_secret(kept, answer).map(Some),
        "google" => google::updated_secret(kept, answer),
        _ => Ok(None),
    }
}

/// The server that this identity's credentials come from, for who only wants to know its clock.
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

/// What is wrong with a secret, before it is kept; the words do not repeat it.
pub(crate) fn check_secret(identity: &Identity, secret: &Secret) -> Result<(), String> {
    match identity.kind {
        _ if identity.needs_mfa_code() => mfa::parse_code(secret).map(drop),
        "google" => google::check_secret(secret),
        _ => Ok(()),
    }
}

/// Longest time any source may take; beyond it the asker is told so.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(120);

/// Takes what a person gave: a secret is kept, a code is spent.
pub(crate) async fn accept_secret(
    identity: &Identity,
    means: &SourceContext<'_>,
    secret: &Secret,
) -> Result<(), SourceProblem> {
    match identity.needs_mfa_code() {
        true => mfa::login(identity, means, secret).await,
        false => Ok(static_secret::store_secret(means.vault()?, identity, secret)?),
    }
}

/// Where the vault keeps what a person signed in with.
pub(crate) fn login_item(identity: &Identity) -> String {
    match identity.kind {
        "aws-sso" => sso::login_item(identity),
        _ => static_secret::login_item(&identity.name),
    }
}
