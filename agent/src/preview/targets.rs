//! Chooses where the units of a preview run: the engine that the caller's variables select, else the one that the
//! preview uses already, else the one of the manifest's `context`, else the default of the runtime's own tools.

use std::collections::BTreeMap;
use std::sync::Arc;

use drivers::TargetSource;
use drivers::driver::Driver;
use drivers::problem::Problem as DriverProblem;
use plan::application::RuntimeKind;
use plan::target::{Target, Targets};
use protocol::Problem;
use protocol::request::UpRequest;

use crate::registry::{Intent, Record};
use crate::runtimes::RuntimeDrivers;

/// The target of each runtime, or why it cannot be used. A wrong setting matters only to units of its runtime.
pub(super) struct ChosenTargets(BTreeMap<RuntimeKind, Result<Target, DriverProblem>>);

impl ChosenTargets {
    /// Reads configuration files of the runtimes, so it blocks.
    ///
    /// # Errors
    /// When the caller's variables select another engine than the one on which the preview runs.
    pub(super) fn choose(drivers: &RuntimeDrivers, record: &Record, request: &UpRequest) -> Result<Self, Problem> {
        let mut chosen = BTreeMap::new();
        for runtime in drivers.runtimes() {
            chosen.insert(runtime, choose_target(drivers, record, request, runtime)?);
        }
        Ok(Self(chosen))
    }

    pub(super) fn driver(
        &self,
        drivers: &RuntimeDrivers,
        runtime: RuntimeKind,
    ) -> Result<Arc<dyn Driver>, DriverProblem> {
        match self.0.get(&runtime) {
            Some(Ok(target)) => drivers.driver(target),
            Some(Err(problem)) => Err(problem.clone()),
            None => drivers.driver(&Target::machine(runtime)),
        }
    }

    pub(super) fn usable(&self) -> Targets {
        self.0.values().filter_map(|target| target.as_ref().ok().cloned()).collect()
    }
}

fn choose_target(
    drivers: &RuntimeDrivers,
    record: &Record,
    request: &UpRequest,
    runtime: RuntimeKind,
) -> Result<Result<Target, DriverProblem>, Problem> {
    let select = |source| drivers.select_target(runtime, &request.target_variables, source);
    let recorded = record.targets.get(runtime);
    let by_caller = match select(TargetSource::Variables) {
        Ok(target) => target,
        Err(problem) => return Ok(Err(problem)),
    };
    match (by_caller, recorded) {
        // Its objects there would be left behind.
        (Some(target), Some(recorded)) if target.place != recorded.place && record.intent != Intent::Idle => {
            Err(changed_target_problem(recorded, &target))
        }
        (Some(target), _) => Ok(Ok(target)),
        (None, Some(recorded)) if record.context == record.applied_context => Ok(Ok(recorded.clone())),
        // The manifest names another context than at the last `up`.
        (None, Some(recorded)) => match select_by_context(record, select) {
            Ok(Some(target)) if target.place != recorded.place && record.intent != Intent::Idle => {
                Err(changed_target_problem(recorded, &target))
            }
            Ok(Some(target)) => Ok(Ok(target)),
            Ok(None) => Ok(Ok(recorded.clone())),
            Err(problem) => Ok(Err(problem)),
        },
        (None, None) => Ok(select_by_context(record, select).and_then(|target| match target {
            Some(target) => Ok(target),
            None => select(TargetSource::Default).map(|target| target.unwrap_or_else(|| Target::machine(runtime))),
        })),
    }
}

/// The target of the manifest's `context`, if it has one and the runtime has contexts.
fn select_by_context<'a>(
    record: &'a Record,
    select: impl Fn(TargetSource<'a>) -> Result<Option<Target>, DriverProblem>,
) -> Result<Option<Target>, DriverProblem> {
    record.context.as_deref().map_or(Ok(None), |name| select(TargetSource::Context(name)))
}

fn changed_target_problem(recorded: &Target, wanted: &Target) -> Problem {
    let title = format!(
        "this preview runs on {recorded}, but {} selects {}",
        wanted.chosen_by,
        Target { chosen_by: String::new(), ..wanted.clone() }
    );
    let hint = format!("Run `pdev down` first to move it, or run the command without {}.", wanted.chosen_by);
    Problem::new("target_changed", 409, title).hint(hint)
}
