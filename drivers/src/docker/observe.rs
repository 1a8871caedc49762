//! What of a preview is at the engine: one list each of containers, networks and volumes, at the same time.
//! Containers that ran are inspected too: the list tells neither start times nor how one ended. Changes nothing.

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
use plan::observed::{Exit, Observed, ObservedUnit, RunState};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problems::{innermost_message, response_status, to_problem, with_timeout};
use super::translate::{HASH, IMAGE, PREVIEW, PROJECT, SERVICE, VOLUME, ports_from_labels, preview_from_labels};
use super::{READ_TIMEOUT, label_filter, preview_filter};
use crate::driver::{DiscoveredPreview, Problem, ProblemKind};

/// Inspections under way at once.
const INSPECTIONS_MAX: usize = 16;

/// What inspections told, kept while nothing happened to the container: ten running containers are then one list, not
/// eleven calls. An entry counts only for the same state and exit code; whatever is done through this driver or told
/// by the engine's events drops all. Only a restart from outside while no preview is followed goes unseen, and it
/// makes nothing but the shown start time old.
#[derive(Default)]
pub(super) struct InspectCache {
    generation: AtomicU64,
    entries: Mutex<HashMap<PreviewId, InspectedStates>>,
}

/// Handle -> state and exit code in the list, what the inspection said.
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

    /// Unless something happened since `of`.
    fn store_if_unchanged(&self, preview: &PreviewId, changes: u64, known: InspectedStates) {
        let mut all = self.lock();
        if self.generation.load(Ordering::SeqCst) != changes {
            return;
        }
        if known.is_empty() {
            all.remove(preview);
        } else {
            all.insert(preview.clone(), known);
        }
    }
}

/// "Exited (137) 3 minutes ago": the state and the code, without the time.
fn listed_state(summary: &ContainerSummary) -> String {
    let status = summary.status.as_deref().unwrap_or_default();
    let code = status.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(code, _)| code);
    let code = code.parse::<i64>().map(|code| code.to_string()).unwrap_or_default();
    format!("{:?} {code}", summary.state)
}

pub(super) async fn observe(
    engine: &Engine,
    preview: &PreviewId,
    inspected: &InspectCache,
) -> Result<Observed, Problem> {
    let (changes, known) = inspected.snapshot(preview);
    let (containers, networks, volumes) = tokio::try_join!(
        list_containers(engine, preview),
        list_networks(engine, preview),
        list_volumes(engine, preview)
    )?;
    let mut networks: Vec<NetworkRef> =
        networks.into_iter().filter_map(|network| Some((network.name?, network.id.unwrap_or_default()))).collect();
    networks.sort();
    let looks: Vec<_> = stream::iter(containers)
        .map(|summary| inspect_listed(engine, summary, &known))
        .buffered(INSPECTIONS_MAX)
        .try_collect()
        .await?;
    let kept = looks
        .iter()
        .filter_map(|(summary, state)| Some((summary.id.clone()?, (listed_state(summary), state.clone()?))));
    inspected.store_if_unchanged(preview, changes, kept.collect());
    let units = looks.into_iter().map(|(summary, state)| to_observed_unit(&summary, state.as_ref(), &networks));
    let names = networks.iter().map(|(name, _)| name.clone()).collect();
    let mut observed = Observed { networks: names, volumes, ..Observed::default() };
    for unit in units.flatten() {
        match observed.units.remove(&unit.name) {
            None => {
                observed.units.insert(unit.name.clone(), unit);
            }
            Some(newer) => {
                // The list is newest first; a running one is worth more than a newer one that never came up.
                let older_wins = unit.state == RunState::Running && newer.state != RunState::Running;
                let (kept, stray) = if older_wins { (unit, newer) } else { (newer, unit) };
                observed.strays.push(stray);
                observed.units.insert(kept.name.clone(), kept);
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

async fn list_volumes(engine: &Engine, preview: &PreviewId) -> Result<std::collections::BTreeSet<String>, Problem> {
    let options = ListVolumesOptionsBuilder::default().filters(&preview_filter(preview)).build();
    let answer = with_timeout(READ_TIMEOUT, "cannot list volumes", engine.list_volumes(Some(options))).await?;
    let volumes = answer.volumes.unwrap_or_default().into_iter();
    Ok(volumes.filter_map(|mut volume| volume.labels.remove(VOLUME)).collect())
}

pub(super) fn network_gateway(network: &Network) -> Option<IpAddr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs.iter().find_map(|config| config.gateway.as_ref()?.split('/').next()?.parse().ok())
}

fn label<'a>(summary: &'a ContainerSummary, name: &str) -> Option<&'a String> {
    summary.labels.as_ref()?.get(name)
}

/// The unit's container, the running or else the newest one.
pub(super) async fn find_container(
    engine: &Engine,
    preview: &PreviewId,
    unit: &str,
) -> Result<Option<ContainerSummary>, Problem> {
    let mut filters = preview_filter(preview);
    filters.entry("label".to_owned()).or_default().push(format!("{SERVICE}={unit}"));
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let mut mine = with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(options))).await?;
    let best = mine.iter().position(|summary| summary.state == Some(State::RUNNING)).unwrap_or(0);
    Ok((!mine.is_empty()).then(|| mine.swap_remove(best)))
}

