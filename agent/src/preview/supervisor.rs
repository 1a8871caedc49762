//! Keeps units running between operations: probes started units, restarts crashed ones, and reacts to a lost runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use host::clock::now_milliseconds;
use plan::Application;
use plan::application::{RestartPolicy, Role, RuntimeKind, Unit};
use plan::observed::{Exit, RunState};
use plan::step::Action;
use plan::target::Target;
use protocol::status::UnitState;
use tasks::OwnedTask;

use super::live_state::subscribe_to_runtime;
use super::{Context, Message, crash_report, readiness};

/// How often a crashing unit is restarted in a row. The next crash marks it as failed.
pub const RESTARTS_MAX: u32 = 5;
/// After being ready for this long, a unit's crash counter starts again.
const CRASHES_RESET_AFTER_MS: i64 = 60_000;
/// A stopping engine ends its containers before it closes its event stream. Exits within this window before the loss
/// count as caused by the engine.
const ENGINE_STOP_WINDOW: Duration = Duration::from_secs(30);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    context: Context,
    probers: BTreeMap<String, OwnedTask>,
    pending_restarts: BTreeMap<String, OwnedTask>,
    /// Increases when an operation takes over, so that the end of an earlier restart delay is ignored.
    generation: u64,
    reattachments: BTreeMap<RuntimeKind, OwnedTask>,
    /// When each service's container last ended without being stopped by an operation.
    recent_exits: BTreeMap<String, Instant>,
}

