//! The operation `stop`: some units end and rest, the others go on. What rests is remembered, so that neither the agent's
//! nor the engine's next start brings it back; an `up` that means it does.

use std::collections::BTreeMap;
use std::time::Instant;

use plan::application::UnitName;
use plan::lifecycle;
use protocol::status::{PreviewState, UnitState};
use protocol::{EventKind, Problem};

use super::{Context, execute, naming};
use crate::convert;
use crate::registry::Record;

pub(super) async fn run(context: Context, units: Vec<UnitName>) {
    let begun = Instant::now();
    let (problems, unchanged) = match stop_units(&context, &units).await {
        Ok(outcome) => outcome,
        Err(problem) => (vec![problem], false),
    };
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    for problem in &problems {
        context.published.set_problem(problem.unit.as_deref().unwrap_or_default(), problem.clone());
    }
    let mut status = context.published.status();
    let kind = if problems.is_empty() {
        // What the units say together once nothing is under way.
        status.state = if status.units.iter().any(|unit| is_running(unit.state)) {
            PreviewState::Degraded
        } else {
            PreviewState::Down
        };
        EventKind::Finished { status, milliseconds, unchanged }
    } else {
        status.state = PreviewState::Failed;
        EventKind::Failed { problems, status, milliseconds }
    };
    context.published.publish_event(kind);
    context.published.end_operation(None);
    context.shared.routing.refresh(&context.shared, &context.id);
}

async fn stop_units(context: &Context, units: &[UnitName]) -> Result<(Vec<Problem>, bool), Problem> {
    let scope = context.live.scope().ok_or_else(|| Problem::new("not_running", 409, "nothing runs here"))?;
    let noted = context.shared.registry.edit(&context.id, |record| record.stopped_units.extend(units.iter().cloned()));
    noted.map_err(|error| naming::state_write_problem(&error))?;
    let rests = |unit: &UnitName| {
        let state = context.published.unit_status(unit).map(|status| status.state);
        matches!(state, None | Some(UnitState::Stopped | UnitState::Done))
    };
    let plan = lifecycle::stop(&scope.application, |unit| units.contains(&unit.name) && !rests(&unit.name));
    context.published.publish_event(EventKind::Planned { plan: convert::plan_view(&plan) });
    let problems = execute::execute_plan(context, &scope, &plan, BTreeMap::new()).await;
    for step in plan.steps.iter().filter_map(|step| step.action.unit()) {
        context.published.edit_unit(step, |status| {
            if status.state == UnitState::Stopped {
                status.reason = None;
                status.restarts = 0;
            }
        });
    }
    Ok((problems, plan.has_no_changes()))
}

/// After the agent was started again: what was stopped is shown so, and its exit is no crash.
pub(super) fn restore_stopped(context: &Context, record: &Record) {
    for unit in &record.stopped_units {
        context.live.expect_stop(unit, true);
        context.published.edit_unit(unit, |status| status.state = UnitState::Stopped);
    }
}

/// What is started again, by name or with all, rests no more.
pub(super) fn clear_stopped(context: &Context, units: &[UnitName]) {
    let written = context.shared.registry.edit(&context.id, |record| {
        record.stopped_units.retain(|unit| !units.is_empty() && !units.contains(unit));
    });
    if let Err(error) = written {
        context.published.publish_event(EventKind::Noted { text: naming::state_write_problem(&error).title });
    }
}

fn is_running(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy | UnitState::Restarting)
}
