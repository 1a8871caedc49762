//! One step at the engine. Safe to repeat: what is there is returned, what is gone counts as removed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum as State, Network, NetworkConnectRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptions,
};
use plan::application::{Body, Container, Unit};
use plan::step::Action;

use super::problems::{self, response_status, to_problem, with_timeout};
use super::translate::{CreateContext, HASH, IMAGE, PREVIEW, SERVICE, grace_seconds, render_container};
use super::{READ_TIMEOUT, StepContext, WRITE_TIMEOUT, credential_network, images, network, observe};
use crate::driver::{Problem, ProblemKind, Scope, StepOutcome};
use crate::ports;

/// Names tried before a clash is reported.
pub(super) const NAME_ATTEMPTS: u32 = 8;
/// How often the engine is asked whether a removal under way has ended, and how many times.
const REMOVAL_POLL_INTERVAL: Duration = Duration::from_millis(100);
const REMOVAL_POLLS_MAX: u32 = 100;
/// For the stop of a container whose unit is in no manifest any more: it knows its own grace.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn perform(site: &StepContext<'_>, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
    let engine = site.engine;
    match action {
        Action::CreateNetwork => network::create(engine, scope).await,
        Action::RemoveNetwork { name } => {
            site.prepared_images.remove_preview(&scope.preview.id);
            let removed = network::remove(engine, scope, name).await;
            credential_network::remove_if_unused(engine).await;
            removed
        }
        Action::CreateVolume { volume } => network::create_volume(engine, scope, volume).await,
        Action::RemoveVolume { volume } => network::remove_volume(engine, scope, volume).await,
        Action::PrepareImage { unit, .. } => images::prepare_image(site, scope, unit).await,
        Action::Create { unit, .. } => create(site, scope, unit).await,
        Action::Start { unit, .. } => start(site, scope, unit).await,
        Action::Stop { unit, .. } => stop(engine, scope, unit).await,
        Action::Remove { handle, .. } => remove(engine, scope, handle).await,
        Action::Connect { unit, .. } => network::reconnect(engine, scope, unit).await,
        Action::AwaitReady { .. } | Action::AwaitExit { .. } => {
            Err(Problem::new(ProblemKind::Internal, "waiting is the agent's work, not the driver's"))
        }
    }
}

pub(super) fn container_unit<'a>(scope: &'a Scope, unit: &str) -> Result<(&'a Unit, &'a Container), Problem> {
    let found = scope.application.units.get(unit);
    match found.map(|unit| (unit, &unit.body)) {
        Some((unit, Body::Container(container))) => Ok((unit, container)),
        Some(_) => Err(Problem::new(ProblemKind::Internal, format!("`{unit}` is not a container"))),
        None => Err(Problem::new(ProblemKind::NotFound, format!("there is no unit `{unit}`"))),
    }
}

pub(super) fn suffixed_name(name: &str, attempt: u32) -> String {
    if attempt == 1 { name.to_owned() } else { format!("{name}-{attempt}") }
}

async fn create(site: &StepContext<'_>, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let engine = site.engine;
    let (unit, container) = container_unit(scope, name)?;
    let (reference, image) = images::resolve_image(site, scope, unit, container).await?;
    if let Some(found) = observe::find_container(engine, &scope.preview.id, name).await? {
        let is_wanted = is_up_to_date(&found, unit, &image);
        match found.id {
            Some(handle) if is_wanted => return Ok(StepOutcome { handle: Some(handle), ..StepOutcome::default() }),
            // From another life: the planner decided on a new one, and its ports and names have to be free.
            Some(handle) => force_remove(engine, &handle).await?,
            None => {}
        }
    }
    let network = observe::list_networks(engine, &scope.preview.id).await?.into_iter().next();
    let network = network.ok_or_else(|| Problem::new(ProblemKind::NotFound, "the preview has no network"))?;
    let secrets = scope.secrets.folder(name);
    if !site.endpoint.is_local() {
        reject_local_mounts(name, container, secrets.is_some())?;
    }
    let setting = CreateContext {
        preview: &scope.preview,
        project: &scope.locations.project,
        network: network.name.as_deref().unwrap_or_default(),
        gateway: &host_gateway(site, &network),
        image_reference: &reference,
        image_id: &image,
        secrets_folder: secrets.as_deref(),
    };
    let mut drawn = render_container(unit, container, &setting)?;
    let note = if unit.identity.is_some() {
        credential_network::attach_container(engine, name, &mut drawn).await?
    } else {
        None
    };
    let mut made = create_with_free_name(engine, scope, name, &drawn.body).await?;
    made.notes.extend(note);
    for (network, endpoint) in drawn.extra_networks {
        let handle = made.handle.clone().unwrap_or_default();
        let request = NetworkConnectRequest { container: handle.clone(), endpoint_config: Some(endpoint) };
        let what = format!("cannot connect `{name}` to the network `{network}`");
        if let Err(problem) = with_timeout(WRITE_TIMEOUT, &what, engine.connect_network(&network, request)).await {
            // Half of what was asked for would be taken for all of it by the next plan.
            force_remove(engine, &handle).await?;
            return Err(problem);
        }
    }
    Ok(made)
}

