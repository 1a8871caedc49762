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
use plan::compare::{CompareOptions, compare, fold_job_inputs};
use plan::observed::{Images, Observed};
use plan::step::Plan;
use protocol::Problem;
use protocol::request::UpRequest;

use super::desire::{Desired, Source, desire};
use super::down;
use super::up::scope_of;
use crate::approvals::Purpose;
use crate::board::Board;
use crate::convert;
use crate::endpoint::{Opening, arrange};
use crate::registry::{Intent, Record};
use crate::shared::Shared;

/// How long the engine may take to say that it is there, before processes are chosen instead.
const ENGINE_ANSWER_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Prepared {
    pub(super) desired: Desired,
    pub(super) endpoints: Vec<Opening>,
    pub(super) scope: Scope,
    pub(super) observed: Observed,
    pub(super) plan: Plan,
}

pub(super) async fn prepare(
    shared: &Arc<Shared>,
    record: &Record,
    request: &UpRequest,
    source: &Source,
    board: &Arc<Board>,
    purpose: Purpose,
) -> Result<Prepared, Problem> {
    let asker = Asker { shared, record, request, source, board, purpose };
    let (wanted, seen) = match request.runtime.as_deref() {
        Some("docker") => (asker.wanted(RuntimeKind::Docker).await?, None),
        Some("process") => (asker.wanted(RuntimeKind::Process).await?, None),
        Some(other) => {
            let title = format!("unknown runtime `{other}`; known are docker and process");
            return Err(Problem::new("invalid_request", 422, title));
        }
        None => asker.where_possible().await?,
    };
    let Wanted { mut desired, endpoints, mut scope, images } = wanted;
    let resting = if source.is_disk() { BTreeSet::new() } else { record.resting.clone() };
    if !resting.is_empty() {
        let all = || scope.application.units.keys().cloned().collect();
        let chosen: BTreeSet<String> = desired.chosen.take().unwrap_or_else(all);
        desired.chosen = Some(chosen.difference(&resting).cloned().collect());
    }
    let observed = look(shared, &scope, seen).await?;
    if let Some(chosen) = &desired.chosen {
        // What was neither asked for nor is there does not belong to the preview yet.
        let belongs = |name: &str| chosen.contains(name) || resting.contains(name) || observed.units.contains_key(name);
        scope = narrowed(scope, belongs);
    }
    let options = CompareOptions {
        force: request.force,
        chosen: desired.chosen.clone(),
        due: request.jobs.iter().cloned().collect(),
    };
    let plan = compare(&scope.application, &observed, &images, &options);
    Ok(Prepared { desired, endpoints, scope, observed, plan })
}

fn narrowed(scope: Scope, belongs: impl Fn(&str) -> bool) -> Scope {
    let mut application = Application::clone(&scope.application);
    application.units.retain(|name, _| belongs(name));
    // A volume whose owner is not brought up is not made.
    application.volumes.retain(|_, volume| application.units.contains_key(&volume.owner));
    Scope { application: Arc::new(application), ..scope }
}

/// What should be, and which of its images are current.
struct Wanted {
    desired: Desired,
    endpoints: Vec<Opening>,
    scope: Scope,
    images: Images,
}

struct Asker<'a> {
    shared: &'a Arc<Shared>,
    record: &'a Record,
    request: &'a UpRequest,
    source: &'a Source,
    board: &'a Arc<Board>,
    purpose: Purpose,
}

