//! Images from a registry: checks whether the registry has a different image now, and pulls images with progress.

use std::time::Duration;

use bollard::Docker as Engine;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::problems::{to_problem, with_timeout};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{ProgressLine, Scope};

/// A pull without any progress for this time is considered hung.
const PULL_SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a registry check may delay a plan.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the local image is not the registry's any more. Without a reply, the local image is used: pdev also works
/// offline, and a plan never prompts for a password.
pub(super) async fn outdated_reason(engine: &Engine, reference: &str, image: &ImageInspect) -> Option<String> {
    if reference.contains('@') {
        // A digest identifies one image, so the registry cannot have a different one.
        return None;
    }
    let call = engine.inspect_registry_image(reference, None);
    let registry_digest = match with_timeout(REGISTRY_TIMEOUT, "cannot query the registry", call).await {
        Ok(info) => info.descriptor.digest?,
        Err(problem) => {
            tracing::debug!(%problem, reference, "registry check failed");
            return None;
        }
    };
    let is_current = image.repo_digests.iter().flatten().any(|digest| digest.ends_with(&format!("@{registry_digest}")));
    (!is_current).then(|| format!("the registry has a different `{reference}`"))
}

pub(super) async fn pull(engine: &Engine, scope: &Scope, unit: &str, reference: &str) -> Result<(), Problem> {
    let failure = format!("`{unit}`: cannot pull `{reference}`");
    // Without a tag, the engine would pull every tag of the repository.
    let has_tag = reference.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let full_reference = if has_tag { reference.to_owned() } else { format!("{reference}:latest") };
    let options = CreateImageOptionsBuilder::default().from_image(&full_reference).build();
    let mut stream = std::pin::pin!(engine.create_image(Some(options), None, None));
    loop {
        let info = match tokio::time::timeout(PULL_SILENCE_TIMEOUT, stream.next()).await {
            Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("{failure}: no progress for 120 s"))),
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => answer.map_err(|error| {
                let mut problem = to_problem(&failure, &error);
                if problem.kind == ProblemKind::NotFound {
                    // The engine reports an unknown image as a plain 404.
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
