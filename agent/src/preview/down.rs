//! The operation `down`: removes the observed objects, keeps data unless the request says otherwise, and removes the
//! record of a preview that has no data left.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use drivers::problem::Problem as DriverProblem;
use drivers::{Scope, TargetSource};
use plan::Application;
use plan::compare::{TeardownOptions, teardown};
use plan::observed::{Observed, RunState};
use plan::target::{Target, Targets};
use protocol::EventKind;
use protocol::Problem;
use protocol::status::UnitState;

use super::outcome::Outcome;
use super::{Context, execute};
use crate::convert;
use crate::registry::{Intent, Record};

pub(super) async fn run(context: Context, volumes: bool) -> Outcome {
    let begun = Instant::now();
    let result = take_down(&context, volumes).await;
    // A unit that could not be stopped must not get credentials any more.
    context.live.endpoints.clear();
    let taken_down = match result {
        Ok(taken_down) => taken_down,
        Err(problem) => return Outcome::new(Err(problem), begun),
    };
    if taken_down.problems.is_empty() {
        context.live.clear();
        context.live.set_forgettable(taken_down.forgettable);
        context.published.replace_units(&[]);
    }
    let mut outcome = Outcome::new(Ok((taken_down.problems, false)), begun);
    outcome.unreachable = taken_down.unreachable;
    outcome
}

struct TakenDown {
    problems: Vec<Problem>,
    /// The preview has no data left.
    forgettable: bool,
    unreachable: Vec<Target>,
}

async fn take_down(context: &Context, volumes: bool) -> Result<TakenDown, Problem> {
    let record = context.shared.registry.get(&context.id);
    let project = record.as_ref().map_or_else(|| PathBuf::from("/"), |record| record.folder.clone());
    // Record the intent first, so that an interrupted `down` is completed after a restart of the agent.
    let recorded = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Down { volumes };
        record.stopped_units.clear();
    });
    if let Err(error) = recorded {
        // Continue despite a full disk, because the teardown frees space. The end of the operation reports a failure.
        context.published.publish_event(EventKind::Noted { text: convert::state_write_problem(&error).title });
    }
    let locations = context.shared.locations.preview_locations(&context.id, &project);
    let scope = match context.live.scope() {
        Some(scope) => scope,
        None => empty_scope(context, record.as_ref().map(|record| record.name.clone()), locations),
    };
    let scope = Scope { targets: targets_of(context, record.as_ref()), ..scope };
    let Survey { observed, mut unreachable } = survey_preview(context, &scope).await;
    // Without a record, an engine that does not answer has probably never been used.
    unreachable.retain(|_| record.as_ref().is_some_and(|record| !record.targets.is_empty()));
    let plan = teardown(&observed, &TeardownOptions { remove_volumes: volumes });
    context.published.publish_event(EventKind::Planned { plan: convert::plan_view(&plan) });
    for (unit, observed_unit) in &observed.units {
        context.live.order_stop(unit);
        if observed_unit.state == RunState::Running {
            context.published.edit_unit(unit, |status| status.state = UnitState::Stopping);
        }
    }
    let mut problems = execute::execute_plan(context, &scope, &plan, BTreeMap::new()).await;
    problems.extend(unreachable.iter().map(|(target, problem)| unreachable_problem(&scope, target, problem)));
    let mut forgettable = false;
    if problems.is_empty() {
        forgettable = clean_up_preview(context, &scope, volumes)?;
    }
    let unreachable = unreachable.into_iter().map(|(target, _)| target).collect();
    Ok(TakenDown { problems, forgettable, unreachable })
}

