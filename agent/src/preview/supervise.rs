//! Looks after units between operations: probes what was started, restarts what crashed, notices a lost runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use plan::Application;
use plan::application::{Restart, Role, RuntimeKind, Unit};
use plan::observed::{Exit, RunState};
use plan::step::Action;
use protocol::status::UnitState;

use super::live::{Abort, follow};
use super::{Context, Message, crash, ready};
use crate::bus::now_ms;

/// After this many crashes in a row a unit is failed.
pub const RESTARTS_MAX: u32 = 5;
/// A unit that was ready this long has its crashes forgotten.
const FORGIVEN_AFTER_MS: i64 = 60_000;
/// An engine that stops ends its containers first and closes its events afterwards: exits so short before are its own.
const ENDED_BY_ENGINE: Duration = Duration::from_secs(30);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    context: Context,
    probers: BTreeMap<String, Abort>,
    respawns: BTreeMap<String, Abort>,
    /// Grows whenever an operation takes over, so that an older pause's end is ignored.
    generation: u64,
    returns: BTreeMap<RuntimeKind, Abort>,
    /// When containers of services ended last, unasked.
    ended: BTreeMap<String, Instant>,
}

impl Supervisor {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            probers: BTreeMap::new(),
            respawns: BTreeMap::new(),
            generation: 0,
            returns: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// An operation takes over: no restarts behind its back. Probers go on, an unchanged unit stays ready.
    pub fn hold(&mut self) {
        self.generation += 1;
        self.respawns.clear();
    }

    /// An operation takes over these units; an older pause's end finds them taken.
    pub fn hold_only(&mut self, units: &[String]) {
        self.respawns.retain(|unit, _| !units.contains(unit));
    }

    pub fn resume(&mut self) {
        self.probers.retain(|_, prober| !prober.0.is_finished());
        self.publish_routes();
    }

    pub fn release_all(&mut self) {
        self.hold();
        self.probers.clear();
        self.returns.clear();
    }

    fn unit(&self, name: &str) -> Option<(Arc<Application>, Scope)> {
        let scope = self.context.live.scope()?;
        scope.application.units.contains_key(name).then(|| (Arc::clone(&scope.application), scope))
    }

    fn publish_routes(&self) {
        self.context.shared.routing.refresh(&self.context.shared, &self.context.id);
    }

    /// Begins to look at a unit. One that ended again before this message came is left to what its exit decided.
    pub fn started(&mut self, name: &str) {
        let Some((application, scope)) = self.unit(name) else { return };
        if self.context.board.unit(name).is_none_or(|unit| unit.state != UnitState::Starting) {
            return;
        }
        let context = self.context.clone();
        let name_owned = name.to_owned();
        let task = tokio::spawn(async move { ready::watch(context, scope, application, name_owned).await });
        self.probers.insert(name.to_owned(), Abort(task));
    }

