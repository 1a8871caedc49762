//! Observes a preview in the engine: one list call each for containers, networks and volumes, in parallel. Containers
//! that were started are also inspected, because the list has neither start times nor exit details. Changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::Docker as Engine;
use bollard::models::{
    ContainerState, ContainerSummary, ContainerSummaryStateEnum as State, EndpointSettings, Network,
};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use plan::application::{PreviewId, RuntimeKind};
use plan::observed::{Exit, Observed, ObservedUnit, RunState, RuntimeObject};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problems::{innermost_message, response_status, to_problem, with_timeout};
use super::translate::{HASH, IMAGE, OWNER, PROJECT, SERVICE, VOLUME, ports_from_labels, preview_from_labels};
use super::{READ_TIMEOUT, label_filter, preview_filter};
use crate::driver::DiscoveredPreview;
use crate::problem::{Problem, ProblemKind};

/// Maximum concurrent inspections.
const INSPECTIONS_MAX: usize = 16;

/// Results of inspections, cached while nothing happens to the container: observing ten running containers then takes
/// one list call instead of eleven calls. An entry is valid only for the same listed state and exit code. Every step of
/// this driver and every engine event clears the cache. The only change it can miss is a restart from outside while no
/// client follows the preview, and the only wrong value is then the shown start time.
#[derive(Default)]
pub(super) struct InspectCache {
    generation: AtomicU64,
    entries: Mutex<HashMap<PreviewId, InspectedStates>>,
}

/// Handle -> state and exit code in the list, state from the inspection.
type InspectedStates = HashMap<String, (String, ContainerState)>;

impl InspectCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<PreviewId, InspectedStates>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.lock().clear();
    }

    fn snapshot(&self, preview: &PreviewId) -> (u64, InspectedStates) {
        (self.generation.load(Ordering::SeqCst), self.lock().get(preview).cloned().unwrap_or_default())
    }

    /// Stores the entries unless the cache was cleared since `generation`.
    fn store_if_unchanged(&self, preview: &PreviewId, generation: u64, inspected: InspectedStates) {
        let mut entries = self.lock();
        if self.generation.load(Ordering::SeqCst) != generation {
            return;
        }
        if inspected.is_empty() {
            entries.remove(preview);
        } else {
            entries.insert(preview.clone(), inspected);
        }
    }
}

/// Extracts the state and the exit code, without the time, from a status such as "Exited (137) 3 minutes ago".
fn listed_state(summary: &ContainerSummary) -> String {
    let status = summary.status.as_deref().unwrap_or_default();
    let code = status.split_once('(').and_then(|(_, text)| text.split_once(')')).map_or("", |(code, _)| code);
    let code = code.parse::<i64>().map(|code| code.to_string()).unwrap_or_default();
    format!("{:?} {code}", summary.state)
}

pub(super) async fn observe(engine: &Engine, preview: &PreviewId, cache: &InspectCache) -> Result<Observed, Problem> {
    // Take the snapshot before the calls: an event during them changes the generation and prevents the store.
    let (generation, inspected) = cache.snapshot(preview);
    let (containers, networks, volumes) = tokio::try_join!(
        list_containers(engine, preview),
        list_networks(engine, preview),
        list_volumes(engine, preview)
    )?;
    let mut networks: Vec<NetworkRef> =
        networks.into_iter().filter_map(|network| Some((network.name?, network.id.unwrap_or_default()))).collect();
    // Sorted, so that the choice among several networks is stable.
    networks.sort();
    let inspections: Vec<_> = stream::iter(containers)
        .map(|summary| inspect_listed(engine, summary, &inspected))
        .buffered(INSPECTIONS_MAX)
        .try_collect()
        .await?;
    let new_entries = inspections
        .iter()
        .filter_map(|(summary, state)| Some((summary.id.clone()?, (listed_state(summary), state.clone()?))));
    cache.store_if_unchanged(preview, generation, new_entries.collect());
    let units = inspections.into_iter().map(|(summary, state)| to_observed_unit(&summary, state.as_ref(), &networks));
    let own_object = |name: String| RuntimeObject { name, runtime: RuntimeKind::DOCKER };
    let mut observed = Observed {
        networks: networks.iter().map(|(name, _)| own_object(name.clone())).collect(),
        volumes: volumes.into_iter().map(own_object).collect(),
        ..Observed::default()
    };
    for unit in units.flatten() {
        match observed.units.remove(&unit.name) {
            None => {
                observed.units.insert(unit.name.clone(), unit);
            }
            Some(newer) => {
                // The list is newest first. A running container is preferred over a newer one that never started.
                let prefer_older = unit.state == RunState::Running && newer.state != RunState::Running;
                let (chosen, stray) = if prefer_older { (unit, newer) } else { (newer, unit) };
                observed.strays.push(stray);
                observed.units.insert(chosen.name.clone(), chosen);
            }
        }
    }
    Ok(observed)
}

pub(super) async fn list_containers(engine: &Engine, preview: &PreviewId) -> Result<Vec<ContainerSummary>, Problem> {
    let options = ListContainersOptionsBuilder::default().all(true).filters(&preview_filter(preview)).build();
    with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options))).await
}

