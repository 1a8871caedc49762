//! Compares the desired state with the observed state and returns the steps that turn the observed into the desired.
//! Each step has its cause and only its real predecessors.
//!
//! It decides everything and performs nothing. The graph has an edge for each need and no barriers: images are prepared
//! at once, in parallel. A unit is created as soon as its image and volumes exist, and started as soon as the units it
//! needs are ready. The same input gives the same plan, byte for byte.

mod steps;
mod teardown;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use crate::application::{Application, Condition, JobTiming, Role, RuntimeKind, Unit, UnitName, VolumeSpec};
use crate::hash;
use crate::observed::{Images, Observed, ObservedUnit, RunState, RuntimeObject};
use crate::runtime::ObjectChanges;
use crate::step::{Action, Cause, Plan, StepId};

pub use teardown::{TeardownOptions, teardown};

use steps::Steps;
use verdict::Verdict;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CompareOptions {
    /// Replace every selected unit, changed or not.
    pub force: bool,
    /// Change only these units and leave all others as they are. `None` selects all.
    pub selected_units: Option<BTreeSet<UnitName>>,
    /// Secrets and sensitive values that differ from those of a unit's last start. They are not part of its hash.
    pub changed_inputs: BTreeMap<UnitName, Vec<String>>,
    /// Jobs to run now, even if they are done or are started only by `pdev run` (`when: manual`).
    pub jobs_to_run: BTreeSet<UnitName>,
}

impl CompareOptions {
    fn is_selected(&self, unit: &str) -> bool {
        self.selected_units.as_ref().is_none_or(|selected| selected.contains(unit))
    }
}

/// Adds the contents of a job's `inputs` to its hash. The caller hashes the files, because this crate reads none. Call
/// it before [`compare`], so that the hash label written at creation includes the inputs.
pub fn include_job_inputs(application: &mut Application, job_inputs: &BTreeMap<UnitName, String>) {
    for (name, inputs_hash) in job_inputs {
        if let Some(unit) = application.units.get_mut(name) {
            unit.hash = hash::with_inputs(&unit.hash, inputs_hash);
        }
    }
}

/// The steps that turn `observed` into `desired`. If nothing has to change, the plan contains only waits.
#[must_use]
pub fn compare(desired: &Application, observed: &Observed, images: &Images, options: &CompareOptions) -> Plan {
    let mut comparison = Comparison {
        desired,
        observed,
        images,
        options,
        verdicts: verdict::decide_all(desired, observed, images, options),
        steps: Steps::default(),
        image_steps: BTreeMap::new(),
        removal_steps: BTreeMap::new(),
        stray_removal_steps: Vec::new(),
        milestones: BTreeMap::new(),
        port_release_steps: BTreeMap::new(),
        volume_steps: BTreeMap::new(),
        network_steps: BTreeMap::new(),
    };
    comparison.add_network_and_volume_steps();
    comparison.add_image_steps();
    comparison.add_obsolete_removals();
    let order = start_order(desired);
    for name in &order {
        if let Some(unit) = desired.units.get(name) {
            comparison.add_unit_steps(unit);
        }
    }
    comparison.add_unused_network_removal();
    comparison.steps.into_plan()
}

/// The steps after which a unit is started, and after which it is ready (or, for a job, done).
#[derive(Clone, Copy, Default)]
struct Milestones {
    started: Option<StepId>,
    ready: Option<StepId>,
}

struct Comparison<'a> {
    desired: &'a Application,
    observed: &'a Observed,
    images: &'a Images,
    options: &'a CompareOptions,
    verdicts: BTreeMap<&'a str, Verdict>,
    steps: Steps,
    image_steps: BTreeMap<&'a str, StepId>,
    /// Unit -> the removal of its old object.
    removal_steps: BTreeMap<&'a str, StepId>,
    /// Removals of second objects. The unit's own creation waits for them, because object names may clash.
    stray_removal_steps: Vec<(&'a str, StepId)>,
    milestones: BTreeMap<&'a str, Milestones>,
    /// Host port -> the steps after which no unit of this preview holds it.
    port_release_steps: BTreeMap<u16, Vec<StepId>>,
    volume_steps: BTreeMap<&'a str, StepId>,
    network_steps: BTreeMap<RuntimeKind, StepId>,
}

