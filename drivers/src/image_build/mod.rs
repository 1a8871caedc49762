//! Builds images from a folder and a Dockerfile, for any runtime. pdev hashes everything that a build reads, so an
//! unchanged context needs neither a builder nor its cache. A sink builds the image and has it afterwards.

mod context;
mod dockerignore;
mod inputs;

use std::sync::Arc;

use async_trait::async_trait;
use plan::application::{BuildSpec, Unit};

pub(crate) use context::stream_context;
pub(crate) use inputs::BuildInputs;

use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

/// One build of a unit's image.
pub(crate) struct Build<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) unit: &'a Unit,
    pub(crate) spec: &'a BuildSpec,
    pub(crate) inputs: Arc<BuildInputs>,
    /// The name under which the sink stores the image.
    pub(crate) tag: String,
}

/// A place that builds images and has them afterwards, such as an engine.
#[async_trait]
pub(crate) trait ImageSink: Send + Sync {
    /// The identity of the image with this name, if the sink has it.
    async fn find_image(&self, reference: &str) -> Result<Option<String>, Problem>;

    async fn build_image(&self, build: &Build<'_>) -> Result<(), Problem>;

    /// Failures are ignored: an image that stays costs only space.
    async fn remove_image(&self, reference: &str);
}

/// `pdev/shop-api:0123456789ab`: the tag is the hash of the inputs, so the presence of the tag shows that the image is
/// current.
pub(crate) fn image_tag(scope: &Scope, unit: &Unit, hash: &str) -> String {
    format!("pdev/{}-{}:{}", scope.preview.app, unit.name, hash.get(..12).unwrap_or(hash))
}

pub(crate) async fn read_inputs(scope: &Scope, unit: &Unit, spec: &BuildSpec) -> Result<Arc<BuildInputs>, Problem> {
    let (name, spec) = (unit.name.clone(), spec.clone());
    let (project, cache) = (scope.locations.project.clone(), scope.locations.cache.clone());
    let work = tokio::task::spawn_blocking(move || inputs::scan_context(&name, &project, &spec, &cache));
    work.await
        .unwrap_or_else(|error| {
            Err(Problem::new(ProblemKind::Internal, format!("reading the build context failed: {error}")))
        })
        .map(Arc::new)
}

/// Builds until the inputs are the same before and after, and returns the image's name and identity. Files are hashed
/// before they are sent, so an edit in between would put its content under the wrong hash; such an image is removed.
pub(crate) async fn build_until_stable(
    sink: &dyn ImageSink,
    scope: &Scope,
    unit: &Unit,
    spec: &BuildSpec,
) -> Result<(String, String), Problem> {
    // An input that changes during every build, such as a log file, needs an entry in `.dockerignore`.
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let inputs = read_inputs(scope, unit, spec).await?;
        let hash = inputs.hash.clone();
        let tag = image_tag(scope, unit, &hash);
        sink.build_image(&Build { scope, unit, spec, inputs, tag: tag.clone() }).await?;
        if read_inputs(scope, unit, spec).await?.hash == hash {
            let removed = || {
                Problem::new(ProblemKind::ImageNotFound, format!("the image `{tag}` was removed right after its build"))
            };
            let identity = sink.find_image(&tag).await?.ok_or_else(removed)?;
            return Ok((tag, identity));
        }
        sink.remove_image(&tag).await;
    }
    let message = format!("`{}`: the build context changed during each of {TRIES} builds", unit.name);
    Err(Problem::new(ProblemKind::BuildFailed, message)
        .hint("Exclude files that change all the time (logs, build output) with `.dockerignore`."))
}
