//! A plan as clients see it: the answer to `POST /v1/plan`, and part of the `planned` event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    pub steps: Vec<StepView>,
    /// Nothing to do: the preview matches the manifest.
    pub unchanged: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    pub id: usize,
    /// `create`, `start`, `prepare_image`, `await_ready` ...
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// `docker` or `process`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The step as text: "create api".
    pub text: String,
    /// Ids of the steps that must finish first.
    pub after: Vec<usize>,
    /// A stable identifier: `absent`, `changed`, `not_running` ...
    pub cause: String,
    /// The cause as text: "env.LOG_LEVEL changed".
    pub because: String,
    /// The data that the step deletes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroys: Option<String>,
}

/// Answer to `POST /v1/plan`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PlanReply {
    pub preview: super::status::PreviewRef,
    pub plan: PlanView,
    /// Warnings and advice; they do not prevent the `up`.
    pub notes: Vec<String>,
    pub diagnostics: Vec<super::problem::DiagnosticView>,
}
