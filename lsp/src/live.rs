//! A cache of the agent's live state. Requests read it; only the task in this file fills it.
//!
//! No request waits for the agent, and nothing polls. If no agent runs, the server checks again when the user opens or
//! saves a file or runs a command, and when the agent's socket appears. A check never starts an agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientError, SocketLocation, Subscription};
use protocol::approval::PendingApprovalView;
use protocol::event::EventKind;
use protocol::identity::IdentityStatus;
use protocol::plan::StepView;
use protocol::request::UpRequest;
use protocol::status::{PreviewStatus, UnitState, UnitStatus};
use protocol::{Event, Problem};

use crate::agent_watcher;
use crate::log_tail;
use crate::server_state::ServerState;

/// The state of the connection to the agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AgentState {
    /// Not checked yet.
    #[default]
    Unknown,
    Absent,
    Present,
    /// An agent runs, but the server cannot use it. Examples: an incompatible version, a sandbox.
    Unusable(String),
}

/// The cached state of all previews and identities.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    pub agent: AgentState,
    previews: BTreeMap<String, PreviewStatus>,
    /// Problems of the last operation, by preview id. Cleared when the next operation starts.
    problems: BTreeMap<String, Vec<Problem>>,
    /// The steps of an `up` now, by manifest.
    drift: BTreeMap<PathBuf, Vec<StepView>>,
    /// The user's identities by name. `None` if the agent did not answer.
    pub identities: Option<BTreeMap<String, IdentityStatus>>,
    /// Approvals that the user has not given yet.
    waiting_approvals: Vec<PendingApprovalView>,
    /// The last log lines of each unit, as far as they were requested.
    pub log_tails: BTreeMap<log_tail::UnitKey, log_tail::LogTail>,
}

impl LiveState {
    /// The preview of the manifest's folder in this environment.
    #[must_use]
    pub fn preview(&self, manifest: &Path, environment: &str) -> Option<&PreviewStatus> {
        let is_own_folder = folder_matcher(manifest)?;
        self.previews
            .values()
            .find(|preview| preview.preview.environment == environment && is_own_folder(&preview.folder))
    }

    /// The pending approvals of the manifest's folder.
    pub fn waiting_approvals(&self, manifest: &Path) -> impl Iterator<Item = &PendingApprovalView> {
        let is_own_folder = folder_matcher(manifest);
        self.waiting_approvals.iter().filter(move |approval| {
            is_own_folder
                .as_ref()
                .is_some_and(|is_own_folder| approval.folders.iter().any(|folder| is_own_folder(folder)))
        })
    }

    #[must_use]
    pub fn problems<'a>(&'a self, preview: &'a PreviewStatus) -> Vec<&'a Problem> {
        let mut problems: Vec<&'a Problem> = preview.problems.iter().collect();
        for problem in self.problems.get(&preview.preview.id).into_iter().flatten() {
            // The status of the preview may already list a problem of the last operation.
            if !problems.iter().any(|listed| listed.unit == problem.unit && listed.title == problem.title) {
                problems.push(problem);
            }
        }
        problems
    }

    /// The steps of an `up` now. A unit that the user stopped is no drift. Units stop and start without a new plan, so
    /// each reading compares with the current states.
    pub fn drift<'a>(&'a self, manifest: &Path, environment: &str) -> impl Iterator<Item = &'a StepView> {
        let units = self.preview(manifest, environment).map(|preview| preview.units.as_slice()).unwrap_or_default();
        let is_stopped =
            move |name: &String| units.iter().any(|status| status.name == *name && status.state == UnitState::Stopped);
        self.drift.get(manifest).into_iter().flatten().filter(move |step| {
            let is_absence = DriftCause::parse(&step.cause).is_some_and(DriftCause::means_not_running);
            !is_absence || !step.unit.as_ref().is_some_and(is_stopped)
        })
    }

    /// Whether a diagnostic contains the log lines of this unit.
    #[must_use]
    pub fn is_log_tail_shown(&self, (preview, unit): &log_tail::UnitKey) -> bool {
        let units = self.previews.get(preview).map(|preview| preview.units.as_slice()).unwrap_or_default();
        units.iter().any(|status| status.name == *unit && unit_health(Some(status.state)) == Health::Unhealthy)
    }

    fn reset(&mut self, agent: AgentState) {
        *self = Self { agent, ..Self::default() };
    }

    /// Returns whether something changed that the editor shows, or `Err` if the event does not say enough and the
    /// previews must be fetched again.
    fn apply_event(&mut self, event: Event) -> Result<bool, ()> {
        let id = event.preview.id.clone();
        match event.kind {
            EventKind::UnitChanged { unit } => {
                let preview = self.previews.get_mut(&id).ok_or(())?;
                let before = preview.units.iter().find(|status| status.name == unit.name).map(|status| status.state);
                let health_changed = unit_health(Some(unit.state)) != unit_health(before);
                let changed = upsert_unit(&mut preview.units, unit);
                // Only the preview's status has the problems of a unit and the resulting state of the preview.
                if health_changed { Err(()) } else { Ok(changed) }
            }
            EventKind::Finished { status, .. } => {
                self.problems.remove(&id);
                self.previews.insert(id, status);
                Ok(true)
            }
            EventKind::Failed { problems, status, .. } => {
                self.problems.insert(id.clone(), problems);
                self.previews.insert(id, status);
                Ok(true)
            }
            EventKind::OperationStarted { .. } => {
                self.problems.remove(&id);
                // The event does not contain the state of the preview during the operation.
                Err(())
            }
            _ => Ok(false),
        }
    }
}

