//! Computes the plan of an `up`: the desired state, the observed state, the current images, and the steps between them.
//!
//! It claims ports in the registry, but changes nothing in a runtime.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::Scope;
use plan::Application;
use plan::application::RuntimeKind;
use plan::compare::{CompareOptions, compare, include_job_inputs};
use plan::observed::{Images, Observed};
use plan::shell_environment::ShellEnvironment;
use plan::step::Plan;
use plan::target::Targets;
use protocol::Problem;
use protocol::request::UpRequest;

use super::delivered_inputs::changed_inputs;
use super::desired_state::{DesiredState, ManifestSource, resolve_desired_state};
use super::scope::build_scope;
use super::targets::ChosenTargets;
use super::{down, mounts};
use crate::approvals::Purpose;
use crate::convert;
use crate::endpoint::{EndpointBinding, bind_endpoints};
use crate::job_inputs;
use crate::published_status::PublishedStatus;
use crate::registry::{Intent, Record};
use crate::shared::Shared;

/// How long the engine may take to answer before the units run as local processes instead.
const ENGINE_REPLY_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct PreparedPlan {
    pub(super) desired: DesiredState,
    pub(super) endpoints: Vec<EndpointBinding>,
    pub(super) scope: Scope,
    pub(super) observed: Observed,
    pub(super) plan: Plan,
}

pub(super) async fn prepare_plan(
    shared: &Arc<Shared>,
    record: &Record,
    request: &UpRequest,
    source: &ManifestSource,
    published: &Arc<PublishedStatus>,
    purpose: Purpose,
    shell_environment: Option<Arc<ShellEnvironment>>,
) -> Result<PreparedPlan, Problem> {
    let chosen_targets = {
        // Reading the configuration of a runtime blocks.
        let (shared, record, request) = (Arc::clone(shared), record.clone(), request.clone());
        tokio::task::spawn_blocking(move || ChosenTargets::choose(&shared.drivers, &record, &request))
            .await
            .map_err(|error| Problem::new("internal", 500, format!("choosing the engine failed: {error}")))??
    };
    let targets = chosen_targets.usable();
    let preparation =
        Preparation { shared, record, request, source, published, purpose, chosen_targets, targets, shell_environment };
    let (inputs, known) = match request.runtime.as_deref() {
        Some(name) => {
            let runtime =
                RuntimeKind::parse(name).map_err(|error| Problem::new("invalid_request", 422, error.to_string()))?;
            (preparation.resolve_for_runtime(runtime).await?, None)
        }
        None => preparation.resolve_for_available_runtime().await?,
    };
    let ResolvedInputs { mut desired, endpoints, mut scope, images } = inputs;
    // A recovery must not start units that a user stopped; a new `up` may.
    let stopped_units = if source.is_disk() { BTreeSet::new() } else { record.stopped_units.clone() };
    if !stopped_units.is_empty() {
        let all = || scope.application.units.keys().cloned().collect();
        let selected: BTreeSet<String> = desired.selected_units.take().unwrap_or_else(all);
        desired.selected_units = Some(selected.difference(&stopped_units).cloned().collect());
    }
    let observed = observe_runtimes(shared, &scope, known).await?;
    if let Some(selected) = &desired.selected_units {
        // A unit that was neither requested nor exists does not belong to the preview yet.
        let belongs =
            |name: &str| selected.contains(name) || stopped_units.contains(name) || observed.units.contains_key(name);
        scope = narrow_scope(scope, belongs);
    }
    let options = CompareOptions {
        force: request.force,
        changed_inputs: changed_inputs(&record.delivered_inputs, &desired.delivered_inputs),
        selected_units: desired.selected_units.clone(),
        jobs_to_run: request.jobs.iter().cloned().collect(),
    };
    let plan = compare(&scope.application, &observed, &images, &options);
    Ok(PreparedPlan { desired, endpoints, scope, observed, plan })
}

fn narrow_scope(scope: Scope, belongs: impl Fn(&str) -> bool) -> Scope {
    let mut application = Application::clone(&scope.application);
    application.units.retain(|name, _| belongs(name));
    // The volumes of units that are left out are not created.
    application.volumes.retain(|_, volume| application.units.contains_key(&volume.owner));
    Scope { application: Arc::new(application), ..scope }
}

