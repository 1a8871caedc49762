//! Routes about previews.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use credentials::Secret;
use credentials::broker::Asker;
use credentials::secrets::Scope;
use plan::application::PreviewId;
use protocol::plan::PlanReply;
use protocol::request::{DownRequest, KeptSecrets, LocateRequest, RestartRequest, StopRequest, UpRequest};
use protocol::status::{LocateReply, PreviewState, PreviewStatus, UnitState};
use serde::Deserialize;

use super::{Api, Body, Peer, Problem, asker, stream};
use crate::preview::{Handle, Source, naming};
use crate::session_previews;

/// `wait` without a `timeout_ms`.
const WAIT_DEFAULT: Duration = Duration::from_secs(600);

pub(super) fn find(api: &Api, preview: &str) -> Result<Handle, Problem> {
    api.shared.handle(&PreviewId(preview.to_owned())).ok_or_else(|| {
        let title = format!("there is no preview `{preview}`");
        Problem(protocol::Problem::new("unknown_preview", 404, title).hint("`pdev ls` lists what there is."))
    })
}

/// How long a look may wait for an agent that has just started to remember what it was doing.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

/// A preview whose units are known: right after the agent's start its actor first has to find out.
pub(super) async fn find_settled(api: &Api, preview: &str) -> Result<Handle, Problem> {
    let handle = find(api, preview)?;
    let recovering = |state| matches!(state, PreviewState::Starting);
    let known = handle.board.wait_for(|status| (!status.units.is_empty() || !recovering(status.state)).then_some(()));
    // Late is not wrong: what is known by then is told.
    let _in_time = tokio::time::timeout(RECOVERY_LIMIT, known).await;
    Ok(handle)
}

fn accepting(api: &Api) -> Result<(), Problem> {
    if api.shared.draining() {
        let problem = protocol::Problem::new("agent_stopping", 503, "the agent is stopping and begins nothing new");
        return Err(Problem(problem.hint("Run the command again in a moment; it starts a new agent.")));
    }
    Ok(())
}

pub(super) async fn locate(
    State(api): State<Api>,
    Body(request): Body<LocateRequest>,
) -> Result<Json<LocateReply>, Problem> {
    let shared = api.shared.clone();
    let reply = tokio::task::spawn_blocking(move || naming::locate(&shared, &request)).await;
    reply.map_err(|error| internal(&error))?.map(Json).map_err(Problem)
}

pub(super) async fn plan(State(api): State<Api>, Body(request): Body<UpRequest>) -> Result<Json<PlanReply>, Problem> {
    crate::preview::preview_plan(&api.shared, &request).await.map(Json).map_err(Problem)
}

pub(super) async fn up(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<UpRequest>,
) -> Result<Response, Problem> {
    accepting(&api)?;
    api.shared.gate.note(&request.folder, peer.pid);
    // Subscribed before the request is made, or its first events could be missed.
    let events = api.shared.bus.subscribe(None).1;
    let detach = request.detach;
    let operation = begin_up(&api, request, &asker(&api.shared, peer)).await?;
    Ok(stream::operation(events, operation, detach))
}

/// The actor of a preview that has just gone may end between being found and being asked: then another one is made.
async fn begin_up(api: &Api, request: UpRequest, asker: &Asker) -> Result<u64, Problem> {
    const TRIES: usize = 3;
    let mut last = None;
    for _ in 0..TRIES {
        let (shared, asked) = (api.shared.clone(), request.clone());
        let named = tokio::task::spawn_blocking(move || naming::bind(&shared, &asked)).await;
        let handle = named.map_err(|error| internal(&error))?.map_err(Problem)?;
        session_previews::hold(&api.shared, &handle, asker)?;
        match handle.up(request.clone(), Source::Disk).await {
            Err(problem) if problem.code == "agent_stopping" && !api.shared.draining() => last = Some(problem),
            answer => return answer.map_err(Problem),
        }
    }
    Err(Problem(last.unwrap_or_default()))
}

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<PreviewStatus>> {
    let mut all: Vec<PreviewStatus> = api.shared.handles().iter().map(present).collect();
    all.sort_by(|a, b| a.preview.title.cmp(&b.preview.title));
    Json(all)
}

/// The status with what only a look at the disk tells.
fn present(handle: &Handle) -> PreviewStatus {
    let mut status = handle.board.status();
    status.folder_present = std::path::Path::new(&status.folder).is_dir();
    status
}

pub(super) async fn status(
    State(api): State<Api>,
    Path(preview): Path<String>,
) -> Result<Json<PreviewStatus>, Problem> {
    find_settled(&api, &preview).await.map(|handle| Json(present(&handle)))
}

