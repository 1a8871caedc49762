//! Routes about the sessions of coding agents.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use credentials::session::{Session, Wish};
use protocol::session::{SessionRequest, SessionView};

use super::identities::asker;
use super::{Api, Body, Peer, Problem};
use crate::bus::now_ms;
use crate::sessions;

pub(super) async fn begin(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<SessionRequest>,
) -> Result<Json<SessionView>, Problem> {
    let SessionRequest { name, milliseconds, identities } = request;
    let wish = Wish { name, milliseconds, identities };
    let session = sessions::begin(&api.shared, wish, peer.pid, &asker(&api.shared, peer))?;
    Ok(Json(view(&session, false)))
}

pub(super) async fn list(State(api): State<Api>, Extension(peer): Extension<Peer>) -> Json<Vec<SessionView>> {
    let own = sessions::member(&api.shared, peer.pid).map(|member| member.session.id);
    let all = api.shared.gate.sessions.all();
    Json(all.iter().map(|session| view(session, own.as_deref() == Some(session.id.as_str()))).collect())
}

pub(super) async fn end(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(session): Path<String>,
) -> Result<StatusCode, Problem> {
    sessions::end(&api.shared, &session, &asker(&api.shared, peer))?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(session: &Session, own: bool) -> SessionView {
    SessionView {
        id: session.id.clone(),
        name: session.name.clone(),
        pid: session.guard().map(|(pid, _)| pid).unwrap_or_default(),
        begun_at: session.begun,
        until: session.until,
        identities: session.identities.clone(),
        over: session.is_over(now_ms()),
        own,
    }
}
