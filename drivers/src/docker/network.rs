//! The preview's network and volumes: created once, found by label, removed with retries.
//!
//! If another network has the wanted name, pdev adds a suffix; for a volume it reports an error. Objects without the
//! preview's label are never changed.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::{
    EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder, RemoveVolumeOptions};
use tokio::time::Instant;

use super::names::{NAME_ATTEMPTS, container_unit, suffixed_name};
use super::problems::{response_status, to_problem, with_timeout};
use super::translate::{PREVIEW, VOLUME, common_labels};
use super::{READ_TIMEOUT, StepContext, WRITE_TIMEOUT, observe};
use crate::driver::StepOutcome;
use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

/// Endpoints and mounts of removed containers disappear with a short delay, and no event announces it.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn create(context: &StepContext<'_>, scope: &Scope) -> Result<StepOutcome, Problem> {
    let engine = context.engine;
    if let Some(existing) = observe::list_networks(engine, &scope.preview.id).await?.into_iter().next() {
        return Ok(StepOutcome { handle: existing.name, ..StepOutcome::default() });
    }
    // Docker allows two networks with the same name and then refuses to use either, so check the name first.
    let prefix = scope.preview.object_prefix();
    for attempt in 1..=NAME_ATTEMPTS {
        let name = suffixed_name(&prefix, attempt);
        match with_timeout(READ_TIMEOUT, "cannot look up a network", engine.inspect_network(&name, None)).await {
            Ok(_) => continue,
            Err(problem) if problem.kind == ProblemKind::NotFound => {}
            Err(problem) => return Err(problem),
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(common_labels(&scope.preview, &scope.locations.project, context.owner)),
            ..NetworkCreateRequest::default()
        };
        with_timeout(WRITE_TIMEOUT, "cannot create the preview's network", engine.create_network(request)).await?;
        return Ok(StepOutcome { handle: Some(name), ..StepOutcome::default() });
    }
    Err(Problem::new(
        ProblemKind::Refused,
        format!("the network names `{prefix}` to `{prefix}-{NAME_ATTEMPTS}` are all taken"),
    )
    .hint("Remove unused networks with `docker network prune`."))
}