/// Returns a predicate: is this path, as the agent reports it, the folder of the manifest? The agent may report the
/// real path while the editor uses a symbolic link.
fn folder_matcher(manifest: &Path) -> Option<impl Fn(&str) -> bool> {
    let folder = manifest.parent()?.to_owned();
    let real = folder.canonicalize().ok();
    Some(move |path: &str| Path::new(path) == folder || Some(Path::new(path)) == real.as_deref())
}

#[derive(PartialEq, Eq)]
enum Health {
    Healthy,
    Unhealthy,
    Failed,
}

fn unit_health(state: Option<UnitState>) -> Health {
    match state {
        Some(UnitState::Failed) => Health::Failed,
        Some(UnitState::Unhealthy | UnitState::Restarting) => Health::Unhealthy,
        _ => Health::Healthy,
    }
}

fn upsert_unit(units: &mut Vec<UnitStatus>, unit: UnitStatus) -> bool {
    match units.iter_mut().find(|cached| cached.name == unit.name) {
        Some(cached) if *cached == unit => false,
        Some(cached) => {
            *cached = unit;
            true
        }
        None => {
            units.push(unit);
            true
        }
    }
}

/// The pause before a retry after a connection ends. After [`RETRIES_MAX`] retries the server waits for the next action
/// of the user.
const RETRY_DELAY: Duration = Duration::from_millis(200);
const RETRIES_MAX: u32 = 3;