pub(super) async fn require_container(engine: &Engine, preview: &PreviewId, unit: &str) -> Result<String, Problem> {
    find_container(engine, preview, unit)
        .await?
        .and_then(|summary| summary.id)
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("`{unit}` has no container")))
}

/// The list's entry with what an inspection told; without that, what it names is gone.
async fn inspect_listed(
    engine: &Engine,
    summary: ContainerSummary,
    known: &InspectedStates,
) -> Result<(ContainerSummary, Option<ContainerState>), Problem> {
    let Some(handle) = summary.id.as_deref() else { return Ok((summary, None)) };
    // A created one is looked at too: a failed start leaves its reason there.
    if summary.state == Some(State::REMOVING) {
        return Ok((summary, None));
    }
    let state = match known.get(handle) {
        Some((state, told)) if *state == listed_state(&summary) => Some(told.clone()),
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
    // Removed since the list was made, or being removed.
    let state = state?;
    let endpoint = preview_endpoint(summary, networks);
    Some(ObservedUnit {
        name,
        runtime: RuntimeKind::Docker,
        handle,
        hash: label(summary, HASH).cloned().unwrap_or_default(),
        image: label(summary, IMAGE).cloned(),
        state: run_state(summary.state, state),
        address: endpoint.and_then(reachable_address),
        host_ports: summary.labels.as_ref().map(ports_from_labels).unwrap_or_default(),
        started_at: parse_millis(state.started_at.as_deref()),
        connected: endpoint.is_some() || has_no_network(summary),
    })
}

/// A preview's network by name and id.
type NetworkRef = (String, String);

/// Where the container is on the preview's network. A network that was made anew under the old name is another one;
/// a container that never ran knows the name only.
fn preview_endpoint<'a>(summary: &'a ContainerSummary, networks: &[NetworkRef]) -> Option<&'a EndpointSettings> {
    let attached = summary.network_settings.as_ref()?.networks.as_ref()?;
    networks.iter().find_map(|(name, id)| {
        let of_id = |endpoint: &&EndpointSettings| endpoint.network_id.as_ref() == Some(id);
        let unborn = |endpoint: &&EndpointSettings| endpoint.network_id.as_deref().unwrap_or_default().is_empty();
        attached.values().find(of_id).or_else(|| attached.get(name).filter(unborn))
    })
}

/// `raw` put it into the host's network, into another container's or into none: there is nothing to lose.
fn has_no_network(summary: &ContainerSummary) -> bool {
    let mode = summary.host_config.as_ref().and_then(|host| host.network_mode.as_deref()).unwrap_or_default();
    matches!(mode, "host" | "none") || mode.starts_with("container:")
}

/// A container's own address, where the engine shares this machine's network: then the network's gateway is an address
/// of this machine. In a virtual machine, rootless or far away it is not, and the published port is the only way.
fn reachable_address(endpoint: &EndpointSettings) -> Option<IpAddr> {
    let gateway: IpAddr = endpoint.gateway.as_deref()?.parse().ok()?;
    is_local_address(gateway).then(|| endpoint.ip_address.as_deref()?.parse().ok()).flatten()
}

