//! The operation `stop`: stops some units and leaves the others running.
//!
//! Stopped units are recorded, so that a restart of the agent or of the engine does not start them. An `up` that
//! selects them does.

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
        // The event must report the state after the operation, but the operation's own phase is still published.
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
    let scope = context.live.scope().ok_or_else(|| Problem::new("not_running", 409, "the preview is down"))?;
    // Record the stop before the first step, so that a recovery after a crash does not start the units again.
    let recorded =
        context.shared.registry.edit(&context.id, |record| record.stopped_units.extend(units.iter().cloned()));
    recorded.map_err(|error| naming::state_write_problem(&error))?;
    let is_stopped = |unit: &UnitName| {
        let state = context.published.unit_status(unit).map(|status| status.state);
        matches!(state, None | Some(UnitState::Stopped | UnitState::Done))
    };
    let plan = lifecycle::stop(&scope.application, |unit| units.contains(&unit.name) && !is_stopped(&unit.name));
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

/// Publishes recorded units as stopped after a restart of the agent. Their exit does not count as a crash.
pub(super) fn restore_stopped(context: &Context, record: &Record) {
    for unit in &record.stopped_units {
        context.live.expect_stop(unit, true);
        context.published.edit_unit(unit, |status| status.state = UnitState::Stopped);
    }
}

/// Removes restarted units from the record of stopped units; all units if the list is empty.
pub(super) fn clear_stopped(context: &Context, units: &[UnitName]) {
    let recorded = context.shared.registry.edit(&context.id, |record| {
        record.stopped_units.retain(|unit| !units.is_empty() && !units.contains(unit));
    });
    // A note only: the restart itself works, but the next recovery still treats the units as stopped.
    if let Err(error) = recorded {
        context.published.publish_event(EventKind::Noted { text: naming::state_write_problem(&error).title });
    }
}

fn is_running(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy | UnitState::Restarting)
}
