//! Current state of previews and their units.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PreviewRef {
    pub id: String,
    /// `shop/main`. In an environment other than `local`, the label contains the environment: `shop/main-preview`.
    pub title: String,
    pub app: String,
    pub branch: String,
    pub environment: String,
}

/// Answer to `POST /v1/locate`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LocateReply {
    pub preview: PreviewRef,
    /// Whether the agent knows the preview: it is up, or down with data.
    pub known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    /// An `up` is running.
    Starting,
    /// Everything is healthy.
    Ready,
    /// Something runs, but not every unit is healthy. A unit that the user stopped does not count.
    Degraded,
    /// The last `up` failed, or a unit failed.
    Failed,
    /// A `down` is running.
    Stopping,
    /// Nothing runs; data may be kept.
    #[default]
    Down,
}

/// Answer to `GET /v1/previews/{preview}`; `GET /v1/previews` returns a list of them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PreviewStatus {
    #[serde(flatten)]
    pub preview: PreviewRef,
    pub state: PreviewState,
    /// The manifest's folder.
    pub folder: String,
    /// False if that folder does not exist any more.
    pub folder_present: bool,
    /// URL of the default service, for a browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub units: Vec<UnitStatus>,
    /// Unix milliseconds of the last successful `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<i64>,
    /// Where the environment of local processes comes from. Absent without local processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_environment: Option<ProcessEnvironment>,
    /// The name of the coding agent's session that brought the preview up. Its services get no identities beyond those
    /// of that session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Why the preview is failed or degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// The source of the environment that local processes are started with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessEnvironment {
    /// The shell in which `pdev up` was typed.
    Shell,
    /// The agent, because no shell's environment is recorded.
    Agent,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitState {
    /// Not created yet.
    #[default]
    Waiting,
    /// Its image is being built or pulled, or its build command is running.
    Preparing,
    /// Started, but not ready yet.
    Starting,
    Ready,
    /// Was ready, but its probe fails now.
    Unhealthy,
    /// Crashed; the agent starts it again after a delay.
    Restarting,
    /// A job that succeeded.
    Done,
    Failed,
    Stopping,
    Stopped,
}

impl UnitState {
    /// Whether the unit's program has ended and is not started again.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Stopped)
    }
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UnitStatus {
    pub name: String,
    /// `service`, `job` or `resource`.
    pub role: String,
    /// `docker` or `process`.
    pub runtime: String,
    pub state: UnitState,
    /// The reason for the state, as text ("GET /readyz answered 503", "exit code 1").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// URL for browsers, through the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Port name -> port on 127.0.0.1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Number of crashes since the last deliberate start.
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<i64>,
    /// `postgres 16.2.0 (built-in)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The identity whose credentials its endpoint serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `paved`, `adjusted` or `off-road`.
    pub support: String,
    /// The runtime's handle: container id or process group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
}
