//! The operation `stop`: some units end and rest, the others go on. What rests is remembered, so that neither the agent's
//! nor the engine's next start brings it back; an `up` that means it does.

use std::collections::BTreeMap;
use std::time::Instant;

use plan::application::UnitName;
use plan::rerun;
use protocol::status::{PreviewState, UnitState};
use protocol::{EventKind, Problem};

use super::{Context, execute, naming};
use crate::convert;
use crate::registry::Record;

pub(super) async fn stop(context: Context, units: Vec<UnitName>) {
    let begun = Instant::now();
    let (problems, unchanged) = match stop_all(&context, &units).await {
        Ok(outcome) => outcome,
        Err(problem) => (vec![problem], false),
    };
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    for problem in &problems {
        context.board.set_problem(problem.unit.as_deref().unwrap_or_default(), problem.clone());
    }
    let mut status = context.board.status();
    let kind = if problems.is_empty() {
        // What the units say together once nothing is under way.
        status.state =
            if status.units.iter().any(|unit| runs(unit.state)) { PreviewState::Degraded } else { PreviewState::Down };
        EventKind::Finished { status, milliseconds, unchanged }
    } else {
        status.state = PreviewState::Failed;
        EventKind::Failed { problems, status, milliseconds }
    };
    context.board.publish(kind);
    context.board.end(None);
    context.shared.routing.refresh(&context.shared, &context.id);
}

async fn stop_all(context: &Context, units: &[UnitName]) -> Result<(Vec<Problem>, bool), Problem> {
    let scope = context.live.scope().ok_or_else(|| Problem::new("not_running", 409, "nothing runs here"))?;
    let noted = context.shared.registry.edit(&context.id, |record| record.resting.extend(units.iter().cloned()));
    noted.map_err(|error| naming::state_problem(&error))?;
    let rests = |unit: &UnitName| {
        let state = context.board.unit(unit).map(|status| status.state);
        matches!(state, None | Some(UnitState::Stopped | UnitState::Done))
    };
    let plan = rerun::stop(&scope.application, |unit| units.contains(&unit.name) && !rests(&unit.name));
    context.board.publish(EventKind::Planned { plan: convert::plan_view(&plan) });
    let problems = execute::execute(context, &scope, &plan, BTreeMap::new()).await;
    for step in plan.steps.iter().filter_map(|step| step.action.unit()) {
        context.board.edit_unit(step, |status| {
            if status.state == UnitState::Stopped {
                status.reason = None;
                status.restarts = 0;
            }
        });
    }
    Ok((problems, plan.is_empty()))
}

/// After the agent was started again: what was stopped is shown so, and its exit is no crash.
pub(super) fn remember(context: &Context, record: &Record) {
    for unit in &record.resting {
        context.live.expect_stop(unit, true);
        context.board.edit_unit(unit, |status| status.state = UnitState::Stopped);
    }
}

/// What is started again, by name or with all, rests no more.
pub(super) fn forget(context: &Context, units: &[UnitName]) {
    let written = context.shared.registry.edit(&context.id, |record| {
        record.resting.retain(|unit| !units.is_empty() && !units.contains(unit));
    });
    if let Err(error) = written {
        context.board.publish(EventKind::Noted { text: naming::state_problem(&error).title });
    }
}

fn runs(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy | UnitState::Restarting)
}
