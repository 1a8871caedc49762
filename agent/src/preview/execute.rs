//! Executes a plan: runs each step when its dependencies are done, with bounded parallelism. It makes no decisions.
//!
//! A failed step stops only the steps that depend on it. All other steps continue, and all failures are reported.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use drivers::Scope;
use plan::application::{ReadyCheck, RuntimeKind, Unit};
use plan::step::{Action, Plan, StepId};
use protocol::EventKind;
use protocol::Problem;
use protocol::status::{UnitState, UnitStatus};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::live_state::{mark_starting, subscribe_to_runtime};
use super::reattach::ensure_followed;
use super::{Context, Message};
use crate::convert;
use crate::registry::PortReservation;

/// Concurrent calls to the runtimes. Further calls would only queue inside the engine.
const CONCURRENT_CALLS_MAX: usize = 16;
/// The time limit of a job without `timeout`.
const DEFAULT_JOB_LIMIT: Duration = Duration::from_secs(3600);

/// Runs all steps and returns the problems of the failed ones.
pub(super) async fn execute_plan(
    context: &Context,
    scope: &Scope,
    plan: &Plan,
    reservations: BTreeMap<String, Vec<PortReservation>>,
) -> Vec<Problem> {
    let reservations = std::sync::Arc::new(Mutex::new(reservations));
    let calls = std::sync::Arc::new(Semaphore::new(CONCURRENT_CALLS_MAX));
    let mut graph = StepGraph::new(plan);
    let mut running: JoinSet<(StepId, Result<(), Problem>)> = JoinSet::new();
    let mut problems = Vec::new();
    loop {
        while let Some(id) = graph.next_ready() {
            let (context, scope, action) = (context.clone(), scope.clone(), plan.steps[id].action.clone());
            let (reservations, calls) = (std::sync::Arc::clone(&reservations), std::sync::Arc::clone(&calls));
            running.spawn(async move { (id, run_step(&context, &scope, id, &action, &reservations, &calls).await) });
        }
        let Some(joined) = running.join_next().await else { break };
        match joined {
            Ok((id, Ok(()))) => graph.mark_done(id),
            Ok((id, Err(problem))) => {
                graph.mark_failed(id);
                problems.push(problem);
            }
            // A step panicked, so its id is unknown and its dependents cannot be skipped. Dropping the set aborts the
            // rest.
            Err(error) => {
                problems.push(Problem::new("internal", 500, format!("a step failed unexpectedly: {error}")));
                break;
            }
        }
    }
    problems
}

async fn run_step(
    context: &Context,
    scope: &Scope,
    id: StepId,
    action: &Action,
    reservations: &Mutex<BTreeMap<String, Vec<PortReservation>>>,
    calls: &Semaphore,
) -> Result<(), Problem> {
    let begun = Instant::now();
    if convert::is_mutating(action) {
        context.published.publish_event(EventKind::StepStarted { step: id, text: action.to_string() });
    }
    let result = match (action, action.runtime()) {
        // Only driver calls are limited: a wait must not keep a slot while other units start.
        (_, Some(runtime)) => call_driver(context, scope, action, runtime, reservations, calls).await,
        (Action::AwaitReady { unit }, None) => await_ready(context, scope, unit).await,
        (Action::AwaitExit { unit }, None) => await_exit(context, scope, unit).await,
        // Every other action has a runtime.
        (_, None) => Ok(()),
    };
    match &result {
        Ok(()) if convert::is_mutating(action) => {
            let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            context.published.publish_event(EventKind::StepFinished { step: id, milliseconds });
        }
        Ok(()) => {}
        Err(problem) => context.published.publish_event(EventKind::StepFailed { step: id, problem: problem.clone() }),
    }
    result
}