pub(super) async fn list_networks(engine: &Engine, preview: &PreviewId) -> Result<Vec<Network>, Problem> {
    let options = ListNetworksOptionsBuilder::default().filters(&preview_filter(preview)).build();
    with_timeout(READ_TIMEOUT, "cannot list networks", engine.list_networks(Some(options))).await
}

async fn list_volumes(engine: &Engine, preview: &PreviewId) -> Result<Vec<String>, Problem> {
    let options = ListVolumesOptionsBuilder::default().filters(&preview_filter(preview)).build();
    let response = with_timeout(READ_TIMEOUT, "cannot list volumes", engine.list_volumes(Some(options))).await?;
    let volumes = response.volumes.unwrap_or_default().into_iter();
    Ok(volumes.filter_map(|mut volume| volume.labels.remove(VOLUME)).collect())
}

pub(super) fn network_gateway(network: &Network) -> Option<IpAddr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs.iter().find_map(|config| config.gateway.as_ref()?.split('/').next()?.parse().ok())
}

fn label<'a>(summary: &'a ContainerSummary, name: &str) -> Option<&'a String> {
    summary.labels.as_ref()?.get(name)
}

/// The unit's container: the running one, else the newest one.
pub(super) async fn find_container(
    engine: &Engine,
    preview: &PreviewId,
    unit: &str,
) -> Result<Option<ContainerSummary>, Problem> {
    let mut filters = preview_filter(preview);
    filters.entry("label".to_owned()).or_default().push(format!("{SERVICE}={unit}"));
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let mut containers =
        with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options))).await?;
    let index = containers.iter().position(|summary| summary.state == Some(State::RUNNING)).unwrap_or(0);
    Ok((!containers.is_empty()).then(|| containers.swap_remove(index)))
}

pub(super) async fn require_container(engine: &Engine, preview: &PreviewId, unit: &str) -> Result<String, Problem> {
    find_container(engine, preview, unit)
        .await?
        .and_then(|summary| summary.id)
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("`{unit}` has no container")))
}

/// Adds the inspected state to a list entry. `None` means that the container is gone or being removed.
async fn inspect_listed(
    engine: &Engine,
    summary: ContainerSummary,
    inspected: &InspectedStates,
) -> Result<(ContainerSummary, Option<ContainerState>), Problem> {
    let Some(handle) = summary.id.as_deref() else { return Ok((summary, None)) };
    // Created containers are inspected, too, because a failed start leaves its error there.
    if summary.state == Some(State::REMOVING) {
        return Ok((summary, None));
    }
    let state = match inspected.get(handle) {
        Some((listed, cached)) if *listed == listed_state(&summary) => Some(cached.clone()),
        _ => inspect_state(engine, handle).await?,
    };
    Ok((summary, state))
}

fn to_observed_unit(
    summary: &ContainerSummary,
    state: Option<&ContainerState>,
    networks: &[NetworkRef],
) -> Option<ObservedUnit> {
    let (handle, name) = (summary.id.clone()?, label(summary, SERVICE).cloned()?);
    // `None`: the container was removed since the list was made, or is being removed.
    let state = state?;
    let endpoint = preview_endpoint(summary, networks);
    Some(ObservedUnit {
        name,
        runtime: RuntimeKind::DOCKER,
        handle,
        hash: label(summary, HASH).cloned().unwrap_or_default(),
        image: label(summary, IMAGE).cloned(),
        state: run_state(summary.state, state),
        address: endpoint.and_then(reachable_address),
        host_ports: summary.labels.as_ref().map(ports_from_labels).unwrap_or_default(),
        started_at: parse_millis(state.started_at.as_deref()),
        connected: endpoint.is_some() || has_no_network(summary),
        health: None,
    })
}

/// Name and id of a preview's network.
type NetworkRef = (String, String);

/// The container's endpoint in the preview's network. A network that was created again under the old name has another
/// id, so the endpoint must have the same id. A container that never ran knows only the name.
fn preview_endpoint<'a>(summary: &'a ContainerSummary, networks: &[NetworkRef]) -> Option<&'a EndpointSettings> {
    let attached = summary.network_settings.as_ref()?.networks.as_ref()?;
    networks.iter().find_map(|(name, id)| {
        let has_same_id = |endpoint: &&EndpointSettings| endpoint.network_id.as_ref() == Some(id);
        let has_no_id = |endpoint: &&EndpointSettings| endpoint.network_id.as_deref().unwrap_or_default().is_empty();
        attached.values().find(has_same_id).or_else(|| attached.get(name).filter(has_no_id))
    })
}

/// Whether `raw` fields select the host's network, another container's network or none. Such a container has no
/// endpoint to lose.
fn has_no_network(summary: &ContainerSummary) -> bool {
    let mode = summary.host_config.as_ref().and_then(|host| host.network_mode.as_deref()).unwrap_or_default();
    matches!(mode, "host" | "none") || mode.starts_with("container:")
}