impl Asker<'_> {
    /// Containers where an engine answers, processes elsewhere. With it comes what the engine told about this preview.
    /// The engine mostly answers, so what it would need is worked out while it is asked.
    async fn where_possible(&self) -> Result<(Wanted, Option<Observed>), Problem> {
        if let Ok(docker) = self.shared.engines.driver(RuntimeKind::Docker) {
            let places = self.shared.places.of_preview(&self.record.name.id, &self.record.folder);
            let observing = async {
                let seen = tokio::time::timeout(ENGINE_ANSWER_LIMIT, docker.observe(&self.record.name.id, &places));
                let silent = |_| format!("nothing within {} s", ENGINE_ANSWER_LIMIT.as_secs());
                seen.await.map_err(silent)?.map_err(|problem| problem.message)
            };
            // An engine that is not there ends both.
            let wanted = async { Ok(self.wanted(RuntimeKind::Docker).await) };
            let why = match tokio::try_join!(observing, wanted) {
                Ok((seen, wanted)) => return Ok((wanted?, Some(seen))),
                Err(why) => why,
            };
            if self.record.containers && self.record.intent == Intent::Up {
                // The same services as processes would be a second copy, without the data of the first.
                let title = format!("this preview has containers, and their engine does not answer: {why}");
                return Err(Problem::new("runtime_unavailable", 503, title).hint(
                    "Start the engine and run `pdev up` again, or leave it behind with `pdev up --runtime process`.",
                ));
            }
            // What can only run in a container is refused now; then it matters which engine was asked, and how it failed.
            let told = |problem: Problem| Problem { detail: problem.detail.clone().or(Some(why)), ..problem };
            return Ok((self.wanted(RuntimeKind::Process).await.map_err(told)?, None));
        }
        Ok((self.wanted(RuntimeKind::Process).await?, None))
    }

    async fn wanted(&self, default_runtime: RuntimeKind) -> Result<Wanted, Problem> {
        let shared = self.shared;
        let mut desired = {
            let (shared, record) = (Arc::clone(shared), self.record.clone());
            let (request, source) = (self.request.clone(), self.source.clone());
            let work =
                tokio::task::spawn_blocking(move || desire(&shared, &record, &request, &source, default_runtime));
            work.await
                .map_err(|error| Problem::new("internal", 500, format!("reading the manifest broke off: {error}")))??
        };
        let mut application = desired.application.clone();
        let project = PathBuf::from(&self.request.folder);
        let job_inputs =
            desired.job_inputs.iter().map(|(job, patterns)| (job.clone(), crate::inputs::digest(&project, patterns)));
        fold_job_inputs(&mut application, &job_inputs.collect());
        let arranged = arrange(shared, self.record, &mut application, &mut desired.ports, self.purpose).await?;
        let meant = |unit: &String| desired.chosen.as_ref().is_none_or(|chosen| chosen.contains(unit));
        desired.notes.extend(arranged.notes.into_iter().filter(|(unit, _)| meant(unit)).map(|(_, note)| note));
        let places = shared.places.of_preview(&self.record.name.id, &project);
        let scope = scope_of(shared, self.board, self.record.name.clone(), places, Arc::new(application));
        // Nobody looks up, or hashes the build context of, what was not asked for.
        let scope_of_images = match &desired.chosen {
            Some(chosen) => narrowed(scope.clone(), |name| chosen.contains(name)),
            None => scope.clone(),
        };
        let used = runtimes(&scope_of_images.application);
        let drivers = shared.engines.all().into_iter().filter(|driver| used.contains(&driver.runtime()));
        let looks = drivers.map(|driver| {
            let scope = &scope_of_images;
            async move { driver.images(scope).await }
        });
        let mut images = Images::default();
        for found in futures_util::future::join_all(looks).await {
            let found = found.map_err(|problem| convert::problem(&problem, None))?;
            images.current.extend(found.current);
            images.stale.extend(found.stale);
        }
        Ok(Wanted { desired, endpoints: arranged.openings, scope, images })
    }
}

/// What exists, asked of all runtimes at once. Containers that were `seen` a moment ago are not asked for again: nobody
/// else changes this preview meanwhile.
async fn look(shared: &Arc<Shared>, scope: &Scope, seen: Option<Observed>) -> Result<Observed, Problem> {
    let used = runtimes(&scope.application);
    let known = |runtime| seen.is_some() && runtime == RuntimeKind::Docker;
    let looks = shared.engines.all().into_iter().filter(|driver| !known(driver.runtime())).map(|driver| {
        let used = used.contains(&driver.runtime());
        async move {
            let observed = driver.observe(&scope.preview.id, &scope.places).await;
            // A runtime that nothing of this preview needs may be absent.
            if used { observed } else { Ok(observed.unwrap_or_default()) }
        }
    });
    let looks = futures_util::future::join_all(looks).await;
    let mut observed = seen.unwrap_or_default();
    for found in looks {
        down::merge(&mut observed, found.map_err(|problem| convert::problem(&problem, None))?);
    }
    Ok(observed)
}

pub(super) fn runtimes(application: &Application) -> BTreeSet<RuntimeKind> {
    application.units.values().map(|unit| unit.body.runtime()).collect()
}
