//! Which images are there, and getting those that are not: pulled (see `registry`), or built (see `build`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::Docker as Engine;
use bollard::models::ImageInspect;
use bollard::query_parameters::RemoveImageOptions;
use plan::application::{Body, BuildSpec, Container, ImageSource, PreviewId, PullPolicy, Unit, UnitName};
use plan::observed::Images;

use super::apply::container_unit;
use super::problems::with_timeout;
use super::{READ_TIMEOUT, StepContext, build, registry};
use crate::driver::{Problem, ProblemKind, Scope, StepOutcome};

/// What was found or made for each unit in this apply. A container is created from exactly that: the context may be
/// edited between a build and the creation, and hashing it again would ask for an image that nobody built.
#[derive(Default)]
pub(super) struct PreparedImages(Mutex<BTreeMap<(PreviewId, UnitName), PreparedImage>>);

struct PreparedImage {
    source: ImageSource,
    reference: String,
    identity: String,
}

impl PreparedImages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PreviewId, UnitName), PreparedImage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, scope: &Scope, unit: &Unit, container: &Container, reference: &str, identity: &str) {
        let ready = PreparedImage {
            source: container.image.clone(),
            reference: reference.to_owned(),
            identity: identity.to_owned(),
        };
        self.lock().insert((scope.preview.id.clone(), unit.name.clone()), ready);
    }

    fn get(&self, scope: &Scope, unit: &Unit, container: &Container) -> Option<(String, String)> {
        let all = self.lock();
        let ready = all.get(&(scope.preview.id.clone(), unit.name.clone()))?;
        (ready.source == container.image).then(|| (ready.reference.clone(), ready.identity.clone()))
    }

    pub(super) fn remove_preview(&self, preview: &PreviewId) {
        self.lock().retain(|(of, _), _| of != preview);
    }
}

/// What to ask the engine for, and its identity: as it was prepared, or else as it is now.
pub(super) async fn resolve_image(
    site: &StepContext<'_>,
    scope: &Scope,
    unit: &Unit,
    container: &Container,
) -> Result<(String, String), Problem> {
    if let Some((reference, known)) = site.prepared_images.get(scope, unit, container) {
        match find_image_id(site.engine, &reference).await? {
            Some(found) if found == known => return Ok((reference, known)),
            // The name was given to another image meanwhile.
            _ if find_image_id(site.engine, &known).await?.is_some() => return Ok((known.clone(), known)),
            _ => {}
        }
    }
    let reference = match &container.image {
        ImageSource::Reference(reference) => reference.clone(),
        ImageSource::Build(spec) => build::image_tag(scope, unit, &build::read_inputs(scope, unit, spec).await?.hash),
    };
    let found = find_image_id(site.engine, &reference).await?.ok_or_else(|| {
        let words = format!("`{}`: the image `{reference}` is not present", unit.name);
        Problem::new(ProblemKind::ImageNotFound, words).hint("It was removed meanwhile; run `pdev up` again.")
    })?;
    Ok((reference, found))
}

/// The image's id when it is present.
async fn find_image_id(engine: &Engine, reference: &str) -> Result<Option<String>, Problem> {
    Ok(find_local_image(engine, reference).await?.and_then(|image| image.id))
}

