//! Routes for previews.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use credentials::Secret;
use credentials::broker::Requester;
use credentials::secrets::RepositorySecrets;
use plan::shell_environment::ShellEnvironment;
use protocol::plan::PlanReply;
use protocol::request::{
    DeliverSecretsRequest, DiscoverRequest, DownRequest, LocateRequest, RestartRequest, StopRequest, UpRequest,
};
use protocol::status::{LocateReply, PreviewState, PreviewStatus, UnitState};
use serde::Deserialize;

use super::preview_lookup::{find_preview, find_recovered, unknown_preview};
use super::{Api, JsonBody, ProblemResponse, stream};
use crate::peer::{Peer, requester_of};
use crate::preview::{ManifestSource, PreviewHandle, caller_environment, discovery, naming};
use crate::session_previews;

/// The limit of `wait` without `timeout_ms`.
const WAIT_DEFAULT: Duration = Duration::from_secs(600);

fn ensure_accepting(api: &Api) -> Result<(), ProblemResponse> {
    if api.shared.is_draining() {
        let problem =
            protocol::Problem::new("agent_stopping", 503, "the agent is stopping and starts no new operation");
        return Err(ProblemResponse(problem.hint("Run the command again in a moment; it starts a new agent.")));
    }
    Ok(())
}

pub(super) async fn locate(
    State(api): State<Api>,
    JsonBody(request): JsonBody<LocateRequest>,
) -> Result<Json<LocateReply>, ProblemResponse> {
    let shared = api.shared.clone();
    let reply = tokio::task::spawn_blocking(move || naming::locate_preview(&shared, &request)).await;
    reply.map_err(|error| internal_problem(&error))?.map(Json).map_err(ProblemResponse)
}

pub(super) async fn plan(
    State(api): State<Api>,
    JsonBody(request): JsonBody<UpRequest>,
) -> Result<Json<PlanReply>, ProblemResponse> {
    crate::preview::plan_up(&api.shared, &request).await.map(Json).map_err(ProblemResponse)
}

pub(super) async fn up(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    JsonBody(mut request): JsonBody<UpRequest>,
) -> Result<Response, ProblemResponse> {
    ensure_accepting(&api)?;
    let environment = caller_environment::take_from(&mut request);
    api.shared.access.record_requester(&request.folder, peer.pid);
    // Subscribe before the operation starts, so that its first events are not missed.
    let events = api.shared.bus.subscribe(None).1;
    let detach = request.detach;
    let operation = begin_up(&api, request, environment, &requester_of(&api.shared, peer)).await?;
    Ok(stream::operation_events(events, operation, detach))
}

/// Starts the `up`. An actor whose preview was just removed may end before it receives the request; then a new actor is
/// started.
async fn begin_up(
    api: &Api,
    request: UpRequest,
    environment: Option<ShellEnvironment>,
    requester: &Requester,
) -> Result<u64, ProblemResponse> {
    // Each try fails only if another actor ends at the wrong moment, so a small limit is enough.
    const TRIES: usize = 3;
    let mut last_problem = None;
    for _ in 0..TRIES {
        let (shared, up_request) = (api.shared.clone(), request.clone());
        let bound = tokio::task::spawn_blocking(move || naming::bind_preview(&shared, &up_request)).await;
        let (handle, completed) = bound.map_err(|error| internal_problem(&error))?.map_err(ProblemResponse)?;
        session_previews::mark_with_session(&api.shared, &handle, requester)?;
        if let Some(environment) = environment.clone() {
            handle.live.offer_environment(environment);
        }
        match handle.up(completed, ManifestSource::Disk).await {
            Err(problem) if problem.code == "agent_stopping" && !api.shared.is_draining() => {
                last_problem = Some(problem);
            }
            result => return result.map_err(ProblemResponse),
        }
    }
    Err(ProblemResponse(last_problem.unwrap_or_default()))
}

/// The actor of a preview ends when the preview is removed, for example by the `down` of another shell that finishes
/// between the look-up and the request.
fn ended_problem(api: &Api, preview: &str, problem: protocol::Problem) -> ProblemResponse {
    if problem.code == "agent_stopping" && !api.shared.is_draining() {
        return unknown_preview(preview);
    }
    ProblemResponse(problem)
}

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<PreviewStatus>> {
    let mut all: Vec<PreviewStatus> = api.shared.preview_handles().iter().map(current_status).collect();
    all.sort_by(|a, b| a.preview.title.cmp(&b.preview.title));
    Json(all)
}

/// Also lists previews that run although their record was lost.
pub(super) async fn discover(
    state: State<Api>,
    JsonBody(request): JsonBody<DiscoverRequest>,
) -> Json<Vec<PreviewStatus>> {
    discovery::restore_lost_records(&state.shared, &request.target_variables).await;
    list(state).await
}

/// The published status, with the fields that have to be read from the disk.
fn current_status(handle: &PreviewHandle) -> PreviewStatus {
    let mut status = handle.published.status();
    status.folder_present = std::path::Path::new(&status.folder).is_dir();
    status
}

pub(super) async fn status(
    State(api): State<Api>,
    Path(preview): Path<String>,
) -> Result<Json<PreviewStatus>, ProblemResponse> {
    find_recovered(&api, &preview).await.map(|handle| Json(current_status(&handle)))
}

pub(super) async fn down(
    State(api): State<Api>,
    Path(preview): Path<String>,
    JsonBody(request): JsonBody<DownRequest>,
) -> Result<Response, ProblemResponse> {
    ensure_accepting(&api)?;
    let handle = find_preview(&api, &preview)?;
    let events = api.shared.bus.subscribe(None).1;
    let operation = handle.down(request.volumes).await.map_err(|problem| ended_problem(&api, &preview, problem))?;
    Ok(stream::operation_events(events, operation, false))
}