pub(super) async fn down(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Body(request): Body<DownRequest>,
) -> Result<Response, Problem> {
    accepting(&api)?;
    let handle = find(&api, &preview)?;
    let events = api.shared.bus.subscribe(None).1;
    let operation = handle.down(request.volumes).await.map_err(Problem)?;
    Ok(stream::operation(events, operation, false))
}

pub(super) async fn restart(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    Path(preview): Path<String>,
    Body(request): Body<RestartRequest>,
) -> Result<Response, Problem> {
    accepting(&api)?;
    let handle = find_settled(&api, &preview).await?;
    if let Some(application) = handle.live.application() {
        let meant = |name: &String| request.units.is_empty() || request.units.contains(name);
        let units = application.units.values().filter(|unit| meant(&unit.name));
        session_previews::refuse_of_person(&api.shared, &handle.id, units, &asker(&api.shared, peer))?;
    }
    let events = api.shared.bus.subscribe(None).1;
    let operation = handle.restart(request.units).await.map_err(Problem)?;
    Ok(stream::operation(events, operation, false))
}

pub(super) async fn stop(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Body(request): Body<StopRequest>,
) -> Result<Response, Problem> {
    accepting(&api)?;
    if request.units.is_empty() {
        let problem = protocol::Problem::new("invalid_request", 422, "no unit is named");
        return Err(Problem(problem.hint("Name units, or take all of it down: `pdev down`.")));
    }
    let handle = find_settled(&api, &preview).await?;
    let events = api.shared.bus.subscribe(None).1;
    let operation = handle.stop_units(request.units).await.map_err(Problem)?;
    Ok(stream::operation(events, operation, false))
}

#[derive(Deserialize)]
pub(super) struct WaitQuery {
    timeout_ms: Option<u64>,
}

/// Answers when nothing is under way any more: ready, failed or down.
pub(super) async fn wait(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<PreviewStatus>, Problem> {
    let handle = find(&api, &preview)?;
    let limit = query.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis);
    let settled = handle.board.wait_for(|status| {
        let moving = |state| {
            matches!(state, UnitState::Restarting | UnitState::Starting | UnitState::Preparing | UnitState::Stopping)
        };
        let under_way = matches!(status.state, PreviewState::Starting | PreviewState::Stopping)
            || (status.state == PreviewState::Degraded && status.units.iter().any(|unit| moving(unit.state)));
        (!under_way).then(|| status.clone())
    });
    match tokio::time::timeout(limit, settled).await {
        Ok(Some(status)) => Ok(Json(status)),
        _ => {
            let title = format!("it did not settle within {} ms", limit.as_millis());
            Err(Problem(protocol::Problem::new("timeout", 504, title).hint("`pdev status` shows what it waits for.")))
        }
    }
}

pub(super) async fn put_secret(
    State(api): State<Api>,
    Path((preview, name)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let secret = Secret::new(body.to_vec());
    if secret.is_empty() {
        return Err(Problem(protocol::Problem::new("invalid_secret", 422, format!("the secret `{name}` is empty"))));
    }
    let shared = api.shared.clone();
    let put = tokio::task::spawn_blocking(move || shared.delivery.put(&preview, &name, &secret)).await;
    put.map_err(|error| internal(&error))?
        .map_err(|error| Problem(protocol::Problem::new("secret_not_kept", 422, error.to_string())))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The agent holds the vault open, so that an `up` does not derive or ask for its key again.
pub(super) async fn keep_secrets(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Body(request): Body<KeptSecrets>,
) -> Result<Json<Vec<String>>, Problem> {
    let scope = Scope::new(std::path::Path::new(&request.repository));
    let kept = api.shared.broker.kept(&scope, &request.names).await;
    let kept = kept.map_err(|problem| Problem(crate::convert::broker_problem(problem)))?;
    let shared = api.shared.clone();
    let put = tokio::task::spawn_blocking(move || {
        let put = |(name, secret): (String, Secret)| shared.delivery.put(&preview, &name, &secret).map(|()| name);
        kept.into_iter().map(put).collect::<Result<Vec<String>, _>>()
    });
    let names = put.await.map_err(|error| internal(&error))?;
    names.map(Json).map_err(|error| Problem(protocol::Problem::new("secret_not_kept", 422, error.to_string())))
}

pub(super) async fn delete_secret(
    State(api): State<Api>,
    Path((preview, name)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let removed = api.shared.delivery.remove(&preview, &name);
    removed.map_err(|error| Problem(protocol::Problem::new("secret_not_kept", 422, error.to_string())))?;
    Ok(StatusCode::NO_CONTENT)
}

fn internal(error: &tokio::task::JoinError) -> Problem {
    Problem(protocol::Problem::new("internal", 500, format!("a task of the agent broke off: {error}")))
}