impl Supervisor {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            probers: BTreeMap::new(),
            pending_restarts: BTreeMap::new(),
            generation: 0,
            reattachments: BTreeMap::new(),
            recent_exits: BTreeMap::new(),
        }
    }

    /// Cancels all pending restarts, because an operation takes over. Probes continue, so that unchanged units stay
    /// ready.
    pub fn cancel_all_restarts(&mut self) {
        self.generation += 1;
        self.pending_restarts.clear();
    }

    /// Cancels the pending restarts of these units, because an operation takes over.
    pub fn cancel_restarts_of(&mut self, units: &[String]) {
        self.pending_restarts.retain(|unit, _| !units.contains(unit));
    }

    pub fn resume_supervision(&mut self) {
        self.probers.retain(|_, prober| !prober.is_finished());
        self.refresh_routes();
    }

    pub fn stop_supervision(&mut self) {
        self.cancel_all_restarts();
        self.probers.clear();
        self.reattachments.clear();
    }

    /// Completes an operation when these engines answer.
    pub fn recover_when_reachable(&mut self, targets: &[Target]) {
        for target in targets {
            let (context, runtime) = (self.context.clone(), target.runtime);
            let task = OwnedTask::spawn(wait_until_reachable(context, target.clone()));
            self.reattachments.insert(runtime, task);
        }
    }

    fn scope_of_unit(&self, name: &str) -> Option<(Arc<Application>, Scope)> {
        let scope = self.context.live.scope()?;
        scope.application.units.contains_key(name).then(|| (Arc::clone(&scope.application), scope))
    }

    fn refresh_routes(&self) {
        self.context.shared.routing.refresh(&self.context.shared, &self.context.id);
    }

    /// Begins to probe a unit, unless it has ended before this message was handled: then its exit has set its state.
    pub fn handle_started(&mut self, name: &str) {
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        if self.context.published.unit_status(name).is_none_or(|unit| unit.state != UnitState::Starting) {
            return;
        }
        let context = self.context.clone();
        let name_owned = name.to_owned();
        let task =
            OwnedTask::spawn(async move { readiness::watch_unit(context, scope, application, name_owned).await });
        self.probers.insert(name.to_owned(), task);
    }

    pub fn handle_runtime_event(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Started { .. } => {}
            RuntimeEvent::Exited { unit, handle, exit } => self.handle_exit(&unit, &handle, &exit),
            // Reported by `Message::RuntimeLost`, which also contains the subscription.
            RuntimeEvent::ConnectionLost { .. } => {}
        }
    }

    fn handle_exit(&mut self, name: &str, handle: &str, exit: &Exit) {
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        let Some(unit) = application.units.get(name) else { return };
        let current = self.context.published.unit_status(name).unwrap_or_default();
        // The exit may be of a container that was replaced meanwhile.
        if current.handle.as_deref().is_some_and(|known| !known.is_empty() && known != handle) {
            return;
        }
        self.probers.remove(name);
        if self.context.live.is_stop_expected(name) {
            self.context.published.edit_unit(name, |unit| {
                unit.state = UnitState::Stopped;
                unit.exit_code = exit.code;
            });
        } else if unit.role == Role::Job {
            self.handle_job_exit(unit, &scope, exit);
        } else {
            // Needed if this exit turns out to be caused by a stopping engine.
            if unit.runtime.capabilities().ends_units_when_stopped && is_active(current.state) {
                self.recent_exits.insert(name.to_owned(), Instant::now());
            }
            self.handle_crash(unit, &scope, exit, &current);
        }
        self.refresh_routes();
    }

    fn handle_job_exit(&mut self, unit: &Unit, scope: &Scope, exit: &Exit) {
        if exit.success() {
            self.context.published.edit_unit(&unit.name, |status| {
                status.state = UnitState::Done;
                status.exit_code = exit.code;
                status.reason = None;
            });
        } else {
            crash_report::mark_failed_after_exit(&self.context, scope, unit, exit, None);
        }
    }

    fn handle_crash(&mut self, unit: &Unit, scope: &Scope, exit: &Exit, current: &protocol::status::UnitStatus) {
        let was_well = current.ready_at.is_some_and(|at| now_milliseconds() - at > CRASHES_RESET_AFTER_MS);
        let restarts = if was_well { 1 } else { current.restarts + 1 };
        let restart = match unit.restart {
            RestartPolicy::Never => false,
            // Exit code 0 is no crash of a service that was ready. Before that, it has not done its work yet.
            RestartPolicy::OnFailure => !exit.success() || current.ready_at.is_none(),
            RestartPolicy::Always => true,
        };
        if !restart || restarts > RESTARTS_MAX || exit.error.is_some() {
            let tries = (restarts > RESTARTS_MAX).then_some(RESTARTS_MAX);
            crash_report::mark_failed_after_exit(&self.context, scope, unit, exit, tries);
            return;
        }
        let pause = restart_delay(restarts);
        self.context.published.edit_unit(&unit.name, |status| {
            status.state = UnitState::Restarting;
            status.restarts = restarts;
            status.exit_code = exit.code;
            status.reason = Some(format!(
                "{}; restart {} of {} in {} ms",
                crash_report::describe_exit(exit),
                restarts,
                RESTARTS_MAX,
                pause.as_millis()
            ));
        });
        let (mailbox, name, generation) = (self.context.mailbox.clone(), unit.name.clone(), self.generation);
        let task = OwnedTask::spawn(async move {
            tokio::time::sleep(pause).await;
            drop(mailbox.send(Message::BackoffElapsed { unit: name, generation }).await);
        });
        self.pending_restarts.insert(unit.name.clone(), task);
    }

    pub fn restart_unit(&mut self, name: &str, generation: u64) {
        // Restarts continue while an operation waits for this unit. Only `cancel_all_restarts` invalidates them.
        if generation != self.generation {
            return;
        }
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        let Some(unit) = application.units.get(name).cloned() else { return };
        let context = self.context.clone();
        let task = OwnedTask::spawn(async move {
            let runtime = unit.runtime;
            let action = Action::Start { unit: unit.name.clone(), runtime };
            let result = match context.shared.drivers.driver_of(&scope.targets, runtime) {
                Ok(driver) => match subscribe_to_runtime(&context, &scope, runtime).await {
                    Ok(()) => {
                        mark_starting(&context, &unit.name);
                        driver.perform(&scope, &action).await
                    }
                    Err(problem) => Err(problem),
                },
                Err(problem) => Err(problem),
            };
            match result {
                Ok(outcome) => {
                    context.live.set_address(&unit.name, outcome.address);
                    drop(context.mailbox.send(Message::UnitStarted { unit: unit.name }).await);
                }
                Err(problem) => {
                    crash_report::mark_failed(
                        &context,
                        &unit.name,
                        crate::convert::driver_problem(&problem, Some(&unit.name)),
                    );
                }
            }
        });
        self.pending_restarts.insert(name.to_owned(), task);
    }

    pub fn handle_unhealthy(&mut self, name: &str, reason: &str) {
        // The failed probe was made while the unit was being stopped.
        if self.context.live.is_stop_expected(name) {
            return;
        }
        self.context.published.edit_unit(name, |unit| {
            unit.state = UnitState::Unhealthy;
            unit.reason = Some(reason.to_owned());
        });
        self.refresh_routes();
    }

    /// Marks the units of a lost runtime as unhealthy, and reattaches to them when the runtime answers again.
    pub fn handle_runtime_lost(&mut self, runtime: RuntimeKind, reason: &str, subscription: u64) {
        // A keeper exits with its last unit, and an operation may have started the next keeper already.
        if !self.context.live.remove_subscription(runtime, subscription) {
            return;
        }
        let Some(scope) = self.context.live.scope() else { return };
        tracing::warn!(preview = %self.context.id.0, runtime = runtime.name(), reason, "lost the connection to a runtime");
        let unit_reason = runtime.capabilities().wording.lost.replace("{reason}", reason);
        let units = scope.application.units.values().filter(|unit| unit.runtime == runtime);
        let mut has_affected_units = false;
        for unit in units.filter(|unit| unit.role != Role::Job) {
            self.probers.remove(&unit.name);
            self.pending_restarts.remove(&unit.name);
            // Recorded only for runtimes that end their units: a keeper never causes an exit, because it exits after its
            // last unit.
            let was_ended_by_engine =
                self.recent_exits.remove(&unit.name).is_some_and(|at| at.elapsed() < ENGINE_STOP_WINDOW);
            self.context.published.edit_unit(&unit.name, |status| {
                if is_active(status.state) || was_ended_by_engine && status.state == UnitState::Failed {
                    // Other failed or stopped units are not started again: that could become an endless loop of starts.
                    has_affected_units = true;
                    status.state = UnitState::Unhealthy;
                    status.reason = Some(unit_reason.clone());
                }
            });
            if was_ended_by_engine {
                self.context.published.clear_problem(&unit.name);
            }
        }
        self.refresh_routes();
        if has_affected_units {
            let context = self.context.clone();
            self.reattachments.insert(runtime, OwnedTask::spawn(reattach_runtime(context, scope, runtime)));
        }
    }
}

