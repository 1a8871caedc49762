//! One step at the engine. Safe to repeat: what is there is returned, what is gone counts as removed.

use std::net::IpAddr;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::{
    ContainerSummary, EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use plan::application::{Body, Container, Unit};
use plan::step::Action;

use super::context::Endpoint;
use super::problems::{problem, status, within};
use super::translate::{HASH, IMAGE, PREVIEW, Setting, VOLUME, common_labels, create_body};
use super::{LOOK, WORK, images, observe};
use crate::driver::{Performed, Problem, ProblemKind, Scope};

/// Names tried before a clash is reported.
const NAMES: u32 = 8;
/// How often the engine is asked whether a removal under way has ended, and how many times.
const REMOVAL_TICK: Duration = Duration::from_millis(100);
const REMOVAL_TICKS: u32 = 100;

pub(super) async fn perform(
    engine: &Engine,
    endpoint: &Endpoint,
    scope: &Scope,
    action: &Action,
) -> Result<Performed, Problem> {
    match action {
        Action::CreateNetwork => create_network(engine, scope).await,
        Action::RemoveNetwork { name } => remove_network(engine, scope, name).await,
        Action::CreateVolume { volume } => create_volume(engine, scope, volume).await,
        Action::RemoveVolume { volume } => remove_volume(engine, scope, volume).await,
        Action::PrepareImage { unit, .. } => images::prepare(engine, scope, unit).await,
        Action::Create { unit, .. } => create(engine, endpoint, scope, unit).await,
        Action::Start { unit, .. } => start(engine, scope, unit).await,
        Action::Stop { unit, .. } => stop(engine, scope, unit).await,
        Action::Remove { handle, .. } => remove(engine, handle).await,
        Action::Connect { unit, .. } => reconnect(engine, scope, unit).await,
        Action::AwaitReady { .. } | Action::AwaitExit { .. } => {
            Err(Problem::new(ProblemKind::Internal, "waiting is the agent's work, not the driver's"))
        }
    }
}

pub(super) fn container<'a>(scope: &'a Scope, unit: &str) -> Result<(&'a Unit, &'a Container), Problem> {
    let found = scope.application.units.get(unit);
    match found.map(|unit| (unit, &unit.body)) {
        Some((unit, Body::Container(container))) => Ok((unit, container)),
        Some(_) => Err(Problem::new(ProblemKind::Internal, format!("`{unit}` is not a container"))),
        None => Err(Problem::new(ProblemKind::NotFound, format!("there is no unit `{unit}`"))),
    }
}

async fn create_network(engine: &Engine, scope: &Scope) -> Result<Performed, Problem> {
    if let Some(known) = observe::networks(engine, &scope.preview.id).await?.into_iter().next() {
        return Ok(Performed { handle: known.name, ..Performed::default() });
    }
    // Docker allows two networks of one name and then refuses to use either, so the name is looked up first.
    let prefix = scope.preview.object_prefix();
    for attempt in 1..=NAMES {
        let name = suffixed(&prefix, attempt);
        match within(LOOK, "cannot look up a network", engine.inspect_network(&name, None)).await {
            Ok(_) => continue,
            Err(problem) if problem.kind == ProblemKind::NotFound => {}
            Err(problem) => return Err(problem),
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(common_labels(&scope.preview, &scope.places.project)),
            ..NetworkCreateRequest::default()
        };
        within(WORK, "cannot create the preview's network", engine.create_network(request)).await?;
        return Ok(Performed { handle: Some(name), ..Performed::default() });
    }
    Err(Problem::new(ProblemKind::Refused, format!("the network names `{prefix}` to `{prefix}-{NAMES}` are all taken"))
        .hint("Remove unused networks with `docker network prune`."))
}

fn suffixed(name: &str, attempt: u32) -> String {
    if attempt == 1 { name.to_owned() } else { format!("{name}-{attempt}") }
}