    pub fn runtime_event(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Started { .. } => {}
            RuntimeEvent::Exited { unit, handle, exit } => self.exited(&unit, &handle, &exit),
            // Comes as a message of its own, with the number of who listened.
            RuntimeEvent::Lost { .. } => {}
        }
    }

    fn exited(&mut self, name: &str, handle: &str, exit: &Exit) {
        let Some((application, scope)) = self.unit(name) else { return };
        let Some(unit) = application.units.get(name) else { return };
        let current = self.context.board.unit(name).unwrap_or_default();
        // The exit of a container that was replaced meanwhile says nothing about its successor.
        if current.handle.as_deref().is_some_and(|known| !known.is_empty() && known != handle) {
            return;
        }
        self.probers.remove(name);
        if self.context.live.stopping(name) {
            self.context.board.edit_unit(name, |unit| {
                unit.state = UnitState::Stopped;
                unit.exit_code = exit.code;
            });
        } else if unit.role == Role::Job {
            self.job_ended(unit, &scope, exit);
        } else {
            if unit.body.runtime() == RuntimeKind::Docker && active(current.state) {
                self.ended.insert(name.to_owned(), Instant::now());
            }
            self.crashed(unit, &scope, exit, &current);
        }
        self.publish_routes();
    }

    fn job_ended(&mut self, unit: &Unit, scope: &Scope, exit: &Exit) {
        if exit.success() {
            self.context.board.edit_unit(&unit.name, |status| {
                status.state = UnitState::Done;
                status.exit_code = exit.code;
                status.reason = None;
            });
        } else {
            crash::fail(&self.context, scope, unit, exit, None);
        }
    }

    fn crashed(&mut self, unit: &Unit, scope: &Scope, exit: &Exit, current: &protocol::status::UnitStatus) {
        let was_well = current.ready_at.is_some_and(|at| now_ms() - at > FORGIVEN_AFTER_MS);
        let restarts = if was_well { 1 } else { current.restarts + 1 };
        let restart = match unit.restart {
            Restart::Never => false,
            // A service that ends by itself with 0 did not crash, but it does not run either.
            Restart::OnFailure => !exit.success() || current.ready_at.is_none(),
            Restart::Always => true,
        };
        if !restart || restarts > RESTARTS_MAX || exit.error.is_some() {
            let tries = (restarts > RESTARTS_MAX).then_some(RESTARTS_MAX);
            crash::fail(&self.context, scope, unit, exit, tries);
            return;
        }
        let pause = back_off(restarts);
        self.context.board.edit_unit(&unit.name, |status| {
            status.state = UnitState::Restarting;
            status.restarts = restarts;
            status.exit_code = exit.code;
            status.reason = Some(format!(
                "{}; start {} of {} in {} ms",
                crash::words(exit),
                restarts,
                RESTARTS_MAX,
                pause.as_millis()
            ));
        });
        let (mailbox, name, generation) = (self.context.mailbox.clone(), unit.name.clone(), self.generation);
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            drop(mailbox.send(Message::Respawn { unit: name, generation }).await);
        });
        self.respawns.insert(unit.name.clone(), Abort(task));
    }

    pub fn respawn(&mut self, name: &str, generation: u64) {
        // Restarts go on while an operation waits for this very unit; only a takeover cancels them (see `hold`).
        if generation != self.generation {
            return;
        }
        let Some((application, scope)) = self.unit(name) else { return };
        let Some(unit) = application.units.get(name).cloned() else { return };
        let context = self.context.clone();
        let task = tokio::spawn(async move {
            let runtime = unit.body.runtime();
            let action = Action::Start { unit: unit.name.clone(), runtime };
            let started = match context.shared.engines.driver(runtime) {
                Ok(driver) => match follow(&context, &scope, runtime).await {
                    Ok(()) => {
                        begin_start(&context, &unit.name);
                        driver.perform(&scope, &action).await
                    }
                    Err(problem) => Err(problem),
                },
                Err(problem) => Err(problem),
            };
            match started {
                Ok(performed) => {
                    context.live.set_address(&unit.name, performed.address);
                    drop(context.mailbox.send(Message::Started { unit: unit.name }).await);
                }
                Err(problem) => {
                    crash::fail_with(&context, &unit.name, crate::convert::problem(&problem, Some(&unit.name)));
                }
            }
        });
        self.respawns.insert(name.to_owned(), Abort(task));
    }

    pub fn unhealthy(&mut self, name: &str, seen: &str) {
        // It was looked at while it was being stopped.
        if self.context.live.stopping(name) {
            return;
        }
        self.context.board.edit_unit(name, |unit| {
            unit.state = UnitState::Unhealthy;
            unit.reason = Some(seen.to_owned());
        });
        self.publish_routes();
    }

    /// The runtime went away: say so on every unit, and come back when it does.
    pub fn lost(&mut self, runtime: RuntimeKind, reason: &str, follow: u64) {
        // A keeper leaves with its last unit; an operation may have started the next one already.
        if !self.context.live.unfollow(runtime, follow) {
            return;
        }
        let Some(scope) = self.context.live.scope() else { return };
        tracing::warn!(preview = %self.context.id.0, runtime = crate::engines::name(runtime), reason, "a runtime is gone");
        let words = match runtime {
            RuntimeKind::Docker => "the container engine is gone; this comes back when the engine does".to_owned(),
            RuntimeKind::Process => format!("its keeper is gone: {reason}"),
        };
        let units = scope.application.units.values().filter(|unit| unit.body.runtime() == runtime);
        let mut concerned = false;
        for unit in units.filter(|unit| unit.role != Role::Job) {
            self.probers.remove(&unit.name);
            self.respawns.remove(&unit.name);
            // A keeper's leaving never is the reason of an exit: it leaves when its last unit has ended.
            let dragged = self.ended.remove(&unit.name).is_some_and(|at| at.elapsed() < ENDED_BY_ENGINE);
            self.context.board.edit_unit(&unit.name, |status| {
                if active(status.state) || dragged && status.state == UnitState::Failed {
                    // What is failed or stopped has nothing to come back to: that would be an endless loop of starts.
                    concerned = true;
                    status.state = UnitState::Unhealthy;
                    status.reason = Some(words.clone());
                }
            });
            if dragged {
                self.context.board.forget_problem(&unit.name);
            }
        }
        self.publish_routes();
        if concerned {
            let context = self.context.clone();
            self.returns.insert(runtime, Abort(tokio::spawn(reattach(context, scope, runtime))));
        }
    }
}

