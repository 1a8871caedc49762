//! Routes for the sessions of coding agents.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use credentials::session::{Session, SessionSpec};
use host::clock::now_milliseconds;
use protocol::session::{SessionRequest, SessionView};

use super::{Api, JsonBody, ProblemResponse};
use crate::peer::{Peer, requester_of};
use crate::sessions;

pub(super) async fn begin(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    JsonBody(request): JsonBody<SessionRequest>,
) -> Result<Json<SessionView>, ProblemResponse> {
    let SessionRequest { name, milliseconds, identities } = request;
    let spec = SessionSpec { name, duration_milliseconds: milliseconds, identities };
    let session = sessions::begin(&api.shared, spec, peer.pid, &requester_of(&api.shared, peer))?;
    Ok(Json(session_view(&session, false)))
}

pub(super) async fn list(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Json<Vec<SessionView>> {
    let own_id = sessions::session_member_of_process(&api.shared, peer.pid).map(|member| member.session.id);
    let all = api.shared.access.sessions.all();
    Json(all.iter().map(|session| session_view(session, own_id.as_deref() == Some(session.id.as_str()))).collect())
}

pub(super) async fn end(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(session): Path<String>,
) -> Result<StatusCode, ProblemResponse> {
    sessions::end(&api.shared, &session, &requester_of(&api.shared, peer))?;
    Ok(StatusCode::NO_CONTENT)
}

fn session_view(session: &Session, own: bool) -> SessionView {
    SessionView {
        id: session.id.clone(),
        name: session.name.clone(),
        pid: session.guard().map(|(pid, _)| pid).unwrap_or_default(),
        begun_at: session.started_at,
        until: session.until,
        identities: session.identities.clone(),
        over: session.is_over(now_milliseconds()),
        own,
    }
}