async fn remove_network(engine: &Engine, scope: &Scope, name: &str) -> Result<Performed, Problem> {
    let mine = observe::networks(engine, &scope.preview.id).await?;
    if !mine.iter().any(|network| network.name.as_deref() == Some(name)) {
        return Ok(Performed::default());
    }
    let mut last = String::new();
    for _ in 0..5 {
        match within(WORK, "cannot remove the network", engine.remove_network(name)).await {
            Ok(()) => return Ok(Performed::default()),
            Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(Performed::default()),
            Err(problem) if matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout) => {
                return Err(problem);
            }
            Err(problem) => last = problem.message,
        }
        // Endpoints of containers that were just removed vanish a moment later, and no event tells when.
        tokio::time::sleep(REMOVAL_TICK).await;
    }
    Ok(Performed { notes: vec![format!("the network `{name}` stays for now: {last}")], ..Performed::default() })
}

fn volume_name(scope: &Scope, volume: &str) -> String {
    format!("{}-{volume}", scope.preview.object_prefix())
}

async fn create_volume(engine: &Engine, scope: &Scope, volume: &str) -> Result<Performed, Problem> {
    let name = volume_name(scope, volume);
    let mut labels = common_labels(&scope.preview, &scope.places.project);
    labels.insert(VOLUME.to_owned(), volume.to_owned());
    let request =
        VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..VolumeCreateRequest::default() };
    let made = within(WORK, &format!("cannot create the volume `{name}`"), engine.create_volume(request)).await?;
    if made.labels.get(PREVIEW) != Some(&scope.preview.id.0) {
        return Err(Problem::new(ProblemKind::Refused, format!("a volume `{name}` exists that is not this preview's"))
            .hint("Rename or remove that volume."));
    }
    Ok(Performed { handle: Some(name), ..Performed::default() })
}

async fn remove_volume(engine: &Engine, scope: &Scope, volume: &str) -> Result<Performed, Problem> {
    let name = volume_name(scope, volume);
    match within(LOOK, "cannot look up a volume", engine.inspect_volume(&name)).await {
        Ok(found) if found.labels.get(PREVIEW) != Some(&scope.preview.id.0) => return Ok(Performed::default()),
        Ok(_) => {}
        Err(problem) if problem.kind == ProblemKind::NotFound => return Ok(Performed::default()),
        Err(problem) => return Err(problem),
    }
    let call = engine.remove_volume(&name, None::<RemoveVolumeOptions>);
    match within(WORK, &format!("cannot remove the volume `{name}`"), call).await {
        Err(problem) if problem.kind != ProblemKind::NotFound => Err(problem),
        _ => Ok(Performed::default()),
    }
}

async fn create(engine: &Engine, endpoint: &Endpoint, scope: &Scope, name: &str) -> Result<Performed, Problem> {
    let (unit, container) = container(scope, name)?;
    let reference = &images::reference(scope, container, unit).await?;
    let image = images::identity(engine, reference).await?.ok_or_else(|| {
        Problem::new(ProblemKind::ImageNotFound, format!("`{name}`: the image `{reference}` is not present"))
            .hint("It was removed, or what it is built from changed meanwhile; run `pdev up` again.")
    })?;
    let existing = observe::find(engine, &scope.preview.id, name).await?;
    if let Some(handle) = existing.filter(|found| same(found, unit, &image)).and_then(|found| found.id) {
        return Ok(Performed { handle: Some(handle), ..Performed::default() });
    }
    let network = observe::networks(engine, &scope.preview.id).await?.into_iter().next();
    let network = network.ok_or_else(|| Problem::new(ProblemKind::NotFound, "the preview has no network"))?;
    let secrets = scope.secrets.folder(name);
    if secrets.is_some() && !endpoint.local() {
        return Err(Problem::new(
            ProblemKind::Refused,
            format!("`{name}`: secrets cannot be delivered to a remote engine"),
        )
        .hint("Use a local engine for units with secrets."));
    }
    let setting = Setting {
        preview: &scope.preview,
        project: &scope.places.project,
        network: network.name.as_deref().unwrap_or_default(),
        gateway: observe::gateway(&network).filter(|address: &IpAddr| address.is_ipv4()),
        image: reference,
        identity: &image,
        secrets: secrets.as_deref(),
    };
    let body = create_body(unit, container, &setting)?;
    let prefix = format!("{}-{name}", scope.preview.object_prefix());
    for attempt in 1..=NAMES {
        let options = CreateContainerOptionsBuilder::default().name(&suffixed(&prefix, attempt)).build();
        let call = engine.create_container(Some(options), body.clone());
        let answer = tokio::time::timeout(WORK, call).await;
        match answer {
            Ok(Ok(made)) => {
                return Ok(Performed { handle: Some(made.id), notes: made.warnings, ..Performed::default() });
            }
            // The name is another object's; ours are found by label, so any free name will do.
            Ok(Err(error)) if status(&error) == Some(409) && attempt < NAMES => {}
            Ok(Err(error)) => return Err(problem(&format!("cannot create `{name}`"), &error)),
            Err(_) => {
                return Err(Problem::new(ProblemKind::Timeout, format!("cannot create `{name}`: no answer in time")));
            }
        }
    }
    Err(Problem::new(ProblemKind::Refused, format!("every container name from `{prefix}` on is taken")))
}

