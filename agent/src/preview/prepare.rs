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
use plan::step::Plan;
use protocol::Problem;
use protocol::request::UpRequest;

use super::desired_state::{DesiredState, ManifestSource, resolve_desired_state};
use super::down;
use super::up::build_scope;
use crate::approvals::Purpose;
use crate::convert;
use crate::endpoint::{EndpointBinding, bind_endpoints};
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
) -> Result<PreparedPlan, Problem> {
    let preparation = Preparation { shared, record, request, source, published, purpose };
    let (inputs, engine_observed) = match request.runtime.as_deref() {
        Some("docker") => (preparation.resolve_for_runtime(RuntimeKind::DOCKER).await?, None),
        Some("process") => (preparation.resolve_for_runtime(RuntimeKind::PROCESS).await?, None),
        Some(other) => {
            let title = format!("unknown runtime `{other}`; allowed are `docker` and `process`");
            return Err(Problem::new("invalid_request", 422, title));
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
    let observed = observe_runtimes(shared, &scope, engine_observed).await?;
    if let Some(selected) = &desired.selected_units {
        // A unit that was neither requested nor exists does not belong to the preview yet.
        let belongs =
            |name: &str| selected.contains(name) || stopped_units.contains(name) || observed.units.contains_key(name);
        scope = narrow_scope(scope, belongs);
    }
    let options = CompareOptions {
        force: request.force,
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
}

impl Preparation<'_> {
    /// Uses containers if an engine answers, else local processes. Also returns what the engine reported about this
    /// preview. The engine usually answers, so the inputs for containers are resolved at the same time.
    async fn resolve_for_available_runtime(&self) -> Result<(ResolvedInputs, Option<Observed>), Problem> {
        if let Ok(docker) = self.shared.drivers.driver(RuntimeKind::DOCKER) {
            let locations = self.shared.locations.preview_locations(&self.record.name.id, &self.record.folder);
            let observing = async {
                let reply = tokio::time::timeout(ENGINE_REPLY_LIMIT, docker.observe(&self.record.name.id, &locations));
                let no_reply = |_| format!("no reply within {} s", ENGINE_REPLY_LIMIT.as_secs());
                reply.await.map_err(no_reply)?.map_err(|problem| problem.message)
            };
            // `Ok` around the result, so that only a missing engine ends both futures early. A wrong manifest is
            // reported after the engine has answered.
            let resolving = async { Ok(self.resolve_for_runtime(RuntimeKind::DOCKER).await) };
            let reason = match tokio::try_join!(observing, resolving) {
                Ok((observed, inputs)) => return Ok((inputs?, Some(observed))),
                Err(reason) => reason,
            };
            if self.record.has_containers && self.record.intent == Intent::Up {
                // Local processes would be a second copy of the same services, without the data of the first one.
                let title = format!("this preview has containers, but their engine does not answer: {reason}");
                return Err(Problem::new("runtime_unavailable", 503, title).hint(
                    "Start the engine and run `pdev up` again, or run `pdev up --runtime process` without containers.",
                ));
            }
            // Units that need a container are refused here, so add why the engine cannot be used.
            let add_reason = |problem: Problem| Problem { detail: problem.detail.clone().or(Some(reason)), ..problem };
            return Ok((self.resolve_for_runtime(RuntimeKind::PROCESS).await.map_err(add_reason)?, None));
        }
        Ok((self.resolve_for_runtime(RuntimeKind::PROCESS).await?, None))
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
        let job_inputs = desired
            .job_inputs
            .iter()
            .map(|(job, patterns)| (job.clone(), crate::job_inputs::digest(&project, patterns)));
        include_job_inputs(&mut application, &job_inputs.collect());
        let endpoints = bind_endpoints(shared, self.record, &mut application, &mut desired.ports, self.purpose).await?;
        let is_selected =
            |unit: &String| desired.selected_units.as_ref().is_none_or(|selected| selected.contains(unit));
        desired.notes.extend(endpoints.notes.into_iter().filter(|(unit, _)| is_selected(unit)).map(|(_, note)| note));
        let locations = shared.locations.preview_locations(&self.record.name.id, &project);
        let scope = build_scope(shared, self.published, self.record.name.clone(), locations, Arc::new(application));
        // Images of units that were not requested are not inspected, and their build contexts are not hashed.
        let scope_of_images = match &desired.selected_units {
            Some(selected) => narrow_scope(scope.clone(), |name| selected.contains(name)),
            None => scope.clone(),
        };
        let used = used_runtimes(&scope_of_images.application);
        let drivers = shared.drivers.all().into_iter().filter(|driver| used.contains(&driver.runtime()));
        let inspections = drivers.map(|driver| {
            let scope = &scope_of_images;
            async move { driver.inspect_images(scope).await }
        });
        let mut images = Images::default();
        for result in futures_util::future::join_all(inspections).await {
            let inspected = result.map_err(|problem| convert::driver_problem(&problem, None))?;
            images.current.extend(inspected.current);
            images.stale.extend(inspected.stale);
        }
        Ok(ResolvedInputs { desired, endpoints: endpoints.bindings, scope, images })
    }
}

/// Observes the preview in all runtimes concurrently. Containers are not observed again if `engine_observed` has them:
/// it is only moments old, and no other operation changes this preview.
async fn observe_runtimes(
    shared: &Arc<Shared>,
    scope: &Scope,
    engine_observed: Option<Observed>,
) -> Result<Observed, Problem> {
    let used = used_runtimes(&scope.application);
    let is_observed = |runtime| engine_observed.is_some() && runtime == RuntimeKind::DOCKER;
    let drivers = shared.drivers.all().into_iter().filter(|driver| !is_observed(driver.runtime()));
    let observations = drivers.map(|driver| {
        let is_used = used.contains(&driver.runtime());
        async move {
            let observed = driver.observe(&scope.preview.id, &scope.locations).await;
            // A runtime that no unit of this preview uses may be unavailable.
            if is_used { observed } else { Ok(observed.unwrap_or_default()) }
        }
    });
    let results = futures_util::future::join_all(observations).await;
    let mut all = engine_observed.unwrap_or_default();
    for result in results {
        down::merge_observed(&mut all, result.map_err(|problem| convert::driver_problem(&problem, None))?);
    }
    Ok(all)
}

pub(super) fn used_runtimes(application: &Application) -> BTreeSet<RuntimeKind> {
    application.units.values().map(|unit| unit.runtime).collect()
}