/// Said before a start is asked for, because a short program's exit may be heard before the start's own answer.
pub(super) fn begin_start(context: &Context, name: &str) {
    context.live.expect_stop(name, false);
    // A container may get another address with each start.
    context.live.set_address(name, None);
    context.board.edit_unit(name, |unit| {
        unit.state = UnitState::Starting;
        unit.reason = None;
        unit.exit_code = None;
        unit.started_at = Some(now_ms());
        unit.ready_at = None;
    });
}

/// Waits, with growing pauses, until the runtime answers again, then tells the actor what happened meanwhile.
async fn reattach(context: Context, scope: Scope, runtime: RuntimeKind) {
    let mut pause = BACK_OFF_FIRST;
    while follow(&context, &scope, runtime).await.is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    let Ok(driver) = context.shared.engines.driver(runtime) else { return };
    let Ok(observed) = driver.observe(&scope.preview.id, &scope.places).await else { return };
    let (mut missing, mut ended) = (false, false);
    for unit in scope.application.units.values().filter(|unit| unit.body.runtime() == runtime) {
        let known = context.board.unit(&unit.name).unwrap_or_default();
        if !active(known.state) {
            continue;
        }
        let message = match observed.units.get(&unit.name) {
            // The engine's stop ended it, with whatever code: that is no crash and no decision of the program.
            Some(seen) if stopped_with(runtime, unit, &seen.state) => {
                ended = true;
                continue;
            }
            Some(seen) => match &seen.state {
                RunState::Exited(exit) => Message::Runtime {
                    event: RuntimeEvent::Exited {
                        unit: unit.name.clone(),
                        handle: seen.handle.clone(),
                        exit: exit.clone(),
                    },
                },
                _ => {
                    begin_start(&context, &unit.name);
                    context.live.set_address(&unit.name, seen.address);
                    Message::Started { unit: unit.name.clone() }
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
        drop(context.mailbox.send(Message::Recover { what: "the container engine was restarted" }).await);
    } else if missing {
        drop(context.mailbox.send(Message::Recover { what: "the runtime came back without its units" }).await);
    }
}

fn stopped_with(runtime: RuntimeKind, unit: &Unit, state: &RunState) -> bool {
    runtime == RuntimeKind::Docker && unit.role != Role::Job && matches!(state, RunState::Exited(_))
}

/// States of a unit that should be running now.
fn active(state: UnitState) -> bool {
    matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy | UnitState::Restarting)
}

/// 100 ms, 200 ms, 400 ms ... capped at 10 s.
fn back_off(restarts: u32) -> Duration {
    BACK_OFF_FIRST.saturating_mul(1 << restarts.saturating_sub(1).min(16)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_capped() {
        let pauses: Vec<u128> = (1..=9).map(|n| back_off(n).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