fn same(found: &ContainerSummary, unit: &Unit, image: &str) -> bool {
    let label = |name| found.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    label(HASH) == Some(unit.hash.as_str()) && label(IMAGE) == Some(image)
}

async fn start(engine: &Engine, scope: &Scope, unit: &str) -> Result<Performed, Problem> {
    let handle = observe::required(engine, &scope.preview.id, unit).await?;
    let call = engine.start_container(&handle, None::<StartContainerOptions>);
    match tokio::time::timeout(WORK, call).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if status(&error) == Some(304) => {}
        Ok(Err(error)) => return Err(problem(&format!("cannot start `{unit}`"), &error)),
        Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("cannot start `{unit}`: no answer in time"))),
    }
    let address = observe::address(engine, &handle).await;
    Ok(Performed { handle: Some(handle), address, ..Performed::default() })
}

async fn stop(engine: &Engine, scope: &Scope, name: &str) -> Result<Performed, Problem> {
    let Some(handle) = observe::find(engine, &scope.preview.id, name).await?.and_then(|found| found.id) else {
        return Ok(Performed::default());
    };
    let grace = scope.application.units.get(name).map_or(Duration::from_secs(10), |unit| unit.stop.grace);
    let seconds = i32::try_from(grace.as_secs() + u64::from(grace.subsec_nanos() > 0)).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::default().t(seconds).build();
    let call = engine.stop_container(&handle, Some(options));
    match tokio::time::timeout(grace.saturating_add(WORK), call).await {
        Ok(Ok(())) => Ok(Performed::default()),
        Ok(Err(error)) if matches!(status(&error), Some(304 | 404)) => Ok(Performed::default()),
        Ok(Err(error)) => Err(problem(&format!("cannot stop `{name}`"), &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, format!("cannot stop `{name}`: no answer in time"))),
    }
}

async fn remove(engine: &Engine, handle: &str) -> Result<Performed, Problem> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match tokio::time::timeout(WORK, engine.remove_container(handle, Some(options))).await {
        Ok(Ok(())) => Ok(Performed::default()),
        Ok(Err(error)) if status(&error) == Some(404) => Ok(Performed::default()),
        Ok(Err(error)) if status(&error) == Some(409) => removed(engine, handle).await,
        Ok(Err(error)) => Err(problem("cannot remove the container", &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "cannot remove the container: no answer in time")),
    }
}

/// Another removal is under way: waits until the container is gone.
async fn removed(engine: &Engine, handle: &str) -> Result<Performed, Problem> {
    for _ in 0..REMOVAL_TICKS {
        if observe::inspect(engine, handle).await?.is_none() {
            return Ok(Performed::default());
        }
        tokio::time::sleep(REMOVAL_TICK).await;
    }
    Err(Problem::new(ProblemKind::Timeout, "the container's removal is under way and does not end"))
}

async fn reconnect(engine: &Engine, scope: &Scope, name: &str) -> Result<Performed, Problem> {
    let (_, container) = container(scope, name)?;
    let handle = observe::required(engine, &scope.preview.id, name).await?;
    let network = observe::networks(engine, &scope.preview.id).await?.into_iter().find_map(|network| network.name);
    let network = network.ok_or_else(|| Problem::new(ProblemKind::NotFound, "the preview has no network"))?;
    let request = NetworkConnectRequest {
        container: handle,
        endpoint_config: Some(EndpointSettings {
            aliases: Some(container.aliases.clone()),
            ..EndpointSettings::default()
        }),
    };
    match within(WORK, &format!("cannot connect `{name}`"), engine.connect_network(&network, request)).await {
        Err(problem) if !problem.message.contains("already exists in network") => Err(problem),
        _ => Ok(Performed::default()),
    }
}
