//! Looks after units between operations: probes what was started, restarts what crashed, notices a lost runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use futures_util::StreamExt;
use plan::Application;
use plan::application::{Restart, Role, RuntimeKind, Unit};
use plan::observed::{Exit, RunState};
use plan::step::Action;
use protocol::status::UnitState;
use tokio::task::JoinHandle;

use super::{Context, Message, crash, ready};
use crate::bus::now_ms;
use crate::endpoint::Endpoints;
use crate::gateway::Forwards;

/// After this many crashes in a row a unit is failed.
pub const RESTARTS_MAX: u32 = 5;
/// A unit that was ready this long has its crashes forgotten.
const FORGIVEN_AFTER_MS: i64 = 60_000;
/// An engine that stops ends its containers first and closes its events afterwards: exits so short before are its own.
const ENDED_BY_ENGINE: Duration = Duration::from_secs(30);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// What is known of the running preview, for everybody who has to reach its units.
#[derive(Default)]
pub struct Live {
    inner: Mutex<Inner>,
    pub forwards: Forwards,
    pub endpoints: Endpoints,
}

#[derive(Default)]
struct Inner {
    scope: Option<Scope>,
    addresses: BTreeMap<String, IpAddr>,
    /// Units that an operation is stopping: their exit is no crash.
    stopping: BTreeSet<String>,
    follows: BTreeMap<RuntimeKind, Follow>,
    next_follow: u64,
    /// A `down` left nothing that has to be remembered.
    forgettable: bool,
}

/// Who listens to a runtime. Its number tells its last words from those of the one before it.
struct Follow {
    number: u64,
    task: Abort,
}

/// A task that ends with its owner.
pub(crate) struct Abort(pub JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody would hear what happens at this runtime.
    pub(super) fn follows(&self, runtime: RuntimeKind) -> bool {
        self.lock().follows.get(&runtime).is_some_and(|follow| !follow.task.0.is_finished())
    }

    #[must_use]
    pub fn application(&self) -> Option<Arc<Application>> {
        self.lock().scope.as_ref().map(|scope| Arc::clone(&scope.application))
    }

    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        self.lock().scope.clone()
    }

    pub(crate) fn set_scope(&self, scope: Scope) {
        self.lock().scope = Some(scope);
    }

    pub(crate) fn set_address(&self, unit: &str, address: Option<IpAddr>) {
        let mut inner = self.lock();
        match address {
            Some(address) => drop(inner.addresses.insert(unit.to_owned(), address)),
            None => drop(inner.addresses.remove(unit)),
        }
    }

    pub(crate) fn has_address(&self, unit: &str) -> bool {
        self.lock().addresses.contains_key(unit)
    }

    pub(crate) fn expect_stop(&self, unit: &str, expected: bool) {
        let mut inner = self.lock();
        if expected {
            inner.stopping.insert(unit.to_owned());
        } else {
            inner.stopping.remove(unit);
        }
    }

    fn stopping(&self, unit: &str) -> bool {
        self.lock().stopping.contains(unit)
    }

    pub(crate) fn set_forgettable(&self, forgettable: bool) {
        self.lock().forgettable = forgettable;
    }

    pub(crate) fn forgettable(&self) -> bool {
        self.lock().forgettable
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
        self.forwards.clear();
        self.endpoints.clear();
    }

    /// Where a port of a unit is reached from this machine, best first: the container's own address (the engine's
    /// forwarder would accept before the program listens), then both loopback families.
    #[must_use]
    pub fn addresses(&self, unit: &Unit, port: &str) -> Vec<SocketAddr> {
        let Some(port) = unit.ports.get(port) else { return Vec::new() };
        if let Some(address) = self.lock().addresses.get(&unit.name) {
            return vec![SocketAddr::new(*address, port.inside)];
        }
        vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.host),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port.host),
        ]
    }
}

/// Makes sure that exits at this runtime reach the actor, before anything is started there.
///
/// # Errors
/// When the runtime cannot be followed.
pub(super) async fn follow(context: &Context, scope: &Scope, runtime: RuntimeKind) -> Result<(), drivers::Problem> {
    if context.live.follows(runtime) {
        return Ok(());
    }
    let driver = context.shared.engines.driver(runtime)?;
    let mut events = driver.follow(&scope.preview.id, &scope.places).await?;
    let mailbox = context.mailbox.clone();
    let number = {
        let mut inner = context.live.lock();
        inner.next_follow += 1;
        inner.next_follow
    };
    let task = tokio::spawn(async move {
        let mut reason = "its events ended".to_owned();
        while let Some(event) = events.next().await {
            if let RuntimeEvent::Lost { reason: told } = event {
                reason = told;
                break;
            }
            if mailbox.send(Message::Runtime { event }).await.is_err() {
                return;
            }
        }
        drop(mailbox.send(Message::Lost { runtime, reason, follow: number }).await);
    });
    context.live.lock().follows.insert(runtime, Follow { number, task: Abort(task) });
    Ok(())
}

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
        self.context.board.edit_unit(name, |unit| {
            unit.state = UnitState::Unhealthy;
            unit.reason = Some(seen.to_owned());
        });
        self.publish_routes();
    }

    /// The runtime went away: say so on every unit, and come back when it does.
    pub fn lost(&mut self, runtime: RuntimeKind, reason: &str, follow: u64) {
        {
            let mut inner = self.context.live.lock();
            // A keeper leaves with its last unit; an operation may have started the next one already.
            if inner.follows.get(&runtime).is_some_and(|current| current.number != follow) {
                return;
            }
            inner.follows.remove(&runtime);
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
