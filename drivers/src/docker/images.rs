//! Local images: checks which are present, and pulls (see `registry`) or builds (see `image_build`) missing ones.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::Docker as Engine;
use plan::application::{Body, Container, ImageSource, PreviewId, PullPolicy, Unit, UnitName};
use plan::observed::Images;

use super::engine_sink::{EngineSink, find_image_id, find_local_image};
use super::names::container_unit;
use super::{StepContext, registry};
use crate::driver::StepOutcome;
use crate::image_build;
use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

/// The image that was found or created for each unit during this apply. A container is created from exactly this image.
/// The context may be edited between a build and the creation, and its new hash would name an image that was never
/// built.
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
        let prepared = PreparedImage {
            source: container.image.clone(),
            reference: reference.to_owned(),
            identity: identity.to_owned(),
        };
        self.lock().insert((scope.preview.id.clone(), unit.name.clone()), prepared);
    }

    fn get(&self, scope: &Scope, unit: &Unit, container: &Container) -> Option<(String, String)> {
        let entries = self.lock();
        let prepared = entries.get(&(scope.preview.id.clone(), unit.name.clone()))?;
        (prepared.source == container.image).then(|| (prepared.reference.clone(), prepared.identity.clone()))
    }

    pub(super) fn remove_preview(&self, preview: &PreviewId) {
        self.lock().retain(|(entry_preview, _), _| entry_preview != preview);
    }
}

/// The image name for the create call, and the image's id: as prepared, or else as currently present.
pub(super) async fn resolve_image(
    context: &StepContext<'_>,
    scope: &Scope,
    unit: &Unit,
    container: &Container,
) -> Result<(String, String), Problem> {
    if let Some((reference, prepared_id)) = context.prepared_images.get(scope, unit, container) {
        match find_image_id(context.engine, &reference).await? {
            Some(current_id) if current_id == prepared_id => return Ok((reference, prepared_id)),
            // Another image has the name now; use the prepared one by its id.
            _ if find_image_id(context.engine, &prepared_id).await?.is_some() => {
                return Ok((prepared_id.clone(), prepared_id));
            }
            _ => {}
        }
    }
    // Nothing was prepared in this process, for example because the agent was restarted.
    let reference = match &container.image {
        ImageSource::Reference(reference) => reference.clone(),
        ImageSource::Build(spec) => {
            image_build::image_tag(scope, unit, &image_build::read_inputs(scope, unit, spec).await?.hash)
        }
    };
    let image_id = find_image_id(context.engine, &reference).await?.ok_or_else(|| {
        let message = format!("`{}`: the image `{reference}` is not present", unit.name);
        Problem::new(ProblemKind::ImageNotFound, message)
            .hint("Run `pdev up` again, because the image was removed in the meantime.")
    })?;
    Ok((reference, image_id))
}

/// A unit's image: its name, and why it must be prepared if it is not present.
struct WantedImage<'a> {
    unit: &'a Unit,
    container: &'a Container,
    reference: String,
    reason: String,
}

pub(super) async fn inspect_images(context: &StepContext<'_>, scope: &Scope) -> Result<Images, Problem> {
    let containers = scope.application.units.values().filter_map(|unit| match &unit.body {
        Body::Container(container) => Some((unit, container)),
        Body::Process(_) => None,
    });
    let wanted_images = containers.map(|(unit, container)| async move {
        let (reference, reason) = match &container.image {
            ImageSource::Reference(reference) => (reference.clone(), "not present".to_owned()),
            ImageSource::Build(spec) => {
                let inputs = image_build::read_inputs(scope, unit, spec).await?;
                let reason = match &inputs.changed_path {
                    Some(path) => format!("context changed: {path}"),
                    None => "not built yet".to_owned(),
                };
                (image_build::image_tag(scope, unit, &inputs.hash), reason)
            }
        };
        Ok::<_, Problem>(WantedImage { unit, container, reference, reason })
    });
    let wanted_images = futures_util::future::try_join_all(wanted_images).await?;
    // Look up each image once, even if many units use it.
    let references: BTreeMap<&str, bool> = wanted_images.iter().fold(BTreeMap::new(), |mut references, wanted| {
        *references.entry(wanted.reference.as_str()).or_default() |= needs_registry_check(wanted.container);
        references
    });
    let inspections = references.into_iter().map(|(reference, should_check)| async move {
        let found = find_local_image(context.engine, reference).await?;
        let outdated = match &found {
            Some(image) if should_check => registry::outdated_reason(context.engine, reference, image).await,
            _ => None,
        };
        Ok::<_, Problem>((reference, (found.and_then(|image| image.id), outdated)))
    });
    let present: BTreeMap<_, _> = futures_util::future::try_join_all(inspections).await?.into_iter().collect();
    let mut images = Images::default();
    for WantedImage { unit, container, reference, reason } in &wanted_images {
        let (identity, outdated) = present.get(reference.as_str()).cloned().unwrap_or_default();
        let outdated = outdated.filter(|_| needs_registry_check(container));
        match (identity, outdated) {
            (Some(identity), None) => {
                context.prepared_images.insert(scope, unit, container, reference, &identity);
                images.current.insert(unit.name.clone(), identity);
            }
            (Some(_), Some(outdated_reason)) => drop(images.stale.insert(unit.name.clone(), outdated_reason)),
            (None, _) => drop(images.stale.insert(unit.name.clone(), reason.clone())),
        }
    }
    Ok(images)
}

/// Whether the registry must be checked for a different image; `pull: always` requires this on every run.
fn needs_registry_check(container: &Container) -> bool {
    container.pull == PullPolicy::Always && matches!(container.image, ImageSource::Reference(_))
}

pub(super) async fn prepare_image(
    context: &StepContext<'_>,
    scope: &Scope,
    name: &str,
) -> Result<StepOutcome, Problem> {
    let (unit, container) = container_unit(scope, name)?;
    let (reference, identity, notes) = match &container.image {
        ImageSource::Build(spec) => {
            let (tag, identity) =
                image_build::build_until_stable(&EngineSink(context.engine), scope, unit, spec).await?;
            (tag, identity, Vec::new())
        }
        ImageSource::Reference(reference) => {
            let (identity, notes) = fetch_image(context.engine, scope, name, container.pull, reference).await?;
            (reference.clone(), identity, notes)
        }
    };
    context.prepared_images.insert(scope, unit, container, &reference, &identity);
    Ok(StepOutcome { image: Some(identity), notes, ..StepOutcome::default() })
}

async fn fetch_image(
    engine: &Engine,
    scope: &Scope,
    unit: &str,
    policy: PullPolicy,
    reference: &str,
) -> Result<(String, Vec<String>), Problem> {
    let not_present =
        || Problem::new(ProblemKind::ImageNotFound, format!("`{unit}`: the image `{reference}` is not present"));
    match (find_image_id(engine, reference).await?, policy) {
        (Some(present_id), PullPolicy::Missing | PullPolicy::Never) => return Ok((present_id, Vec::new())),
        (None, PullPolicy::Never) => {
            return Err(not_present().hint("Pull or build it, or allow pulling with `pull: missing`."));
        }
        (Some(present_id), PullPolicy::Always) => match registry::pull(engine, scope, unit, reference).await {
            // Without a network, pdev continues with the local image.
            Err(problem) if matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout) => {
                let note = format!("{}; using the local image", problem.message);
                return Ok((present_id, vec![note]));
            }
            result => result?,
        },
        (None, _) => registry::pull(engine, scope, unit, reference).await?,
    }
    Ok((find_image_id(engine, reference).await?.ok_or_else(not_present)?, Vec::new()))
}
