//! The preview's network and its volumes: made once, found by label, removed with patience.
//!
//! A name that a stranger holds gets a suffix or is refused; what does not carry the preview's label is never changed.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::{
    EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder, RemoveVolumeOptions};
use tokio::time::Instant;

use super::apply::{NAME_ATTEMPTS, container_unit, suffixed_name};
use super::problems::{response_status, to_problem, with_timeout};
use super::translate::{PREVIEW, VOLUME, common_labels};
use super::{READ_TIMEOUT, WRITE_TIMEOUT, observe};
use crate::driver::{Problem, ProblemKind, Scope, StepOutcome};

/// Endpoints and mounts of containers that were just removed vanish a moment later, and no event tells when.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn create(engine: &Engine, scope: &Scope) -> Result<StepOutcome, Problem> {
    if let Some(known) = observe::list_networks(engine, &scope.preview.id).await?.into_iter().next() {
        return Ok(StepOutcome { handle: known.name, ..StepOutcome::default() });
    }
    // Docker allows two networks of one name and then refuses to use either, so the name is looked up first.
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
            labels: Some(common_labels(&scope.preview, &scope.locations.project)),
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

/// Endpoints that lost their container, which an engine that was killed leaves behind, are taken off; a stranger's
/// container that somebody attached stays, and so does the network then.
pub(super) async fn remove(engine: &Engine, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let mine = observe::list_networks(engine, &scope.preview.id).await?;
    let Some(id) = mine.into_iter().find(|network| network.name.as_deref() == Some(name)).and_then(|found| found.id)
    else {
        return Ok(StepOutcome::default());
    };
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let last = match with_timeout(WRITE_TIMEOUT, "cannot remove the network", engine.remove_network(&id)).await {
            Ok(()) => return Ok(StepOutcome::default()),
            Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(StepOutcome::default()),
            Err(problem) if matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout) => {
                return Err(problem);
            }
            Err(problem) => problem.message,
        };
        let strangers = detach_containers(engine, scope, &id).await?;
        if !strangers.is_empty() {
            let who = strangers.join("`, `");
            let note = format!(
                "the network `{name}` stays, because `{who}` is attached to it and is not of this preview; \
                 `docker network disconnect {name} {}` lets it go",
                strangers[0]
            );
            return Ok(StepOutcome { notes: vec![note], ..StepOutcome::default() });
        }
        if Instant::now() >= deadline {
            let note = format!("the network `{name}` stays for now: {last}");
            return Ok(StepOutcome { notes: vec![note], ..StepOutcome::default() });
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Detaches what is ours or belongs to no container any more; gives the names of what is somebody else's.
async fn detach_containers(engine: &Engine, scope: &Scope, network: &str) -> Result<Vec<String>, Problem> {
    let attached =
        match with_timeout(READ_TIMEOUT, "cannot inspect the network", engine.inspect_network(network, None)).await {
            Ok(found) => found.containers.unwrap_or_default(),
            Err(problem) if problem.kind == ProblemKind::NotFound => HashMap::new(),
            Err(problem) => return Err(problem),
        };
    let mut strangers = Vec::new();
    for (handle, endpoint) in attached {
        let name = endpoint.name.unwrap_or_else(|| handle.clone());
        // The engine finds an endpoint without container by the endpoint's name alone.
        let container = match preview_of_container(engine, &handle).await? {
            None => name,
            Some(preview) if preview.as_ref() == Some(&scope.preview.id.0) => handle,
            Some(_) => {
                strangers.push(name);
                continue;
            }
        };
        let request = NetworkDisconnectRequest { container, force: Some(true) };
        // Whether it helped is seen by the next attempt.
        drop(tokio::time::timeout(READ_TIMEOUT, engine.disconnect_network(network, request)).await);
    }
    strangers.sort();
    Ok(strangers)
}

/// The preview that a container says it belongs to; the outer `None` when there is no such container.
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

/// Puts a container back on the preview's network, under the unit's names.
pub(super) async fn reconnect(engine: &Engine, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let (_, container) = container_unit(scope, name)?;
    let handle = observe::require_container(engine, &scope.preview.id, name).await?;
    let network = observe::list_networks(engine, &scope.preview.id).await?.into_iter().find_map(|network| network.name);
    let network = network.ok_or_else(|| Problem::new(ProblemKind::NotFound, "the preview has no network"))?;
    // The container may still hold an endpoint of a network that had this name and is gone.
    let stale = NetworkDisconnectRequest { container: handle.clone(), force: Some(true) };
    drop(tokio::time::timeout(READ_TIMEOUT, engine.disconnect_network(&network, stale)).await);
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
        Err(problem) if !problem.message.contains("already exists in network") => Err(problem),
        _ => Ok(StepOutcome::default()),
    }
}

fn volume_name(scope: &Scope, volume: &str) -> String {
    format!("{}-{volume}", scope.preview.object_prefix())
}

pub(super) async fn create_volume(engine: &Engine, scope: &Scope, volume: &str) -> Result<StepOutcome, Problem> {
    let name = volume_name(scope, volume);
    let mut labels = common_labels(&scope.preview, &scope.locations.project);
    labels.insert(VOLUME.to_owned(), volume.to_owned());
    let request =
        VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..VolumeCreateRequest::default() };
    let made =
        with_timeout(WRITE_TIMEOUT, &format!("cannot create the volume `{name}`"), engine.create_volume(request))
            .await?;
    if made.labels.get(PREVIEW) != Some(&scope.preview.id.0) {
        return Err(Problem::new(ProblemKind::Refused, format!("a volume `{name}` exists that is not this preview's"))
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
    let what = format!("cannot remove the volume `{name}`");
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let call = engine.remove_volume(&name, None::<RemoveVolumeOptions>);
        match tokio::time::timeout(WRITE_TIMEOUT, call).await {
            Ok(Ok(())) => return Ok(StepOutcome::default()),
            Ok(Err(error)) if response_status(&error) == Some(404) => return Ok(StepOutcome::default()),
            Ok(Err(error)) if response_status(&error) == Some(409) && Instant::now() < deadline => {}
            Ok(Err(error)) if response_status(&error) == Some(409) => {
                return Err(volume_in_use_problem(engine, &name).await);
            }
            Ok(Err(error)) => return Err(to_problem(&what, &error)),
            Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("{what}: no answer in time"))),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn volume_in_use_problem(engine: &Engine, volume: &str) -> Problem {
    let filters = HashMap::from([("volume".to_owned(), vec![volume.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let users = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options)))
        .await
        .unwrap_or_default();
    let names: Vec<String> = users.into_iter().filter_map(|user| Some(user.names?.first()?.replace('/', ""))).collect();
    let by = if names.is_empty() { String::new() } else { format!(" by `{}`", names.join("`, `")) };
    let first = names.first().map_or("CONTAINER", String::as_str);
    Problem::new(ProblemKind::Refused, format!("cannot remove the volume `{volume}`: it is in use{by}"))
        .hint(format!("Remove that container first: `docker rm -f {first}`."))
}
