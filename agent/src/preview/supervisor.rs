//! Keeps units running between operations: probes started units, restarts crashed ones, and reacts to a lost runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use plan::Application;
use plan::application::{RestartPolicy, Role, RuntimeKind, Unit};
use plan::observed::Exit;
use plan::step::Action;
use plan::target::Target;
use protocol::status::UnitState;
use tasks::OwnedTask;

use super::crash_history::RESTARTS_MAX;
use super::crash_report::Ending;
use super::live_state::{OrderedStop, mark_starting, subscribe_to_runtime};
use super::reattach::{
    BACK_OFF_FIRST, BACK_OFF_MAX, catch_up_after_replacement, ensure_followed, is_active, reattach_runtime,
    wait_until_reachable,
};
use super::reported_health::is_supervised_by_runtime;
use super::{Context, Message, crash_report, readiness};

/// A stopping engine ends its containers before it closes its event stream. Exits within this window before the loss
/// count as caused by the engine.
const ENGINE_STOP_WINDOW: Duration = Duration::from_secs(30);

pub(super) struct Supervisor {
    context: Context,
    probers: BTreeMap<String, OwnedTask>,
    pending_restarts: BTreeMap<String, OwnedTask>,
    /// Increases when an operation takes over, so that the end of an earlier restart delay is ignored.
    generation: u64,
    reattachments: BTreeMap<RuntimeKind, OwnedTask>,
    /// Units that the supervisor stops because their live probe failed, with the result of the probe.
    failed_probes: BTreeMap<String, String>,
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
            failed_probes: BTreeMap::new(),
            recent_exits: BTreeMap::new(),
        }
    }

    /// Cancels all pending restarts, because an operation takes over. Probes continue, so that unchanged units stay
    /// ready.
    pub fn cancel_all_restarts(&mut self) {
        self.generation += 1;
        self.pending_restarts.clear();
        self.failed_probes.clear();
    }

    /// Cancels the pending restarts of these units, because an operation takes over.
    pub fn cancel_restarts_of(&mut self, units: &[String]) {
        self.pending_restarts.retain(|unit, _| !units.contains(unit));
        self.failed_probes.retain(|unit, _| !units.contains(unit));
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
            RuntimeEvent::Started { unit, .. } => self.context.live.confirm_start(&unit),
            RuntimeEvent::Exited { unit, handle, exit } => self.handle_exit(&unit, &handle, &exit),
            // The task that follows the unit's health observes it again.
            RuntimeEvent::Changed { .. } => self.context.live.report_health_change(),
            // Reported by `Message::RuntimeLost`, which also contains the subscription.
            RuntimeEvent::ConnectionLost { .. } => {}
        }
    }

    fn handle_exit(&mut self, name: &str, handle: &str, exit: &Exit) {
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        let Some(unit) = application.units.get(name) else { return };
        let current = self.context.published.unit_status(name).unwrap_or_default();
        // Both an event and a comparison with the runtime may report the same exit.
        if current.state == UnitState::Restarting {
            return;
        }
        // The exit may be of a container that was replaced meanwhile.
        if current.handle.as_deref().is_some_and(|known| !known.is_empty() && known != handle) {
            return;
        }
        let ordered_stop = self.context.live.take_ordered_stop(name);
        if ordered_stop == Some(OrderedStop::StartedAgain) {
            return;
        }
        if ordered_stop.is_none() && unit.role != Role::Job && is_supervised_by_runtime(unit) {
            let ending = Ending { exit: exit.clone(), ..Ending::default() };
            self.publish_runtime_restart(name, &ending);
            return;
        }
        self.probers.remove(name);
        if ordered_stop.is_some() {
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
            let ending = Ending { exit: exit.clone(), failed_probe: self.failed_probes.remove(name), crashes: None };
            self.handle_crash(unit, &scope, ending);
        }
        self.refresh_routes();
    }

    /// The runtime starts the unit again. The task that follows its health publishes when it is ready.
    fn publish_runtime_restart(&self, name: &str, ending: &Ending) {
        self.context.published.edit_unit(name, |unit| {
            unit.state = UnitState::Restarting;
            unit.restarts += 1;
            unit.exit_code = ending.exit.code;
            unit.reason = Some(ending.describe());
        });
        self.refresh_routes();
        self.context.live.report_health_change();
    }

    fn handle_job_exit(&mut self, unit: &Unit, scope: &Scope, exit: &Exit) {
        if exit.success() {
            self.context.published.edit_unit(&unit.name, |status| {
                status.state = UnitState::Done;
                status.exit_code = exit.code;
                status.reason = None;
            });
        } else {
            let ending = Ending { exit: exit.clone(), ..Ending::default() };
            crash_report::mark_failed_after_exit(&self.context, scope, unit, ending);
        }
    }

    /// Restarts the unit after a pause, or marks it as failed.
    fn handle_crash(&mut self, unit: &Unit, scope: &Scope, mut ending: Ending) {
        let was_ready = self.context.published.unit_status(&unit.name).is_some_and(|status| status.ready_at.is_some());
        let crashes = self.context.live.record_crash(&unit.name);
        if !is_restarted(unit.restart, &ending, was_ready) || crashes > RESTARTS_MAX {
            ending.crashes = (crashes > RESTARTS_MAX).then_some(crashes);
            crash_report::mark_failed_after_exit(&self.context, scope, unit, ending);
            return;
        }
        let pause = restart_delay(crashes);
        self.context.published.edit_unit(&unit.name, |status| {
            status.state = UnitState::Restarting;
            status.restarts = crashes;
            status.exit_code = ending.exit.code;
            status.reason =
                Some(format!("{}; restart {crashes} of {RESTARTS_MAX} in {} ms", ending.describe(), pause.as_millis()));
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
                        match driver.perform(&scope, &action).await {
                            Ok(outcome) => ensure_followed(&context, &scope, runtime).await.map(|()| outcome),
                            Err(problem) => Err(problem),
                        }
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

    /// Stops a unit whose live probe failed too often. Its exit then counts as a crash.
    pub fn handle_unhealthy(&mut self, name: &str, reason: &str) {
        // The failed probe was made while the unit was being stopped.
        if self.context.live.is_stopping(name) {
            return;
        }
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        let Some(unit) = application.units.get(name) else { return };
        self.probers.remove(name);
        self.context.published.edit_unit(name, |unit| {
            unit.state = UnitState::Unhealthy;
            unit.reason = Some(format!("its live probe failed: {reason}"));
        });
        self.refresh_routes();
        self.failed_probes.insert(name.to_owned(), reason.to_owned());
        let (context, runtime, unit) = (self.context.clone(), unit.runtime, name.to_owned());
        let task = OwnedTask::spawn(async move {
            let action = Action::Stop { unit: unit.clone(), runtime };
            let stopped = match context.shared.drivers.driver_of(&scope.targets, runtime) {
                Ok(driver) => driver.perform(&scope, &action).await.map(drop),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = stopped {
                context.published.edit_unit(&unit, |status| {
                    let reason = status.reason.take().unwrap_or_default();
                    status.reason = Some(format!("{reason}; it could not be stopped: {}", problem.message));
                });
            }
        });
        self.pending_restarts.insert(name.to_owned(), task);
    }

    /// Marks a unit of a lost runtime as unhealthy, and returns whether it should be running.
    fn mark_lost(&mut self, unit: &Unit, reason: &str) -> bool {
        self.probers.remove(&unit.name);
        self.pending_restarts.remove(&unit.name);
        // Recorded only for runtimes that end their units: a keeper never causes an exit, because it exits after its
        // last unit.
        let was_ended_by_engine =
            self.recent_exits.remove(&unit.name).is_some_and(|at| at.elapsed() < ENGINE_STOP_WINDOW);
        let mut is_affected = false;
        self.context.published.edit_unit(&unit.name, |status| {
            if is_active(status.state) || was_ended_by_engine && status.state == UnitState::Failed {
                // Other failed or stopped units are not started again: that could become an endless loop of starts.
                is_affected = true;
                status.state = UnitState::Unhealthy;
                status.reason = Some(reason.to_owned());
            }
        });
        if was_ended_by_engine {
            self.context.published.clear_problem(&unit.name);
        }
        is_affected
    }

    /// Marks the units of a lost runtime as unhealthy, and reattaches to them when the runtime answers again.
    pub fn handle_runtime_lost(&mut self, runtime: RuntimeKind, reason: &str, subscription: u64) {
        let is_current = self.context.live.remove_subscription(runtime, subscription);
        let Some(scope) = self.context.live.scope() else { return };
        if !is_current {
            // A keeper exits with its last unit, and an operation may follow the next keeper already. Units that the
            // operation started before that may have ended meanwhile.
            let task = OwnedTask::spawn(catch_up_after_replacement(self.context.clone(), scope, runtime));
            self.reattachments.insert(runtime, task);
            return;
        }
        tracing::warn!(preview = %self.context.id.0, runtime = runtime.name(), reason, "lost the connection to a runtime");
        let unit_reason = runtime.capabilities().wording.lost.replace("{reason}", reason);
        let ends_units = runtime.capabilities().ends_units_when_stopped;
        let units = scope.application.units.values().filter(|unit| unit.runtime == runtime);
        let mut has_affected_units = false;
        for unit in units {
            let state = self.context.published.unit_status(&unit.name).map(|status| status.state);
            // A keeper ends with its last unit, so a starting unit was started by the next keeper, whose events
            // are not followed yet. The runtime's state decides.
            if unit.role == Role::Job || !ends_units && state == Some(UnitState::Starting) {
                has_affected_units |= state.is_some_and(is_active);
                continue;
            }
            has_affected_units |= self.mark_lost(unit, &unit_reason);
        }
        self.refresh_routes();
        if has_affected_units {
            let context = self.context.clone();
            self.reattachments.insert(runtime, OwnedTask::spawn(reattach_runtime(context, scope, runtime)));
        }
    }
}

fn is_restarted(policy: RestartPolicy, ending: &Ending, was_ready: bool) -> bool {
    // Codes of shells and engines for a command that cannot be executed or is not found: a restart does not help.
    if ending.exit.error.is_some() || matches!(ending.exit.code, Some(126 | 127)) {
        return false;
    }
    match policy {
        RestartPolicy::Never => false,
        // Exit code 0 is no crash of a service that was ready. Before that, it has not done its work yet.
        RestartPolicy::OnFailure => ending.failed_probe.is_some() || !ending.exit.success() || !was_ready,
        RestartPolicy::Always => true,
    }
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
