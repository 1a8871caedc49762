//! Catches up with a runtime whose events were not followed for a while, because its engine was restarted or its keeper
//! was replaced.

use std::time::Duration;

use drivers::driver::RuntimeEvent;
use drivers::{Problem, Scope};
use plan::application::{Role, RuntimeKind, Unit};
use plan::observed::{Exit, ObservedUnit, RunState};
use plan::target::Target;
use protocol::status::{UnitState, UnitStatus};

use super::live_state::{mark_starting, subscribe_to_runtime};
use super::{Context, Message};

pub(super) const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Retries with increasing pauses until the engine answers, then lets the actor repeat its last request.
pub(super) async fn wait_until_reachable(context: Context, target: Target) {
    let Some(record) = context.shared.registry.get(&context.id) else { return };
    let locations = context.shared.locations.preview_locations(&context.id, &record.folder);
    let Ok(driver) = context.shared.drivers.driver(&target) else { return };
    let mut pause = BACK_OFF_FIRST;
    while driver.observe(&context.id, &locations).await.is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    drop(context.mailbox.send(Message::Recover { reason: "an engine answers again", begun: None }).await);
}

/// Retries with increasing pauses until the runtime answers, then sends the actor what has happened in the meantime.
pub(super) async fn reattach_runtime(context: Context, scope: Scope, runtime: RuntimeKind) {
    let mut pause = BACK_OFF_FIRST;
    while subscribe_to_runtime(&context, &scope, runtime).await.is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    // Without an answer now, the new subscription ends too and causes the next attempt.
    drop(catch_up(&context, &scope, runtime).await);
}

/// Ensures that the events of a unit that was just started reach the actor. The runtime may have been replaced between
/// the subscription before the start and the start: a keeper ends with its last unit, and the start makes another one.
pub(super) async fn ensure_followed(context: &Context, scope: &Scope, runtime: RuntimeKind) -> Result<(), Problem> {
    if context.live.is_subscribed(runtime) {
        // If this subscription is to the replaced keeper, the actor reattaches when it receives its end.
        return Ok(());
    }
    subscribe_to_runtime(context, scope, runtime).await?;
    catch_up(context, scope, runtime).await
}

/// Finds the exits that were reported after a subscription had ended and before its successor began.
pub(super) async fn catch_up_after_replacement(context: Context, scope: Scope, runtime: RuntimeKind) {
    // Without an answer now, the current subscription ends too, and the supervisor reattaches.
    drop(catch_up(&context, &scope, runtime).await);
}

/// Compares the published states with the runtime, and sends the actor the differences.
async fn catch_up(context: &Context, scope: &Scope, runtime: RuntimeKind) -> Result<(), Problem> {
    let driver = context.shared.drivers.driver_of(&scope.targets, runtime)?;
    let observed = driver.observe(&scope.preview.id, &scope.locations).await?;
    let mut reason_to_recover = None;
    for unit in scope.application.units.values().filter(|unit| unit.runtime == runtime) {
        let published = context.published.unit_status(&unit.name).unwrap_or_default();
        if !is_active(published.state) {
            continue;
        }
        let difference = compare(unit, &published, observed.units.get(&unit.name));
        if difference != Difference::BeingStarted {
            // The observed run is the current one.
            context.live.confirm_start(&unit.name);
        }
        let message = match difference {
            // Otherwise its probes run already, or begin when the operation reports its start.
            Difference::Running if published.state != UnitState::Unhealthy => continue,
            Difference::Running => {
                mark_starting(context, &unit.name);
                context.live.set_address(&unit.name, observed.units.get(&unit.name).and_then(|found| found.address));
                Message::UnitStarted { unit: unit.name.clone() }
            }
            Difference::Exited { handle, exit } => {
                Message::RuntimeEvent { event: RuntimeEvent::Exited { unit: unit.name.clone(), handle, exit } }
            }
            Difference::EndedByEngine => {
                reason_to_recover = Some("the container engine was restarted");
                continue;
            }
            Difference::Missing => {
                reason_to_recover = reason_to_recover.or(Some("the runtime came back without its units"));
                continue;
            }
            Difference::BeingStarted => continue,
        };
        drop(context.mailbox.send(message).await);
    }
    if let Some(reason) = reason_to_recover {
        drop(context.mailbox.send(Message::Recover { reason, begun: None }).await);
    }
    Ok(())
}

/// What happened to a unit while the events of its runtime were not followed.
#[derive(PartialEq, Eq, Debug)]
enum Difference {
    Running,
    Exited {
        handle: String,
        exit: Exit,
    },
    /// The engine ended it when it stopped. Its exit code does not matter, because the program did not crash.
    EndedByEngine,
    Missing,
    /// An operation is about to start it and reports the result.
    BeingStarted,
}

fn compare(unit: &Unit, published: &UnitStatus, observed: Option<&ObservedUnit>) -> Difference {
    let is_starting = published.state == UnitState::Starting;
    let ends_units = unit.runtime.capabilities().ends_units_when_stopped;
    match observed.map(|observed| (observed, &observed.state)) {
        None if is_starting && !ends_units => Difference::BeingStarted,
        None => Difference::Missing,
        Some((_, RunState::Created)) if is_starting && !ends_units => Difference::BeingStarted,
        Some((_, RunState::Exited(_))) if ends_units && unit.role != Role::Job => Difference::EndedByEngine,
        // The exit of an earlier run of the same object.
        Some((observed, RunState::Exited(_)))
            if is_starting && !ends_units && observed.started_at < published.started_at =>
        {
            Difference::BeingStarted
        }
        Some((observed, RunState::Exited(exit))) => {
            Difference::Exited { handle: observed.handle.clone(), exit: exit.clone() }
        }
        Some(_) => Difference::Running,
    }
}

/// Whether a unit in this state should be running.
pub(super) fn is_active(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy | UnitState::Restarting)
}
