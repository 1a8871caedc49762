//! Routes for approvals: pending requests, decisions and granted approvals.

use axum::Json;
use axum::extract::{Extension, Path, State};
use credentials::BrokerProblem;
use credentials::approval::ancestry::{Denial, SystemProcesses};
use credentials::approval::{Approval, ApprovalProblem, IdentityUse};
use host::clock::now_milliseconds;
use protocol::approval::{ApprovalView, IdentityUseView, PendingApprovalView, RevokeReply, RevokeRequest};
use protocol::event::EventKind;
use protocol::status::PreviewRef;

use super::{Api, JsonBody, ProblemResponse};
use crate::peer::{Peer, requester_of};
use crate::session_previews::session_of_process;

pub(super) async fn list_approvals(State(api): State<Api>) -> Json<Vec<ApprovalView>> {
    let all = api.shared.access.approvals.list(now_milliseconds()).into_iter();
    Json(all.map(|approval| approval_view(&approval)).collect())
}

/// Lists the pending requests, each with the folders of the previews that they concern.
pub(super) async fn list_pending(State(api): State<Api>) -> Json<Vec<PendingApprovalView>> {
    let records = api.shared.registry.all();
    let pending = api.shared.access.approvals.pending_requests(now_milliseconds()).into_iter().map(|request| {
        let of_repository = records
            .iter()
            .filter(|record| crate::approvals::repository_path(record) == request.identity_use.repository);
        let folders = of_repository.map(|record| record.request.folder.clone()).collect();
        PendingApprovalView {
            identity_use: identity_use_view(&request.identity_use),
            code: request.code,
            until: request.until,
            folders,
        }
    });
    Json(pending.collect())
}

/// Returns the request behind a code, so that the user can read it first. It includes the reason if this process may
/// not approve, so that the user is not prompted in vain.
pub(super) async fn get_request(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, ProblemResponse> {
    let shared = api.shared.clone();
    // Reading the process table blocks.
    let review = tokio::task::spawn_blocking(move || {
        let approver = peer.pid.unwrap_or_default();
        let (request, denial) =
            shared.access.approvals.review_request(&code, approver, &SystemProcesses, now_milliseconds())?;
        Ok((request, session_of_process(&shared, approver).map(|_| Denial::InSession).or(denial)))
    });
    let outcome = review.await;
    let (request, denial) = outcome.map_err(|error| task_failed_problem(&error))?.map_err(approval_problem)?;
    let refusal = denial.map(|denial| approval_problem(ApprovalProblem::Denied(denial)).0);
    Ok(Json(ApprovalView {
        identity_use: identity_use_view(&request.identity_use),
        at: 0,
        until: request.until,
        refusal,
    }))
}

pub(super) async fn approve(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, ProblemResponse> {
    let shared = api.shared.clone();
    let approving = tokio::task::spawn_blocking(move || {
        let approver = peer.pid.unwrap_or_default();
        // A session's program may never approve, whatever the request is.
        let outcome = match session_of_process(&shared, approver) {
            Some(_) => Err(Denial::InSession.into()),
            None => shared.access.approvals.approve(&code, approver, &SystemProcesses, now_milliseconds()),
        };
        (shared, outcome)
    });
    let joined = approving.await;
    let (shared, outcome) = joined.map_err(|error| task_failed_problem(&error))?;
    let requester = requester_of(&shared, peer);
    match outcome {
        Ok(approval) => {
            let identity = approval.identity_use.identity.clone();
            log_audit_failure(shared.broker.record_decision("approved", &identity, &requester, None));
            // Clients that show the pending request, such as editors, refresh on this event.
            let change = "approved".to_owned();
            let kind = EventKind::IdentityChanged { identity, change, expires_at: None, problem: None };
            drop(shared.bus.publish(PreviewRef::default(), None, kind));
            Ok(Json(approval_view(&approval)))
        }
        Err(refusal) => {
            log_audit_failure(shared.broker.record_decision("not_approved", "", &requester, Some(refusal.code())));
            Err(approval_problem(refusal))
        }
    }
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    JsonBody(request): JsonBody<RevokeRequest>,
) -> Result<Json<RevokeReply>, ProblemResponse> {
    let is_selected = |approved: &IdentityUse| {
        let matches = |filter: &Option<String>, value: &str| filter.as_ref().is_none_or(|filter| filter == value);
        approved.identity == request.identity
            && matches(&request.service, &approved.service)
            && matches(&request.repository, &approved.repository)
    };
    let revoked = api
        .shared
        .access
        .approvals
        .revoke(&is_selected)
        .map_err(|error| approval_problem(ApprovalProblem::NotStored(error.to_string())))?;
    if revoked > 0 {
        log_audit_failure(api.shared.broker.record_decision(
            "revoked",
            &request.identity,
            &requester_of(&api.shared, peer),
            None,
        ));
    }
    Ok(Json(RevokeReply { revoked }))
}

/// Logs a failed audit entry. The decision has taken effect already, so the request does not fail.
fn log_audit_failure(result: Result<(), BrokerProblem>) {
    if let Err(problem) = result {
        tracing::error!(problem = problem.message, "cannot write a decision about an approval to the audit log");
    }
}

fn task_failed_problem(error: &tokio::task::JoinError) -> ProblemResponse {
    ProblemResponse(protocol::Problem::new("internal", 500, format!("a task of the agent failed: {error}")))
}

fn approval_view(approval: &Approval) -> ApprovalView {
    ApprovalView {
        identity_use: identity_use_view(&approval.identity_use),
        at: approval.at,
        until: approval.until,
        refusal: None,
    }
}

fn identity_use_view(identity_use: &IdentityUse) -> IdentityUseView {
    IdentityUseView {
        repository: identity_use.repository.clone(),
        service: identity_use.service.clone(),
        identity: identity_use.identity.clone(),
        session: identity_use.session.clone(),
    }
}

fn approval_problem(refusal: ApprovalProblem) -> ProblemResponse {
    let status = match refusal {
        ApprovalProblem::UnknownCode(_) => 404,
        ApprovalProblem::TooManyGuesses => 429,
        ApprovalProblem::Denied(_) => 403,
        ApprovalProblem::NotStored(_) => 500,
    };
    ProblemResponse(protocol::Problem::new(refusal.code(), status, refusal.to_string()).hint(refusal.hint()))
}
