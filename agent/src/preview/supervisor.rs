//! Looks after units between operations: probes what was started, restarts what crashed, notices a lost runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use plan::Application;
use plan::application::{RestartPolicy, Role, RuntimeKind, Unit};
use plan::observed::{Exit, RunState};
use plan::step::Action;
use protocol::status::UnitState;

use super::live_state::{AbortOnDrop, subscribe_to_runtime};
use super::{Context, Message, crash_report, readiness};
use crate::bus::now_ms;

/// After this many crashes in a row a unit is failed.
pub const RESTARTS_MAX: u32 = 5;
/// A unit that was ready this long has its crashes forgotten.
const CRASHES_RESET_AFTER_MS: i64 = 60_000;
/// An engine that stops ends its containers first and closes its events afterwards: exits so short before are its own.
const ENGINE_STOP_WINDOW: Duration = Duration::from_secs(30);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    context: Context,
    probers: BTreeMap<String, AbortOnDrop>,
    pending_restarts: BTreeMap<String, AbortOnDrop>,
    /// Grows whenever an operation takes over, so that an older pause's end is ignored.
    generation: u64,
    reattachments: BTreeMap<RuntimeKind, AbortOnDrop>,
    /// When containers of services ended last, unasked.
    container_exits: BTreeMap<String, Instant>,
}