pub(super) async fn restart(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(preview): Path<String>,
    JsonBody(request): JsonBody<RestartRequest>,
) -> Result<Response, ProblemResponse> {
    ensure_accepting(&api)?;
    let handle = find_recovered(&api, &preview).await?;
    // A restarted local process runs the current files of the project, which a session may have changed.
    if let Some(application) = handle.live.application() {
        let is_selected = |name: &String| request.units.is_empty() || request.units.contains(name);
        let units = application.units.values().filter(|unit| is_selected(&unit.name));
        session_previews::refuse_personal_units(&api.shared, &handle.id, units, &requester_of(&api.shared, peer))?;
    }
    let events = api.shared.bus.subscribe(None).1;
    let operation = handle.restart(request.units).await.map_err(|problem| ended_problem(&api, &preview, problem))?;
    Ok(stream::operation_events(events, operation, false))
}

pub(super) async fn stop(
    State(api): State<Api>,
    Path(preview): Path<String>,
    JsonBody(request): JsonBody<StopRequest>,
) -> Result<Response, ProblemResponse> {
    ensure_accepting(&api)?;
    if request.units.is_empty() {
        let problem = protocol::Problem::new("invalid_request", 422, "no unit is named");
        return Err(ProblemResponse(problem.hint("Name at least one unit, or run `pdev down` to stop the preview.")));
    }
    let handle = find_recovered(&api, &preview).await?;
    let events = api.shared.bus.subscribe(None).1;
    let operation = handle.stop_units(request.units).await.map_err(|problem| ended_problem(&api, &preview, problem))?;
    Ok(stream::operation_events(events, operation, false))
}

#[derive(Deserialize)]
pub(super) struct WaitQuery {
    timeout_ms: Option<u64>,
}

/// Answers when no operation and no unit change is in progress: the preview is ready, failed or down.
pub(super) async fn wait_until_settled(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<PreviewStatus>, ProblemResponse> {
    let handle = find_preview(&api, &preview)?;
    let limit = query.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis);
    let settled = handle.published.wait_for(|status| {
        let is_changing = |state| {
            matches!(state, UnitState::Restarting | UnitState::Starting | UnitState::Preparing | UnitState::Stopping)
        };
        let in_progress = matches!(status.state, PreviewState::Starting | PreviewState::Stopping)
            || (status.state == PreviewState::Degraded && status.units.iter().any(|unit| is_changing(unit.state)));
        (!in_progress).then(|| status.clone())
    });
    match tokio::time::timeout(limit, settled).await {
        Ok(Some(status)) => Ok(Json(status)),
        _ => {
            let title = format!("the preview did not become ready, failed or down within {} ms", limit.as_millis());
            Err(ProblemResponse(
                protocol::Problem::new("timeout", 504, title)
                    .hint("Run `pdev status` to see which units are not ready."),
            ))
        }
    }
}

pub(super) async fn put_secret(
    State(api): State<Api>,
    Path((preview, name)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, ProblemResponse> {
    let secret = Secret::new(body.to_vec());
    if secret.is_empty() {
        return Err(ProblemResponse(protocol::Problem::new(
            "invalid_secret",
            422,
            format!("the secret `{name}` is empty"),
        )));
    }
    let shared = api.shared.clone();
    // Writing files blocks.
    let stored = tokio::task::spawn_blocking(move || shared.delivery.put(&preview, &name, &secret)).await;
    stored
        .map_err(|error| internal_problem(&error))?
        .map_err(|error| ProblemResponse(protocol::Problem::new("secret_not_kept", 422, error.to_string())))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Copies secrets from the vault to this preview. The agent keeps the vault open, so that an `up` needs neither to
/// derive the vault's key again nor to prompt for it.
pub(super) async fn deliver_secrets(
    State(api): State<Api>,
    Path(preview): Path<String>,
    JsonBody(request): JsonBody<DeliverSecretsRequest>,
) -> Result<Json<Vec<String>>, ProblemResponse> {
    let scope = RepositorySecrets::new(std::path::Path::new(&request.repository));
    let secrets = api.shared.broker.read_secrets(&scope, &request.names).await;
    let secrets = secrets.map_err(|problem| ProblemResponse(crate::convert::broker_problem(problem)))?;
    let shared = api.shared.clone();
    let delivery = tokio::task::spawn_blocking(move || {
        let put = |(name, secret): (String, Secret)| shared.delivery.put(&preview, &name, &secret).map(|()| name);
        secrets.into_iter().map(put).collect::<Result<Vec<String>, _>>()
    });
    let names = delivery.await.map_err(|error| internal_problem(&error))?;
    names.map(Json).map_err(|error| ProblemResponse(protocol::Problem::new("secret_not_kept", 422, error.to_string())))
}

pub(super) async fn delete_secret(
    State(api): State<Api>,
    Path((preview, name)): Path<(String, String)>,
) -> Result<StatusCode, ProblemResponse> {
    let removed = api.shared.delivery.remove(&preview, &name);
    removed.map_err(|error| ProblemResponse(protocol::Problem::new("secret_not_kept", 422, error.to_string())))?;
    Ok(StatusCode::NO_CONTENT)
}

fn internal_problem(error: &tokio::task::JoinError) -> ProblemResponse {
    ProblemResponse(protocol::Problem::new("internal", 500, format!("a task of the agent failed: {error}")))
}
