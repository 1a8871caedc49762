//! Routes about approvals: what waits for a person, and what was approved.

use axum::Json;
use axum::extract::{Extension, Path, State};
use credentials::approval::ancestry::{Denial, SystemProcesses};
use credentials::approval::{Approval, ApprovalProblem, IdentityUse};
use credentials::broker::BrokerProblem;
use protocol::approval::{ApprovalView, IdentityUseView, PendingApprovalView, RevokeReply, RevokeRequest};
use protocol::event::EventKind;
use protocol::status::PreviewRef;

use super::{Api, JsonBody, Peer, ProblemResponse};
use crate::bus::now_ms;
use crate::session_previews::session_of_process;

pub(super) async fn list_approvals(State(api): State<Api>) -> Json<Vec<ApprovalView>> {
    let all = api.shared.access.approvals.list(now_ms()).into_iter();
    Json(all.map(|approval| approval_view(&approval)).collect())
}

/// What waits for a person, with the folders in which it can be seen.
pub(super) async fn list_pending(State(api): State<Api>) -> Json<Vec<PendingApprovalView>> {
    let records = api.shared.registry.all();
    let waiting = api.shared.access.approvals.pending_requests(now_ms()).into_iter().map(|request| {
        let own = records
            .iter()
            .filter(|record| crate::approvals::repository_path(record) == request.identity_use.repository);
        let folders = own.map(|record| record.request.folder.clone()).collect();
        PendingApprovalView {
            identity_use: identity_use_view(&request.identity_use),
            code: request.code,
            until: request.until,
            folders,
        }
    });
    Json(waiting.collect())
}

/// What a code stands for, so that a person can read it first, and is not asked for a word that would be refused.
pub(super) async fn get_request(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, ProblemResponse> {
    let shared = api.shared.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let by = peer.pid.unwrap_or_default();
        let (request, denial) = shared.access.approvals.review_request(&code, by, &SystemProcesses, now_ms())?;
        Ok((request, session_of_process(&shared, by).map(|_| Denial::InSession).or(denial)))
    });
    let ended = looking.await;
    let (request, denial) = ended.map_err(|error| task_failed_problem(&error))?.map_err(approval_problem)?;
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
        let by = peer.pid.unwrap_or_default();
        let outcome = match session_of_process(&shared, by) {
            Some(_) => Err(Denial::InSession.into()),
            None => shared.access.approvals.approve(&code, by, &SystemProcesses, now_ms()),
        };
        (shared, outcome)
    });
    let ended = approving.await;
    let (shared, outcome) = ended.map_err(|error| task_failed_problem(&error))?;
    let asker = super::identities::requester_of(&shared, peer);
    match outcome {
        Ok(approval) => {
            let identity = approval.identity_use.identity.clone();
            log_audit_failure(shared.broker.record_decision("approved", &identity, &asker, None));
            // Whoever shows that it waits looks again.
            let change = "approved".to_owned();
            let kind = EventKind::IdentityChanged { identity, change, expires_at: None, problem: None };
            drop(shared.bus.publish(PreviewRef::default(), None, kind));
            Ok(Json(approval_view(&approval)))
        }
        Err(refusal) => {
            log_audit_failure(shared.broker.record_decision("not_approved", "", &asker, Some(refusal.code())));
            Err(approval_problem(refusal))
        }
    }
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    JsonBody(request): JsonBody<RevokeRequest>,
) -> Result<Json<RevokeReply>, ProblemResponse> {
    let fits = |of: &IdentityUse| {
        let same = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        of.identity == request.identity
            && same(&request.service, &of.service)
            && same(&request.repository, &of.repository)
    };
    let revoked = api
        .shared
        .access
        .approvals
        .revoke(&fits)
        .map_err(|error| approval_problem(ApprovalProblem::NotStored(error.to_string())))?;
    if revoked > 0 {
        log_audit_failure(api.shared.broker.record_decision(
            "revoked",
            &request.identity,
            &super::identities::requester_of(&api.shared, peer),
            None,
        ));
    }
    Ok(Json(RevokeReply { revoked }))
}

/// A decision that was carried out stays so, written down or not.
fn log_audit_failure(written: Result<(), BrokerProblem>) {
    if let Err(problem) = written {
        tracing::error!(problem = problem.message, "the audit log lacks a decision about an approval");
    }
}

fn task_failed_problem(error: &tokio::task::JoinError) -> ProblemResponse {
    ProblemResponse(protocol::Problem::new("internal", 500, format!("it broke off: {error}")))
}

fn approval_view(approval: &Approval) -> ApprovalView {
    ApprovalView {
        identity_use: identity_use_view(&approval.identity_use),
        at: approval.at,
        until: approval.until,
        refusal: None,
    }
}

fn identity_use_view(of: &IdentityUse) -> IdentityUseView {
    IdentityUseView {
        repository: of.repository.clone(),
        service: of.service.clone(),
        identity: of.identity.clone(),
        session: of.session.clone(),
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
