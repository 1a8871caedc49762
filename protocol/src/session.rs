//! Sessions of coding agents: programs that get less of a person's identities, and for a while.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/sessions`: what the asker starts from now on is one session. Its programs belong to it by their parents.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SessionRequest {
    pub name: String,
    /// How long its programs are given credentials, in milliseconds.
    pub milliseconds: i64,
    /// Only these identities; all that are not production when it is empty.
    #[serde(default)]
    pub identities: Vec<String>,
}

/// One of `GET /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    pub id: String,
    pub name: String,
    /// The process that stands for it, `pdev session run`.
    pub pid: i32,
    /// Unix milliseconds.
    pub begun_at: i64,
    pub until: i64,
    #[serde(default)]
    pub identities: Vec<String>,
    /// Its programs get nothing any more.
    pub over: bool,
    /// Whether the one who asks belongs to it.
    #[serde(default)]
    pub own: bool,
}
