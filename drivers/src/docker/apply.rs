//! Performs one step in the engine. Safe to repeat: an existing object is returned, and a missing one counts as
//! removed.

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
use host::ports::find_port_owner;
use plan::application::{Container, Unit, is_project_source};
use plan::step::Action;

use super::names::{NAME_ATTEMPTS, container_unit, suffixed_name};
use super::problems::{self, response_status, to_problem, with_timeout};
use super::translate::{CreateContext, HASH, IMAGE, PREVIEW, SERVICE, grace_seconds, render_container};
use super::{READ_TIMEOUT, StepContext, WRITE_TIMEOUT, credential_network, foreign_objects, images, network, observe};
use crate::driver::StepOutcome;
use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

/// Interval and maximum number of checks whether a removal in progress has finished.
const REMOVAL_POLL_INTERVAL: Duration = Duration::from_millis(100);
const REMOVAL_POLLS_MAX: u32 = 100;
/// Stop deadline if the unit is not in the manifest any more; the container itself has its grace period.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn perform(context: &StepContext<'_>, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
    let engine = context.engine;
    match action {
        Action::CreateNetwork { .. } => network::create(context, scope).await,
        Action::RemoveNetwork { name, .. } => {
            // Without a network, the preview has no containers: forget which images were prepared for it.
            context.prepared_images.remove_preview(&scope.preview.id);
            let result = network::remove(engine, scope, name).await;
            credential_network::remove_if_unused(engine).await;
            result
        }
        Action::CreateVolume { volume, .. } => network::create_volume(context, scope, volume).await,
        Action::RemoveVolume { volume, .. } => network::remove_volume(engine, scope, volume).await,
        Action::PrepareImage { unit, .. } => images::prepare_image(context, scope, unit).await,
        Action::Create { unit, .. } => create(context, scope, unit).await,
        Action::Start { unit, .. } => start(context, scope, unit).await,
        Action::Stop { unit, .. } => stop(engine, scope, unit).await,
        Action::Remove { handle, .. } => remove(engine, scope, handle).await,
        Action::Connect { unit, .. } => network::reconnect(engine, scope, unit).await,
        Action::PushImage { .. }
        | Action::Apply { .. }
        | Action::Delete { .. }
        | Action::AwaitReady { .. }
        | Action::AwaitExit { .. } => Err(Problem::unsupported(action)),
    }
}

async fn create(context: &StepContext<'_>, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let engine = context.engine;
    let (unit, container) = container_unit(scope, name)?;
    let (reference, image) = images::resolve_image(context, scope, unit, container).await?;
    if let Some(found) = observe::find_container(engine, &scope.preview.id, name).await? {
        let is_current = is_up_to_date(&found, unit, &image);
        match found.id {
            Some(handle) if is_current => return Ok(StepOutcome { handle: Some(handle), ..StepOutcome::default() }),
            // An outdated container: the planner decided to replace it, and its ports and names must be free.
            Some(handle) => force_remove(engine, &handle).await?,
            None => {}
        }
    }
    let network = observe::list_networks(engine, &scope.preview.id).await?.into_iter().next();
    let network = network.ok_or_else(|| Problem::new(ProblemKind::NotFound, "the preview has no network"))?;
    let secrets = scope.secrets.folder(name);
    if !context.endpoint.is_local() {
        reject_local_mounts(name, container, secrets.is_some())?;
    }
    let create_context = CreateContext {
        preview: &scope.preview,
        project: &scope.locations.project,
        owner: context.owner,
        network: network.name.as_deref().unwrap_or_default(),
        gateway: &host_gateway(context, &network),
        image_reference: &reference,
        image_id: &image,
        secrets_folder: secrets.as_deref(),
    };
    let mut rendered = render_container(unit, container, &create_context)?;
    foreign_objects::refuse(engine, scope, name, &mut rendered).await?;
    let note = if unit.identity.is_some() {
        credential_network::attach_container(engine, name, &mut rendered).await?
    } else {
        None
    };
    let mut outcome = create_with_free_name(engine, scope, name, &rendered.body).await?;
    outcome.notes.extend(note);
    for (network, endpoint) in rendered.extra_networks {
        let handle = outcome.handle.clone().unwrap_or_default();
        let request = NetworkConnectRequest { container: handle.clone(), endpoint_config: Some(endpoint) };
        let failure = format!("cannot connect `{name}` to the network `{network}`");
        if let Err(problem) = with_timeout(WRITE_TIMEOUT, &failure, engine.connect_network(&network, request)).await {
            // Remove the container: the next plan would take a partly connected one for complete.
            force_remove(engine, &handle).await?;
            return Err(problem);
        }
    }
    Ok(outcome)
}