/// Publishes that a unit is starting. Call it before the start, because the exit event of a short program may arrive
/// before the start returns.
pub(super) fn mark_starting(context: &Context, name: &str) {
    context.live.expect_stop(name, false);
    // A container may get a different address at each start.
    context.live.set_address(name, None);
    context.published.edit_unit(name, |unit| {
        unit.state = UnitState::Starting;
        unit.reason = None;
        unit.exit_code = None;
        unit.started_at = Some(now_milliseconds());
        unit.ready_at = None;
    });
}

/// Retries with increasing pauses until the engine answers, then lets the actor repeat its last request.
async fn wait_until_reachable(context: Context, target: Target) {
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
async fn reattach_runtime(context: Context, scope: Scope, runtime: RuntimeKind) {
    let mut pause = BACK_OFF_FIRST;
    while subscribe_to_runtime(&context, &scope, runtime).await.is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    let Ok(driver) = context.shared.drivers.driver_of(&scope.targets, runtime) else { return };
    let Ok(observed) = driver.observe(&scope.preview.id, &scope.locations).await else { return };
    let (mut has_missing_units, mut has_ended_units) = (false, false);
    for unit in scope.application.units.values().filter(|unit| unit.runtime == runtime) {
        let published = context.published.unit_status(&unit.name).unwrap_or_default();
        if !is_active(published.state) {
            continue;
        }
        let message = match observed.units.get(&unit.name) {
            // The engine ended it when it stopped. Its exit code does not matter, because the program did not crash.
            Some(observed_unit) if is_stopped_by_runtime(runtime, unit, &observed_unit.state) => {
                has_ended_units = true;
                continue;
            }
            Some(observed_unit) => match &observed_unit.state {
                RunState::Exited(exit) => Message::RuntimeEvent {
                    event: RuntimeEvent::Exited {
                        unit: unit.name.clone(),
                        handle: observed_unit.handle.clone(),
                        exit: exit.clone(),
                    },
                },
                _ => {
                    mark_starting(&context, &unit.name);
                    context.live.set_address(&unit.name, observed_unit.address);
                    Message::UnitStarted { unit: unit.name.clone() }
                }
            },
            None => {
                has_missing_units = true;
                continue;
            }
        };
        drop(context.mailbox.send(message).await);
    }
    if has_ended_units {
        drop(
            context.mailbox.send(Message::Recover { reason: "the container engine was restarted", begun: None }).await,
        );
    } else if has_missing_units {
        drop(
            context
                .mailbox
                .send(Message::Recover { reason: "the runtime came back without its units", begun: None })
                .await,
        );
    }
}

fn is_stopped_by_runtime(runtime: RuntimeKind, unit: &Unit, state: &RunState) -> bool {
    let ends_units = runtime.capabilities().ends_units_when_stopped;
    ends_units && unit.role != Role::Job && matches!(state, RunState::Exited(_))
}

/// Whether a unit in this state should be running.
fn is_active(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy | UnitState::Restarting)
}

/// 100 ms, 200 ms, 400 ms ... capped at 10 s.
fn restart_delay(restarts: u32) -> Duration {
    BACK_OFF_FIRST.saturating_mul(1 << restarts.saturating_sub(1).min(16)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_capped() {
        let pauses: Vec<u128> = (1..=9).map(|n| restart_delay(n).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
