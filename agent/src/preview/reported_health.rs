//! Follows the health of units whose runtime supervises them: it probes and restarts them, and the agent reports what the
//! runtime says.

use drivers::Scope;
use host::clock::now_milliseconds;
use plan::application::{ReadyCheck, Unit};
use plan::observed::ReportedHealth;
use plan::runtime::Supervisor;
use protocol::Problem;
use protocol::status::UnitState;
use tokio::time::Instant;

use super::{Context, crash_report};

pub(super) fn is_supervised_by_runtime(unit: &Unit) -> bool {
    unit.runtime.capabilities().supervisor == Supervisor::Runtime
}

/// Publishes the unit's state until the task is dropped. For a job, its exit decides instead.
pub(super) async fn follow(context: &Context, scope: &Scope, unit: &Unit) {
    if unit.health.ready == ReadyCheck::Exit {
        return;
    }
    // Subscribed before the first observation, so that no change in between is missed.
    let mut changes = context.live.health_changes();
    let deadline = Instant::now() + unit.health.start_limit;
    let mut was_ready = false;
    loop {
        changes.mark_unchanged();
        let health = read_health(context, scope, unit).await;
        if let Some(health) = &health {
            was_ready |= publish(context, unit, health, was_ready);
        }
        let is_hopeless = health.as_ref().is_some_and(|health| health.conditions.iter().any(|found| found.is_fatal));
        if !was_ready && (is_hopeless || Instant::now() >= deadline) {
            let lines = crash_report::read_last_lines(context, scope, &unit.name).await;
            let problem = unready_problem(unit, health.as_ref());
            crash_report::mark_failed(context, &unit.name, Problem { output: lines, ..problem });
            // The runtime continues to try. When it succeeds, the unit is ready after all.
            was_ready = true;
        }
        let changed = async { changes.changed().await.is_ok() };
        let is_open =
            if was_ready { changed.await } else { tokio::time::timeout_at(deadline, changed).await.unwrap_or(true) };
        if !is_open {
            return;
        }
    }
}

/// `None` if the runtime does not answer, which its subscription reports, or does not have the unit.
async fn read_health(context: &Context, scope: &Scope, unit: &Unit) -> Option<ReportedHealth> {
    let driver = context.shared.drivers.driver_of(&scope.targets, unit.runtime).ok()?;
    let mut observed = driver.observe(&scope.preview.id, &scope.locations).await.ok()?;
    observed.units.remove(&unit.name)?.health
}

/// Returns whether the unit is ready.
fn publish(context: &Context, unit: &Unit, health: &ReportedHealth, was_ready: bool) -> bool {
    context.published.edit_unit(&unit.name, |status| {
        // An operation stops it.
        if matches!(status.state, UnitState::Stopping | UnitState::Stopped) {
            return;
        }
        if health.is_ready {
            if status.state != UnitState::Ready {
                status.ready_at = Some(now_milliseconds());
            }
            status.state = UnitState::Ready;
            status.reason = None;
        } else {
            status.reason = Some(health.reason());
            if was_ready && status.state == UnitState::Ready {
                status.state = UnitState::Unhealthy;
            }
        }
    });
    if health.is_ready {
        context.published.clear_problem(&unit.name);
    }
    context.shared.routing.refresh(&context.shared, &context.id);
    health.is_ready
}

fn unready_problem(unit: &Unit, health: Option<&ReportedHealth>) -> Problem {
    let limit = unit.health.start_limit.as_secs();
    let reason = health.map_or_else(|| "it does not exist in its runtime".to_owned(), ReportedHealth::reason);
    let title = match health {
        Some(health) if health.conditions.iter().any(|condition| condition.is_fatal) => {
            format!("it cannot become healthy: {reason}")
        }
        _ => format!("it did not become healthy within {limit} s: {reason}"),
    };
    let hint = format!("Read its output with `pdev logs {}`.", unit.name);
    Problem::new("never_healthy", 0, title).unit(&unit.name).hint(hint)
}
