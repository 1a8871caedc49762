//! Plans that change nothing of what is wanted: stopping chosen units, and starting them again.
//!
//! Nothing is compared: who asks for a restart wants it though nothing changed.

use crate::application::{Application, Role, Unit};
use crate::step::{Action, Cause, Plan, Step};

/// Stops those that are meant, each after the ones that need it. Jobs end by themselves.
#[must_use]
pub fn stop(application: &Application, is_meant: impl Fn(&Unit) -> bool) -> Plan {
    Plan { steps: stop_steps(&in_dependency_order(application, is_meant)) }
}

/// Stops them as [`stop`] does, and starts each as soon as what it needs is ready again.
#[must_use]
pub fn restart(application: &Application, is_meant: impl Fn(&Unit) -> bool) -> Plan {
    let units = in_dependency_order(application, is_meant);
    let mut steps = stop_steps(&units);
    for unit in units {
        let (runtime, name) = (unit.body.runtime(), &unit.name);
        let is_awaited = |step: &&Step| match &step.action {
            Action::Stop { unit: stopped, .. } => stopped == name,
            Action::AwaitReady { unit: ready } => unit.needs.contains_key(ready),
            _ => false,
        };
        let after = steps.iter().filter(is_awaited).map(|step| step.id).collect();
        let start = push_step(&mut steps, Action::Start { unit: name.clone(), runtime }, after);
        push_step(&mut steps, Action::AwaitReady { unit: name.clone() }, vec![start]);
    }
    Plan { steps }
}

fn stop_steps(units: &[&Unit]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for unit in units.iter().rev() {
        let needs_it = |step: &&Step| {
            let stopped = units.iter().find(|one| step.action.unit() == Some(&one.name));
            stopped.is_some_and(|one| one.needs.contains_key(&unit.name))
        };
        let after = steps.iter().filter(needs_it).map(|step| step.id).collect();
        push_step(&mut steps, Action::Stop { unit: unit.name.clone(), runtime: unit.body.runtime() }, after);
    }
    steps
}

fn push_step(steps: &mut Vec<Step>, action: Action, after: Vec<usize>) -> usize {
    let id = steps.len();
    steps.push(Step { id, action, after, cause: Cause::Forced, destroys: None });
    id
}

/// Each after what it needs, where that is meant too.
fn in_dependency_order(application: &Application, is_meant: impl Fn(&Unit) -> bool) -> Vec<&Unit> {
    let is_chosen = |unit: &&Unit| unit.role != Role::Job && is_meant(unit);
    let mut left: Vec<&Unit> = application.units.values().filter(is_chosen).collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let waits = |unit: &&Unit| left.iter().any(|other| unit.needs.contains_key(&other.name));
        let (later, next): (Vec<&Unit>, Vec<&Unit>) = left.iter().copied().partition(waits);
        if next.is_empty() {
            // No manifest with a cycle comes this far.
            ordered.extend(later);
            break;
        }
        ordered.extend(next);
        left = later;
    }
    ordered
}
