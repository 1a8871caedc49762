//! Approval of a repository's first use of an identity: pending requests and granted approvals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// One use of an identity: the service, its repository and the identity that the service acts as.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IdentityUseView {
    /// Path of the repository; all its worktrees count as the same repository.
    pub repository: String,
    pub service: String,
    pub identity: String,
    /// The id of the coding agent's session that requests the identity for one hour; `service` is then its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// An item of `GET /v1/approvals`, and the answer to `GET /v1/approvals/{code}` (a request that awaits approval).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    #[serde(flatten)]
    pub identity_use: IdentityUseView,
    /// Time of the approval, in Unix milliseconds; 0 while the request is pending.
    pub at: i64,
    /// Time at which the approval or the pending request expires, in Unix milliseconds.
    pub until: i64,
    /// For a pending request: why the caller cannot approve it, and what to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Problem>,
    /// In the answer to an approval: why a program of the user may have given it. Absent if only the user can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weakness: Option<String>,
}

/// An item of `GET /v1/approvals/waiting`: a request that is not approved yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PendingApprovalView {
    #[serde(flatten)]
    pub identity_use: IdentityUseView,
    /// The argument of `pdev identity approve`.
    pub code: String,
    /// Time at which the code expires, in Unix milliseconds.
    pub until: i64,
    /// The manifest folders of the repository's previews.
    pub folders: Vec<String>,
}

/// `POST /v1/approvals/revoke`: revokes every approval that matches.
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
