//! What runs now, as the agent tells it: a cache that requests read and only this file's task fills.
//!
//! No request waits for the agent, and nothing is polled: where no agent runs, the next sign of life of the user (opening,
//! saving, a command) or of an agent (its socket) looks once more. Looking never starts an agent.

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

/// Whether there is anybody to ask.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AgentState {
    /// Nobody looked yet.
    #[default]
    Unknown,
    Absent,
    Present,
    /// It is there, but cannot be spoken to: another version, a sandbox.
    Unusable(String),
}

/// All that is known, by preview.
#[derive(Clone, Debug, Default)]
pub struct LiveState {
    pub agent: AgentState,
    previews: BTreeMap<String, PreviewStatus>,
    /// Problems of the last operation, until the next one begins.
    problems: BTreeMap<String, Vec<Problem>>,
    /// Steps that `up` would take now, by manifest.
    drift: BTreeMap<PathBuf, Vec<StepView>>,
    /// Of the user, by name; none from an agent that could not say.
    pub identities: Option<BTreeMap<String, IdentityStatus>>,
    /// What waits for a person to approve it.
    waiting_approvals: Vec<PendingApprovalView>,
    /// What each unit said last, as far as somebody asked.
    pub log_tails: BTreeMap<log_tail::UnitKey, log_tail::LogTail>,
}

impl LiveState {
    /// The preview of a manifest's folder.
    #[must_use]
    pub fn preview(&self, manifest: &Path, environment: &str) -> Option<&PreviewStatus> {
        let lies = folder_matcher(manifest)?;
        self.previews.values().find(|preview| preview.preview.environment == environment && lies(&preview.folder))
    }

    /// What waits for an approval in the manifest's folder.
    pub fn waiting_approvals(&self, manifest: &Path) -> impl Iterator<Item = &PendingApprovalView> {
        let lies = folder_matcher(manifest);
        self.waiting_approvals
            .iter()
            .filter(move |one| lies.as_ref().is_some_and(|lies| one.folders.iter().any(|own| lies(own))))
    }

    #[must_use]
    pub fn problems<'a>(&'a self, preview: &'a PreviewStatus) -> Vec<&'a Problem> {
        let mut all: Vec<&'a Problem> = preview.problems.iter().collect();
        for problem in self.problems.get(&preview.preview.id).into_iter().flatten() {
            if !all.iter().any(|known| known.unit == problem.unit && known.title == problem.title) {
                all.push(problem);
            }
        }
        all
    }

    #[must_use]
    pub fn drift(&self, manifest: &Path) -> &[StepView] {
        self.drift.get(manifest).map_or(&[], Vec::as_slice)
    }

    /// Whether the lines of this unit stand in a finding.
    #[must_use]
    pub fn is_log_tail_shown(&self, (preview, unit): &log_tail::UnitKey) -> bool {
        let units = self.previews.get(preview).map(|preview| preview.units.as_slice()).unwrap_or_default();
        units.iter().any(|one| one.name == *unit && unit_health(Some(one.state)) == Health::Unhealthy)
    }

    fn is_stopped(&self, manifest: &Path, environment: &str, unit: &str) -> bool {
        let units = self.preview(manifest, environment).map(|preview| preview.units.as_slice()).unwrap_or_default();
        units.iter().any(|one| one.name == unit && one.state == UnitState::Stopped)
    }

    fn reset(&mut self, agent: AgentState) {
        *self = Self { agent, ..Self::default() };
    }

    /// True when something changed that an editor shows; `Err` when the preview is not known yet.
    fn apply_event(&mut self, event: Event) -> Result<bool, ()> {
        let id = event.preview.id.clone();
        match event.kind {
            EventKind::UnitChanged { unit } => {
                let preview = self.previews.get_mut(&id).ok_or(())?;
                let before = preview.units.iter().find(|known| known.name == unit.name).map(|known| known.state);
                let turned = unit_health(Some(unit.state)) != unit_health(before);
                let changed = upsert_unit(&mut preview.units, unit);
                // Why a unit is not well, and what that makes of the preview, stands in the preview's status.
                if turned { Err(()) } else { Ok(changed) }
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
                // Its status says what the operation is.
                Err(())
            }
            _ => Ok(false),
        }
    }
}

/// Whether a folder, as the agent calls it, is the manifest's.
fn folder_matcher(manifest: &Path) -> Option<impl Fn(&str) -> bool> {
    let folder = manifest.parent()?.to_owned();
    let real = folder.canonicalize().ok();
    Some(move |own: &str| Path::new(own) == folder || Some(Path::new(own)) == real.as_deref())
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
    match units.iter_mut().find(|known| known.name == unit.name) {
        Some(known) if *known == unit => false,
        Some(known) => {
            *known = unit;
            true
        }
        None => {
            units.push(unit);
            true
        }
    }
}

