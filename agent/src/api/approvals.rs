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
#[cfg(target_os = "linux")]
use crate::password_prompt::{self, Answer};
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
        let (request, review) =
            shared.access.approvals.review_request(&code, approver, &SystemProcesses, now_milliseconds())?;
        Ok((request, session_of_process(&shared, approver).map_or(review, |_| Err(Denial::InSession))))
    });
    let outcome = review.await;
    let (request, review) = outcome.map_err(|error| task_failed_problem(&error))?.map_err(approval_problem)?;
    let refusal = review.err().map(|denial| approval_problem(ApprovalProblem::Denied(denial)).0);
    if let Some(refusal) = &refusal {
        // Clients do not send a refused approval, so this is the only trace of the attempt.
        let requester = requester_of(&api.shared, peer);
        log_audit_failure(api.shared.broker.record_decision("not_approved", "", &requester, Some(&refusal.code)));
    }
    Ok(Json(ApprovalView {
        identity_use: identity_use_view(&request.identity_use),
        at: 0,
        until: request.until,
        refusal,
        weakness: None,
    }))
}

/// Asks for the user's password if the approval would be weak otherwise.
async fn confirm_with_password(api: &Api, code: &str, approver: i32) -> Result<bool, ApprovalProblem> {
    let (shared, code) = (api.shared.clone(), code.to_owned());
    let review = tokio::task::spawn_blocking(move || {
        let is_session = session_of_process(&shared, approver).is_some();
        let approvals = &shared.access.approvals;
        let (_, review) = approvals.review_request(&code, approver, &SystemProcesses, now_milliseconds())?;
        Ok(!is_session && matches!(review, Ok(Some(_))))
    });
    // A refusal is reported by the approval itself.
    if !review.await.is_ok_and(|weak: Result<bool, ApprovalProblem>| weak.is_ok_and(|weak| weak)) {
        return Ok(false);
    }
    #[cfg(target_os = "linux")]
    match password_prompt::ask(approver).await {
        Answer::Confirmed => return Ok(true),
        Answer::Refused => return Err(Denial::NoPassword.into()),
        Answer::Unavailable => {}
    }
    Ok(false)
}

pub(super) async fn approve(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, ProblemResponse> {
    let shared = api.shared.clone();
    let approver = peer.pid.unwrap_or_default();
    let password = confirm_with_password(&api, &code, approver).await;
    let approving = tokio::task::spawn_blocking(move || {
        // A session's program may never approve, whatever the request is.
        let outcome = match (session_of_process(&shared, approver), password) {
            (Some(_), _) => Err(Denial::InSession.into()),
            (None, Err(refusal)) => Err(refusal),
            (None, Ok(has_password)) => {
                let rule = (shared.broker.approval_policy(), has_password);
                shared.access.approvals.approve(&code, approver, &SystemProcesses, rule, now_milliseconds())
            }
        };
        (shared, outcome)
    });
    let joined = approving.await;
    let (shared, outcome) = joined.map_err(|error| task_failed_problem(&error))?;
    let requester = requester_of(&shared, peer);
    match outcome {
        Ok((approval, weakness)) => {
            let identity = approval.identity_use.identity.clone();
            let reason = weakness.map(|weakness| format!("weak: {weakness}"));
            let recorded = shared.broker.record_decision("approved", &identity, &requester, reason.as_deref());
            log_audit_failure(recorded);
            // Clients that show the pending request, such as editors, refresh on this event.
            let change = "approved".to_owned();
            let kind = EventKind::IdentityChanged { identity, change, expires_at: None, problem: None };
            drop(shared.bus.publish(PreviewRef::default(), None, kind));
            let weakness = weakness.map(|weakness| weakness.to_string());
            Ok(Json(ApprovalView { weakness, ..approval_view(&approval) }))
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
        weakness: None,
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
        ApprovalProblem::Denied(_) | ApprovalProblem::TooWeak(_) => 403,
        ApprovalProblem::NotStored(_) => 500,
    };
    ProblemResponse(protocol::Problem::new(refusal.code(), status, refusal.to_string()).hint(refusal.hint()))
}
