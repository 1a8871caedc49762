//! What happened, in the past tense. Sent as server-sent events: `id:` is [`Event::id`], `data:` the JSON.
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
    /// Grows by one; not kept over a restart of the agent unless the journal has it.
    pub id: u64,
    /// Unix milliseconds.
    pub at: i64,
    pub preview: PreviewRef,
    /// The `up` or `down` it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<u64>,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// `what` is `up`, `down`, `restart` or `recover` (after the agent was killed in the middle).
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
    /// Build and pull output, folded by unit.
    Progress {
        unit: String,
        line: ProgressView,
    },
    UnitChanged {
        unit: UnitStatus,
    },
    /// Words for the user that stop nothing.
    Noted {
        text: String,
    },
    /// The operation succeeded. After `down`, the status says what is kept.
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
    /// Another request took over (`down` during `up`, a second `up` with a changed manifest).
    Superseded {
        by: String,
    },
    /// What became of an identity: `renewed`, `expiring` (the login ends at `expires_at`), `needs_login`, `failed`, `signed_in`, `signed_out`. Concerns no preview.
    IdentityChanged {
        identity: String,
        change: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// The agent was told to stop: the preview goes on, this stream does not.
    AgentStopping,
}

impl EventKind {
    /// The last event of an operation.
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
