//! What is: previews and their units.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PreviewRef {
    pub id: String,
    /// `shop/main`; outside the environment `local` its name is part of the branch's label: `shop/main-preview`.
    pub title: String,
    pub app: String,
    pub branch: String,
    pub environment: String,
}

/// Answer to `POST /v1/locate`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LocateReply {
    pub preview: PreviewRef,
    /// The agent has it, up or down with data.
    pub known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    /// An `up` is under way.
    Starting,
    /// Everything is healthy.
    Ready,
    /// It runs, but something in it is not healthy.
    Degraded,
    /// The last `up` failed, or a unit gave up.
    Failed,
    /// A `down` is under way.
    Stopping,
    /// Nothing runs; perhaps data is kept.
    #[default]
    Down,
}

/// Answer to `GET /v1/previews/{preview}`; `GET /v1/previews` gives a list of them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PreviewStatus {
    #[serde(flatten)]
    pub preview: PreviewRef,
    pub state: PreviewState,
    /// The manifest's folder.
    pub folder: String,
    /// False when that folder or its manifest is gone.
    pub folder_present: bool,
    /// The default service in a browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub units: Vec<UnitStatus>,
    /// Unix milliseconds of the last successful `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<i64>,
    /// The name of the coding agent's session that brought it up: its services get no more of an identity than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Why it is failed or degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitState {
    /// Not made yet.
    #[default]
    Waiting,
    /// Its image is built or pulled, or its build command runs.
    Preparing,
    /// Started, not ready yet.
    Starting,
    Ready,
    /// Was ready, now its probe fails.
    Unhealthy,
    /// Crashed; started again after a pause.
    Restarting,
    /// A job that succeeded.
    Done,
    Failed,
    Stopping,
    Stopped,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UnitStatus {
    pub name: String,
    /// `service`, `job` or `resource`.
    pub role: String,
    /// `docker` or `process`.
    pub runtime: String,
    pub state: UnitState,
    /// What the state means right now, in words ("GET /readyz answered 503", "exit code 1").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For browsers, through the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Port name -> port on 127.0.0.1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Crashes since it was last started on purpose.
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
    /// The identity that its endpoint gives credentials of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `paved`, `adjusted` or `off-road`.
    pub support: String,
    /// The runtime's handle: container id or process group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
}