impl<'a> Comparison<'a> {
    fn add_network_and_volume_steps(&mut self) {
        let units = self.desired.units.values().filter(|unit| self.should_run(unit) && uses_network(unit));
        let runtimes: BTreeSet<RuntimeKind> = units.map(|unit| unit.runtime).collect();
        for runtime in runtimes {
            if !self.observed.networks.iter().any(|network| network.runtime == runtime) {
                let id = self.steps.add(Action::CreateNetwork { runtime }, Vec::new(), Cause::Absent);
                self.network_steps.insert(runtime, id);
            }
        }
        for (volume, VolumeSpec { runtime, .. }) in &self.desired.volumes {
            if !self.observed.volumes.contains(&RuntimeObject { name: volume.clone(), runtime: *runtime }) {
                let action = Action::CreateVolume { runtime: *runtime, volume: volume.clone() };
                let id = self.steps.add(action, Vec::new(), Cause::Absent);
                self.volume_steps.insert(volume, id);
            }
        }
    }

    /// Prepares units with the same source one after the other, so that the second one reuses the first one's result.
    fn add_image_steps(&mut self) {
        let mut last_step_by_source: BTreeMap<(RuntimeKind, String), StepId> = BTreeMap::new();
        for (name, unit) in &self.desired.units {
            let Some(reason) = self.images.stale.get(name).filter(|_| self.should_run(unit)) else { continue };
            let source = (unit.runtime, unit.body.source_key());
            let after = last_step_by_source.get(&source).copied().into_iter().collect();
            let action = Action::PrepareImage { unit: name.clone(), runtime: unit.runtime };
            let id = self.steps.add(action, after, Cause::ImageStale { reason: reason.clone() });
            last_step_by_source.insert(source, id);
            self.image_steps.insert(name, id);
            if unit.runtime.capabilities().pushes_images {
                let action = Action::PushImage { unit: name.clone(), runtime: unit.runtime };
                self.image_steps.insert(name, self.steps.add(action, vec![id], Cause::Follows));
            }
        }
    }

    /// Removes strays, units that are no longer in the manifest, and old objects of replaced units. A replaced unit
    /// keeps running until its new image is ready, so a failing build costs nothing.
    fn add_obsolete_removals(&mut self) {
        for stray in self.observed.strays.iter().filter(|stray| self.options.is_selected(&stray.name)) {
            let id = self.add_removal_steps(stray, Vec::new(), &Cause::Stray);
            self.record_freed_ports(stray, id);
            self.stray_removal_steps.push((&stray.name, id));
        }
        for (name, old) in self.observed.units.iter().filter(|(name, _)| self.options.is_selected(name)) {
            let cause = match self.verdicts.get(name.as_str()) {
                None => Cause::Removed,
                Some(Verdict::Replace(_)) if self.is_changed_in_place(old) => continue,
                Some(Verdict::Replace(cause)) => cause.clone(),
                Some(_) => continue,
            };
            let after = self.image_steps.get(name.as_str()).copied().into_iter().collect();
            let id = self.add_removal_steps(old, after, &cause);
            self.record_freed_ports(old, id);
            self.removal_steps.insert(name, id);
        }
    }

    /// A job runs once, so a changed one needs a new object in any runtime.
    fn is_changed_in_place(&self, old: &ObservedUnit) -> bool {
        applies_changes(old.runtime)
            && self
                .desired
                .units
                .get(&old.name)
                .is_some_and(|unit| unit.runtime == old.runtime && unit.role != Role::Job)
    }

    fn add_removal_steps(&mut self, old: &ObservedUnit, after: Vec<StepId>, cause: &Cause) -> StepId {
        let (unit, runtime) = (old.name.clone(), old.runtime);
        if applies_changes(runtime) {
            return self.steps.add(steps::removal_action(old), after, cause.clone());
        }
        let removal = steps::removal_action(old);
        // `Stop` addresses a unit by name, so for a stray it would stop the unit itself. Remove a stray while it runs.
        if is_alive(&old.state) && *cause != Cause::Stray {
            let stop = self.steps.add(Action::Stop { unit, runtime }, after, cause.clone());
            self.steps.add(removal, vec![stop], Cause::Follows)
        } else {
            self.steps.add(removal, after, cause.clone())
        }
    }