/// The address at which containers reach this machine: the network's gateway, or the engine's own alias for its host if
/// the gateway is on another machine.
fn host_gateway(context: &StepContext<'_>, network: &Network) -> String {
    let gateway = observe::network_gateway(network).filter(IpAddr::is_ipv4);
    match gateway.filter(|address| !context.endpoint.is_isolated && observe::is_local_address(*address)) {
        Some(address) => address.to_string(),
        None => "host-gateway".to_owned(),
    }
}

/// Rejects mounts from this machine if the engine is on another machine: it would mount an empty folder of its own.
fn reject_local_mounts(name: &str, container: &Container, has_secrets: bool) -> Result<(), Problem> {
    let sources = container.mount_sources();
    let local_source = match sources.iter().find(|source| is_project_source(source)) {
        Some(source) => format!("the project's folder `{source}`"),
        None if has_secrets => "secrets, which are files of this machine".to_owned(),
        None => return Ok(()),
    };
    Err(Problem::new(
        ProblemKind::Refused,
        format!("`{name}` needs {local_source}, but the Docker engine is on another machine"),
    )
    .hint(format!("Use an engine on this machine (unset DOCKER_HOST), or set `services.{name}.runtime: process`.")))
}

/// Creates the container under the unit's name. If a foreign container has that name, uses a name with a suffix: pdev
/// finds its containers by label, so any free name works.
async fn create_with_free_name(
    engine: &Engine,
    scope: &Scope,
    unit: &str,
    body: &ContainerCreateBody,
) -> Result<StepOutcome, Problem> {
    let prefix = format!("{}-{unit}", scope.preview.object_prefix());
    for attempt in 1..=NAME_ATTEMPTS {
        let name = suffixed_name(&prefix, attempt);
        // Two attempts per name: after the first, a leftover container of this unit is removed.
        for _ in 0..2 {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            match tokio::time::timeout(WRITE_TIMEOUT, engine.create_container(Some(options), body.clone())).await {
                Ok(Ok(created)) => {
                    return Ok(StepOutcome {
                        handle: Some(created.id),
                        notes: created.warnings,
                        ..StepOutcome::default()
                    });
                }
                Ok(Err(error)) if response_status(&error) == Some(409) => {
                    if !remove_own_leftover(engine, scope, unit, &name).await? {
                        break;
                    }
                }
                Ok(Err(error)) => return Err(to_problem(&format!("cannot create `{unit}`"), &error)),
                Err(_) => {
                    let message = format!("cannot create `{unit}`: no answer in time");
                    return Err(Problem::new(ProblemKind::Timeout, message));
                }
            }
        }
    }
    Err(Problem::new(
        ProblemKind::Refused,
        format!("the container names `{prefix}` to `{prefix}-{NAME_ATTEMPTS}` are all taken"),
    )
    .hint("Remove unused containers; list them with `docker ps --all`."))
}

/// Removes an older container of this same unit. Returns true if the name is worth another attempt.
async fn remove_own_leftover(engine: &Engine, scope: &Scope, unit: &str, name: &str) -> Result<bool, Problem> {
    let call = engine.inspect_container(name, None::<InspectContainerOptions>);
    let found = match with_timeout(READ_TIMEOUT, "cannot inspect a container", call).await {
        Ok(found) => found,
        Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(true),
        Err(problem) => return Err(problem),
    };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let has_label = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    if !(has_label(PREVIEW, &scope.preview.id.0) && has_label(SERVICE, unit)) {
        return Ok(false);
    }
    force_remove(engine, found.id.as_deref().unwrap_or(name)).await?;
    Ok(true)
}

fn is_up_to_date(found: &ContainerSummary, unit: &Unit, image: &str) -> bool {
    let label = |name| found.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    label(HASH) == Some(unit.hash.as_str()) && label(IMAGE) == Some(image)
}

