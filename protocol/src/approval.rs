//! A repository's first use of an identity: what is asked for, and what was approved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which service of which repository acts as which identity.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UseView {
    /// Where the repository lies; all its worktrees are one.
    pub repository: String,
    pub service: String,
    pub identity: String,
}

/// One of `GET /v1/approvals`; of `GET /v1/approvals/{code}` what waits for a person.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    #[serde(flatten)]
    pub of: UseView,
    /// When it was approved, in Unix milliseconds; 0 while it waits.
    pub at: i64,
    /// When it ends, in Unix milliseconds.
    pub until: i64,
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
