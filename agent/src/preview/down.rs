//! The operation `down`: takes apart what is observed, keeps data unless asked, and forgets what is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use drivers::Scope;
use drivers::driver::ProblemKind;
use plan::Application;
use plan::compare::{TeardownOptions, teardown};
use plan::observed::{Observed, RunState};
use protocol::EventKind;
use protocol::Problem;
use protocol::status::{PreviewState, UnitState};

use super::actor::ALL_RUNTIMES;
use super::{Context, execute, naming};
use crate::convert;
use crate::registry::Intent;

pub(super) async fn run(context: Context, volumes: bool) {
    let begun = Instant::now();
    let (problems, forgettable) = match take_down(&context, volumes).await {
        Ok(outcome) => outcome,
        Err(problem) => (vec![problem], false),
    };
    // What could not be stopped shall not go on with a credential.
    context.live.endpoints.clear();
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if problems.is_empty() {
        context.live.clear();
        context.live.set_forgettable(forgettable);
        context.published.replace_units(&[]);
        let mut status = context.published.status();
        status.state = PreviewState::Down;
        context.published.publish_event(EventKind::Finished { status, milliseconds, unchanged: false });
    } else {
        for problem in &problems {
            context.published.set_problem(problem.unit.as_deref().unwrap_or_default(), problem.clone());
        }
        context.published.publish_event(EventKind::Failed {
            problems: problems.clone(),
            status: context.published.status(),
            milliseconds,
        });
    }
    context.published.end_operation((!problems.is_empty()).then_some(PreviewState::Failed));
    context.shared.routing.refresh(&context.shared, &context.id);
}

async fn take_down(context: &Context, volumes: bool) -> Result<(Vec<Problem>, bool), Problem> {
    let record = context.shared.registry.get(&context.id);
    let project = record.as_ref().map_or_else(|| PathBuf::from("/"), |record| record.folder.clone());
    let noted = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Down { volumes };
        record.stopped_units.clear();
    });
    if let Err(error) = noted {
        // A full disk is a reason to go on: taking things down makes room. What is left is told at the end.
        context.published.publish_event(EventKind::Noted { text: naming::state_write_problem(&error).title });
    }
    let places = context.shared.locations.preview_locations(&context.id, &project);
    let scope = match context.live.scope() {
        Some(scope) => scope,
        None => empty_scope(context, record.as_ref().map(|record| record.name.clone()), places),
    };
    let observed = observe_preview(context, &scope).await?;
    let plan = teardown(&observed, &TeardownOptions { remove_volumes: volumes });
    context.published.publish_event(EventKind::Planned { plan: convert::plan_view(&plan) });
    for (unit, seen) in &observed.units {
        context.live.expect_stop(unit, true);
        if seen.state == RunState::Running {
            context.published.edit_unit(unit, |status| status.state = UnitState::Stopping);
        }
    }
    let problems = execute::execute_plan(context, &scope, &plan, BTreeMap::new()).await;
    let mut forgettable = false;
    if problems.is_empty() {
        forgettable = clean_up_preview(context, &scope, volumes)?;
    }
    Ok((problems, forgettable))
}

/// A scope for a preview whose application is not known any more: enough to take it apart.
fn empty_scope(context: &Context, name: Option<plan::application::PreviewName>, places: drivers::Locations) -> Scope {
    let preview = name.unwrap_or_else(|| {
        let known = context.published.preview();
        plan::application::PreviewName {
            id: context.id.clone(),
            app: known.app,
            branch: known.branch,
            environment: known.environment,
        }
    });
    let application = Application {
        preview: preview.clone(),
        units: BTreeMap::new(),
        volumes: BTreeMap::new(),
        default_service: None,
    };
    super::up::scope_for(context, preview, places, Arc::new(application))
}

/// Everything of this preview at every runtime. A container engine that is not there holds nothing we could remove
/// now, unless this preview is known to have containers.
async fn observe_preview(context: &Context, scope: &Scope) -> Result<Observed, Problem> {
    let mut all = Observed::default();
    for runtime in ALL_RUNTIMES {
        let Ok(driver) = context.shared.drivers.driver(runtime) else { continue };
        match driver.observe(&scope.preview.id, &scope.locations).await {
            Ok(found) => merge_observed(&mut all, found),
            Err(problem) if problem.kind == ProblemKind::Unavailable && !uses_runtime(scope, runtime) => {}
            Err(problem) => return Err(convert::driver_problem(&problem, None)),
        }
    }
    Ok(all)
}

fn uses_runtime(scope: &Scope, runtime: plan::application::RuntimeKind) -> bool {
    scope.application.units.values().any(|unit| unit.body.runtime() == runtime)
}

pub(super) fn merge_observed(all: &mut Observed, found: Observed) {
    for (name, unit) in found.units {
        // The same unit at two runtimes: the manifest changed its runtime. The planner removes the one it must.
        if let Some(other) = all.units.insert(name, unit) {
            all.strays.push(other);
        }
    }
    all.strays.extend(found.strays);
    all.networks.extend(found.networks);
    all.volumes.extend(found.volumes);
}

/// After the last step: secrets go, and the record too unless data is kept for it.
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
    let written = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Idle;
        // Nothing that a session started is left.
        record.session = None;
    });
    context.published.edit_preview(|status| status.session = None);
    written.map_err(|error| naming::state_write_problem(&error))?;
    // The actor removes the record, because an `up` may wait that needs it.
    Ok(!keeps_data)
}