/// A scope without units, for a preview whose application is unknown. It is sufficient for a teardown.
fn empty_scope(
    context: &Context,
    name: Option<plan::application::PreviewName>,
    locations: drivers::Locations,
) -> Scope {
    let preview = name.unwrap_or_else(|| {
        let published = context.published.preview();
        plan::application::PreviewName {
            id: context.id.clone(),
            app: published.app,
            branch: published.branch,
            environment: published.environment,
        }
    });
    let application = Application {
        preview: preview.clone(),
        units: BTreeMap::new(),
        volumes: BTreeMap::new(),
        default_service: None,
    };
    super::scope::scope_for(context, preview, locations, Arc::new(application), Targets::default())
}

/// The places of a preview that were asked for its objects.
struct Survey {
    observed: Observed,
    /// Where the preview has objects that cannot be removed now, and the reason.
    unreachable: Vec<(Target, DriverProblem)>,
}

/// Observes the preview where it has objects. Other engines are not asked: their user may not have access to them.
async fn survey_preview(context: &Context, scope: &Scope) -> Survey {
    let mut survey = Survey { observed: Observed::default(), unreachable: Vec::new() };
    for target in scope.targets.iter() {
        let result = match context.shared.drivers.driver(target) {
            Ok(driver) => driver.observe(&scope.preview.id, &scope.locations).await,
            Err(problem) => Err(problem),
        };
        match result {
            Ok(observed) => merge_observed(&mut survey.observed, observed),
            Err(problem) => survey.unreachable.push((target.clone(), problem)),
        }
    }
    survey
}

/// Reports what still runs.
fn unreachable_problem(scope: &Scope, target: &Target, problem: &DriverProblem) -> Problem {
    let units = scope.application.units.values().filter(|unit| unit.runtime == target.runtime);
    let names: Vec<String> = units.map(|unit| format!("`{}`", unit.name)).collect();
    let rest = if names.is_empty() { "its units".to_owned() } else { names.join(", ") };
    let problem = convert::driver_problem(problem, None);
    Problem { title: format!("cannot stop {rest}: {}", problem.title), ..problem }
        .hint("The agent completes the `down` when the engine answers. Other units were stopped.")
}

/// The recorded targets. A preview without a record may have objects in any runtime.
fn targets_of(context: &Context, record: Option<&Record>) -> Targets {
    if let Some(record) = record.filter(|record| !record.targets.is_empty()) {
        return record.targets.clone();
    }
    let drivers = &context.shared.drivers;
    let select = |runtime| drivers.select_target(runtime, &BTreeMap::new(), TargetSource::Default).ok().flatten();
    drivers.runtimes().filter_map(select).collect()
}

pub(super) fn merge_observed(all: &mut Observed, observed: Observed) {
    for (name, unit) in observed.units {
        // A unit exists in two runtimes if the manifest changed its runtime. The planner decides which one to remove.
        if let Some(other) = all.units.insert(name, unit) {
            all.strays.push(other);
        }
    }
    all.strays.extend(observed.strays);
    all.networks.extend(observed.networks);
    all.volumes.extend(observed.volumes);
}

/// Removes the secrets and folders after the last step. Returns true if the preview has no data left, so that its
/// record can be removed.
fn clean_up_preview(context: &Context, scope: &Scope, volumes: bool) -> Result<bool, Problem> {
    if let Err(error) = context.shared.delivery.remove_preview(&context.id.0) {
        context.published.publish_event(EventKind::Noted { text: error.to_string() });
    }
    if volumes {
        drop(std::fs::remove_dir_all(&scope.locations.data));
    }
    drop(std::fs::remove_dir_all(&scope.locations.runtime));
    drop(std::fs::remove_dir_all(&scope.locations.state));
    let keeps_data = scope.locations.data.is_dir() || (!volumes && !scope.application.volumes.is_empty());
    let recorded = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Idle;
        record.is_restored = false;
        // No program that a session started is left, so the restriction ends.
        record.session = None;
    });
    context.published.edit_preview(|status| status.session = None);
    recorded.map_err(|error| convert::state_write_problem(&error))?;
    // The actor removes the record, because a queued `up` may still need it.
    Ok(!keeps_data)
}