/// What containers call to reach this machine: the network's gateway, or the engine's own word for its host where the
/// gateway is not here.
fn host_gateway(site: &StepContext<'_>, network: &Network) -> String {
    let gateway = observe::network_gateway(network).filter(IpAddr::is_ipv4);
    match gateway.filter(|address| !site.endpoint.is_isolated && observe::is_local_address(*address)) {
        Some(address) => address.to_string(),
        None => "host-gateway".to_owned(),
    }
}

/// What lies on this machine cannot be mounted by an engine on another: it would mount an empty folder of its own.
fn reject_local_mounts(name: &str, container: &Container, has_secrets: bool) -> Result<(), Problem> {
    let binds = container.create_body["HostConfig"]["Binds"].as_array().into_iter().flatten();
    let folder = binds.filter_map(|bind| bind.as_str()?.split_once(':')).find(|(source, _)| source.starts_with('.'));
    let what = match folder {
        Some((source, _)) => format!("the project's folder `{source}`"),
        None if has_secrets => "secrets, which are files of this machine".to_owned(),
        None => return Ok(()),
    };
    Err(Problem::new(
        ProblemKind::Refused,
        format!("`{name}` needs {what}, and the Docker engine is on another machine"),
    )
    .hint(format!("Use an engine of this machine (unset DOCKER_HOST), or `services.{name}.runtime: process`.")))
}

/// Under the unit's name, or beside a stranger of that name: ours are found by label, so any free name will do.
async fn create_with_free_name(
    engine: &Engine,
    scope: &Scope,
    unit: &str,
    body: &ContainerCreateBody,
) -> Result<StepOutcome, Problem> {
    let prefix = format!("{}-{unit}", scope.preview.object_prefix());
    for attempt in 1..=NAME_ATTEMPTS {
        let name = suffixed_name(&prefix, attempt);
        // Twice: a leftover of our own under the name is removed first.
        for _ in 0..2 {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            match tokio::time::timeout(WRITE_TIMEOUT, engine.create_container(Some(options), body.clone())).await {
                Ok(Ok(made)) => {
                    return Ok(StepOutcome { handle: Some(made.id), notes: made.warnings, ..StepOutcome::default() });
                }
                Ok(Err(error)) if response_status(&error) == Some(409) => {
                    if !remove_own_leftover(engine, scope, unit, &name).await? {
                        break;
                    }
                }
                Ok(Err(error)) => return Err(to_problem(&format!("cannot create `{unit}`"), &error)),
                Err(_) => {
                    let words = format!("cannot create `{unit}`: no answer in time");
                    return Err(Problem::new(ProblemKind::Timeout, words));
                }
            }
        }
    }
    Err(Problem::new(
        ProblemKind::Refused,
        format!("the container names `{prefix}` to `{prefix}-{NAME_ATTEMPTS}` are all taken"),
    )
    .hint("Remove those that nobody uses: `docker ps --all`."))
}

/// Removes an older container of this very unit; true when the name is worth another attempt.
async fn remove_own_leftover(engine: &Engine, scope: &Scope, unit: &str, name: &str) -> Result<bool, Problem> {
    let call = engine.inspect_container(name, None::<InspectContainerOptions>);
    let found = match with_timeout(READ_TIMEOUT, "cannot inspect a container", call).await {
        Ok(found) => found,
        Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(true),
        Err(problem) => return Err(problem),
    };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    if !(is(PREVIEW, &scope.preview.id.0) && is(SERVICE, unit)) {
        return Ok(false);
    }
    force_remove(engine, found.id.as_deref().unwrap_or(name)).await?;
    Ok(true)
}

fn is_up_to_date(found: &ContainerSummary, unit: &Unit, image: &str) -> bool {
    let label = |name| found.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    label(HASH) == Some(unit.hash.as_str()) && label(IMAGE) == Some(image)
}

