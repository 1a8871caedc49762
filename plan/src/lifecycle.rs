//! Plans that stop or restart selected units without changing the desired state.
//!
//! The observed state is not compared: a user who requests a restart wants it even if nothing changed.

use crate::application::{Application, Role, Unit};
use crate::step::{Action, Cause, Plan, Step};

/// Stops the selected units, each after the units that need it. Jobs are not stopped: they end by themselves.
#[must_use]
pub fn stop(application: &Application, is_selected: impl Fn(&Unit) -> bool) -> Plan {
    Plan { steps: stop_steps(&in_dependency_order(application, is_selected)) }
}

/// Stops the selected units like [`stop`], then starts each as soon as the units it needs are ready again.
#[must_use]
pub fn restart(application: &Application, is_selected: impl Fn(&Unit) -> bool) -> Plan {
    let units = in_dependency_order(application, is_selected);
    let mut steps = stop_steps(&units);
    for unit in units {
        let (runtime, name) = (unit.runtime, &unit.name);
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
            let stopped = units.iter().find(|stopped| step.action.unit() == Some(&stopped.name));
            stopped.is_some_and(|stopped| stopped.needs.contains_key(&unit.name))
        };
        let after = steps.iter().filter(needs_it).map(|step| step.id).collect();
        push_step(&mut steps, Action::Stop { unit: unit.name.clone(), runtime: unit.runtime }, after);
    }
    steps
}

fn push_step(steps: &mut Vec<Step>, action: Action, after: Vec<usize>) -> usize {
    let id = steps.len();
    steps.push(Step { id, action, after, cause: Cause::Forced, destroys: None });
    id
}

/// The selected units except jobs, each after the selected units that it needs.
fn in_dependency_order(application: &Application, is_selected: impl Fn(&Unit) -> bool) -> Vec<&Unit> {
    let is_candidate = |unit: &&Unit| unit.role != Role::Job && is_selected(unit);
    let mut remaining: Vec<&Unit> = application.units.values().filter(is_candidate).collect();
    let mut ordered = Vec::new();
    while !remaining.is_empty() {
        let is_blocked = |unit: &&Unit| remaining.iter().any(|other| unit.needs.contains_key(&other.name));
        let (blocked, ready): (Vec<&Unit>, Vec<&Unit>) = remaining.iter().copied().partition(is_blocked);
        if ready.is_empty() {
            // The manifest reader rejects cycles. If one gets here, order it by name instead of looping forever.
            ordered.extend(blocked);
            break;
        }
        ordered.extend(ready);
        remaining = blocked;
    }
    ordered
}