/// Removes the network. If the engine refuses, detaches this preview's containers and the endpoints without a container
/// that a killed engine leaves behind, and tries again. If a foreign container is attached, the network stays.
pub(super) async fn remove(engine: &Engine, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let own_networks = observe::list_networks(engine, &scope.preview.id).await?;
    let Some(id) =
        own_networks.into_iter().find(|network| network.name.as_deref() == Some(name)).and_then(|found| found.id)
    else {
        return Ok(StepOutcome::default());
    };
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let last_error =
            match with_timeout(WRITE_TIMEOUT, "cannot remove the network", engine.remove_network(&id)).await {
                Ok(()) => return Ok(StepOutcome::default()),
                Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(StepOutcome::default()),
                Err(problem) if matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout) => {
                    return Err(problem);
                }
                Err(problem) => problem.message,
            };
        let foreign_names = detach_containers(engine, scope, &id).await?;
        if !foreign_names.is_empty() {
            let names = foreign_names.join("`, `");
            let note = format!(
                "the network `{name}` stays, because `{names}` is attached to it and does not belong to this preview; \
                 run `docker network disconnect {name} {}` to detach it",
                foreign_names[0]
            );
            return Ok(StepOutcome { notes: vec![note], ..StepOutcome::default() });
        }
        if Instant::now() >= deadline {
            let note = format!("the network `{name}` was not removed: {last_error}");
            return Ok(StepOutcome { notes: vec![note], ..StepOutcome::default() });
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Detaches this preview's containers and endpoints without a container. Returns the names of all other containers.
async fn detach_containers(engine: &Engine, scope: &Scope, network: &str) -> Result<Vec<String>, Problem> {
    let endpoints =
        match with_timeout(READ_TIMEOUT, "cannot inspect the network", engine.inspect_network(network, None)).await {
            Ok(found) => found.containers.unwrap_or_default(),
            Err(problem) if problem.kind == ProblemKind::NotFound => HashMap::new(),
            Err(problem) => return Err(problem),
        };
    let mut foreign_names = Vec::new();
    for (handle, endpoint) in endpoints {
        let name = endpoint.name.unwrap_or_else(|| handle.clone());
        // The engine finds an endpoint without a container only by the endpoint's name.
        let container = match preview_of_container(engine, &handle).await? {
            None => name,
            Some(preview) if preview.as_ref() == Some(&scope.preview.id.0) => handle,
            Some(_) => {
                foreign_names.push(name);
                continue;
            }
        };
        let request = NetworkDisconnectRequest { container, force: Some(true) };
        // Ignore errors: the next removal attempt shows whether this helped.
        drop(tokio::time::timeout(READ_TIMEOUT, engine.disconnect_network(network, request)).await);
    }
    foreign_names.sort();
    Ok(foreign_names)
}

/// The preview label of a container; the outer `None` means that the container does not exist.
pub(super) async fn preview_of_container(engine: &Engine, handle: &str) -> Result<Option<Option<String>>, Problem> {
    let call = engine.inspect_container(handle, None::<InspectContainerOptions>);
    match tokio::time::timeout(READ_TIMEOUT, call).await {
        Ok(Ok(found)) => {
            let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
            Ok(Some(labels.get(PREVIEW).cloned()))
        }
        Ok(Err(error)) if response_status(&error) == Some(404) => Ok(None),
        Ok(Err(error)) => Err(to_problem("cannot inspect a container", &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "cannot inspect a container: no answer in time")),
    }
}

/// Connects a container to the preview's network again, under the unit's aliases.
pub(super) async fn reconnect(engine: &Engine, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let (_, container) = container_unit(scope, name)?;
    let handle = observe::require_container(engine, &scope.preview.id, name).await?;
    let network = observe::list_networks(engine, &scope.preview.id).await?.into_iter().find_map(|network| network.name);
    let network = network.ok_or_else(|| Problem::new(ProblemKind::NotFound, "the preview has no network"))?;
    // The container may still have an endpoint in a removed network of the same name.
    let stale_endpoint = NetworkDisconnectRequest { container: handle.clone(), force: Some(true) };
    drop(tokio::time::timeout(READ_TIMEOUT, engine.disconnect_network(&network, stale_endpoint)).await);
    let request = NetworkConnectRequest {
        container: handle,
        endpoint_config: Some(EndpointSettings {
            aliases: Some(container.aliases.clone()),
            ..EndpointSettings::default()
        }),
    };
    match with_timeout(WRITE_TIMEOUT, &format!("cannot connect `{name}`"), engine.connect_network(&network, request))
        .await
    {
        // The disconnect above may have failed, and the container is still connected.
        Err(problem) if !problem.message.contains("already exists in network") => Err(problem),
        _ => Ok(StepOutcome::default()),
    }
}

fn volume_name(scope: &Scope, volume: &str) -> String {
    format!("{}-{volume}", scope.preview.object_prefix())
}

pub(super) async fn create_volume(
    context: &StepContext<'_>,
    scope: &Scope,
    volume: &str,
) -> Result<StepOutcome, Problem> {
    let engine = context.engine;
    let name = volume_name(scope, volume);
    let mut labels = common_labels(&scope.preview, &scope.locations.project, context.owner);
    labels.insert(VOLUME.to_owned(), volume.to_owned());
    let request =
        VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..VolumeCreateRequest::default() };
    let created =
        with_timeout(WRITE_TIMEOUT, &format!("cannot create the volume `{name}`"), engine.create_volume(request))
            .await?;
    // Creating a volume that exists succeeds and returns it, so only its label shows whose it is.
    if created.labels.get(PREVIEW) != Some(&scope.preview.id.0) {
        return Err(Problem::new(
            ProblemKind::Refused,
            format!("a volume `{name}` exists that does not belong to this preview"),
        )
        .hint("Rename or remove that volume."));
    }
    Ok(StepOutcome { handle: Some(name), ..StepOutcome::default() })
}

pub(super) async fn remove_volume(engine: &Engine, scope: &Scope, volume: &str) -> Result<StepOutcome, Problem> {
    let name = volume_name(scope, volume);
    match with_timeout(READ_TIMEOUT, "cannot look up a volume", engine.inspect_volume(&name)).await {
        Ok(found) if found.labels.get(PREVIEW) != Some(&scope.preview.id.0) => return Ok(StepOutcome::default()),
        Ok(_) => {}
        Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(StepOutcome::default()),
        Err(problem) => return Err(problem),
    }
    let failure = format!("cannot remove the volume `{name}`");
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let call = engine.remove_volume(&name, None::<RemoveVolumeOptions>);
        match tokio::time::timeout(WRITE_TIMEOUT, call).await {
            Ok(Ok(())) => return Ok(StepOutcome::default()),
            Ok(Err(error)) if response_status(&error) == Some(404) => return Ok(StepOutcome::default()),
            // 409: in use. A container that was just removed may still hold the mount for a moment.
            Ok(Err(error)) if response_status(&error) == Some(409) && Instant::now() < deadline => {}
            Ok(Err(error)) if response_status(&error) == Some(409) => {
                return Err(volume_in_use_problem(engine, &name).await);
            }
            Ok(Err(error)) => return Err(to_problem(&failure, &error)),
            Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("{failure}: no answer in time"))),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn volume_in_use_problem(engine: &Engine, volume: &str) -> Problem {
    let filters = HashMap::from([("volume".to_owned(), vec![volume.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let containers = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options)))
        .await
        .unwrap_or_default();
    let names: Vec<String> =
        containers.into_iter().filter_map(|container| Some(container.names?.first()?.replace('/', ""))).collect();
    let user_note = if names.is_empty() { String::new() } else { format!(" by `{}`", names.join("`, `")) };
    let first_name = names.first().map_or("CONTAINER", String::as_str);
    Problem::new(ProblemKind::Refused, format!("cannot remove the volume `{volume}`: it is in use{user_note}"))
        .hint(format!("Remove that container first: `docker rm -f {first_name}`."))
}