/// A broken connection is tried again at once so often; then only when the user does something.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Follows the agent until the server ends.
pub async fn follow_agent(state: Arc<ServerState>) {
    let mut watch: Option<agent_watcher::AgentWatcher> = None;
    loop {
        state.agent_check_requested.notified().await;
        if !state.workspace().settings.live.enabled {
            continue;
        }
        if watch.as_ref().is_none_or(|watch| !watch.is_socket_folder) {
            watch = agent_watcher::watch_for_agent(&state);
        }
        let mut tries = 0;
        loop {
            let ended = follow_connection(&state).await;
            let agent = match &ended {
                Ok(()) | Err(ClientError::NotRunning { .. }) => AgentState::Absent,
                Err(error) => AgentState::Unusable(error.to_string()),
            };
            let was = state.change_live(|live| {
                let was = live.agent.clone();
                live.reset(agent.clone());
                was
            });
            match &was {
                AgentState::Present => state.notify_live_changed(),
                was if *was != agent => state.notify_agent_changed(),
                _ => {}
            }
            tries += 1;
            // Only an agent that was there a moment ago is worth another try, or one that is about to listen: its socket is
            // seen before it can be spoken to.
            if (was != AgentState::Present && !state.agent_socket.socket_path().exists()) || tries > 3 {
                break;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

/// From the first answer to the end of the stream.
async fn follow_connection(state: &Arc<ServerState>) -> Result<(), ClientError> {
    // Subscribed before the list is asked for, so that nothing happens in between unseen.
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
        let settled = event.kind.ends_operation();
        if let EventKind::UnitChanged { unit } = &event.kind {
            state.request_log_tail((event.preview.id.clone(), unit.name.clone()));
        }
        match state.change_live(|live| live.apply_event(event)) {
            Ok(false) => {}
            Ok(true) => {
                if settled {
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
    let any = !previews.is_empty();
    state.change_live(|live| {
        live.agent = AgentState::Present;
        live.previews = previews.into_iter().map(|status| (status.preview.id.clone(), status)).collect();
    });
    if any {
        state.notify_live_changed();
    } else {
        state.notify_agent_changed();
    }
    Ok(())
}

/// Who stands how: asked for once, and again when the agent tells that one changed.
async fn refresh_identities(state: &ServerState) -> Result<(), ClientError> {
    let all = Client::connect(&state.agent_socket).await?.identities().await.ok();
    let named = |all: Vec<IdentityStatus>| all.into_iter().map(|one| (one.name.clone(), one)).collect();
    let all: Option<BTreeMap<String, IdentityStatus>> = all.map(named);
    let changed = state.change_live(|live| std::mem::replace(&mut live.identities, all.clone()) != all);
    if changed {
        state.notify_live_changed();
    }
    Ok(())
}

/// What waits for a person: asked for when an `up` has ended and when something was approved. An older agent has no answer.
async fn refresh_waiting_approvals(state: &ServerState) -> Result<(), ClientError> {
    let all = Client::connect(&state.agent_socket).await?.pending_approvals().await.unwrap_or_default();
    let changed = state.change_live(|live| std::mem::replace(&mut live.waiting_approvals, all.clone()) != all);
    if changed {
        state.notify_live_changed();
    }
    Ok(())
}

/// What `up` would do now, for each open manifest whose preview runs. Best effort: a plan may need an engine.
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
        let mut steps = if running {
            fetch_drift_steps(&state.agent_socket, up_request(state, &root)).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        // Somebody stopped it: that it does not run is no news to them.
        steps.retain(|step| {
            let absent = DriftCause::parse(&step.cause).is_some_and(DriftCause::means_not_running);
            !absent
                || step
                    .unit
                    .as_ref()
                    .is_none_or(|unit| !state.with_live(|live| live.is_stopped(&root, &environment, unit)))
        });
        let changed = state.change_live(|live| {
            let before = live.drift.insert(root.clone(), steps.clone()).unwrap_or_default();
            before != steps
        });
        if changed {
            state.notify_live_changed();
        }
    }
}

/// The causes of steps that are shown as drift. Steps that only follow from others would say the same twice.
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

async fn fetch_drift_steps(place: &SocketLocation, request: UpRequest) -> Result<Vec<StepView>, ClientError> {
    let mut client = Client::connect(place).await?;
    let reply = client.plan(&request).await?;
    let steps = reply.plan.steps.into_iter().filter(|step| DriftCause::parse(&step.cause).is_some());
    let mut steps: Vec<StepView> = steps.collect();
    steps.dedup_by(|later, first| later.unit == first.unit && later.cause == first.cause);
    Ok(steps)
}

/// An `up` of this manifest, with the variables it names and no others.
#[must_use]
pub fn up_request(state: &ServerState, root: &Path) -> UpRequest {
    let workspace = state.workspace();
    let settings = &workspace.settings;
    let analysis = workspace.analyses().find(|one| one.manifest_path == root);
    let texts = analysis.into_iter().flat_map(|one| one.loaded().sources.iter());
    let names = texts.flat_map(|(_, source)| env_variable_names(&source.text));
    let variables = names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect();
    UpRequest {
        folder: root.parent().unwrap_or(root).to_string_lossy().into_owned(),
        file: root.file_name().map(|name| name.to_string_lossy().into_owned()),
        environment: settings.environment.clone().filter(|name| !name.is_empty()),
        runtime: settings.runtime.clone().filter(|name| !name.is_empty()),
        variables,
        ..UpRequest::default()
    }
}

/// The names after `${env.`; one inside a comment does no harm.
fn env_variable_names(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${env.").map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