/// Whether an interface of this machine has the address. Binding sends nothing.
pub(super) fn is_local_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Where a container that was just started is reached: its address on the network it was made for.
pub(super) async fn container_address(engine: &Engine, handle: &str) -> Option<IpAddr> {
    let call = engine.inspect_container(handle, None::<InspectContainerOptions>);
    let answer = tokio::time::timeout(READ_TIMEOUT, call).await.ok()?.ok()?;
    let network = answer.host_config?.network_mode?;
    let mut networks = answer.network_settings?.networks?;
    reachable_address(&networks.remove(&network)?)
}

pub(super) async fn inspect_state(engine: &Engine, handle: &str) -> Result<Option<ContainerState>, Problem> {
    let call = engine.inspect_container(handle, None::<InspectContainerOptions>);
    match tokio::time::timeout(READ_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(Some(answer.state.unwrap_or_default())),
        Ok(Err(error)) if response_status(&error) == Some(404) => Ok(None),
        Ok(Err(error)) => Err(to_problem("cannot inspect a container", &error)),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "cannot inspect a container: no answer in time")),
    }
}

fn run_state(listed: Option<State>, state: &ContainerState) -> RunState {
    let never_tried = state.error.as_deref().unwrap_or_default().is_empty();
    if state.paused == Some(true) {
        RunState::Paused
    } else if state.running == Some(true) {
        RunState::Running
    } else if listed == Some(State::CREATED) && never_tried {
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

/// The engine tells a signal as 128 and its number; a shell that says so of its child means the same.
pub(super) fn decode_exit_code(code: Option<i64>) -> (Option<i32>, Option<i32>) {
    const FATAL_SIGNALS: [i32; 11] = [1, 2, 3, 4, 6, 7, 8, 9, 11, 13, 15];
    let code = code.and_then(|code| i32::try_from(code).ok());
    match code.map(|code| code - 128).filter(|signal| FATAL_SIGNALS.contains(signal)) {
        Some(signal) => (None, Some(signal)),
        None => (code, None),
    }
}

/// The engine writes year 1 for "never".
pub(super) fn parse_millis(text: Option<&str>) -> Option<i64> {
    let at = OffsetDateTime::parse(text?, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().filter(|at| *at > 0)
}

pub(super) async fn discover(engine: &Engine) -> Result<Vec<DiscoveredPreview>, Problem> {
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&label_filter(PREVIEW)).build();
    let networks = ListNetworksOptionsBuilder::default().filters(&label_filter(PREVIEW)).build();
    let volumes = ListVolumesOptionsBuilder::default().filters(&label_filter(PREVIEW)).build();
    let (containers, networks, volumes) = tokio::try_join!(
        with_timeout(READ_TIMEOUT, "cannot list containers", engine.list_containers(Some(containers))),
        with_timeout(READ_TIMEOUT, "cannot list networks", engine.list_networks(Some(networks))),
        with_timeout(READ_TIMEOUT, "cannot list volumes", engine.list_volumes(Some(volumes))),
    )?;
    let running = |summary: &ContainerSummary| summary.state == Some(State::RUNNING);
    let of_containers =
        containers.into_iter().map(|one| (1, usize::from(running(&one)), one.labels.unwrap_or_default()));
    let of_networks = networks.into_iter().map(|one| (0, 0, one.labels.unwrap_or_default()));
    let of_volumes = volumes.volumes.unwrap_or_default().into_iter().map(|one| (0, 0, one.labels));
    let mut found: BTreeMap<String, DiscoveredPreview> = BTreeMap::new();
    for (units, running, labels) in of_containers.chain(of_networks).chain(of_volumes) {
        let Some(preview) = preview_from_labels(&labels) else { continue };
        let entry = found.entry(preview.id.0.clone()).or_insert_with(|| DiscoveredPreview {
            preview,
            runtime: RuntimeKind::Docker,
            project: labels.get(PROJECT).map(Into::into),
            unit_count: 0,
            running_count: 0,
        });
        entry.unit_count += units;
        entry.running_count += running;
    }
    Ok(found.into_values().collect())
}
