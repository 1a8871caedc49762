//! Routes about approvals: what waits for a person, and what was approved.

use axum::Json;
use axum::extract::{Extension, Path, State};
use credentials::approval::family::Running;
use credentials::approval::{Refusal, Use};
use credentials::broker::BrokerProblem;
use protocol::approval::{ApprovalView, RevokeReply, RevokeRequest, UseView};

use super::{Api, Body, Peer, Problem};
use crate::bus::now_ms;

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<ApprovalView>> {
    let all = api.shared.gate.approvals.list(now_ms()).into_iter();
    Json(all.map(|approval| ApprovalView { of: view(&approval.of), at: approval.at, until: approval.until }).collect())
}

/// What a code stands for, so that a person can read it first.
pub(super) async fn request(State(api): State<Api>, Path(code): Path<String>) -> Result<Json<ApprovalView>, Problem> {
    let request = api.shared.gate.approvals.request(&code, now_ms()).map_err(refused)?;
    Ok(Json(ApprovalView { of: view(&request.of), at: 0, until: request.until }))
}

pub(super) async fn approve(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, Problem> {
    let shared = api.shared.clone();
    let approving = tokio::task::spawn_blocking(move || {
        let outcome = shared.gate.approvals.approve(&code, peer.pid.unwrap_or_default(), &Running, now_ms());
        (shared, outcome)
    });
    let ended = approving.await;
    let (shared, outcome) =
        ended.map_err(|error| Problem(protocol::Problem::new("internal", 500, format!("it broke off: {error}"))))?;
    let asker = super::identities::asker(peer);
    match outcome {
        Ok(approval) => {
            noted(shared.broker.record("approved", &approval.of.identity, &asker, None));
            Ok(Json(ApprovalView { of: view(&approval.of), at: approval.at, until: approval.until }))
        }
        Err(refusal) => {
            noted(shared.broker.record("not_approved", "", &asker, Some(refusal.code())));
            Err(refused(refusal))
        }
    }
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<RevokeRequest>,
) -> Result<Json<RevokeReply>, Problem> {
    let fits = |of: &Use| {
        let same = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        of.identity == request.identity
            && same(&request.service, &of.service)
            && same(&request.repository, &of.repository)
    };
    let revoked = api.shared.gate.approvals.revoke(&fits).map_err(|error| refused(Refusal::File(error.to_string())))?;
    if revoked > 0 {
        noted(api.shared.broker.record("revoked", &request.identity, &super::identities::asker(peer), None));
    }
    Ok(Json(RevokeReply { revoked }))
}

/// A decision that was carried out stays so, written down or not.
fn noted(written: Result<(), BrokerProblem>) {
    if let Err(problem) = written {
        tracing::error!(problem = problem.message, "the audit log lacks a decision about an approval");
    }
}

fn view(of: &Use) -> UseView {
    UseView { repository: of.repository.clone(), service: of.service.clone(), identity: of.identity.clone() }
}

fn refused(refusal: Refusal) -> Problem {
    let status = match refusal {
        Refusal::Unknown(_) => 404,
        Refusal::TooMany => 429,
        Refusal::NotYou(_) => 403,
        Refusal::File(_) => 500,
    };
    Problem(protocol::Problem::new(refusal.code(), status, refusal.to_string()).hint(refusal.hint()))
}