/// A container's own address, if the engine shares this machine's network: the network's gateway is then an address of
/// this machine. If the engine is in a virtual machine, rootless or remote, only the published port is reachable.
fn reachable_address(endpoint: &EndpointSettings) -> Option<IpAddr> {
    let gateway: IpAddr = endpoint.gateway.as_deref()?.parse().ok()?;
    is_local_address(gateway).then(|| endpoint.ip_address.as_deref()?.parse().ok()).flatten()
}

/// Whether an interface of this machine has the address. Binding a UDP socket sends nothing.
pub(super) fn is_local_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The address of a container that was just started, in the network it was created for.
pub(super) async fn container_address(engine: &Engine, handle: &str) -> Option<IpAddr> {
    let call = engine.inspect_container(handle, None::<InspectContainerOptions>);
    let response = tokio::time::timeout(READ_TIMEOUT, call).await.ok()?.ok()?;
    let network = response.host_config?.network_mode?;
    let mut networks = response.network_settings?.networks?;
    reachable_address(&networks.remove(&network)?)
}

pub(super) async fn inspect_state(engine: &Engine, handle: &str) -> Result<Option<ContainerState>, Problem> {
    let call = engine.inspect_container(handle, None::<InspectContainerOptions>);
    match tokio::time::timeout(READ_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(Some(response.state.unwrap_or_default())),
        Ok(Err(error)) if response_status(&error) == Some(404) => Ok(None),
        Ok(Err(error)) => Err(to_problem("cannot inspect a container", &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "cannot inspect a container: no answer in time")),
    }
}

fn run_state(listed: Option<State>, state: &ContainerState) -> RunState {
    let has_no_error = state.error.as_deref().unwrap_or_default().is_empty();
    if state.paused == Some(true) {
        RunState::Paused
    } else if state.running == Some(true) {
        RunState::Running
    } else if listed == Some(State::CREATED) && has_no_error {
        RunState::Created
    } else {
        RunState::Exited(to_exit(state))
    }
}

pub(super) fn to_exit(state: &ContainerState) -> Exit {
    let (code, signal) = decode_exit_code(state.exit_code);
    Exit {
        code,
        signal,
        out_of_memory: state.oom_killed == Some(true),
        error: state.error.as_deref().filter(|error| !error.is_empty()).map(innermost_message),
        ended_at: parse_millis(state.finished_at.as_deref()),
    }
}

/// The engine reports a signal as 128 plus its number. A shell that reports its child's signal this way means the same.
pub(super) fn decode_exit_code(code: Option<i64>) -> (Option<i32>, Option<i32>) {
    // Only signals that usually end a program. Other codes above 128, such as 255, are ordinary exit codes.
    const FATAL_SIGNALS: [i32; 11] = [1, 2, 3, 4, 6, 7, 8, 9, 11, 13, 15];
    let code = code.and_then(|code| i32::try_from(code).ok());
    match code.map(|code| code - 128).filter(|signal| FATAL_SIGNALS.contains(signal)) {
        Some(signal) => (None, Some(signal)),
        None => (code, None),
    }
}

/// Parses a time. The engine writes year 1 for "never", which becomes `None`.
pub(super) fn parse_millis(text: Option<&str>) -> Option<i64> {
    let time = OffsetDateTime::parse(text?, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().filter(|time| *time > 0)
}

pub(super) async fn discover(engine: &Engine, owner: &str) -> Result<Vec<DiscoveredPreview>, Problem> {
    let owned = label_filter(&format!("{OWNER}={owner}"));
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&owned).build();
    let networks = ListNetworksOptionsBuilder::default().filters(&owned).build();
    let volumes = ListVolumesOptionsBuilder::default().filters(&owned).build();
    // Networks and volumes count, too: after `down`, a preview may have only volumes left.
    let (containers, networks, volumes) = tokio::try_join!(
        with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(containers))),
        with_timeout(READ_TIMEOUT, "cannot list networks", engine.list_networks(Some(networks))),
        with_timeout(READ_TIMEOUT, "cannot list volumes", engine.list_volumes(Some(volumes))),
    )?;
    let is_running = |summary: &ContainerSummary| summary.state == Some(State::RUNNING);
    let of_containers = containers
        .into_iter()
        .map(|container| (1, usize::from(is_running(&container)), container.labels.unwrap_or_default()));
    let of_networks = networks.into_iter().map(|network| (0, 0, network.labels.unwrap_or_default()));
    let of_volumes = volumes.volumes.unwrap_or_default().into_iter().map(|volume| (0, 0, volume.labels));
    let mut previews: BTreeMap<String, DiscoveredPreview> = BTreeMap::new();
    for (unit_count, running_count, labels) in of_containers.chain(of_networks).chain(of_volumes) {
        let Some(preview) = preview_from_labels(&labels) else { continue };
        let entry = previews.entry(preview.id.0.clone()).or_insert_with(|| DiscoveredPreview {
            preview,
            runtime: RuntimeKind::DOCKER,
            project: labels.get(PROJECT).map(Into::into),
            unit_count: 0,
            running_count: 0,
        });
        entry.unit_count += unit_count;
        entry.running_count += running_count;
    }
    Ok(previews.into_values().collect())
}
