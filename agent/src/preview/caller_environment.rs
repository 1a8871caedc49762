//! The environment of the shell in which `pdev up` was typed. It is held in memory only: in the preview's live state,
//! and in the keeper for the next agent.

use std::sync::Arc;

use plan::observed::{Observed, RunState};
use plan::shell_environment::ShellEnvironment;
use plan::step::Plan;
use protocol::request::{ShellVariables, UpRequest};
use protocol::status::ProcessEnvironment;

use super::live_state::LiveState;
use crate::convert;
use crate::registry::Record;
use crate::shared::Shared;

/// How many differing variables a note names.
const NAMES_MAX: usize = 5;

/// Removes the environment from a request, because requests are written to files.
pub fn take_from(request: &mut UpRequest) -> Option<ShellEnvironment> {
    let ShellVariables(variables) = request.shell_environment.take()?;
    Some(ShellEnvironment::from_variables(variables))
}

/// The recorded environment, or the one that the runtime holds since an earlier agent.
pub(super) async fn recall(shared: &Shared, live: &LiveState, record: &Record) -> Option<Arc<ShellEnvironment>> {
    if let Some(recorded) = live.shell_environment() {
        return Some(recorded);
    }
    let locations = shared.locations.preview_locations(&record.name.id, &record.folder);
    for target in record.targets.iter().filter(|target| target.runtime.capabilities().runs_as_user) {
        let Ok(driver) = shared.drivers.driver(target) else { continue };
        let Some(store) = driver.environment_store() else { continue };
        if let Ok(Some(environment)) = store.shell_environment(&record.name.id, &locations).await {
            live.set_shell_environment(Arc::new(environment));
        }
    }
    live.shell_environment()
}

/// The environments of an `up`.
pub(super) struct CallerEnvironment {
    /// For the programs that this operation starts.
    pub(super) of_operation: Option<Arc<ShellEnvironment>>,
    /// For later restarts.
    pub(super) recorded: Option<Arc<ShellEnvironment>>,
    previous: Option<Arc<ShellEnvironment>>,
}

impl CallerEnvironment {
    /// A run of single jobs uses the caller's environment once. An `up` records it.
    pub(super) fn choose(live: &LiveState, previous: Option<Arc<ShellEnvironment>>, request: &UpRequest) -> Self {
        let offered = live.take_offered_environment();
        let of_operation = offered.clone().or_else(|| previous.clone());
        let is_recorded = request.jobs.is_empty() || previous.is_none();
        let recorded = if is_recorded { of_operation.clone() } else { previous.clone() };
        if let Some(recorded) = &recorded {
            live.set_shell_environment(Arc::clone(recorded));
        }
        Self { of_operation, recorded, previous }
    }

    /// Tells which variables differ from those of programs that keep running.
    pub(super) fn note(&self, observed: &Observed, plan: &Plan) -> Option<String> {
        let (previous, recorded) = (self.previous.as_deref()?, self.recorded.as_deref()?);
        difference_note(previous, recorded, observed, plan)
    }

    pub(super) fn source(&self, has_processes: bool) -> Option<ProcessEnvironment> {
        let source = if self.recorded.is_some() { ProcessEnvironment::Shell } else { ProcessEnvironment::Agent };
        has_processes.then_some(source)
    }
}

/// `None` without differences that matter, or if no program keeps running with the previous environment.
pub(super) fn difference_note(
    previous: &ShellEnvironment,
    current: &ShellEnvironment,
    observed: &Observed,
    plan: &Plan,
) -> Option<String> {
    let changed: Vec<_> = plan.steps.iter().filter(|step| convert::is_mutating(&step.action)).collect();
    let keeps_running = observed.units.values().any(|unit| {
        unit.runtime.capabilities().runs_as_user
            && unit.state == RunState::Running
            && !changed.iter().any(|step| step.action.unit() == Some(&unit.name))
    });
    let names = previous.differing_names(current);
    if names.is_empty() || !keeps_running {
        return None;
    }
    let listed: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "this shell has other values of {}{more} than the running programs; they get the new values with `pdev restart`",
        listed.join(", ")
    ))
}