async fn call_driver(
    context: &Context,
    scope: &Scope,
    action: &Action,
    runtime: RuntimeKind,
    reservations: &Mutex<BTreeMap<String, Vec<PortReservation>>>,
    calls: &Semaphore,
) -> Result<(), Problem> {
    let _call = calls.acquire().await.map_err(|_| Problem::new("internal", 500, "the executor was closed"))?;
    let unit = action.unit().map(String::as_str);
    let result = match (action, context.shared.drivers.driver_of(&scope.targets, runtime)) {
        (_, Err(problem)) => Err(problem),
        // A keeper exits with its last unit, which ends its event stream. So check the subscription before every start.
        (Action::Start { .. } | Action::Apply { .. }, Ok(driver)) => {
            match subscribe_to_runtime(context, scope, runtime).await {
                Ok(()) => {
                    before_action(context, action, reservations);
                    let started = driver.perform(scope, action).await;
                    match started {
                        Ok(outcome) => ensure_followed(context, scope, runtime).await.map(|()| outcome),
                        Err(problem) => Err(problem),
                    }
                }
                Err(problem) => Err(problem),
            }
        }
        (_, Ok(driver)) => {
            before_action(context, action, reservations);
            driver.perform(scope, action).await
        }
    };
    match result {
        Ok(outcome) => {
            for note in outcome.notes {
                context.published.publish_event(EventKind::Noted { text: note });
            }
            after_action(context, action, outcome.handle, outcome.address).await;
            Ok(())
        }
        Err(problem) => {
            let problem = convert::driver_problem(&problem, unit);
            if let Some(unit) = unit {
                super::crash_report::mark_failed(context, unit, problem.clone());
            }
            Err(problem)
        }
    }
}

fn before_action(context: &Context, action: &Action, reservations: &Mutex<BTreeMap<String, Vec<PortReservation>>>) {
    match action {
        Action::PrepareImage { unit, .. } | Action::PushImage { unit, .. } => {
            context.published.edit_unit(unit, |status| {
                status.state = UnitState::Preparing;
                status.reason = None;
            });
        }
        Action::Start { unit, .. } | Action::Apply { unit, .. } => {
            // Release the unit's ports just before its program binds them.
            if let Ok(mut reservations) = reservations.lock() {
                reservations.remove(unit);
            }
            context.live.forget_crashes(unit);
            context.published.edit_unit(unit, |status| status.restarts = 0);
            mark_starting(context, unit);
        }
        Action::Stop { unit, .. } => {
            context.live.order_stop(unit);
            context.published.edit_unit(unit, |status| status.state = UnitState::Stopping);
        }
        Action::Remove { unit, .. } | Action::Delete { unit, .. } => context.live.order_stop(unit),
        _ => {}
    }
}

async fn after_action(context: &Context, action: &Action, handle: Option<String>, address: Option<IpAddr>) {
    match action {
        Action::Create { unit, .. } => context.published.edit_unit(unit, |status| status.handle = handle),
        Action::Start { unit, .. } | Action::Apply { unit, .. } => {
            if handle.is_some() {
                context.published.edit_unit(unit, |status| status.handle = handle);
            }
            context.live.set_address(unit, address);
            super::delivered_inputs::record_start(context, unit);
            drop(context.mailbox.send(Message::UnitStarted { unit: unit.clone() }).await);
        }
        Action::Stop { unit, .. } => context.published.edit_unit(unit, |status| status.state = UnitState::Stopped),
        _ => {}
    }
}

/// Waits until the unit is ready, or returns the problem that the supervisor published. The deadline covers all
/// restarts that the supervisor may attempt.
async fn await_ready(context: &Context, scope: &Scope, name: &str) -> Result<(), Problem> {
    let Some(unit) = scope.application.units.get(name) else { return Ok(()) };
    // Six starts (the first one and five restarts) and their pauses.
    let limit = unit.health.start_limit.saturating_mul(6) + Duration::from_secs(60);
    let wait = context.published.wait_for_unit(name, |status| settled_outcome(status, &[UnitState::Ready]));
    wait_result(context, unit, tokio::time::timeout(limit, wait).await)
}

async fn await_exit(context: &Context, scope: &Scope, name: &str) -> Result<(), Problem> {
    let Some(unit) = scope.application.units.get(name) else { return Ok(()) };
    let limit = unit.timeout.unwrap_or(DEFAULT_JOB_LIMIT);
    let wait = context.published.wait_for_unit(name, |status| settled_outcome(status, &[UnitState::Done]));
    let result = tokio::time::timeout(limit, wait).await;
    if result.is_err() {
        stop_timed_out_job(context, scope, unit, limit).await;
    }
    wait_result(context, unit, result)
}