    fn record_freed_ports(&mut self, old: &ObservedUnit, removal: StepId) {
        for port in old.host_ports.values() {
            self.port_release_steps.entry(*port).or_default().push(removal);
        }
    }

    fn add_unit_steps(&mut self, unit: &'a Unit) {
        let name = unit.name.as_str();
        let Some(verdict) = self.verdicts.get(name).cloned() else { return };
        let milestones = match verdict {
            Verdict::Leave => Milestones::default(),
            Verdict::Await => Milestones { started: None, ready: Some(self.add_wait_step(unit, Vec::new())) },
            Verdict::Connect => {
                let action = Action::Connect { unit: unit.name.clone(), runtime: unit.runtime };
                let network = self.network_steps.get(&unit.runtime).copied();
                let connected = self.steps.add(action, network.into_iter().collect(), Cause::LostNetwork);
                Milestones { started: Some(connected), ready: Some(self.add_wait_step(unit, vec![connected])) }
            }
            Verdict::Start(cause) | Verdict::Replace(cause) | Verdict::Create(cause)
                if applies_changes(unit.runtime) =>
            {
                self.add_apply_steps(unit, cause)
            }
            Verdict::Start(cause) => self.add_start_steps(unit, None, cause),
            Verdict::Replace(cause) | Verdict::Create(cause) => {
                let created = self.add_create_step(unit, cause);
                self.add_start_steps(unit, Some(created), Cause::Follows)
            }
        };
        self.milestones.insert(name, milestones);
    }

    fn add_create_step(&mut self, unit: &Unit, cause: Cause) -> StepId {
        let action = Action::Create { unit: unit.name.clone(), runtime: unit.runtime };
        self.steps.add(action, self.creation_prerequisites(unit).into_iter().collect(), cause)
    }

    /// The steps after which the object of a unit can be created.
    fn creation_prerequisites(&self, unit: &Unit) -> BTreeSet<StepId> {
        let name = unit.name.as_str();
        let mut after: BTreeSet<StepId> =
            self.removal_steps.get(name).into_iter().chain(self.image_steps.get(name)).copied().collect();
        after.extend(self.network_steps.get(&unit.runtime));
        after.extend(unit.body.volumes().iter().filter_map(|mount| self.volume_steps.get(mount.volume.as_str())));
        after.extend(self.stray_removal_steps.iter().filter(|(stray, _)| *stray == name).map(|&(_, id)| id));
        // The removal already waits for the image, so this edge would be redundant.
        if self.removal_steps.contains_key(name)
            && let Some(prepared) = self.image_steps.get(name)
        {
            after.remove(prepared);
        }
        after
    }

    fn add_start_steps(&mut self, unit: &Unit, created: Option<StepId>, cause: Cause) -> Milestones {
        let mut after: BTreeSet<StepId> = created.into_iter().collect();
        after.extend(self.start_prerequisites(unit));
        let action = Action::Start { unit: unit.name.clone(), runtime: unit.runtime };
        let started = self.steps.add(action, after.into_iter().collect(), cause);
        Milestones { started: Some(started), ready: Some(self.add_wait_step(unit, vec![started])) }
    }

    /// One step creates or changes the object and runs it.
    fn add_apply_steps(&mut self, unit: &Unit, cause: Cause) -> Milestones {
        let mut after = self.creation_prerequisites(unit);
        after.extend(self.start_prerequisites(unit));
        let action = Action::Apply { unit: unit.name.clone(), runtime: unit.runtime };
        let applied = self.steps.add(action, after.into_iter().collect(), cause);
        Milestones { started: Some(applied), ready: Some(self.add_wait_step(unit, vec![applied])) }
    }

