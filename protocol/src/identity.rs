//! Identities as the agent tells them, and asking for a credential. A credential itself is the raw body of an answer,
//! never a field of a type here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// One of `GET /v1/identities`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IdentityStatus {
    pub name: String,
    /// Where its credentials come from: `oidc`, `aws-sso`, ...
    pub source: String,
    pub state: IdentityState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Of the lease that is held; Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Whether the lease lies in memory that the system may write to its swap.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swappable: bool,
    /// When the login behind the lease ends for good, where its provider says so; Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_ends_at: Option<i64>,
    /// The identity that a person has to sign in as: now where the state is `needs_login`, soon otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<String>,
    /// Why the last attempt gave nothing; or, with `login_ends`, that the login is about to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
    /// The program that was given it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_by: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// A lease is held.
    Ready,
    /// Nobody asked since the agent started; the next asker gets one.
    #[default]
    Idle,
    /// A person has to sign in.
    NeedsLogin,
    /// The last attempt failed.
    Failing,
}

/// `POST /v1/credentials`, answered by the raw bytes that the tool reads; `.../rejected` when a tool was refused with it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRequest {
    /// By name, or by `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The identity whose `hosts` mean this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// `aws`, `kubectl`, `docker`, `git`, `cargo`, `token`, `env`; or `endpoint`: variables that name a place where the
    /// asking program, and what it starts, is given credentials until it ends (`env` where there is no such place).
    #[serde(default)]
    pub form: String,
    /// kubectl: which ExecCredential it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// git: whether it understands `authtype`.
    #[serde(default)]
    pub authtype: bool,
}

/// `POST /v1/identities/{identity}/login`, answered by one [`LoginEvent`] a line. Closing the stream ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LoginRequest {
    pub flow: LoginFlow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginFlow {
    /// A page of the provider, which answers to the loopback of the agent's machine.
    Browser,
    /// A page opened anywhere, and a code typed into it.
    Device,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "login", rename_all = "snake_case")]
pub enum LoginEvent {
    /// To be opened in a browser on this machine.
    Open { url: String },
    /// To be opened anywhere; the code is typed there, unless `complete_url` carries it.
    Code {
        url: String,
        code: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        complete_url: Option<String>,
    },
    /// The last event: somebody signed in.
    SignedIn,
    /// The last event: nobody did.
    Failed { problem: Problem },
}