async fn start(site: &StepContext<'_>, scope: &Scope, unit: &str) -> Result<StepOutcome, Problem> {
    let engine = site.engine;
    let found = observe::find_container(engine, &scope.preview.id, unit).await?;
    let paused = found.as_ref().is_some_and(|found| found.state == Some(State::PAUSED));
    let handle = found
        .and_then(|found| found.id)
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("`{unit}` has no container")))?;
    let mut notes = Vec::new();
    if paused {
        resume(engine, unit, &handle).await?;
        notes.push(format!("`{unit}` was paused and goes on"));
    }
    let call = engine.start_container(&handle, None::<StartContainerOptions>);
    match tokio::time::timeout(WRITE_TIMEOUT, call).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if response_status(&error) == Some(304) => {}
        Ok(Err(error)) => {
            let problem = problems::start_problem(unit, scope.application.units.get(unit), &error);
            return Err(explain_port_conflict(engine, unit, problem).await);
        }
        Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("cannot start `{unit}`: no answer in time"))),
    }
    let address = if site.endpoint.is_isolated { None } else { observe::container_address(engine, &handle).await };
    Ok(StepOutcome { handle: Some(handle), address, notes, ..StepOutcome::default() })
}

/// Names who holds the port: a container that publishes it, or a program.
async fn explain_port_conflict(engine: &Engine, unit: &str, mut problem: Problem) -> Problem {
    let Some(port) = problems::find_taken_port(&problem.message).filter(|_| problem.kind == ProblemKind::PortTaken)
    else {
        return problem;
    };
    let filters = HashMap::from([("publish".to_owned(), vec![port.to_string()])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let found = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options)))
        .await
        .unwrap_or_default();
    let container = found.into_iter().find_map(|one| Some(one.names?.first()?.replace('/', "")));
    let by = match container {
        Some(name) => format!(" by the container `{name}`"),
        None => ports::find_port_owner(port).map(|holder| holder.to_string()).unwrap_or_default(),
    };
    problem.message = format!("cannot start `{unit}`: port {port} on this machine is taken{by}");
    problem
}

/// A paused program gets no signal and a start of it is an error, so it has to go on first.
async fn resume(engine: &Engine, unit: &str, handle: &str) -> Result<(), Problem> {
    match with_timeout(WRITE_TIMEOUT, &format!("cannot resume `{unit}`"), engine.unpause_container(handle)).await {
        Err(problem) if !problem.message.contains("is not paused") => Err(problem),
        _ => Ok(()),
    }
}

async fn stop(engine: &Engine, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let Some(found) = observe::find_container(engine, &scope.preview.id, name).await? else {
        return Ok(StepOutcome::default());
    };
    let Some(handle) = found.id else { return Ok(StepOutcome::default()) };
    if found.state == Some(State::PAUSED) {
        resume(engine, name, &handle).await?;
    }
    let known = scope.application.units.get(name);
    let seconds = known.map(|unit| i32::try_from(grace_seconds(unit.stop.grace)).unwrap_or(i32::MAX));
    let limit = known.map_or(STOP_TIMEOUT, |unit| unit.stop.grace.saturating_add(WRITE_TIMEOUT));
    let call = engine.stop_container(&handle, Some(StopContainerOptions { t: seconds, signal: None }));
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(())) => Ok(StepOutcome::default()),
        Ok(Err(error)) if matches!(response_status(&error), Some(304 | 404)) => Ok(StepOutcome::default()),
        Ok(Err(error)) => Err(to_problem(&format!("cannot stop `{name}`"), &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, format!("cannot stop `{name}`: no answer in time"))),
    }
}

/// By handle, so a successor under the same name is spared. What does not carry the preview's label is left alone.
async fn remove(engine: &Engine, scope: &Scope, handle: &str) -> Result<StepOutcome, Problem> {
    match network::preview_of_container(engine, handle).await? {
        None => Ok(StepOutcome::default()),
        Some(preview) if preview.as_ref() == Some(&scope.preview.id.0) => {
            force_remove(engine, handle).await?;
            Ok(StepOutcome::default())
        }
        Some(_) => {
            let note = format!("the container `{handle}` is not of this preview and was left alone");
            Ok(StepOutcome { notes: vec![note], ..StepOutcome::default() })
        }
    }
}

/// With its anonymous volumes; named ones stay.
async fn force_remove(engine: &Engine, handle: &str) -> Result<(), Problem> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match tokio::time::timeout(WRITE_TIMEOUT, engine.remove_container(handle, Some(options))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if response_status(&error) == Some(404) => Ok(()),
        Ok(Err(error)) if response_status(&error) == Some(409) => wait_until_removed(engine, handle).await,
        Ok(Err(error)) => Err(to_problem("cannot remove the container", &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "cannot remove the container: no answer in time")),
    }
}

/// Another removal is under way: waits until the container is gone.
async fn wait_until_removed(engine: &Engine, handle: &str) -> Result<(), Problem> {
    for _ in 0..REMOVAL_POLLS_MAX {
        if observe::inspect_state(engine, handle).await?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(REMOVAL_POLL_INTERVAL).await;
    }
    Err(Problem::new(ProblemKind::Timeout, "the container's removal is under way and does not end"))
}
