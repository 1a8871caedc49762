//! The operation `stop`: stops some units and leaves the others running.
//!
//! Stopped units are recorded, so that a restart of the agent or of the engine does not start them. An `up` that
//! selects them does.

use std::collections::BTreeMap;
use std::time::Instant;

use plan::application::UnitName;
use plan::lifecycle;
use protocol::status::UnitState;
use protocol::{EventKind, Problem};

use super::outcome::Outcome;
use super::{Context, execute};
use crate::convert;
use crate::registry::Record;

pub(super) async fn run(context: Context, units: Vec<UnitName>) -> Outcome {
    let begun = Instant::now();
    Outcome::new(stop_units(&context, &units).await, begun)
}

async fn stop_units(context: &Context, units: &[UnitName]) -> Result<(Vec<Problem>, bool), Problem> {
    let scope = context.live.scope().ok_or_else(|| Problem::new("not_running", 409, "the preview is down"))?;
    // Record the stop before the first step, so that a recovery after a crash does not start the units again.
    let recorded =
        context.shared.registry.edit(&context.id, |record| record.stopped_units.extend(units.iter().cloned()));
    recorded.map_err(|error| convert::state_write_problem(&error))?;
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
        context.live.order_stop(unit);
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
        context.published.publish_event(EventKind::Noted { text: convert::state_write_problem(&error).title });
    }
}
