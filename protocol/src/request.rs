//! Requests that clients send to the agent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/locate`: finds the preview that belongs to a folder. Creates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LocateRequest {
    /// The manifest's folder, or any folder inside a checkout whose preview the agent knows.
    pub folder: String,
    /// Without it, the folder's only preview is found, or its only one that is up.
    #[serde(default)]
    pub environment: Option<String>,
}

/// `POST /v1/previews/discover`: finds previews that run although the agent's record of them was lost.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DiscoverRequest {
    /// The variables of the client's environment that select an engine, for example `DOCKER_HOST`.
    #[serde(default)]
    pub target_variables: BTreeMap<String, String>,
}

/// `POST /v1/up` (answered with a stream of events until the preview is ready or failed) and `POST /v1/plan`.
///
/// Closing the stream does not stop the operation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UpRequest {
    /// The manifest's folder (absolute).
    pub folder: String,
    /// File name of the manifest; `pdev.yaml` by default.
    #[serde(default)]
    pub file: Option<String>,
    #[serde(default)]
    pub environment: Option<String>,
    /// Overrides such as `services.web.replicas=2`, applied after all other layers.
    #[serde(default)]
    pub sets: Vec<String>,
    /// Replaces the label derived from the branch.
    #[serde(default)]
    pub name: Option<String>,
    /// Only these services and their dependencies; all units if empty.
    #[serde(default)]
    pub services: Vec<String>,
    /// Jobs to run now, even if they are done or have `when: manual`. Their names must also be in `services`.
    #[serde(default)]
    pub jobs: Vec<String>,
    /// Replace every unit, even if nothing changed.
    #[serde(default)]
    pub force: bool,
    /// The variables of the client's environment that the manifest reads as `${env.X}`.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// The environment of the shell in which `up` was typed, for local processes. Held in memory only, until `down`.
    /// Without it, the one of the last `up` that had one is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell_environment: Option<ShellVariables>,
    /// The variables of the client's environment that select an engine, for example `DOCKER_HOST`.
    #[serde(default)]
    pub target_variables: BTreeMap<String, String>,
    /// Runtime of services that do not require one: `docker` or `process`.
    #[serde(default)]
    pub runtime: Option<String>,
    /// Forget `runtime`, `sets` and `name` of earlier `up`s. Without it, they complete this request.
    #[serde(default)]
    pub reset: bool,
    /// Let units move to another runtime without their data. Otherwise such an `up` is refused (`data_left_behind`).
    #[serde(default)]
    pub leave_data: bool,
    /// The agent ends the stream after the `planned` event, instead of following the operation.
    #[serde(default)]
    pub detach: bool,
}

/// Variables of a shell by name. `Debug` prints no values, because they may be secrets.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ShellVariables(pub BTreeMap<String, String>);

impl std::fmt::Debug for ShellVariables {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// `POST /v1/previews/{preview}/down`, answered with a stream of events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DownRequest {
    /// Also delete data volumes.
    #[serde(default)]
    pub volumes: bool,
}

/// `POST /v1/previews/{preview}/restart`: stops and starts units without changing them; all units if `units` is empty.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct RestartRequest {
    #[serde(default)]
    pub units: Vec<String>,
}

/// `POST /v1/previews/{preview}/stop`: stops these units and leaves the others running. They stay stopped until an `up`
/// names them or selects all units, even if the agent or the engine restarts in between.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StopRequest {
    pub units: Vec<String>,
}

/// Query of `GET /v1/previews/{preview}/logs`, answered with one [`LogEntry`] per line (`application/x-ndjson`),
/// merged by time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct LogQuery {
    /// Comma-separated unit names; all units if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    #[serde(default)]
    pub follow: bool,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Only the last lines of each unit: the maximum number per unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LogEntry {
    /// Unix milliseconds.
    pub at: i64,
    pub unit: String,
    /// `stdout` or `stderr`; `pdev` for the agent's own messages.
    pub stream: String,
    pub text: String,
}

/// `POST /v1/previews/{preview}/secrets`: delivers values that the vault stores for a repository to this preview, until
/// `down`. Answered with the names that the vault had.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DeliverSecretsRequest {
    /// The folder that all worktrees share: git's common directory, or the project's folder outside git.
    pub repository: String,
    pub names: Vec<String>,
}
