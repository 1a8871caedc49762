//! A plan as clients see it: answer to `POST /v1/plan`, and part of the `planned` event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    pub steps: Vec<StepView>,
    /// Nothing to do: everything is as the manifest says.
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
    /// The step in words: "create api".
    pub text: String,
    /// Ids of steps that come before.
    pub after: Vec<usize>,
    /// A stable word: `absent`, `changed`, `not_running` ...
    pub cause: String,
    /// The cause in words: "env.LOG_LEVEL changed".
    pub because: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroys: Option<String>,
}

/// Answer to `POST /v1/plan`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PlanReply {
    pub preview: super::status::PreviewRef,
    pub plan: PlanView,
    /// Warnings and advice that do not stop it.
    pub notes: Vec<String>,
    pub diagnostics: Vec<super::problem::DiagnosticView>,
}
