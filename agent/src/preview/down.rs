//! The operation `down`: removes the observed objects, keeps data unless the request says otherwise, and removes the
//! record of a preview that has no data left.

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
use protocol::status::UnitState;

use super::outcome::Outcome;
use super::{Context, execute, naming};
use crate::convert;
use crate::registry::Intent;

pub(super) async fn run(context: Context, volumes: bool) -> Outcome {
    let begun = Instant::now();
    let result = take_down(&context, volumes).await;
    // A unit that could not be stopped must not get credentials any more.
    context.live.endpoints.clear();
    let result = result.map(|(problems, forgettable)| {
        if problems.is_empty() {
            context.live.clear();
            context.live.set_forgettable(forgettable);
            context.published.replace_units(&[]);
        }
        (problems, false)
    });
    Outcome::new(result, begun)
}

async fn take_down(context: &Context, volumes: bool) -> Result<(Vec<Problem>, bool), Problem> {
    let record = context.shared.registry.get(&context.id);
    let project = record.as_ref().map_or_else(|| PathBuf::from("/"), |record| record.folder.clone());
    // Record the intent first, so that an interrupted `down` is completed after a restart of the agent.
    let recorded = context.shared.registry.edit(&context.id, |record| {
        record.intent = Intent::Down { volumes };
        record.stopped_units.clear();
    });
    if let Err(error) = recorded {
        // Continue despite a full disk, because the teardown frees space. The end of the operation reports a failure.
        context.published.publish_event(EventKind::Noted { text: naming::state_write_problem(&error).title });
    }
    let locations = context.shared.locations.preview_locations(&context.id, &project);
    let scope = match context.live.scope() {
        Some(scope) => scope,
        None => empty_scope(context, record.as_ref().map(|record| record.name.clone()), locations),
    };
    let observed = observe_preview(context, &scope).await?;
    let plan = teardown(&observed, &TeardownOptions { remove_volumes: volumes });
    context.published.publish_event(EventKind::Planned { plan: convert::plan_view(&plan) });
    for (unit, observed_unit) in &observed.units {
        context.live.expect_stop(unit, true);
        if observed_unit.state == RunState::Running {
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
    super::up::scope_for(context, preview, locations, Arc::new(application))
}

/// Observes this preview in all runtimes. An engine that does not answer is ignored, unless the preview is known to
/// have containers.
async fn observe_preview(context: &Context, scope: &Scope) -> Result<Observed, Problem> {
    let mut all = Observed::default();
    for driver in context.shared.drivers.all() {
        match driver.observe(&scope.preview.id, &scope.locations).await {
            Ok(observed) => merge_observed(&mut all, observed),
            Err(problem) if problem.kind == ProblemKind::Unavailable && !uses_runtime(scope, driver.runtime()) => {}
            Err(problem) => return Err(convert::driver_problem(&problem, None)),
        }
    }
    Ok(all)
}

fn uses_runtime(scope: &Scope, runtime: plan::application::RuntimeKind) -> bool {
    scope.application.units.values().any(|unit| unit.runtime == runtime)
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
        // No program that a session started is left, so the restriction ends.
        record.session = None;
    });
    context.published.edit_preview(|status| status.session = None);
    recorded.map_err(|error| naming::state_write_problem(&error))?;
    // The actor removes the record, because a queued `up` may still need it.
    Ok(!keeps_data)
}
