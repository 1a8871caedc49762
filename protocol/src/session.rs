//! Sessions of coding agents: their programs get fewer of the user's identities, and only for a limited time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/sessions`: all programs that the calling process starts from now on form one session. A program
/// belongs to the session by its parent processes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SessionRequest {
    pub name: String,
    /// How long its programs receive credentials, in milliseconds.
    pub milliseconds: i64,
    /// Only these identities; if empty, all identities that are not production.
    #[serde(default)]
    pub identities: Vec<String>,
}

/// An item of `GET /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    pub id: String,
    pub name: String,
    /// Process id of the session's guard, which `pdev session run` starts.
    pub pid: i32,
    /// Unix milliseconds.
    pub begun_at: i64,
    /// When the session expires; Unix milliseconds.
    pub until: i64,
    #[serde(default)]
    pub identities: Vec<String>,
    /// The session has ended; its programs get no more credentials.
    pub over: bool,
    /// Whether the caller belongs to the session.
    #[serde(default)]
    pub own: bool,
}
