//! The agent's API: HTTP, JSON and server-sent events on the unix socket. `curl --unix-socket` can use all of it.
//!
//! Each handler converts the request, calls an actor or the broker, and converts the reply. It makes no decisions.

mod approvals;
mod exec;
mod identities;
mod openapi;
mod preview_lookup;
mod previews;
mod sessions;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use protocol::agent_info::AgentInfo;
use serde::Serialize;
use tokio::sync::watch;

use crate::peer::Peer;
use crate::preview_programs;
use crate::shared::Shared;

/// The maximum size of a request body. Secrets and requests about manifests are far smaller.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How long a refused client may take to send its request.
const REFUSED_BODY_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Api {
    pub shared: Arc<Shared>,
    /// `POST /v1/agent/stop` sets it to true, like a first signal.
    pub stop: Arc<watch::Sender<bool>>,
}

pub fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/agent", get(agent_info))
        .route("/v1/agent/stop", post(stop_agent))
        .route("/v1/openapi.json", get(openapi::get_document))
        .route("/v1/events", get(stream::all_events))
        .route("/v1/locate", post(previews::locate))
        .route("/v1/plan", post(previews::plan))
        .route("/v1/up", post(previews::up))
        .route("/v1/identities", get(identities::list))
        .route("/v1/identities/{identity}/check", post(identities::check))
        .route("/v1/identities/{identity}/secret", put(identities::store_secret))
        .route("/v1/identities/{identity}/login", post(identities::login).delete(identities::sign_out))
        .route("/v1/approvals", get(approvals::list_approvals))
        .route("/v1/approvals/waiting", get(approvals::list_pending))
        .route("/v1/approvals/revoke", post(approvals::revoke))
        .route("/v1/approvals/{code}", get(approvals::get_request).post(approvals::approve))
        .route("/v1/sessions", get(sessions::list).post(sessions::begin))
        .route("/v1/sessions/{session}", axum::routing::delete(sessions::end))
        .route("/v1/credentials", post(identities::issue_credential))
        .route("/v1/credentials/rejected", post(identities::report_rejected))
        .route("/v1/previews", get(previews::list))
        .route("/v1/previews/discover", post(previews::discover))
        .route("/v1/previews/{preview}", get(previews::status))
        .route("/v1/previews/{preview}/down", post(previews::down))
        .route("/v1/previews/{preview}/restart", post(previews::restart))
        .route("/v1/previews/{preview}/stop", post(previews::stop))
        .route("/v1/previews/{preview}/wait", get(previews::wait_until_settled))
        .route("/v1/previews/{preview}/logs", get(stream::logs))
        .route("/v1/previews/{preview}/exec", post(exec::exec))
        .route("/v1/previews/{preview}/secrets", post(previews::deliver_secrets))
        .route("/v1/previews/{preview}/secrets/{name}", put(previews::put_secret).delete(previews::delete_secret))
        .fallback(unknown_route)
        .layer(axum::middleware::from_fn_with_state(api.clone(), refuse_preview_programs))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

/// Restricts the programs of previews to their own preview.
async fn refuse_preview_programs(
    State(api): State<Api>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let (method, path) = (request.method().as_str(), request.uri().path());
    let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
    // Answered to everyone, so it needs no look at the process table.
    if !preview_programs::is_allowed(None, method, path)
        && let Some(program) = preview_programs::program_of_peer(&api.shared, peer)
        && !preview_programs::is_allowed(program.preview.as_ref(), method, path)
    {
        let refusal = preview_programs::refusal(&api.shared, peer, &program, method, path);
        // Otherwise the connection would be closed while the client still sends, and the client would not read the
        // response. The body is not used.
        let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
        drop(tokio::time::timeout(REFUSED_BODY_LIMIT, body).await);
        return ProblemResponse(refusal).into_response();
    }
    next.run(request).await
}

async fn agent_info(State(api): State<Api>) -> Json<AgentInfo> {
    Json(AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: protocol::PROTOCOL_VERSION,
        pid: std::process::id(),
        started_at: api.shared.started_at,
        proxy_port: api.shared.routing.port(),
        executable: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        previews: api.shared.preview_handles().len(),
        accepting: !api.shared.is_draining(),
    })
}

async fn stop_agent(State(api): State<Api>) -> StatusCode {
    api.stop.send_replace(true);
    StatusCode::ACCEPTED
}

async fn unknown_route(request: axum::extract::Request) -> ProblemResponse {
    let title = format!("there is no route `{} {}`", request.method(), request.uri().path());
    ProblemResponse(
        protocol::Problem::new("unknown_route", 404, title).hint("See `GET /v1/openapi.json` for all routes."),
    )
}

/// A problem document as a response (RFC 9457).
pub struct ProblemResponse(pub protocol::Problem);

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], to_json(&self.0)).into_response()
    }
}

impl From<protocol::Problem> for ProblemResponse {
    fn from(problem: protocol::Problem) -> Self {
        Self(problem)
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Like `Json`, but also rejects requests with a problem document.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ProblemResponse;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, ProblemResponse> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(rejection_problem(&rejection)),
        }
    }
}

fn rejection_problem(rejection: &JsonRejection) -> ProblemResponse {
    let status = rejection.status().as_u16();
    let problem = protocol::Problem::new("invalid_request", status, rejection.body_text());
    ProblemResponse(problem.hint("See `GET /v1/openapi.json` for the request body of each route."))
}
