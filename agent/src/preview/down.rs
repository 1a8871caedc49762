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

use super::actor::RUNTIMES;
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
        context.board.keep_units(&[]);
        let mut status = context.board.status();
        status.state = PreviewState::Down;
        context.board.publish(EventKind::Finished { status, milliseconds, unchanged: false });
    } else {
        for problem in &problems {
            context.board.set_problem(problem.unit.as_deref().unwrap_or_default(), problem.clone());
        }
        context.board.publish(EventKind::Failed {
            problems: problems.clone(),
            status: context.board.status(),
            milliseconds,
        });
    }
    context.board.end((!problems.is_empty()).then_some(PreviewState::Failed));
    context.shared.routing.refresh(&context.shared, &context.id);
}

async fn take_down(context: &Context, volumes: bool) -> Result<(Vec<Problem>, bool), Problem> {
    let record = context.shared.registry.get(&context.id);
    let project = record.as_ref().map_or_else(|| PathBuf::from("/"), |record| record.folder.clone());
    let noted = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Down { volumes };
        record.resting.clear();
    });
    if let Err(error) = noted {
        // A full disk is a reason to go on: taking things down makes room. What is left is told at the end.
        context.board.publish(EventKind::Noted { text: naming::state_problem(&error).title });
    }
    let places = context.shared.places.of_preview(&context.id, &project);
    let scope = match context.live.scope() {
        Some(scope) => scope,
        None => empty_scope(context, record.as_ref().map(|record| record.name.clone()), places),
    };
    let observed = observe(context, &scope).await?;
    let plan = teardown(&observed, &TeardownOptions { volumes });
    context.board.publish(EventKind::Planned { plan: convert::plan_view(&plan) });
    for (unit, seen) in &observed.units {
        context.live.expect_stop(unit, true);
        if seen.state == RunState::Running {
            context.board.edit_unit(unit, |status| status.state = UnitState::Stopping);
        }
    }
    let problems = execute::execute(context, &scope, &plan, BTreeMap::new()).await;
    let mut forgettable = false;
    if problems.is_empty() {
        forgettable = forget(context, &scope, volumes)?;
    }
    Ok((problems, forgettable))
}

/// A scope for a preview whose application is not known any more: enough to take it apart.
fn empty_scope(context: &Context, name: Option<plan::application::PreviewName>, places: drivers::Places) -> Scope {
    let preview = name.unwrap_or_else(|| {
        let known = context.board.preview();
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
    super::up::scope(context, preview, places, Arc::new(application))
}

/// Everything of this preview at every runtime. A container engine that is not there holds nothing we could remove
/// now, unless this preview is known to have containers.
async fn observe(context: &Context, scope: &Scope) -> Result<Observed, Problem> {
    let mut all = Observed::default();
    for runtime in RUNTIMES {
        let Ok(driver) = context.shared.engines.driver(runtime) else { continue };
        match driver.observe(&scope.preview.id, &scope.places).await {
            Ok(found) => merge(&mut all, found),
            Err(problem) if problem.kind == ProblemKind::Unavailable && !uses(scope, runtime) => {}
            Err(problem) => return Err(convert::problem(&problem, None)),
        }
    }
    Ok(all)
}

fn uses(scope: &Scope, runtime: plan::application::RuntimeKind) -> bool {
    scope.application.units.values().any(|unit| unit.body.runtime() == runtime)
}

pub(super) fn merge(all: &mut Observed, found: Observed) {
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
fn forget(context: &Context, scope: &Scope, volumes: bool) -> Result<bool, Problem> {
    if let Err(error) = context.shared.delivery.forget(&context.id.0) {
        context.board.publish(EventKind::Noted { text: error.to_string() });
    }
    if volumes {
        drop(std::fs::remove_dir_all(&scope.places.data));
    }
    drop(std::fs::remove_dir_all(&scope.places.runtime));
    drop(std::fs::remove_dir_all(&scope.places.state));
    let keeps_data = scope.places.data.is_dir() || (!volumes && !scope.application.volumes.is_empty());
    let written = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Idle;
        // Nothing that a session started is left.
        record.session = None;
    });
    context.board.edit_preview(|status| status.session = None);
    written.map_err(|error| naming::state_problem(&error))?;
    // The actor removes the record, because an `up` may wait that needs it.
    Ok(!keeps_data)
}