async fn stop_timed_out_job(context: &Context, scope: &Scope, unit: &Unit, limit: Duration) {
    let runtime = unit.runtime;
    context.live.order_stop(&unit.name);
    if let Ok(driver) = context.shared.drivers.driver_of(&scope.targets, runtime) {
        drop(driver.perform(scope, &Action::Stop { unit: unit.name.clone(), runtime }).await);
    }
    let lines = super::crash_report::read_last_lines(context, scope, &unit.name).await;
    let title = format!("the job did not end within {} s and was stopped", limit.as_secs());
    let hint = format!("Set `jobs.{}.timeout` if the job needs more time.", unit.name);
    let problem = Problem { output: lines, ..Problem::new("timeout", 0, title).unit(&unit.name).hint(hint) };
    super::crash_report::mark_failed(context, &unit.name, problem);
}

/// `Some(true)` in one of the expected states, `Some(false)` if the unit has failed, else `None`.
fn settled_outcome(status: Option<&UnitStatus>, expected: &[UnitState]) -> Option<bool> {
    let state = status?.state;
    if expected.contains(&state) { Some(true) } else { (state == UnitState::Failed).then_some(false) }
}

fn wait_result(
    context: &Context,
    unit: &Unit,
    result: Result<Option<bool>, tokio::time::error::Elapsed>,
) -> Result<(), Problem> {
    if let Ok(Some(true)) = result {
        return Ok(());
    }
    let problem = context.published.problems().into_iter().find(|problem| problem.unit.as_deref() == Some(&unit.name));
    Err(problem.unwrap_or_else(|| {
        let expected = if unit.health.ready == ReadyCheck::Exit { "end" } else { "become healthy" };
        Problem::new("timeout", 0, format!("it did not {expected} in time")).unit(&unit.name)
    }))
}

/// Tracks which steps can run. A step whose dependency failed never becomes ready.
struct StepGraph {
    unmet_dependencies: Vec<usize>,
    dependents: Vec<Vec<StepId>>,
    ready_steps: Vec<StepId>,
}

impl StepGraph {
    fn new(plan: &Plan) -> Self {
        let mut dependents = vec![Vec::new(); plan.steps.len()];
        for step in &plan.steps {
            for dependency in &step.after {
                dependents[*dependency].push(step.id);
            }
        }
        let unmet_dependencies: Vec<usize> = plan.steps.iter().map(|step| step.after.len()).collect();
        let mut ready_steps: Vec<StepId> =
            (0..unmet_dependencies.len()).filter(|id| unmet_dependencies[*id] == 0).collect();
        // `next_ready` pops from the end, so the first step of the plan must be last.
        ready_steps.reverse();
        Self { unmet_dependencies, dependents, ready_steps }
    }

    fn next_ready(&mut self) -> Option<StepId> {
        self.ready_steps.pop()
    }

    fn mark_done(&mut self, id: StepId) {
        for dependent in std::mem::take(&mut self.dependents[id]) {
            self.unmet_dependencies[dependent] = self.unmet_dependencies[dependent].saturating_sub(1);
            if self.unmet_dependencies[dependent] == 0 {
                self.ready_steps.push(dependent);
            }
        }
    }

    /// Its dependents keep an unmet dependency, so neither they nor their own dependents are run.
    fn mark_failed(&mut self, id: StepId) {
        self.dependents[id].clear();
    }
}

#[cfg(test)]
mod tests {
    use plan::step::{Cause, Step};

    use super::*;

    fn plan(edges: &[&[StepId]]) -> Plan {
        let steps = edges.iter().enumerate().map(|(id, after)| Step {
            id,
            action: Action::CreateNetwork { runtime: RuntimeKind::ALL[0] },
            after: after.to_vec(),
            cause: Cause::Absent,
            destroys: None,
        });
        Plan { steps: steps.collect() }
    }

    #[test]
    fn failed_step_stops_only_its_dependents() {
        // 0 -> 1 -> 2, 3 alone -> 4
        let mut graph = StepGraph::new(&plan(&[&[], &[0], &[1], &[], &[3]]));
        let mut ran = Vec::new();
        while let Some(id) = graph.next_ready() {
            ran.push(id);
            if id == 1 {
                graph.mark_failed(id);
            } else {
                graph.mark_done(id);
            }
        }
        ran.sort_unstable();
        assert_eq!(ran, [0, 1, 3, 4]);
    }
}