    /// The steps after which a unit whose object exists can start: the units it needs are ready, and its ports are free.
    fn start_prerequisites(&self, unit: &Unit) -> Vec<StepId> {
        let mut after = self.prerequisite_steps(unit);
        let own_removal = self.removal_steps.get(unit.name.as_str()).copied();
        for port in unit.ports.values() {
            let releases = self.port_release_steps.get(&port.host_port).into_iter().flatten().copied();
            // The unit's own removal precedes its creation, so this edge would be redundant.
            after.extend(releases.filter(|&step| Some(step) != own_removal));
        }
        after
    }

    fn add_wait_step(&mut self, unit: &Unit, after: Vec<StepId>) -> StepId {
        let unit_name = unit.name.clone();
        let action = match unit.role {
            Role::Job => Action::AwaitExit { unit: unit_name },
            Role::Service | Role::Resource => Action::AwaitReady { unit: unit_name },
        };
        self.steps.add(action, after, Cause::Follows)
    }

    fn should_run(&self, unit: &Unit) -> bool {
        should_run(unit, self.options)
    }

    /// Steps that must finish before `unit` starts. Units that are not planned yet are ignored, so that a cycle of
    /// needs (refused elsewhere) cannot become a deadlock.
    fn prerequisite_steps(&self, unit: &Unit) -> Vec<StepId> {
        let need_steps = unit.needs.iter().filter_map(|(name, condition)| {
            let milestones = self.milestones.get(name.as_str())?;
            match condition {
                Condition::Started => milestones.started,
                Condition::Healthy | Condition::Completed => milestones.ready,
            }
        });
        let mut steps: Vec<StepId> = need_steps.collect();
        if unit.role == Role::Job && unit.when == JobTiming::After {
            let others = self.desired.units.values().filter(|other| other.role != Role::Job);
            steps.extend(others.filter_map(|other| self.milestones.get(other.name.as_str())?.ready));
        }
        steps
    }

    fn add_unused_network_removal(&mut self) {
        // A partial `up` must not remove the network: units that are not selected may still use it.
        if self.options.selected_units.is_some() {
            return;
        }
        let strays = self.stray_removal_steps.iter().map(|&(_, id)| id);
        let after: Vec<StepId> = self.removal_steps.values().copied().chain(strays).collect();
        for RuntimeObject { name, runtime } in &self.observed.networks {
            if !self.desired.units.values().any(|unit| unit.runtime == *runtime) {
                let removal = Action::RemoveNetwork { runtime: *runtime, name: name.clone() };
                self.steps.add(removal, after.clone(), Cause::Removed);
            }
        }
    }
}

/// Manual jobs belong to the desired state, so that they are not removed. Only `pdev run` starts them.
fn should_run(unit: &Unit, options: &CompareOptions) -> bool {
    let is_automatic = !(unit.role == Role::Job && unit.when == JobTiming::Manual);
    options.is_selected(&unit.name) && (is_automatic || options.jobs_to_run.contains(&unit.name))
}

fn uses_network(unit: &Unit) -> bool {
    unit.runtime.capabilities().has_preview_network
}

fn applies_changes(runtime: RuntimeKind) -> bool {
    runtime.capabilities().object_changes == ObjectChanges::Apply
}

fn is_alive(state: &RunState) -> bool {
    matches!(state, RunState::Running | RunState::Paused)
}

/// Needed units come first and `when: after` jobs last. Names decide between equals and inside a cycle.
fn start_order(desired: &Application) -> Vec<UnitName> {
    fn visit(name: &UnitName, desired: &Application, visited: &mut BTreeSet<UnitName>, order: &mut Vec<UnitName>) {
        if !visited.insert(name.clone()) {
            return;
        }
        let Some(unit) = desired.units.get(name) else { return };
        for needed in unit.needs.keys() {
            visit(needed, desired, visited, order);
        }
        order.push(name.clone());
    }
    let (mut visited, mut order) = (BTreeSet::new(), Vec::new());
    let runs_last = |unit: &Unit| unit.role == Role::Job && unit.when == JobTiming::After;
    for last in [false, true] {
        for (name, _) in desired.units.iter().filter(|(_, unit)| runs_last(unit) == last) {
            visit(name, desired, &mut visited, &mut order);
        }
    }
    order
}