/// Follows the agent until the server ends.
pub async fn follow_agent(state: Arc<ServerState>) {
    let mut watcher: Option<agent_watcher::AgentWatcher> = None;
    loop {
        state.agent_check_requested.notified().await;
        if !state.workspace().settings.live.enabled {
            continue;
        }
        // The folder of the socket may exist by now.
        if watcher.as_ref().is_none_or(|watcher| !watcher.is_socket_folder) {
            watcher = agent_watcher::watch_for_agent(&state);
        }
        let mut attempts = 0;
        loop {
            let result = follow_connection(&state).await;
            let agent = match &result {
                Ok(()) | Err(ClientError::NotRunning { .. }) => AgentState::Absent,
                Err(error) => AgentState::Unusable(error.to_string()),
            };
            let previous = state.change_live(|live| {
                let previous = live.agent.clone();
                live.reset(agent.clone());
                previous
            });
            match &previous {
                AgentState::Present => state.notify_live_changed(),
                previous if *previous != agent => state.notify_agent_changed(),
                _ => {}
            }
            attempts += 1;
            // Retry only if an agent answered before, or if its socket exists: a starting agent creates the socket
            // before it accepts connections.
            if (previous != AgentState::Present && !state.agent_socket.socket_path().exists()) || attempts > RETRIES_MAX
            {
                break;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

/// Fills the cache from one connection, until its event stream ends.
async fn follow_connection(state: &Arc<ServerState>) -> Result<(), ClientError> {
    // Subscribe before the first request, so that no event between the two is lost.
    let mut events = Subscription::open(&state.agent_socket, None).await?;
    refresh_previews(state).await?;
    refresh_identities(state).await?;
    refresh_waiting_approvals(state).await?;
    refresh_drift(state).await;
    loop {
        let Some(event) = events.next().await? else { return Ok(()) };
        if matches!(event.kind, EventKind::IdentityChanged { .. }) {
            refresh_identities(state).await?;
            refresh_waiting_approvals(state).await?;
            continue;
        }
        let ends_operation = event.kind.ends_operation();
        if let EventKind::UnitChanged { unit } = &event.kind {
            state.request_log_tail((event.preview.id.clone(), unit.name.clone()));
        }
        match state.change_live(|live| live.apply_event(event)) {
            Ok(false) => {}
            Ok(true) => {
                if ends_operation {
                    refresh_waiting_approvals(state).await?;
                    refresh_drift(state).await;
                }
                state.notify_live_changed();
            }
            Err(()) => {
                refresh_previews(state).await?;
                state.notify_live_changed();
            }
        }
    }
}

async fn refresh_previews(state: &ServerState) -> Result<(), ClientError> {
    let mut client = Client::connect(&state.agent_socket).await?;
    let previews = client.previews().await?;
    let has_previews = !previews.is_empty();
    state.change_live(|live| {
        live.agent = AgentState::Present;
        live.previews = previews.into_iter().map(|status| (status.preview.id.clone(), status)).collect();
    });
    // Without a preview there are no diagnostics of units, so a refresh of lenses and hints is enough.
    if has_previews {
        state.notify_live_changed();
    } else {
        state.notify_agent_changed();
    }
    Ok(())
}

/// Fetches the identities, at the start and after each event about one. An agent without this request gives `None`.
async fn refresh_identities(state: &ServerState) -> Result<(), ClientError> {
    let list = Client::connect(&state.agent_socket).await?.identities().await.ok();
    let by_name = |list: Vec<IdentityStatus>| list.into_iter().map(|status| (status.name.clone(), status)).collect();
    let identities: Option<BTreeMap<String, IdentityStatus>> = list.map(by_name);
    let changed = state.change_live(|live| std::mem::replace(&mut live.identities, identities.clone()) != identities);
    if changed {
        state.notify_live_changed();
    }
    Ok(())
}

/// Fetches the pending approvals, after each `up` and each approval. An older agent does not know the request.
async fn refresh_waiting_approvals(state: &ServerState) -> Result<(), ClientError> {
    let pending = Client::connect(&state.agent_socket).await?.pending_approvals().await.unwrap_or_default();
    let changed = state.change_live(|live| std::mem::replace(&mut live.waiting_approvals, pending.clone()) != pending);
    if changed {
        state.notify_live_changed();
    }
    Ok(())
}

/// Fetches the steps of an `up` for each open manifest whose preview runs. Errors count as no drift, because a plan may
/// need an engine that is not available.
pub async fn refresh_drift(state: &Arc<ServerState>) {
    let roots: Vec<PathBuf> = state.workspace().manifest_paths().map(Path::to_owned).collect();
    let environment = state.environment();
    for root in roots {
        let running = state.with_live(|live| {
            live.preview(&root, &environment).is_some_and(|preview| {
                use protocol::status::PreviewState::{Degraded, Ready};
                matches!(preview.state, Ready | Degraded)
            })
        });
        let steps = if running {
            fetch_drift_steps(&state.agent_socket, up_request(state, &root)).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let changed = state.change_live(|live| {
            let before = live.drift.insert(root.clone(), steps.clone()).unwrap_or_default();
            before != steps
        });
        if changed {
            state.notify_live_changed();
        }
    }
}

/// The causes of steps that are shown as drift. Steps with other causes follow from these and would report the same
/// difference twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DriftCause {
    Changed,
    ImageStale,
    ImageChanged,
    RuntimeChanged,
    Removed,
    Absent,
    NotRunning,
}

impl DriftCause {
    fn parse(cause: &str) -> Option<Self> {
        match cause {
            "changed" => Some(Self::Changed),
            "image_stale" => Some(Self::ImageStale),
            "image_changed" => Some(Self::ImageChanged),
            "runtime_changed" => Some(Self::RuntimeChanged),
            "removed" => Some(Self::Removed),
            "absent" => Some(Self::Absent),
            "not_running" => Some(Self::NotRunning),
            _ => None,
        }
    }

    fn means_not_running(self) -> bool {
        match self {
            Self::Absent | Self::NotRunning => true,
            Self::Changed | Self::ImageStale | Self::ImageChanged | Self::RuntimeChanged | Self::Removed => false,
        }
    }
}

async fn fetch_drift_steps(socket: &SocketLocation, request: UpRequest) -> Result<Vec<StepView>, ClientError> {
    let mut client = Client::connect(socket).await?;
    let reply = client.plan(&request).await?;
    let steps = reply.plan.steps.into_iter().filter(|step| DriftCause::parse(&step.cause).is_some());
    let mut steps: Vec<StepView> = steps.collect();
    steps.dedup_by(|later, first| later.unit == first.unit && later.cause == first.cause);
    Ok(steps)
}

/// The request for an `up` of this manifest. It contains only those environment variables that the manifest names.
#[must_use]
pub fn up_request(state: &ServerState, root: &Path) -> UpRequest {
    let workspace = state.workspace();
    let settings = &workspace.settings;
    let analysis = workspace.analyses().find(|analysis| analysis.manifest_path == root);
    let sources = analysis.into_iter().flat_map(|analysis| analysis.loaded().sources.iter());
    let names = sources.flat_map(|(_, source)| env_variable_names(&source.text));
    let variables = names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
    UpRequest {
        folder: root.parent().unwrap_or(root).to_string_lossy().into_owned(),
        file: root.file_name().map(|name| name.to_string_lossy().into_owned()),
        environment: settings.environment.clone().filter(|name| !name.is_empty()),
        runtime: settings.runtime.clone().filter(|name| !name.is_empty()),
        variables,
        target_variables: plan::runtime::RuntimeKind::target_variables(|name| std::env::var(name).ok()),
        ..UpRequest::default()
    }
}

/// The names after `${env.`. A name in a comment is included too, which only sends one more variable to the agent.
fn env_variable_names(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${env.").map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
