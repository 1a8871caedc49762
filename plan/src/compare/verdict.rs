//! Decides for each unit whether to keep, start, create or replace it. Steps and their order are decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::{CompareOptions, should_run};
use crate::application::{Application, Role, Unit};
use crate::hash;
use crate::observed::{Images, Observed, ObservedUnit, RunState};
use crate::runtime::Addressing;
use crate::step::Cause;
use crate::text;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Verdict {
    /// Nothing to do and nothing to wait for: a job that is done or manual, or a unit that is not selected.
    Leave,
    /// The unit is as desired: only wait for its health.
    Await,
    /// Attach the running container to the preview's network again.
    Connect,
    Start(Cause),
    Create(Cause),
    /// Stop and remove the old object, then create.
    Replace(Cause),
}

pub(super) fn decide_all<'a>(
    desired: &'a Application,
    observed: &Observed,
    images: &Images,
    options: &CompareOptions,
) -> BTreeMap<&'a str, Verdict> {
    let mut verdicts = BTreeMap::new();
    for (name, unit) in &desired.units {
        let verdict = match observed.units.get(name) {
            _ if !should_run(unit, options) => Verdict::Leave,
            Some(old) if options.jobs_to_run.contains(name) => decide_requested_job(old),
            None => Verdict::Create(creation_cause(unit)),
            Some(old) => decide_existing_unit(unit, old, images, options),
        };
        verdicts.insert(name.as_str(), verdict);
    }
    replace_dependents_of_moved_ports(desired, observed, &mut verdicts);
    verdicts
}

/// For a job that the user requested. If it already runs, wait for it: two concurrent runs could interfere.
fn decide_requested_job(old: &ObservedUnit) -> Verdict {
    match old.state {
        RunState::Running => Verdict::Await,
        _ => Verdict::Replace(Cause::JobDue { reason: "requested".to_owned() }),
    }
}

fn creation_cause(unit: &Unit) -> Cause {
    match unit.role {
        Role::Job => Cause::JobDue { reason: "it has not run yet".to_owned() },
        Role::Service | Role::Resource => Cause::Absent,
    }
}

fn decide_existing_unit(unit: &Unit, old: &ObservedUnit, images: &Images, options: &CompareOptions) -> Verdict {
    if let Some(cause) = replacement_cause(unit, old, images, options) {
        return Verdict::Replace(cause);
    }
    let is_job = unit.role == Role::Job;
    match &old.state {
        RunState::Exited(exit) if is_job && exit.success() => Verdict::Leave,
        RunState::Exited(exit) if is_job => {
            Verdict::Start(Cause::JobDue { reason: format!("its last run {}", text::describe_exit(exit)) })
        }
        RunState::Running if has_lost_network(old) => Verdict::Connect,
        RunState::Running => Verdict::Await,
        state => Verdict::Start(Cause::NotRunning { was: text::describe_state(state) }),
    }
}

/// The first reason that applies, strongest first.
fn replacement_cause(unit: &Unit, old: &ObservedUnit, images: &Images, options: &CompareOptions) -> Option<Cause> {
    if options.force {
        return Some(Cause::Forced);
    }
    if old.runtime != unit.runtime {
        return Some(Cause::RuntimeChanged);
    }
    if old.hash != unit.hash {
        return Some(change_cause(unit, hash::changed_fields(&old.hash, &unit.hash)));
    }
    if let Some(names) = options.changed_inputs.get(&unit.name).filter(|_| unit.role != Role::Job) {
        return Some(Cause::Changed { fields: names.clone() });
    }
    if let Some(reason) = images.stale.get(&unit.name) {
        return Some(Cause::ImageStale { reason: reason.clone() });
    }
    if let (Some(current), Some(used)) = (images.current.get(&unit.name), &old.image)
        && current != used
    {
        return Some(Cause::ImageChanged);
    }
    // A finished job publishes no port and uses no network, so neither is a reason to run it again.
    if unit.role == Role::Job && matches!(old.state, RunState::Exited(_)) {
        return None;
    }
    // The engine refuses to start a container whose network is gone, so `Connect` cannot repair a stopped container.
    if has_lost_network(old) && old.state != RunState::Running {
        return Some(Cause::LostNetwork);
    }
    let moved = moved_ports(unit, old);
    (!moved.is_empty()).then(|| change_cause(unit, moved))
}

fn has_lost_network(old: &ObservedUnit) -> bool {
    old.runtime.capabilities().has_preview_network && !old.connected
}

fn change_cause(unit: &Unit, fields: Vec<String>) -> Cause {
    if unit.role != Role::Job {
        return Cause::Changed { fields };
    }
    let reason = match fields.as_slice() {
        [] => "its definition changed".to_owned(),
        [only] if only == "inputs" => "its inputs changed".to_owned(),
        fields => format!("changed: {}", fields.join(", ")),
    };
    Cause::JobDue { reason }
}

/// Host ports are not part of the hash. A different host port means that the port registry was lost, or that the user
/// set another fixed port.
fn moved_ports(unit: &Unit, old: &ObservedUnit) -> Vec<String> {
    unit.ports
        .iter()
        .filter(|(name, port)| old.host_ports.get(*name).is_some_and(|&host| host != port.host_port))
        .map(|(name, _)| format!("ports.{name}.host"))
        .collect()
}

/// A unit without a network of its own is started with the host ports of the units it needs, so it is replaced when one
/// of them moves.
fn replace_dependents_of_moved_ports<'a>(
    desired: &'a Application,
    observed: &Observed,
    verdicts: &mut BTreeMap<&'a str, Verdict>,
) {
    let moved: BTreeSet<&str> = desired
        .units
        .iter()
        .filter(|(name, unit)| observed.units.get(*name).is_some_and(|old| !moved_ports(unit, old).is_empty()))
        .map(|(name, _)| name.as_str())
        .collect();
    for (name, unit) in &desired.units {
        let uses_host_ports = unit.runtime.capabilities().addressing == Addressing::Loopback;
        if !uses_host_ports || !observed.units.contains_key(name) {
            continue;
        }
        let Some(needed) = unit.needs.keys().find(|needed| moved.contains(needed.as_str())) else { continue };
        if let Some(verdict @ (Verdict::Await | Verdict::Start(_))) = verdicts.get_mut(name.as_str()) {
            *verdict = Verdict::Replace(Cause::Needs { unit: needed.clone() });
        }
    }
}