impl Supervisor {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            probers: BTreeMap::new(),
            pending_restarts: BTreeMap::new(),
            generation: 0,
            reattachments: BTreeMap::new(),
            container_exits: BTreeMap::new(),
        }
    }

    /// An operation takes over: no restarts behind its back. Probers go on, an unchanged unit stays ready.
    pub fn cancel_all_restarts(&mut self) {
        self.generation += 1;
        self.pending_restarts.clear();
    }

    /// An operation takes over these units; an older pause's end finds them taken.
    pub fn cancel_restarts_of(&mut self, units: &[String]) {
        self.pending_restarts.retain(|unit, _| !units.contains(unit));
    }

    pub fn resume_supervision(&mut self) {
        self.probers.retain(|_, prober| !prober.0.is_finished());
        self.refresh_routes();
    }

    pub fn stop_supervision(&mut self) {
        self.cancel_all_restarts();
        self.probers.clear();
        self.reattachments.clear();
    }

    fn scope_of_unit(&self, name: &str) -> Option<(Arc<Application>, Scope)> {
        let scope = self.context.live.scope()?;
        scope.application.units.contains_key(name).then(|| (Arc::clone(&scope.application), scope))
    }

    fn refresh_routes(&self) {
        self.context.shared.routing.refresh(&self.context.shared, &self.context.id);
    }

    /// Begins to look at a unit. One that ended again before this message came is left to what its exit decided.
    pub fn handle_started(&mut self, name: &str) {
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        if self.context.published.unit_status(name).is_none_or(|unit| unit.state != UnitState::Starting) {
            return;
        }
        let context = self.context.clone();
        let name_owned = name.to_owned();
        let task = tokio::spawn(async move { readiness::watch_unit(context, scope, application, name_owned).await });
        self.probers.insert(name.to_owned(), AbortOnDrop(task));
    }

    pub fn handle_runtime_event(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Started { .. } => {}
            RuntimeEvent::Exited { unit, handle, exit } => self.handle_exit(&unit, &handle, &exit),
            // Comes as a message of its own, with the number of who listened.
            RuntimeEvent::ConnectionLost { .. } => {}
        }
    }

    fn handle_exit(&mut self, name: &str, handle: &str, exit: &Exit) {
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        let Some(unit) = application.units.get(name) else { return };
        let current = self.context.published.unit_status(name).unwrap_or_default();
        // The exit of a container that was replaced meanwhile says nothing about its successor.
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
            if unit.body.runtime() == RuntimeKind::Docker && is_active(current.state) {
                self.container_exits.insert(name.to_owned(), Instant::now());
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
        let was_well = current.ready_at.is_some_and(|at| now_ms() - at > CRASHES_RESET_AFTER_MS);
        let restarts = if was_well { 1 } else { current.restarts + 1 };
        let restart = match unit.restart {
            RestartPolicy::Never => false,
            // A service that ends by itself with 0 did not crash, but it does not run either.
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
                "{}; start {} of {} in {} ms",
                crash_report::describe_exit(exit),
                restarts,
                RESTARTS_MAX,
                pause.as_millis()
            ));
        });
        let (mailbox, name, generation) = (self.context.mailbox.clone(), unit.name.clone(), self.generation);
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            drop(mailbox.send(Message::BackoffElapsed { unit: name, generation }).await);
        });
        self.pending_restarts.insert(unit.name.clone(), AbortOnDrop(task));
    }

    pub fn restart_unit(&mut self, name: &str, generation: u64) {
        // Restarts go on while an operation waits for this very unit; only a takeover cancels them (see `hold`).
        if generation != self.generation {
            return;
        }
        let Some((application, scope)) = self.scope_of_unit(name) else { return };
        let Some(unit) = application.units.get(name).cloned() else { return };
        let context = self.context.clone();
        let task = tokio::spawn(async move {
            let runtime = unit.body.runtime();
            let action = Action::Start { unit: unit.name.clone(), runtime };
            let started = match context.shared.drivers.driver(runtime) {
                Ok(driver) => match subscribe_to_runtime(&context, &scope, runtime).await {
                    Ok(()) => {
                        mark_starting(&context, &unit.name);
                        driver.perform(&scope, &action).await
                    }
                    Err(problem) => Err(problem),
                },
                Err(problem) => Err(problem),
            };
            match started {
                Ok(performed) => {
                    context.live.set_address(&unit.name, performed.address);
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
        self.pending_restarts.insert(name.to_owned(), AbortOnDrop(task));
    }

    pub fn handle_unhealthy(&mut self, name: &str, seen: &str) {
        // It was looked at while it was being stopped.
        if self.context.live.is_stop_expected(name) {
            return;
        }
        self.context.published.edit_unit(name, |unit| {
            unit.state = UnitState::Unhealthy;
            unit.reason = Some(seen.to_owned());
        });
        self.refresh_routes();
    }

    /// The runtime went away: say so on every unit, and come back when it does.
    pub fn handle_runtime_lost(&mut self, runtime: RuntimeKind, reason: &str, follow: u64) {
        // A keeper leaves with its last unit; an operation may have started the next one already.
        if !self.context.live.remove_subscription(runtime, follow) {
            return;
        }
        let Some(scope) = self.context.live.scope() else { return };
        tracing::warn!(preview = %self.context.id.0, runtime = crate::runtimes::runtime_name(runtime), reason, "a runtime is gone");
        let words = match runtime {
            RuntimeKind::Docker => "the container engine is gone; this comes back when the engine does".to_owned(),
            RuntimeKind::Process => format!("its keeper is gone: {reason}"),
        };
        let units = scope.application.units.values().filter(|unit| unit.body.runtime() == runtime);
        let mut concerned = false;
        for unit in units.filter(|unit| unit.role != Role::Job) {
            self.probers.remove(&unit.name);
            self.pending_restarts.remove(&unit.name);
            // A keeper's leaving never is the reason of an exit: it leaves when its last unit has ended.
            let dragged = self.container_exits.remove(&unit.name).is_some_and(|at| at.elapsed() < ENGINE_STOP_WINDOW);
            self.context.published.edit_unit(&unit.name, |status| {
                if is_active(status.state) || dragged && status.state == UnitState::Failed {
                    // What is failed or stopped has nothing to come back to: that would be an endless loop of starts.
                    concerned = true;
                    status.state = UnitState::Unhealthy;
                    status.reason = Some(words.clone());
                }
            });
            if dragged {
                self.context.published.clear_problem(&unit.name);
            }
        }
        self.refresh_routes();
        if concerned {
            let context = self.context.clone();
            self.reattachments.insert(runtime, AbortOnDrop(tokio::spawn(reattach_runtime(context, scope, runtime))));
        }
    }
}

/// Said before a start is asked for, because a short program's exit may be heard before the start's own answer.
pub(super) fn mark_starting(context: &Context, name: &str) {
    context.live.expect_stop(name, false);
    // A container may get another address with each start.
    context.live.set_address(name, None);
    context.published.edit_unit(name, |unit| {
        unit.state = UnitState::Starting;
        unit.reason = None;
        unit.exit_code = None;
        unit.started_at = Some(now_ms());
        unit.ready_at = None;
    });
}

/// Waits, with growing pauses, until the runtime answers again, then tells the actor what happened meanwhile.
async fn reattach_runtime(context: Context, scope: Scope, runtime: RuntimeKind) {
    let mut pause = BACK_OFF_FIRST;
    while subscribe_to_runtime(&context, &scope, runtime).await.is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    let Ok(driver) = context.shared.drivers.driver(runtime) else { return };
    let Ok(observed) = driver.observe(&scope.preview.id, &scope.locations).await else { return };
    let (mut missing, mut ended) = (false, false);
    for unit in scope.application.units.values().filter(|unit| unit.body.runtime() == runtime) {
        let known = context.published.unit_status(&unit.name).unwrap_or_default();
        if !is_active(known.state) {
            continue;
        }
        let message = match observed.units.get(&unit.name) {
            // The engine's stop ended it, with whatever code: that is no crash and no decision of the program.
            Some(seen) if is_stopped_by_engine(runtime, unit, &seen.state) => {
                ended = true;
                continue;
            }
            Some(seen) => match &seen.state {
                RunState::Exited(exit) => Message::RuntimeEvent {
                    event: RuntimeEvent::Exited {
                        unit: unit.name.clone(),
                        handle: seen.handle.clone(),
                        exit: exit.clone(),
                    },
                },
                _ => {
                    mark_starting(&context, &unit.name);
                    context.live.set_address(&unit.name, seen.address);
                    Message::UnitStarted { unit: unit.name.clone() }
                }
            },
            None => {
                missing = true;
                continue;
            }
        };
        drop(context.mailbox.send(message).await);
    }
    if ended {
        drop(context.mailbox.send(Message::Recover { reason: "the container engine was restarted" }).await);
    } else if missing {
        drop(context.mailbox.send(Message::Recover { reason: "the runtime came back without its units" }).await);
    }
}

fn is_stopped_by_engine(runtime: RuntimeKind, unit: &Unit, state: &RunState) -> bool {
    runtime == RuntimeKind::Docker && unit.role != Role::Job && matches!(state, RunState::Exited(_))
}

/// States of a unit that should be running now.
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
