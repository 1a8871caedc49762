//! Which images are there, and getting those that are not: pulled, or built (see `build`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptions};
use futures_util::StreamExt;
use plan::application::{Body, BuildSpec, Container, ImageSource, PullPolicy, Unit};
use plan::observed::Images;

use super::apply::container;
use super::problems::{problem, within};
use super::{LOOK, build};
use crate::driver::{Performed, Problem, ProblemKind, ProgressLine, Scope};

/// A pull that reports nothing for so long has stopped.
const PULL_SILENCE: Duration = Duration::from_secs(120);

/// What a unit's container is made from: the reference as written, or the tag of its build.
pub(super) async fn reference(scope: &Scope, container: &Container, unit: &Unit) -> Result<String, Problem> {
    match &container.image {
        ImageSource::Reference(reference) => Ok(reference.clone()),
        ImageSource::Build(spec) => Ok(build::tag(scope, unit, &build::inputs(scope, unit, spec).await?.hash)),
    }
}

/// The image's id when it is present.
pub(super) async fn identity(engine: &Engine, reference: &str) -> Result<Option<String>, Problem> {
    match within(LOOK, "cannot look up an image", engine.inspect_image(reference)).await {
        Ok(image) => Ok(image.id),
        Err(problem) if matches!(problem.kind, ProblemKind::NotFound | ProblemKind::ImageNotFound) => Ok(None),
        Err(problem) => Err(problem),
    }
}

pub(super) async fn images(engine: &Engine, scope: &Scope) -> Result<Images, Problem> {
    let containers = scope.application.units.values().filter_map(|unit| match &unit.body {
        Body::Container(container) => Some((unit, container)),
        Body::Process(_) => None,
    });
    let wanted = containers.map(|(unit, container)| async move {
        let (reference, reason) = match &container.image {
            ImageSource::Reference(reference) => (reference.clone(), "not present".to_owned()),
            ImageSource::Build(spec) => {
                let inputs = build::inputs(scope, unit, spec).await?;
                let reason = match &inputs.changed {
                    Some(path) => format!("context changed: {path}"),
                    None => "not built yet".to_owned(),
                };
                (build::tag(scope, unit, &inputs.hash), reason)
            }
        };
        Ok::<_, Problem>((unit.name.clone(), reference, reason))
    });
    let wanted = futures_util::future::try_join_all(wanted).await?;
    // Ten units of one image are one question.
    let references: BTreeSet<&String> = wanted.iter().map(|(_, reference, _)| reference).collect();
    let looks = references
        .into_iter()
        .map(|reference| async move { Ok::<_, Problem>((reference.clone(), identity(engine, reference).await?)) });
    let present: BTreeMap<_, _> = futures_util::future::try_join_all(looks).await?.into_iter().collect();
    let mut images = Images::default();
    for (unit, reference, reason) in &wanted {
        match present.get(reference).cloned().flatten() {
            Some(identity) => drop(images.current.insert(unit.clone(), identity)),
            None => drop(images.stale.insert(unit.clone(), reason.clone())),
        }
    }
    Ok(images)
}

pub(super) async fn prepare(engine: &Engine, scope: &Scope, name: &str) -> Result<Performed, Problem> {
    let (unit, container) = container(scope, name)?;
    if let ImageSource::Build(spec) = &container.image {
        return built(engine, scope, unit, spec).await;
    }
    let reference = &reference(scope, container, unit).await?;
    let present = identity(engine, reference).await?;
    let absent =
        || Problem::new(ProblemKind::ImageNotFound, format!("`{name}`: the image `{reference}` is not present"));
    match container.pull {
        PullPolicy::Missing if present.is_some() => return Ok(prepared(present)),
        PullPolicy::Never if present.is_some() => return Ok(prepared(present)),
        PullPolicy::Never => return Err(absent().hint("Pull or build it, or allow pulling with `pull: missing`.")),
        PullPolicy::Missing | PullPolicy::Always => pull(engine, scope, name, reference).await?,
    }
    Ok(prepared(Some(identity(engine, reference).await?.ok_or_else(absent)?)))
}

/// Files are hashed before they are sent. An edit in between would put its contents under the wrong hash, so what was
/// built then is not kept.
async fn built(engine: &Engine, scope: &Scope, unit: &Unit, spec: &BuildSpec) -> Result<Performed, Problem> {
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let inputs = build::inputs(scope, unit, spec).await?;
        let hash = inputs.hash.clone();
        let tag = build::build(engine, scope, unit, spec, inputs).await?;
        if build::inputs(scope, unit, spec).await?.hash == hash {
            return Ok(prepared(identity(engine, &tag).await?));
        }
        drop(engine.remove_image(&tag, None::<RemoveImageOptions>, None).await);
    }
    let message = format!("`{}`: the build context changed during each of {TRIES} builds", unit.name);
    Err(Problem::new(ProblemKind::BuildFailed, message)
        .hint("Leave what changes all the time (logs, build output) out with `.dockerignore`."))
}

fn prepared(image: Option<String>) -> Performed {
    Performed { image, ..Performed::default() }
}

async fn pull(engine: &Engine, scope: &Scope, unit: &str, reference: &str) -> Result<(), Problem> {
    let what = format!("`{unit}`: cannot pull `{reference}`");
    // Without a tag the engine would pull every tag there is.
    let tagged = reference.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let full = if tagged { reference.to_owned() } else { format!("{reference}:latest") };
    let options = CreateImageOptionsBuilder::default().from_image(&full).build();
    let mut stream = std::pin::pin!(engine.create_image(Some(options), None, None));
    loop {
        let info = match tokio::time::timeout(PULL_SILENCE, stream.next()).await {
            Err(_) => return Err(Problem::new(ProblemKind::Timeout, format!("{what}: no progress for 120 s"))),
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => answer.map_err(|error| {
                let mut problem = problem(&what, &error);
                if problem.kind == ProblemKind::NotFound {
                    problem.kind = ProblemKind::ImageNotFound;
                }
                problem
            })?,
        };
        if let (Some(layer), Some(detail)) = (info.id, info.progress_detail) {
            let bytes = |count: Option<i64>| u64::try_from(count.unwrap_or(0)).unwrap_or(0);
            let line = ProgressLine::Pull { layer, current: bytes(detail.current), total: bytes(detail.total) };
            scope.progress.line(unit, line);
        }
    }
}
