//! Identities as the agent reports them, and requests for a credential. The credential itself is the raw body of a
//! reply, never a field of a type in this module.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// An item of `GET /v1/identities`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IdentityStatus {
    pub name: String,
    /// Kind of the source of its credentials: `oidc`, `aws-sso`, ...
    pub source: String,
    pub state: IdentityState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Expiry of the current lease; Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Whether the lease is in memory that the operating system may write to swap.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swappable: bool,
    /// When the login behind the lease ends and cannot be renewed, if the provider reports it; Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_ends_at: Option<i64>,
    /// The identity that the user must sign in as: now if the state is `needs_login`, otherwise soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<String>,
    /// Why the last attempt returned no credential. The code `login_ends` reports a login that ends soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
    /// The program that last received a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_by: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// The agent has a valid lease.
    Ready,
    /// No valid lease, for example because no client has requested one since the agent started. The next request
    /// obtains a lease.
    #[default]
    Idle,
    /// The user must sign in.
    NeedsLogin,
    /// The last attempt failed.
    Failing,
}

/// `POST /v1/credentials`, answered with the raw bytes that the tool reads. `POST /v1/credentials/rejected` reports
/// that a server rejected the credential.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRequest {
    /// Name of the identity; alternative to `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Selects the identity whose `hosts` match this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The credential format: `aws`, `kubectl`, `docker`, `git`, `cargo`, `token`, `env` or `endpoint`. `endpoint`
    /// returns variables that name a credential endpoint, which serves the requesting program and its children until
    /// the program ends. If the credential has no endpoint, the reply is that of `env`.
    #[serde(default)]
    pub form: String,
    /// For kubectl: the `apiVersion` of the ExecCredential that it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// For git: whether it understands `authtype`.
    #[serde(default)]
    pub authtype: bool,
}

/// `POST /v1/identities/{identity}/login`, answered with one [`LoginEvent`] per line.
/// Closing the stream cancels the login.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LoginRequest {
    pub flow: LoginFlow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginFlow {
    /// A page of the provider that redirects to the loopback address of the agent's machine.
    Browser,
    /// A page that the user opens on any device, and a code that the user enters there.
    Device,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "login", rename_all = "snake_case")]
pub enum LoginEvent {
    /// Open `url` in a browser on this machine.
    Open { url: String },
    /// Open `url` on any device and enter `code` there. `complete_url` already contains the code.
    Code {
        url: String,
        code: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        complete_url: Option<String>,
    },
    /// The last event: the user signed in.
    SignedIn,
    /// The last event: the login failed.
    Failed { problem: Problem },
}
