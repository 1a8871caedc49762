//! What clients ask.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/locate`: which preview does this folder mean? Creates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LocateRequest {
    /// The manifest's folder, or any folder inside a checkout whose preview is known.
    pub folder: String,
    #[serde(default)]
    pub environment: Option<String>,
}

/// `POST /v1/up` (answered by a stream of events until ready or failed) and `POST /v1/plan`.
///
/// Closing the stream does not stop the work.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UpRequest {
    /// The manifest's folder (absolute).
    pub folder: String,
    /// `pdev.yaml` unless said.
    #[serde(default)]
    pub file: Option<String>,
    #[serde(default)]
    pub environment: Option<String>,
    /// `services.web.replicas=2`, applied over everything else.
    #[serde(default)]
    pub sets: Vec<String>,
    /// Overrides the branch label.
    #[serde(default)]
    pub name: Option<String>,
    /// Only these services and what they need; everything when empty.
    #[serde(default)]
    pub services: Vec<String>,
    /// Jobs to run now, even those that are done or that are `when: manual`; their names belong into `services` too.
    #[serde(default)]
    pub jobs: Vec<String>,
    /// Replace every unit even if nothing changed.
    #[serde(default)]
    pub force: bool,
    /// The variables of the asker's environment that the manifest reads as `${env.X}`.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Runtime for services that leave the choice open: `docker` or `process`.
    #[serde(default)]
    pub runtime: Option<String>,
    /// Called by this `up`: the agent answers after the plan was accepted instead of following it.
    #[serde(default)]
    pub detach: bool,
}

/// `POST /v1/previews/{preview}/down`, answered by a stream of events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DownRequest {
    /// Data volumes too.
    #[serde(default)]
    pub volumes: bool,
}

/// `POST /v1/previews/{preview}/restart`: stop and start units without changing them; all when empty.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct RestartRequest {
    #[serde(default)]
    pub units: Vec<String>,
}

/// `POST /v1/previews/{preview}/stop`: end these units and leave the others running; they rest until `up` names them or
/// everything, also when the agent or the engine is started again meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StopRequest {
    pub units: Vec<String>,
}

/// Query of `GET /v1/previews/{preview}/logs`, answered by one [`LogEntry`] a line (`application/x-ndjson`), merged by time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogQuery {
    /// Comma-separated unit names; all when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    #[serde(default)]
    pub follow: bool,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// The last so many lines of each unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LogEntry {
    /// Unix milliseconds.
    pub at: i64,
    pub unit: String,
    /// `stdout` or `stderr`; `pdev` for words of the agent's own.
    pub stream: String,
    pub text: String,
}

/// `POST /v1/previews/{preview}/secrets`: values that the vault keeps for a repository, for this preview until `down`.
/// Answered by the names that were there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DeliverSecretsRequest {
    /// What all worktrees share: git's common folder, or the project's own.
    pub repository: String,
    pub names: Vec<String>,
}
