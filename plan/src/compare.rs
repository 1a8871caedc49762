//! Desired against observed: the steps that turn one into the other, each with its cause and its real predecessors.
//!
//! Decides everything, does nothing, asks nobody. The graph has an edge for each need and no barriers: images are
//! prepared at once, in parallel; a unit is created as soon as its image and volumes are there, and started as soon as
//! what it needs is ready. Same input, same plan, byte for byte.

mod steps;
mod teardown;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use crate::application::{Application, Body, Condition, JobTiming, Role, RuntimeKind, Unit, UnitName};
use crate::hash;
use crate::observed::{Images, Observed, ObservedUnit, RunState};
use crate::step::{Action, Cause, Plan, StepId};

pub use teardown::{TeardownOptions, teardown};

use steps::Steps;
use verdict::Verdict;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CompareOptions {
    /// Replace everything, changed or not.
    pub force: bool,
    /// Touch only these units; whatever else exists stays as it is. Everything when `None`.
    pub selected_units: Option<BTreeSet<UnitName>>,
    /// Jobs to run now, even those that are done or that nobody but `pdev run` starts.
    pub jobs_to_run: BTreeSet<UnitName>,
}

impl CompareOptions {
    fn is_selected(&self, unit: &str) -> bool {
        self.selected_units.as_ref().is_none_or(|chosen| chosen.contains(unit))
    }
}

/// Makes a job's hash depend on the contents of its `inputs`, hashed by the caller (only it can read files). Call it
/// before [`compare`], so that the label written at creation holds them too.
pub fn include_job_inputs(application: &mut Application, job_inputs: &BTreeMap<UnitName, String>) {
    for (name, inputs) in job_inputs {
        if let Some(unit) = application.units.get_mut(name) {
            unit.hash = hash::with_inputs(&unit.hash, inputs);
        }
    }
}

/// The steps from what is there to what is wanted; empty but for the waits when nothing has to change.
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
        network_step: None,
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

/// Which steps tell that a unit is started, and that it is ready or done.
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
    /// The removal of a unit's old object.
    removal_steps: BTreeMap<&'a str, StepId>,
    /// Removals of second objects; the unit's own creation waits, because names may clash.
    stray_removal_steps: Vec<(&'a str, StepId)>,
    milestones: BTreeMap<&'a str, Milestones>,
    /// Host port -> the step after which nobody of this preview holds it any more.
    port_release_steps: BTreeMap<u16, Vec<StepId>>,
    volume_steps: BTreeMap<&'a str, StepId>,
    network_step: Option<StepId>,
}

impl<'a> Comparison<'a> {
    fn add_network_and_volume_steps(&mut self) {
        let has_containers = self.desired.units.values().any(|unit| self.should_run(unit) && is_container(unit));
        if has_containers && self.observed.networks.is_empty() {
            self.network_step = Some(self.steps.add(Action::CreateNetwork, Vec::new(), Cause::Absent));
        }
        for volume in self.desired.volumes.keys().filter(|volume| !self.observed.volumes.contains(*volume)) {
            let action = Action::CreateVolume { volume: volume.clone() };
            let id = self.steps.add(action, Vec::new(), Cause::Absent);
            self.volume_steps.insert(volume, id);
        }
    }

    /// Units with the same source are prepared one after the other: the second finds the first one's result.
    fn add_image_steps(&mut self) {
        let mut same_source: BTreeMap<String, StepId> = BTreeMap::new();
        for (name, unit) in &self.desired.units {
            let Some(reason) = self.images.stale.get(name).filter(|_| self.should_run(unit)) else { continue };
            let source = source_key(unit);
            let after = same_source.get(&source).copied().into_iter().collect();
            let action = Action::PrepareImage { unit: name.clone(), runtime: unit.body.runtime() };
            let id = self.steps.add(action, after, Cause::ImageStale { reason: reason.clone() });
            same_source.insert(source, id);
            self.image_steps.insert(name, id);
        }
    }

    /// Old objects of replaced units, units that left the manifest, strays. A replaced unit keeps running until its
    /// new image is there, so a failing build costs nothing.
    fn add_obsolete_removals(&mut self) {
        for stray in self.observed.strays.iter().filter(|stray| self.options.is_selected(&stray.name)) {
            let id = self.add_removal_steps(stray, Vec::new(), &Cause::Stray);
            self.record_freed_ports(stray, id);
            self.stray_removal_steps.push((&stray.name, id));
        }
        for (name, old) in self.observed.units.iter().filter(|(name, _)| self.options.is_selected(name)) {
            let cause = match self.verdicts.get(name.as_str()) {
                None => Cause::Removed,
                Some(Verdict::Replace(cause)) => cause.clone(),
                Some(_) => continue,
            };
            let after = self.image_steps.get(name.as_str()).copied().into_iter().collect();
            let id = self.add_removal_steps(old, after, &cause);
            self.record_freed_ports(old, id);
            self.removal_steps.insert(name, id);
        }
    }

