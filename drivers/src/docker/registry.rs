//! Images that somebody else made: whether the registry's is another one now, and getting it with visible progress.

use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::problems::{to_problem, with_timeout};
use crate::driver::{Problem, ProblemKind, ProgressLine, Scope};

/// A pull that reports nothing for so long has stopped.
const PULL_SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a look at the registry may hold up a plan.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the image that is here is not the registry's any more. Without an answer the one that is here has to do: work
/// goes on without a network, and a plan asks for no passwords.
pub(super) async fn outdated_reason(engine: &Engine, reference: &str, image: &ImageInspect) -> Option<String> {
    if reference.contains('@') {
        return None;
    }
    let call = engine.inspect_registry_image(reference, None);
    let told = match with_timeout(REGISTRY_TIMEOUT, "cannot ask the registry", call).await {
        Ok(told) => told.descriptor.digest?,
        Err(problem) => {
            tracing::debug!(%problem, reference, "the registry was not asked");
            return None;
        }
    };
    let known = image.repo_digests.iter().flatten().any(|digest| digest.ends_with(&format!("@{told}")));
    (!known).then(|| format!("the registry has another `{reference}`"))
}

pub(super) async fn pull(engine: &Engine, scope: &Scope, unit: &str, reference: &str) -> Result<(), Problem> {
    let what = format!("`{unit}`: cannot pull `{reference}`");
    // Without a tag the engine would pull every tag there is.
    let tagged = reference.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let full = if tagged { reference.to_owned() } else { format!("{reference}:latest") };
    let options = CreateImageOptionsBuilder::default().from_image(&full).build();
    let mut stream = std::pin::pin!(engine.create_image(Some(options), None, None));
    loop {
        let info = match tokio::time::timeout(PULL_SILENCE_TIMEOUT, stream.next()).await {
            Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("{what}: no progress for 120 s"))),
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => answer.map_err(|error| {
                let mut problem = to_problem(&what, &error);
                if problem.kind == ProblemKind::NotFound {
                    problem.kind = ProblemKind::ImageNotFound;
                }
                problem
            })?,
        };
        if let (Some(layer), Some(detail)) = (info.id, info.progress_detail) {
            let bytes = |count: Option<i64>| u64::try_from(count.unwrap_or(0)).unwrap_or(0);
            let line = ProgressLine::Pull { layer, current: bytes(detail.current), total: bytes(detail.total) };
            scope.progress.report(unit, line);
        }
    }
}