async fn find_local_image(engine: &Engine, reference: &str) -> Result<Option<ImageInspect>, Problem> {
    match with_timeout(READ_TIMEOUT, "cannot look up an image", engine.inspect_image(reference)).await {
        Ok(image) => Ok(Some(image)),
        Err(problem) if matches!(problem.kind, ProblemKind::NotFound | ProblemKind::ImageNotFound) => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// A unit, what its image is called, and why it has to be made when it is not there.
struct WantedImage<'a> {
    unit: &'a Unit,
    container: &'a Container,
    reference: String,
    reason: String,
}

pub(super) async fn inspect_images(site: &StepContext<'_>, scope: &Scope) -> Result<Images, Problem> {
    let containers = scope.application.units.values().filter_map(|unit| match &unit.body {
        Body::Container(container) => Some((unit, container)),
        Body::Process(_) => None,
    });
    let wanted = containers.map(|(unit, container)| async move {
        let (reference, reason) = match &container.image {
            ImageSource::Reference(reference) => (reference.clone(), "not present".to_owned()),
            ImageSource::Build(spec) => {
                let inputs = build::read_inputs(scope, unit, spec).await?;
                let reason = match &inputs.changed_path {
                    Some(path) => format!("context changed: {path}"),
                    None => "not built yet".to_owned(),
                };
                (build::image_tag(scope, unit, &inputs.hash), reason)
            }
        };
        Ok::<_, Problem>(WantedImage { unit, container, reference, reason })
    });
    let wanted = futures_util::future::try_join_all(wanted).await?;
    // Ten units of one image are one question.
    let references: BTreeMap<&str, bool> = wanted.iter().fold(BTreeMap::new(), |mut all, wanted| {
        *all.entry(wanted.reference.as_str()).or_default() |= needs_registry_check(wanted.container);
        all
    });
    let looks = references.into_iter().map(|(reference, checked)| async move {
        let found = find_local_image(site.engine, reference).await?;
        let outdated = match &found {
            Some(image) if checked => registry::outdated_reason(site.engine, reference, image).await,
            _ => None,
        };
        Ok::<_, Problem>((reference, (found.and_then(|image| image.id), outdated)))
    });
    let present: BTreeMap<_, _> = futures_util::future::try_join_all(looks).await?.into_iter().collect();
    let mut images = Images::default();
    for WantedImage { unit, container, reference, reason } in &wanted {
        let (identity, outdated) = present.get(reference.as_str()).cloned().unwrap_or_default();
        let outdated = outdated.filter(|_| needs_registry_check(container));
        match (identity, outdated) {
            (Some(identity), None) => {
                site.prepared_images.insert(scope, unit, container, reference, &identity);
                images.current.insert(unit.name.clone(), identity);
            }
            (Some(_), Some(newer)) => drop(images.stale.insert(unit.name.clone(), newer)),
            (None, _) => drop(images.stale.insert(unit.name.clone(), reason.clone())),
        }
    }
    Ok(images)
}

/// `pull: always` asks the registry each time whether its image is another one now.
fn needs_registry_check(container: &Container) -> bool {
    container.pull == PullPolicy::Always && matches!(container.image, ImageSource::Reference(_))
}

pub(super) async fn prepare_image(site: &StepContext<'_>, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
    let (unit, container) = container_unit(scope, name)?;
    let (reference, identity, notes) = match &container.image {
        ImageSource::Build(spec) => {
            let (tag, identity) = build_until_stable(site.engine, scope, unit, spec).await?;
            (tag, identity, Vec::new())
        }
        ImageSource::Reference(reference) => {
            let (identity, notes) = fetch_image(site.engine, scope, name, container.pull, reference).await?;
            (reference.clone(), identity, notes)
        }
    };
    site.prepared_images.insert(scope, unit, container, &reference, &identity);
    Ok(StepOutcome { image: Some(identity), notes, ..StepOutcome::default() })
}

async fn fetch_image(
    engine: &Engine,
    scope: &Scope,
    unit: &str,
    policy: PullPolicy,
    reference: &str,
) -> Result<(String, Vec<String>), Problem> {
    let absent =
        || Problem::new(ProblemKind::ImageNotFound, format!("`{unit}`: the image `{reference}` is not present"));
    match (find_image_id(engine, reference).await?, policy) {
        (Some(present), PullPolicy::Missing | PullPolicy::Never) => return Ok((present, Vec::new())),
        (None, PullPolicy::Never) => {
            return Err(absent().hint("Pull or build it, or allow pulling with `pull: missing`."));
        }
        (Some(present), PullPolicy::Always) => match registry::pull(engine, scope, unit, reference).await {
            // Work without a network goes on with what is here.
            Err(problem) if matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout) => {
                let note = format!("{}; the image that is here is used", problem.message);
                return Ok((present, vec![note]));
            }
            pulled => pulled?,
        },
        (None, _) => registry::pull(engine, scope, unit, reference).await?,
    }
    Ok((find_image_id(engine, reference).await?.ok_or_else(absent)?, Vec::new()))
}

/// Files are hashed before they are sent. An edit in between would put its contents under the wrong hash, so what was
/// built then is not kept.
async fn build_until_stable(
    engine: &Engine,
    scope: &Scope,
    unit: &Unit,
    spec: &BuildSpec,
) -> Result<(String, String), Problem> {
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let inputs = build::read_inputs(scope, unit, spec).await?;
        let hash = inputs.hash.clone();
        let tag = build::build_image(engine, scope, unit, spec, inputs).await?;
        if build::read_inputs(scope, unit, spec).await?.hash == hash {
            let gone =
                || Problem::new(ProblemKind::ImageNotFound, format!("the image `{tag}` was built and is gone again"));
            let identity = find_image_id(engine, &tag).await?.ok_or_else(gone)?;
            return Ok((tag, identity));
        }
        drop(engine.remove_image(&tag, None::<RemoveImageOptions>, None).await);
    }
    let message = format!("`{}`: the build context changed during each of {TRIES} builds", unit.name);
    Err(Problem::new(ProblemKind::BuildFailed, message)
        .hint("Leave what changes all the time (logs, build output) out with `.dockerignore`."))
}