/// The desired state, and which of its images are current.
struct ResolvedInputs {
    desired: DesiredState,
    endpoints: Vec<EndpointBinding>,
    scope: Scope,
    images: Images,
}

struct Preparation<'a> {
    shared: &'a Arc<Shared>,
    record: &'a Record,
    request: &'a UpRequest,
    source: &'a ManifestSource,
    published: &'a Arc<PublishedStatus>,
    purpose: Purpose,
    chosen_targets: ChosenTargets,
    /// Those of `chosen_targets` that can be used.
    targets: Targets,
    shell_environment: Option<Arc<ShellEnvironment>>,
}

impl Preparation<'_> {
    /// Uses the first runtime that answers. Also returns what it reported about this preview.
    async fn resolve_for_available_runtime(&self) -> Result<(ResolvedInputs, Option<KnownState>), Problem> {
        let mut first_reason: Option<String> = None;
        for runtime in self.shared.drivers.default_candidates() {
            if !runtime.capabilities().availability.is_engine() {
                // Units that need an engine are refused here, so add why it cannot be used.
                let add_reason =
                    |problem: Problem| Problem { detail: problem.detail.clone().or(first_reason), ..problem };
                return Ok((self.resolve_for_runtime(runtime).await.map_err(add_reason)?, None));
            }
            match self.resolve_and_observe(runtime).await? {
                Ok((inputs, observed)) => return Ok((inputs, Some((runtime, observed)))),
                Err(reason) => {
                    self.refuse_second_copy(runtime, &reason)?;
                    first_reason.get_or_insert(reason);
                }
            }
        }
        let reason = first_reason.unwrap_or_default();
        Err(Problem::new("runtime_unavailable", 503, format!("no runtime is available: {reason}")))
    }

    /// Resolves for a runtime while its engine answers, which it usually does. The inner error is the reason why it does
    /// not answer.
    async fn resolve_and_observe(
        &self,
        runtime: RuntimeKind,
    ) -> Result<Result<(ResolvedInputs, Observed), String>, Problem> {
        let driver = match self.chosen_targets.driver(&self.shared.drivers, runtime) {
            Ok(driver) => driver,
            Err(problem) => return Ok(Err(problem.message)),
        };
        let locations = self.shared.locations.preview_locations(&self.record.name.id, &self.record.folder);
        let observing = async {
            let reply = tokio::time::timeout(ENGINE_REPLY_LIMIT, driver.observe(&self.record.name.id, &locations));
            let no_reply = |_| format!("no reply within {} s", ENGINE_REPLY_LIMIT.as_secs());
            reply.await.map_err(no_reply)?.map_err(|problem| problem.message)
        };
        // `Ok` around the result, so that only a missing engine ends both futures early. A wrong manifest is reported
        // after the engine has answered.
        let resolving = async { Ok(self.resolve_for_runtime(runtime).await) };
        match tokio::try_join!(observing, resolving) {
            Ok((observed, inputs)) => Ok(Ok((inputs?, observed))),
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Units in another runtime would be a second copy of the same services, without the data of the first one.
    fn refuse_second_copy(&self, runtime: RuntimeKind, reason: &str) -> Result<(), Problem> {
        if self.record.targets.get(runtime).is_none() || self.record.intent != Intent::Up {
            return Ok(());
        }
        let wording = &runtime.capabilities().wording;
        let title = format!("this preview runs {}, but its engine does not answer: {reason}", wording.in_runtime);
        let mut others = self.shared.drivers.default_candidates().into_iter();
        let hint = match others.find(|other| !other.capabilities().availability.is_engine()) {
            Some(other) => format!(
                "Start the engine and run `pdev up` again, or run `pdev up --runtime {other}` without this engine."
            ),
            None => "Start the engine and run `pdev up` again.".to_owned(),
        };
        Err(Problem::new("runtime_unavailable", 503, title).hint(hint))
    }

    async fn resolve_for_runtime(&self, default_runtime: RuntimeKind) -> Result<ResolvedInputs, Problem> {
        let shared = self.shared;
        let mut desired = {
            // Reading and parsing files blocks.
            let (shared, record) = (Arc::clone(shared), self.record.clone());
            let (request, source) = (self.request.clone(), self.source.clone());
            let work = tokio::task::spawn_blocking(move || {
                resolve_desired_state(&shared, &record, &request, &source, default_runtime)
            });
            work.await
                .map_err(|error| Problem::new("internal", 500, format!("reading the manifest failed: {error}")))??
        };
        let mut application = desired.application.clone();
        let project = PathBuf::from(&self.request.folder);
        mounts::refuse_own_folders(&shared.locations, &application, &project)?;
        let job_inputs =
            job_inputs::digest_all(project.clone(), desired.job_inputs.clone()).await.map_err(|error| {
                Problem::new("internal", 500, format!("reading the inputs of the jobs failed: {error}"))
            })?;
        include_job_inputs(&mut application, &job_inputs);
        let endpoints = {
            let (record, targets) = (self.record, &self.targets);
            bind_endpoints(shared, record, &mut application, &mut desired.ports, targets, self.purpose).await?
        };
        let is_selected =
            |unit: &String| desired.selected_units.as_ref().is_none_or(|selected| selected.contains(unit));
        desired.notes.extend(endpoints.notes.into_iter().filter(|(unit, _)| is_selected(unit)).map(|(_, note)| note));
        let locations = shared.locations.preview_locations(&self.record.name.id, &project);
        let scope = build_scope(
            shared,
            self.published,
            self.record.name.clone(),
            locations,
            Arc::new(application),
            self.targets.clone(),
            self.shell_environment.clone(),
        );
        // Images of units that were not requested are not inspected, and their build contexts are not hashed.
        let scope_of_images = match &desired.selected_units {
            Some(selected) => narrow_scope(scope.clone(), |name| selected.contains(name)),
            None => scope.clone(),
        };
        let used = used_runtimes(&scope_of_images.application);
        let mut drivers = Vec::new();
        for runtime in used {
            let driver = self.chosen_targets.driver(&shared.drivers, runtime);
            drivers.push(driver.map_err(|problem| convert::driver_problem(&problem, None))?);
        }
        let inspections = drivers
            .iter()
            .filter_map(|driver| driver.image_inspection())
            .map(|inspection| inspection.inspect_images(&scope_of_images));
        let mut images = Images::default();
        for result in futures_util::future::join_all(inspections).await {
            let inspected = result.map_err(|problem| convert::driver_problem(&problem, None))?;
            images.current.extend(inspected.current);
            images.stale.extend(inspected.stale);
        }
        Ok(ResolvedInputs { desired, endpoints: endpoints.bindings, scope, images })
    }
}

/// What a runtime reported about the preview.
type KnownState = (RuntimeKind, Observed);

/// Observes the preview in all runtimes concurrently, except the one of `known`: its state is only moments old, and no
/// other operation changes this preview.
async fn observe_runtimes(shared: &Arc<Shared>, scope: &Scope, known: Option<KnownState>) -> Result<Observed, Problem> {
    let used = used_runtimes(&scope.application);
    let known_runtime = known.as_ref().map(|(runtime, _)| *runtime);
    let targets = scope.targets.iter().filter(|target| Some(target.runtime) != known_runtime);
    let observations = targets.map(|target| {
        let is_used = used.contains(&target.runtime);
        async move {
            let observed = match shared.drivers.driver(target) {
                Ok(driver) => driver.observe(&scope.preview.id, &scope.locations).await,
                Err(problem) => Err(problem),
            };
            // A runtime that no unit of this preview uses may be unavailable.
            if is_used { observed } else { Ok(observed.unwrap_or_default()) }
        }
    });
    let results = futures_util::future::join_all(observations).await;
    let mut all = known.map(|(_, observed)| observed).unwrap_or_default();
    for result in results {
        down::merge_observed(&mut all, result.map_err(|problem| convert::driver_problem(&problem, None))?);
    }
    Ok(all)
}

pub(super) fn used_runtimes(application: &Application) -> BTreeSet<RuntimeKind> {
    application.units.values().map(|unit| unit.runtime).collect()
}
