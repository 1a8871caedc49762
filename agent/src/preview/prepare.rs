//! Before the first step of an `up`: what is wanted, what exists, which images are current, and so what is to be done.
//!
//! Claims ports, touches no runtime.

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

/// How long the engine may take to say that it is there, before processes are chosen instead.
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
    board: &Arc<PublishedStatus>,
    purpose: Purpose,
) -> Result<PreparedPlan, Problem> {
    let asker = Preparation { shared, record, request, source, published: board, purpose };
    let (wanted, seen) = match request.runtime.as_deref() {
        Some("docker") => (asker.resolve_for_runtime(RuntimeKind::Docker).await?, None),
        Some("process") => (asker.resolve_for_runtime(RuntimeKind::Process).await?, None),
        Some(other) => {
            let title = format!("unknown runtime `{other}`; known are docker and process");
            return Err(Problem::new("invalid_request", 422, title));
        }
        None => asker.resolve_for_available_runtime().await?,
    };
    let ResolvedInputs { mut desired, endpoints, mut scope, images } = wanted;
    let resting = if source.is_disk() { BTreeSet::new() } else { record.stopped_units.clone() };
    if !resting.is_empty() {
        let all = || scope.application.units.keys().cloned().collect();
        let chosen: BTreeSet<String> = desired.selected_units.take().unwrap_or_else(all);
        desired.selected_units = Some(chosen.difference(&resting).cloned().collect());
    }
    let observed = observe_runtimes(shared, &scope, seen).await?;
    if let Some(chosen) = &desired.selected_units {
        // What was neither asked for nor is there does not belong to the preview yet.
        let belongs = |name: &str| chosen.contains(name) || resting.contains(name) || observed.units.contains_key(name);
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
    // A volume whose owner is not brought up is not made.
    application.volumes.retain(|_, volume| application.units.contains_key(&volume.owner));
    Scope { application: Arc::new(application), ..scope }
}

/// What should be, and which of its images are current.
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
    /// Containers where an engine answers, processes elsewhere. With it comes what the engine told about this preview.
    /// The engine mostly answers, so what it would need is worked out while it is asked.
    async fn resolve_for_available_runtime(&self) -> Result<(ResolvedInputs, Option<Observed>), Problem> {
        if let Ok(docker) = self.shared.drivers.driver(RuntimeKind::Docker) {
            let places = self.shared.locations.preview_locations(&self.record.name.id, &self.record.folder);
            let observing = async {
                let seen = tokio::time::timeout(ENGINE_REPLY_LIMIT, docker.observe(&self.record.name.id, &places));
                let silent = |_| format!("nothing within {} s", ENGINE_REPLY_LIMIT.as_secs());
                seen.await.map_err(silent)?.map_err(|problem| problem.message)
            };
            // An engine that is not there ends both.
            let wanted = async { Ok(self.resolve_for_runtime(RuntimeKind::Docker).await) };
            let why = match tokio::try_join!(observing, wanted) {
                Ok((seen, wanted)) => return Ok((wanted?, Some(seen))),
                Err(why) => why,
            };
            if self.record.has_containers && self.record.intent == Intent::Up {
                // The same services as processes would be a second copy, without the data of the first.
                let title = format!("this preview has containers, and their engine does not answer: {why}");
                return Err(Problem::new("runtime_unavailable", 503, title).hint(
                    "Start the engine and run `pdev up` again, or leave it behind with `pdev up --runtime process`.",
                ));
            }
            // What can only run in a container is refused now; then it matters which engine was asked, and how it failed.
            let told = |problem: Problem| Problem { detail: problem.detail.clone().or(Some(why)), ..problem };
            return Ok((self.resolve_for_runtime(RuntimeKind::Process).await.map_err(told)?, None));
        }
        Ok((self.resolve_for_runtime(RuntimeKind::Process).await?, None))
    }

    async fn resolve_for_runtime(&self, default_runtime: RuntimeKind) -> Result<ResolvedInputs, Problem> {
        let shared = self.shared;
        let mut desired = {
            let (shared, record) = (Arc::clone(shared), self.record.clone());
            let (request, source) = (self.request.clone(), self.source.clone());
            let work = tokio::task::spawn_blocking(move || {
                resolve_desired_state(&shared, &record, &request, &source, default_runtime)
            });
            work.await
                .map_err(|error| Problem::new("internal", 500, format!("reading the manifest broke off: {error}")))??
        };
        let mut application = desired.application.clone();
        let project = PathBuf::from(&self.request.folder);
        let job_inputs = desired
            .job_inputs
            .iter()
            .map(|(job, patterns)| (job.clone(), crate::job_inputs::digest(&project, patterns)));
        include_job_inputs(&mut application, &job_inputs.collect());
        let arranged = bind_endpoints(shared, self.record, &mut application, &mut desired.ports, self.purpose).await?;
        let meant = |unit: &String| desired.selected_units.as_ref().is_none_or(|chosen| chosen.contains(unit));
        desired.notes.extend(arranged.notes.into_iter().filter(|(unit, _)| meant(unit)).map(|(_, note)| note));
        let places = shared.locations.preview_locations(&self.record.name.id, &project);
        let scope = build_scope(shared, self.published, self.record.name.clone(), places, Arc::new(application));
        // Nobody looks up, or hashes the build context of, what was not asked for.
        let scope_of_images = match &desired.selected_units {
            Some(chosen) => narrow_scope(scope.clone(), |name| chosen.contains(name)),
            None => scope.clone(),
        };
        let used = used_runtimes(&scope_of_images.application);
        let drivers = shared.drivers.all().into_iter().filter(|driver| used.contains(&driver.runtime()));
        let looks = drivers.map(|driver| {
            let scope = &scope_of_images;
            async move { driver.inspect_images(scope).await }
        });
        let mut images = Images::default();
        for found in futures_util::future::join_all(looks).await {
            let found = found.map_err(|problem| convert::driver_problem(&problem, None))?;
            images.current.extend(found.current);
            images.stale.extend(found.stale);
        }
        Ok(ResolvedInputs { desired, endpoints: arranged.bindings, scope, images })
    }
}

/// What exists, asked of all runtimes at once. Containers that were `seen` a moment ago are not asked for again: nobody
/// else changes this preview meanwhile.
async fn observe_runtimes(shared: &Arc<Shared>, scope: &Scope, seen: Option<Observed>) -> Result<Observed, Problem> {
    let used = used_runtimes(&scope.application);
    let known = |runtime| seen.is_some() && runtime == RuntimeKind::Docker;
    let looks = shared.drivers.all().into_iter().filter(|driver| !known(driver.runtime())).map(|driver| {
        let used = used.contains(&driver.runtime());
        async move {
            let observed = driver.observe(&scope.preview.id, &scope.locations).await;
            // A runtime that nothing of this preview needs may be absent.
            if used { observed } else { Ok(observed.unwrap_or_default()) }
        }
    });
    let looks = futures_util::future::join_all(looks).await;
    let mut observed = seen.unwrap_or_default();
    for found in looks {
        down::merge_observed(&mut observed, found.map_err(|problem| convert::driver_problem(&problem, None))?);
    }
    Ok(observed)
}

pub(super) fn used_runtimes(application: &Application) -> BTreeSet<RuntimeKind> {
    application.units.values().map(|unit| unit.body.runtime()).collect()
}
