//! What the fake runtime holds: previews, their units, and what the test has ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit};
use plan::observed::{ObservedUnit, RunState};
use plan::step::Action;
use tokio::sync::{Semaphore, watch};

use super::Script;
use crate::driver::{LogLine, Performed, Problem, ProblemKind, ProgressLine, Scope};

#[derive(Default)]
pub(super) struct State {
    pub(super) previews: BTreeMap<PreviewId, Preview>,
    pub(super) scripts: BTreeMap<String, Script>,
    pub(super) failures: Vec<(String, Problem)>,
    pub(super) gates: BTreeMap<String, (Arc<Semaphore>, watch::Sender<usize>)>,
    pub(super) performed: Vec<String>,
    pub(super) gone: Option<String>,
    /// Stands in for time and for random handles.
    pub(super) ticks: i64,
}

pub(super) struct Preview {
    pub(super) name: PreviewName,
    pub(super) project: PathBuf,
    pub(super) units: BTreeMap<String, Made>,
    pub(super) strays: Vec<ObservedUnit>,
    pub(super) networks: BTreeSet<String>,
    pub(super) volumes: BTreeSet<String>,
}

pub(super) struct Made {
    pub(super) seen: ObservedUnit,
    pub(super) lines: Vec<LogLine>,
    /// Counts changes of lines and state, for followers of the log.
    pub(super) changed: watch::Sender<u64>,
}

/// What a step is called in `FakeDriver::performed` and by who holds it or makes it fail.
pub(super) fn title(action: &Action) -> String {
    match action {
        Action::CreateNetwork => "create-network".to_owned(),
        Action::RemoveNetwork { .. } => "remove-network".to_owned(),
        Action::CreateVolume { volume } => format!("create-volume {volume}"),
        Action::RemoveVolume { volume } => format!("remove-volume {volume}"),
        Action::PrepareImage { unit, .. } => format!("prepare {unit}"),
        Action::Create { unit, .. } => format!("create {unit}"),
        Action::Start { unit, .. } => format!("start {unit}"),
        Action::Stop { unit, .. } => format!("stop {unit}"),
        Action::Remove { unit, .. } => format!("remove {unit}"),
        Action::Connect { unit, .. } => format!("connect {unit}"),
        Action::AwaitReady { unit } => format!("await-ready {unit}"),
        Action::AwaitExit { unit } => format!("await-exit {unit}"),
    }
}

impl Made {
    pub(super) fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Preview {
    pub(super) fn set(&mut self, action: &Action) {
        match action {
            Action::CreateNetwork => drop(self.networks.insert(self.name.object_prefix())),
            Action::RemoveNetwork { name } => drop(self.networks.remove(name)),
            Action::CreateVolume { volume } => drop(self.volumes.insert(volume.clone())),
            Action::RemoveVolume { volume } => drop(self.volumes.remove(volume)),
            Action::Connect { unit, .. } => {
                if let Some(made) = self.units.get_mut(unit) {
                    made.seen.connected = true;
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

    pub(super) fn made(&mut self, preview: &PreviewId, unit: &str) -> Option<&mut Made> {
        self.previews.get_mut(preview)?.units.get_mut(unit)
    }

    pub(super) fn preview(&mut self, scope: &Scope) -> &mut Preview {
        self.previews.entry(scope.preview.id.clone()).or_insert_with(|| Preview {
            name: scope.preview.clone(),
            project: scope.places.project.clone(),
            units: BTreeMap::new(),
            strays: Vec::new(),
            networks: BTreeSet::new(),
            volumes: BTreeSet::new(),
        })
    }

    pub(super) fn prepare(&mut self, scope: &Scope, unit: &str) -> Result<Performed, Problem> {
        let script = self.scripts.entry(unit.to_owned()).or_default();
        if let Some(lines) = &script.build_fails {
            for line in lines {
                scope.progress.line(unit, ProgressLine::BuildOutput(line.clone()));
            }
            let problem = Problem::new(ProblemKind::BuildFailed, format!("the build of `{unit}` failed"));
            return Err(problem.output(lines.clone()));
        }
        script.stale = None;
        Ok(Performed { image: Some(image(unit)), ..Performed::default() })
    }

    pub(super) fn create(&mut self, scope: &Scope, unit: &Unit, kind: RuntimeKind) -> Result<Performed, Problem> {
        let handle = format!("{}-{}", unit.name, self.tick());
        let preview = self.preview(scope);
        if let Some(made) = preview.units.get(&unit.name) {
            if made.seen.hash == unit.hash {
                return Ok(Performed { handle: Some(made.seen.handle.clone()), ..Performed::default() });
            }
            if made.seen.state == RunState::Running {
                let message = format!("`{}` still runs as it was before the change", unit.name);
                return Err(Problem::new(ProblemKind::Refused, message));
            }
        }
        let seen = ObservedUnit {
            name: unit.name.clone(),
            runtime: kind,
            handle: handle.clone(),
            hash: unit.hash.clone(),
            image: Some(image(&unit.name)),
            state: RunState::Created,
            address: None,
            host_ports: BTreeMap::new(),
            started_at: None,
            connected: true,
        };
        let made = Made { seen, lines: Vec::new(), changed: watch::Sender::new(0) };
        preview.units.insert(unit.name.clone(), made);
        Ok(Performed { handle: Some(handle), ..Performed::default() })
    }
}

pub(super) fn image(unit: &str) -> String {
    format!("image-of-{unit}")
}