    fn add_removal_steps(&mut self, old: &ObservedUnit, after: Vec<StepId>, cause: &Cause) -> StepId {
        let (unit, runtime) = (old.name.clone(), old.runtime);
        let removal = Action::Remove { unit: unit.clone(), runtime, handle: old.handle.clone() };
        // A stray is removed by its handle while running: stopping by name would stop the unit itself.
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
                let action = Action::Connect { unit: unit.name.clone(), runtime: unit.body.runtime() };
                let connected = self.steps.add(action, self.network_step.into_iter().collect(), Cause::LostNetwork);
                Milestones { started: Some(connected), ready: Some(self.add_wait_step(unit, vec![connected])) }
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
        let name = unit.name.as_str();
        let mut after: BTreeSet<StepId> =
            self.removal_steps.get(name).into_iter().chain(self.image_steps.get(name)).copied().collect();
        if let Body::Container(container) = &unit.body {
            after.extend(self.network_step);
            after.extend(container.volumes.iter().filter_map(|(volume, _)| self.volume_steps.get(volume.as_str())));
        }
        after.extend(self.stray_removal_steps.iter().filter(|(stray, _)| *stray == name).map(|&(_, id)| id));
        // The removal already waits for the image; one edge says it.
        if self.removal_steps.contains_key(name)
            && let Some(prepared) = self.image_steps.get(name)
        {
            after.remove(prepared);
        }
        let action = Action::Create { unit: unit.name.clone(), runtime: unit.body.runtime() };
        self.steps.add(action, after.into_iter().collect(), cause)
    }

    fn add_start_steps(&mut self, unit: &Unit, created: Option<StepId>, cause: Cause) -> Milestones {
        let mut after: BTreeSet<StepId> = created.into_iter().collect();
        after.extend(self.prerequisite_steps(unit));
        let own_removal = self.removal_steps.get(unit.name.as_str()).copied();
        for port in unit.ports.values() {
            let freed = self.port_release_steps.get(&port.host_port).into_iter().flatten().copied();
            after.extend(freed.filter(|&step| Some(step) != own_removal));
        }
        let action = Action::Start { unit: unit.name.clone(), runtime: unit.body.runtime() };
        let started = self.steps.add(action, after.into_iter().collect(), cause);
        Milestones { started: Some(started), ready: Some(self.add_wait_step(unit, vec![started])) }
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

    /// Only units already planned count, so that a cycle (refused elsewhere) can never become a deadlock here.
    fn prerequisite_steps(&self, unit: &Unit) -> Vec<StepId> {
        let by_need = unit.needs.iter().filter_map(|(name, condition)| {
            let milestones = self.milestones.get(name.as_str())?;
            match condition {
                Condition::Started => milestones.started,
                Condition::Healthy | Condition::Completed => milestones.ready,
            }
        });
        let mut steps: Vec<StepId> = by_need.collect();
        if unit.role == Role::Job && unit.when == JobTiming::After {
            let others = self.desired.units.values().filter(|other| other.role != Role::Job);
            steps.extend(others.filter_map(|other| self.milestones.get(other.name.as_str())?.ready));
        }
        steps
    }

    fn add_unused_network_removal(&mut self) {
        if self.options.selected_units.is_some() || self.desired.units.values().any(is_container) {
            return;
        }
        let strays = self.stray_removal_steps.iter().map(|&(_, id)| id);
        let after: Vec<StepId> = self.removal_steps.values().copied().chain(strays).collect();
        for name in &self.observed.networks {
            self.steps.add(Action::RemoveNetwork { name: name.clone() }, after.clone(), Cause::Removed);
        }
    }
}

/// Jobs that only `pdev run` starts are known, so that they are not removed, but never brought up.
fn should_run(unit: &Unit, options: &CompareOptions) -> bool {
    let by_itself = !(unit.role == Role::Job && unit.when == JobTiming::Manual);
    options.is_selected(&unit.name) && (by_itself || options.jobs_to_run.contains(&unit.name))
}

fn is_container(unit: &Unit) -> bool {
    unit.body.runtime() == RuntimeKind::Docker
}

fn is_alive(state: &RunState) -> bool {
    matches!(state, RunState::Running | RunState::Paused)
}

fn source_key(unit: &Unit) -> String {
    match &unit.body {
        Body::Container(container) => format!("{:?}", container.image),
        Body::Process(process) => format!("{:?} {:?}", process.dir, process.build),
    }
}

/// Needed units first, names decide between equals; jobs for afterwards last. Members of a cycle come by name.
fn start_order(desired: &Application) -> Vec<UnitName> {
    fn visit(name: &UnitName, desired: &Application, seen: &mut BTreeSet<UnitName>, order: &mut Vec<UnitName>) {
        if !seen.insert(name.clone()) {
            return;
        }
        let Some(unit) = desired.units.get(name) else { return };
        for needed in unit.needs.keys() {
            visit(needed, desired, seen, order);
        }
        order.push(name.clone());
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    let last = |unit: &Unit| unit.role == Role::Job && unit.when == JobTiming::After;
    for pass in [false, true] {
        for (name, _) in desired.units.iter().filter(|(_, unit)| last(unit) == pass) {
            visit(name, desired, &mut seen, &mut order);
        }
    }
    order
}
