//! Routes about approvals: what waits for a person, and what was approved.

use axum::Json;
use axum::extract::{Extension, Path, State};
use credentials::approval::family::{Denial, Running};
use credentials::approval::{Approval, Refusal, Use};
use credentials::broker::BrokerProblem;
use protocol::approval::{ApprovalView, RevokeReply, RevokeRequest, UseView, WaitingView};
use protocol::event::EventKind;
use protocol::status::PreviewRef;

use super::{Api, Body, Peer, Problem};
use crate::bus::now_ms;
use crate::session_previews::session_of;

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<ApprovalView>> {
    let all = api.shared.gate.approvals.list(now_ms()).into_iter();
    Json(all.map(|approval| given(&approval)).collect())
}

/// What waits for a person, with the folders in which it can be seen.
pub(super) async fn waiting(State(api): State<Api>) -> Json<Vec<WaitingView>> {
    let records = api.shared.registry.all();
    let waiting = api.shared.gate.approvals.waiting(now_ms()).into_iter().map(|request| {
        let own = records.iter().filter(|record| crate::approvals::repository(record) == request.of.repository);
        let folders = own.map(|record| record.request.folder.clone()).collect();
        WaitingView { of: view(&request.of), code: request.code, until: request.until, folders }
    });
    Json(waiting.collect())
}

/// What a code stands for, so that a person can read it first, and is not asked for a word that would be refused.
pub(super) async fn request(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, Problem> {
    let shared = api.shared.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let by = peer.pid.unwrap_or_default();
        let (request, denial) = shared.gate.approvals.refuses(&code, by, &Running, now_ms())?;
        Ok((request, session_of(&shared, by).map(|_| Denial::InSession).or(denial)))
    });
    let ended = looking.await;
    let (request, denial) = ended.map_err(|error| broke_off(&error))?.map_err(refused)?;
    let refusal = denial.map(|denial| refused(Refusal::NotYou(denial)).0);
    Ok(Json(ApprovalView { of: view(&request.of), at: 0, until: request.until, refusal }))
}

pub(super) async fn approve(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(code): Path<String>,
) -> Result<Json<ApprovalView>, Problem> {
    let shared = api.shared.clone();
    let approving = tokio::task::spawn_blocking(move || {
        let by = peer.pid.unwrap_or_default();
        let outcome = match session_of(&shared, by) {
            Some(_) => Err(Denial::InSession.into()),
            None => shared.gate.approvals.approve(&code, by, &Running, now_ms()),
        };
        (shared, outcome)
    });
    let ended = approving.await;
    let (shared, outcome) = ended.map_err(|error| broke_off(&error))?;
    let asker = super::identities::asker(&shared, peer);
    match outcome {
        Ok(approval) => {
            let identity = approval.of.identity.clone();
            noted(shared.broker.record("approved", &identity, &asker, None));
            // Whoever shows that it waits looks again.
            let change = "approved".to_owned();
            let kind = EventKind::IdentityChanged { identity, change, expires_at: None, problem: None };
            drop(shared.bus.publish(PreviewRef::default(), None, kind));
            Ok(Json(given(&approval)))
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
        noted(api.shared.broker.record(
            "revoked",
            &request.identity,
            &super::identities::asker(&api.shared, peer),
            None,
        ));
    }
    Ok(Json(RevokeReply { revoked }))
}

/// A decision that was carried out stays so, written down or not.
fn noted(written: Result<(), BrokerProblem>) {
    if let Err(problem) = written {
        tracing::error!(problem = problem.message, "the audit log lacks a decision about an approval");
    }
}

fn broke_off(error: &tokio::task::JoinError) -> Problem {
    Problem(protocol::Problem::new("internal", 500, format!("it broke off: {error}")))
}

fn given(approval: &Approval) -> ApprovalView {
    ApprovalView { of: view(&approval.of), at: approval.at, until: approval.until, refusal: None }
}

fn view(of: &Use) -> UseView {
    UseView {
        repository: of.repository.clone(),
        service: of.service.clone(),
        identity: of.identity.clone(),
        session: of.session.clone(),
    }
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
