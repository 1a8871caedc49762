//! A repository's first use of an identity: what is asked for, and what was approved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Which service of which repository acts as which identity.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IdentityUseView {
    /// Where the repository lies; all its worktrees are one.
    pub repository: String,
    pub service: String,
    pub identity: String,
    /// Wanted by this session of a coding agent, for an hour; then `service` is its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// One of `GET /v1/approvals`; of `GET /v1/approvals/{code}` what waits for a person.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    #[serde(flatten)]
    pub identity_use: IdentityUseView,
    /// When it was approved, in Unix milliseconds; 0 while it waits.
    pub at: i64,
    /// When it ends, in Unix milliseconds.
    pub until: i64,
    /// While it waits: why the one who looks cannot approve it, and what to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Problem>,
}

/// One of `GET /v1/approvals/waiting`: what was asked for, and nobody has approved yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PendingApprovalView {
    #[serde(flatten)]
    pub identity_use: IdentityUseView,
    /// For `pdev identity approve`.
    pub code: String,
    /// When the code ends, in Unix milliseconds.
    pub until: i64,
    /// The manifests' folders of the repository's previews.
    pub folders: Vec<String>,
}

/// `POST /v1/approvals/revoke`: everything that fits is taken back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct RevokeRequest {
    pub identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct RevokeReply {
    pub revoked: usize,
}