async fn start(context: &StepContext<'_>, scope: &Scope, unit: &str) -> Result<StepOutcome, Problem> {
    let engine = context.engine;
    let found = observe::find_container(engine, &scope.preview.id, unit).await?;
    let is_paused = found.as_ref().is_some_and(|found| found.state == Some(State::PAUSED));
    let handle = found
        .and_then(|found| found.id)
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("`{unit}` has no container")))?;
    let mut notes = Vec::new();
    if is_paused {
        resume(engine, unit, &handle).await?;
        notes.push(format!("`{unit}` was paused and is running again"));
    }
    let call = engine.start_container(&handle, None::<StartContainerOptions>);
    match tokio::time::timeout(WRITE_TIMEOUT, call).await {
        Ok(Ok(())) => {}
        // 304: the container already runs.
        Ok(Err(error)) if response_status(&error) == Some(304) => {}
        Ok(Err(error)) => {
            let problem = problems::start_problem(unit, scope.application.units.get(unit), &error);
            return Err(explain_port_conflict(engine, unit, problem).await);
        }
        Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("cannot start `{unit}`: no answer in time"))),
    }
    // Addresses in an isolated engine's network are not reachable from this machine.
    let address = if context.endpoint.is_isolated { None } else { observe::container_address(engine, &handle).await };
    Ok(StepOutcome { handle: Some(handle), address, notes, ..StepOutcome::default() })
}

/// Adds the user of the port to the message: a container that publishes it, or a program.
async fn explain_port_conflict(engine: &Engine, unit: &str, mut problem: Problem) -> Problem {
    let Some(port) = problems::find_taken_port(&problem.message).filter(|_| problem.kind == ProblemKind::PortTaken)
    else {
        return problem;
    };
    let filters = HashMap::from([("publish".to_owned(), vec![port.to_string()])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let holders = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options)))
        .await
        .unwrap_or_default();
    let container = holders.into_iter().find_map(|container| Some(container.names?.first()?.replace('/', "")));
    let holder_note = match container {
        Some(name) => format!(" by the container `{name}`"),
        None => find_port_owner(port).map(|owner| owner.to_string()).unwrap_or_default(),
    };
    problem.message = format!("cannot start `{unit}`: port {port} on this machine is taken{holder_note}");
    problem
}

/// A paused program receives no signals, and starting a paused container is an error, so it must be resumed first.
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
    let unit = scope.application.units.get(name);
    let seconds = unit.map(|unit| i32::try_from(grace_seconds(unit.stop.grace)).unwrap_or(i32::MAX));
    // The engine replies after the container has stopped, so the grace period adds to the deadline.
    let limit = unit.map_or(STOP_TIMEOUT, |unit| unit.stop.grace.saturating_add(WRITE_TIMEOUT));
    let call = engine.stop_container(&handle, Some(StopContainerOptions { t: seconds, signal: None }));
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(())) => Ok(StepOutcome::default()),
        // 304: already stopped; 404: already gone.
        Ok(Err(error)) if matches!(response_status(&error), Some(304 | 404)) => Ok(StepOutcome::default()),
        Ok(Err(error)) => Err(to_problem(&format!("cannot stop `{name}`"), &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, format!("cannot stop `{name}`: no answer in time"))),
    }
}

/// Removes by handle, so that a replacement with the same name is not affected. A container without the preview's label
/// is left alone.
async fn remove(engine: &Engine, scope: &Scope, handle: &str) -> Result<StepOutcome, Problem> {
    match network::preview_of_container(engine, handle).await? {
        None => Ok(StepOutcome::default()),
        Some(preview) if preview.as_ref() == Some(&scope.preview.id.0) => {
            force_remove(engine, handle).await?;
            Ok(StepOutcome::default())
        }
        Some(_) => {
            let note = format!("the container `{handle}` does not belong to this preview and was left alone");
            Ok(StepOutcome { notes: vec![note], ..StepOutcome::default() })
        }
    }
}

/// Removes a container with its anonymous volumes; named volumes stay.
async fn force_remove(engine: &Engine, handle: &str) -> Result<(), Problem> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match tokio::time::timeout(WRITE_TIMEOUT, engine.remove_container(handle, Some(options))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if response_status(&error) == Some(404) => Ok(()),
        // 409: another removal of this container is in progress.
        Ok(Err(error)) if response_status(&error) == Some(409) => wait_until_removed(engine, handle).await,
        Ok(Err(error)) => Err(to_problem("cannot remove the container", &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "cannot remove the container: no answer in time")),
    }
}

/// Waits until another removal in progress has finished.
async fn wait_until_removed(engine: &Engine, handle: &str) -> Result<(), Problem> {
    for _ in 0..REMOVAL_POLLS_MAX {
        if observe::inspect_state(engine, handle).await?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(REMOVAL_POLL_INTERVAL).await;
    }
    Err(Problem::new(ProblemKind::Timeout, "another removal of the container is in progress and does not finish"))
}
