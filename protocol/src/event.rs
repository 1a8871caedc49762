//! Events, named in the past tense. Sent as server-sent events: `id:` is [`Event::id`], `data:` is the JSON.
//!
//! `POST /v1/up` and `.../down` stream the events of their own operation; `GET /v1/events` streams all of them and
//! resumes after `Last-Event-ID`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::PlanView;
use crate::problem::Problem;
use crate::status::{PreviewRef, PreviewStatus, UnitStatus};

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Increases by one per event. A restarted agent continues after the highest id in its journal.
    pub id: u64,
    /// Unix milliseconds.
    pub at: i64,
    pub preview: PreviewRef,
    /// The operation (`up`, `down`, ...) that the event belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<u64>,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// `what` is `up`, `down`, `restart`, `stop` or `recover` (after the agent was killed during an operation).
    OperationStarted {
        what: String,
    },
    Planned {
        plan: PlanView,
    },
    StepStarted {
        step: usize,
        text: String,
    },
    StepFinished {
        step: usize,
        milliseconds: u64,
    },
    StepFailed {
        step: usize,
        problem: Problem,
    },
    /// Build and pull output, grouped by unit.
    Progress {
        unit: String,
        line: ProgressView,
    },
    UnitChanged {
        unit: UnitStatus,
    },
    /// A note for the user; the operation continues.
    Noted {
        text: String,
    },
    /// The operation succeeded; `status` is the final state of the preview.
    Finished {
        status: PreviewStatus,
        milliseconds: u64,
        unchanged: bool,
    },
    Failed {
        problems: Vec<Problem>,
        status: PreviewStatus,
        milliseconds: u64,
    },
    /// Another request replaced the operation (for example `down` during `up`, a second `up` with a changed manifest).
    Superseded {
        by: String,
    },
    /// An identity's state changed: `renewed`, `expiring` (the login ends at `expires_at`), `needs_login`, `failed`,
    /// `signed_in`, `signed_out` or `approved`. The event belongs to no preview.
    IdentityChanged {
        identity: String,
        change: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// The agent is stopping: the preview keeps running, but this stream ends.
    AgentStopping,
}

impl EventKind {
    /// True for the last event of an operation.
    #[must_use]
    pub fn ends_operation(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Failed { .. } | Self::Superseded { .. } | Self::AgentStopping)
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProgressView {
    BuildStep {
        name: String,
        done: bool,
        cached: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    BuildOutput {
        text: String,
    },
    Pull {
        layer: String,
        current: u64,
        total: u64,
    },
}
