//! State of the fake runtime: previews, their units, and the behaviour that the test configured.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit};
use plan::observed::{ObservedUnit, ReportedHealth, RunState, RuntimeObject};
use plan::runtime::Supervisor;
use plan::step::Action;
use tokio::sync::{Semaphore, watch};

use super::Script;
use crate::driver::{LogLine, StepOutcome};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{ProgressLine, Scope};

#[derive(Default)]
pub(super) struct State {
    pub(super) previews: BTreeMap<PreviewId, Preview>,
    pub(super) scripts: BTreeMap<String, Script>,
    pub(super) failures: Vec<(String, Problem)>,
    pub(super) gates: BTreeMap<String, (Arc<Semaphore>, watch::Sender<usize>)>,
    pub(super) performed_steps: Vec<String>,
    pub(super) disconnect_reason: Option<String>,
    /// A counter that replaces the clock and random handles.
    pub(super) ticks: i64,
}

pub(super) struct Preview {
    pub(super) name: PreviewName,
    pub(super) project: PathBuf,
    pub(super) units: BTreeMap<String, FakeUnit>,
    pub(super) strays: Vec<ObservedUnit>,
    pub(super) networks: BTreeSet<RuntimeObject>,
    pub(super) volumes: BTreeSet<RuntimeObject>,
}

pub(super) struct FakeUnit {
    pub(super) observed: ObservedUnit,
    pub(super) log_lines: Vec<LogLine>,
    /// Counts changes of lines and state, to wake followers of the log.
    pub(super) change_count: watch::Sender<u64>,
}

/// A step's name in `FakeDriver::performed_steps`, `fail_next` and `block_step`.
pub(super) fn step_name(action: &Action) -> String {
    match action {
        Action::CreateNetwork { .. } => "create-network".to_owned(),
        Action::RemoveNetwork { .. } => "remove-network".to_owned(),
        Action::CreateVolume { volume, .. } => format!("create-volume {volume}"),
        Action::RemoveVolume { volume, .. } => format!("remove-volume {volume}"),
        Action::PrepareImage { unit, .. } => format!("prepare {unit}"),
        Action::PushImage { unit, .. } => format!("push {unit}"),
        Action::Create { unit, .. } => format!("create {unit}"),
        Action::Apply { unit, .. } => format!("apply {unit}"),
        Action::Delete { unit, .. } => format!("delete {unit}"),
        Action::Start { unit, .. } => format!("start {unit}"),
        Action::Stop { unit, .. } => format!("stop {unit}"),
        Action::Remove { unit, .. } => format!("remove {unit}"),
        Action::Connect { unit, .. } => format!("connect {unit}"),
        Action::AwaitReady { unit } => format!("await-ready {unit}"),
        Action::AwaitExit { unit } => format!("await-exit {unit}"),
    }
}

impl FakeUnit {
    pub(super) fn notify_change(&self) {
        self.change_count.send_modify(|count| *count += 1);
    }
}

impl Preview {
    pub(super) fn apply(&mut self, action: &Action) {
        match action {
            Action::CreateNetwork { runtime } => {
                let name = self.name.object_prefix();
                self.networks.insert(RuntimeObject { name, runtime: *runtime });
            }
            Action::RemoveNetwork { name, .. } => self.networks.retain(|network| network.name != *name),
            Action::CreateVolume { runtime, volume } => {
                self.volumes.insert(RuntimeObject { name: volume.clone(), runtime: *runtime });
            }
            Action::RemoveVolume { volume, .. } => self.volumes.retain(|existing| existing.name != *volume),
            Action::Connect { unit, .. } => {
                if let Some(fake_unit) = self.units.get_mut(unit) {
                    fake_unit.observed.connected = true;
                }
            }
            _ => {}
        }
    }
}

impl State {
    pub(super) fn tick(&mut self) -> i64 {
        self.ticks += 1;
        1_700_000_000_000 + self.ticks
    }

    pub(super) fn unit_mut(&mut self, preview: &PreviewId, unit: &str) -> Option<&mut FakeUnit> {
        self.previews.get_mut(preview)?.units.get_mut(unit)
    }

    pub(super) fn preview_mut(&mut self, scope: &Scope) -> &mut Preview {
        self.previews.entry(scope.preview.id.clone()).or_insert_with(|| Preview {
            name: scope.preview.clone(),
            project: scope.locations.project.clone(),
            units: BTreeMap::new(),
            strays: Vec::new(),
            networks: BTreeSet::new(),
            volumes: BTreeSet::new(),
        })
    }

    pub(super) fn prepare_image(&mut self, scope: &Scope, unit: &str) -> Result<StepOutcome, Problem> {
        let script = self.scripts.entry(unit.to_owned()).or_default();
        if let Some(lines) = &script.build_failure {
            for line in lines {
                scope.progress.report(unit, ProgressLine::BuildOutput(line.clone()));
            }
            let problem = Problem::new(ProblemKind::BuildFailed, format!("the build of `{unit}` failed"));
            return Err(problem.output(lines.clone()));
        }
        script.stale_reason = None;
        Ok(StepOutcome { image: Some(image_identity(unit)), ..StepOutcome::default() })
    }

    pub(super) fn create_unit(
        &mut self,
        scope: &Scope,
        unit: &Unit,
        kind: RuntimeKind,
    ) -> Result<StepOutcome, Problem> {
        let handle = format!("{}-{}", unit.name, self.tick());
        let preview = self.preview_mut(scope);
        if let Some(fake_unit) = preview.units.get(&unit.name) {
            if fake_unit.observed.hash == unit.hash {
                return Ok(StepOutcome { handle: Some(fake_unit.observed.handle.clone()), ..StepOutcome::default() });
            }
            if fake_unit.observed.state == RunState::Running {
                let message = format!("`{}` still runs as it was before the change", unit.name);
                return Err(Problem::new(ProblemKind::Refused, message));
            }
        }
        let observed = ObservedUnit {
            name: unit.name.clone(),
            runtime: kind,
            handle: handle.clone(),
            hash: unit.hash.clone(),
            image: Some(image_identity(&unit.name)),
            state: RunState::Created,
            address: None,
            host_ports: BTreeMap::new(),
            started_at: None,
            connected: true,
            health: (kind.capabilities().supervisor == Supervisor::Runtime).then(ReportedHealth::default),
        };
        let fake_unit = FakeUnit { observed, log_lines: Vec::new(), change_count: watch::Sender::new(0) };
        preview.units.insert(unit.name.clone(), fake_unit);
        Ok(StepOutcome { handle: Some(handle), ..StepOutcome::default() })
    }
}

pub(super) fn image_identity(unit: &str) -> String {
    format!("image-of-{unit}")
}
