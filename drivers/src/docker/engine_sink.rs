//! Builds images with the engine's BuildKit, forwards progress, and reports failures with their output.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker as Engine;
use bollard::body_stream;
use bollard::models::{BuildInfo, BuildInfoAux, ImageInspect};
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion, RemoveImageOptions};
use futures_util::StreamExt;
use plan::application::Unit;

use super::READ_TIMEOUT;
use super::problems::{to_problem, with_timeout};
use crate::image_build::{Build, ImageSink, stream_context};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{ProgressLine, Scope};

/// A build without any message for this time is considered hung.
const BUILD_SILENCE_TIMEOUT: Duration = Duration::from_secs(900);
/// Maximum lines of the failed step in the error.
const OUTPUT_LINES_MAX: usize = 40;

/// The images of one engine: it builds them, and starts containers from them.
pub(super) struct EngineSink<'a>(pub(super) &'a Engine);

#[async_trait]
impl ImageSink for EngineSink<'_> {
    async fn find_image(&self, reference: &str) -> Result<Option<String>, Problem> {
        find_image_id(self.0, reference).await
    }

    async fn build_image(&self, build: &Build<'_>) -> Result<(), Problem> {
        let Build { scope, unit, spec, inputs, tag } = build;
        let short_hash = inputs.hash.get(..12).unwrap_or_default();
        let mut options = BuildImageOptionsBuilder::default()
            .dockerfile(&inputs.dockerfile.to_string_lossy())
            .t(tag)
            .rm(true)
            .version(BuilderVersion::BuilderBuildKit)
            .session(&format!("pdev-{}-{}-{short_hash}", scope.preview.id.0, unit.name))
            .labels(&HashMap::from([("dev.pdev.build".to_owned(), inputs.hash.clone())]))
            .buildargs(&spec.args.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<HashMap<_, _>>());
        if let Some(target) = &spec.target {
            options = options.target(target);
        }
        if let Some(platform) = &spec.platform {
            options = options.platform(platform);
        }
        let (body, context_task) = stream_context(Arc::clone(inputs));
        let mut progress = BuildProgress::new(scope, unit);
        // `follow_build` owns the response stream and drops it on return, which closes the channel of a writer that
        // still waits for the engine to read. Otherwise `context_task` would never end.
        let messages = self.0.build_image(options.build(), None, Some(body_stream(body)));
        let outcome = follow_build(messages, &mut progress).await;
        // An unreadable file explains the failure better than the engine's error about a truncated tar.
        match (outcome, context_task.await) {
            (Err(_), Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Problem::io(format!("`{}`: cannot send the build context", unit.name), &error))
            }
            (outcome, _) => outcome,
        }
    }

    async fn remove_image(&self, reference: &str) {
        drop(self.0.remove_image(reference, None::<RemoveImageOptions>, None).await);
    }
}

/// The image's id if it is present.
pub(super) async fn find_image_id(engine: &Engine, reference: &str) -> Result<Option<String>, Problem> {
    Ok(find_local_image(engine, reference).await?.and_then(|image| image.id))
}

pub(super) async fn find_local_image(engine: &Engine, reference: &str) -> Result<Option<ImageInspect>, Problem> {
    match with_timeout(READ_TIMEOUT, "cannot look up an image", engine.inspect_image(reference)).await {
        Ok(image) => Ok(Some(image)),
        Err(problem) if matches!(problem.kind, ProblemKind::NotFound | ProblemKind::ImageNotFound) => Ok(None),
        Err(problem) => Err(problem),
    }
}

async fn follow_build(
    messages: impl futures_util::Stream<Item = Result<BuildInfo, bollard::errors::Error>>,
    progress: &mut BuildProgress<'_>,
) -> Result<(), Problem> {
    let mut messages = std::pin::pin!(messages);
    loop {
        match tokio::time::timeout(BUILD_SILENCE_TIMEOUT, messages.next()).await {
            Err(_) => {
                let message = format!(
                    "`{}`: the build produced no output for {} s",
                    progress.unit.name,
                    BUILD_SILENCE_TIMEOUT.as_secs()
                );
                return Err(Problem::new(ProblemKind::Timeout, message));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Ok(info))) => {
                if let Some(message) = progress.handle_message(info) {
                    return Err(progress.to_problem(&message));
                }
            }
            Ok(Some(Err(error))) => return Err(progress.to_problem(&to_problem("the build failed", &error).message)),
        }
    }
}

/// Converts the engine's messages into progress, and records the details for an error.
struct BuildProgress<'a> {
    scope: &'a Scope,
    unit: &'a Unit,
    step_names: BTreeMap<String, String>,
    /// The last output lines of each step.
    step_lines: BTreeMap<String, VecDeque<String>>,
    failed_step: Option<(String, String)>,
    reported_steps: BTreeMap<String, bool>,
}

impl<'a> BuildProgress<'a> {
    fn new(scope: &'a Scope, unit: &'a Unit) -> Self {
        Self {
            scope,
            unit,
            step_names: BTreeMap::new(),
            step_lines: BTreeMap::new(),
            failed_step: None,
            reported_steps: BTreeMap::new(),
        }
    }

    fn report(&self, line: ProgressLine) {
        self.scope.progress.report(&self.unit.name, line);
    }

    /// Handles one message. Returns the engine's error message if the build failed.
    fn handle_message(&mut self, info: BuildInfo) -> Option<String> {
        if let Some(BuildInfoAux::BuildKit(status)) = info.aux {
            for vertex in status.vertexes {
                self.handle_vertex(vertex.digest, vertex.name, vertex.completed.is_some(), vertex.cached, vertex.error);
            }
            for log in status.logs {
                self.handle_log(&log.vertex, &log.msg);
            }
        }
        // Output in the classic builder's format.
        if let Some(text) = info.stream {
            self.handle_log("", text.as_bytes());
        }
        info.error_detail.and_then(|detail| detail.message)
    }

    fn handle_vertex(&mut self, digest: String, name: String, is_done: bool, is_cached: bool, error: String) {
        // Hide the builder's internal steps.
        let is_visible =
            !name.starts_with("[internal]") && !name.starts_with("exporting") && !name.starts_with("docker-image://");
        let reported = self.reported_steps.get(&digest).copied();
        if is_visible && reported != Some(true) && (reported.is_none() || is_done) {
            let error = (!error.is_empty()).then(|| error.clone());
            self.report(ProgressLine::BuildStep { name: name.clone(), is_done, is_cached, error });
            self.reported_steps.insert(digest.clone(), is_done);
        }
        if !error.is_empty() && self.failed_step.is_none() {
            self.failed_step = Some((digest.clone(), error));
        }
        self.step_names.insert(digest, name);
    }

    fn handle_log(&mut self, step: &str, bytes: &[u8]) {
        for text in String::from_utf8_lossy(bytes).lines().filter(|text| !text.trim().is_empty()) {
            self.report(ProgressLine::BuildOutput(text.to_owned()));
            let lines = self.step_lines.entry(step.to_owned()).or_default();
            if lines.len() == OUTPUT_LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(text.to_owned());
        }
    }

    fn to_problem(&self, engine_message: &str) -> Problem {
        let (step, error) = match &self.failed_step {
            Some((digest, error)) => (self.step_names.get(digest).cloned(), error.as_str()),
            None => (None, engine_message),
        };
        let output: Vec<_> = match &self.failed_step {
            Some((digest, _)) => self.step_lines.get(digest).cloned().unwrap_or_default().into(),
            None => self.step_lines.values().flatten().cloned().collect(),
        };
        let name = &self.unit.name;
        let lower = format!("{error} {engine_message}").to_lowercase();
        if lacks_buildkit(&lower) {
            return Problem::new(
                ProblemKind::BuildFailed,
                format!("`{name}`: this engine cannot build with BuildKit, which pdev needs: {}", engine_message.trim()),
            )
            .hint(format!(
                "Use Docker 19.03 or newer with BuildKit enabled, or build the image yourself and set `services.{name}.image`."
            ));
        }
        if lower.contains("target stage") || lower.contains("target image") && lower.contains("not found") {
            return Problem::new(
                ProblemKind::BuildFailed,
                format!("`{name}`: the Dockerfile has no such target: {error}"),
            )
            .hint(format!("Correct `services.{name}.build.target`."));
        }
        let is_base_missing = step.as_deref().is_some_and(|step| step.contains("load metadata for"))
            || lower.contains("pull access denied");
        if is_base_missing {
            let image =
                step.as_deref().and_then(|step| step.split("load metadata for ").nth(1)).unwrap_or("of the Dockerfile");
            return Problem::new(
                ProblemKind::ImageNotFound,
                format!("`{name}`: cannot get the base image {image}: {error}"),
            )
            .hint("Check the image's name and the registry with `docker pull`.");
        }
        let location = step.map(|step| format!(" at {step}")).unwrap_or_default();
        Problem::new(ProblemKind::BuildFailed, format!("`{name}`: the build failed{location}: {error}"))
            .hint(if output.is_empty() {
                "Correct this step of the Dockerfile and run `pdev up` again."
            } else {
                "Correct the step, whose last lines are above, and run `pdev up` again."
            })
            .output(output)
    }
}

/// Recognises engines without BuildKit: old engines do not know sessions; Windows engines and engines with BuildKit
/// disabled report it.
fn lacks_buildkit(lower: &str) -> bool {
    let refusal_phrases = ["not supported", "not enabled", "unsupported", "disabled", "not available"];
    lower.contains("buildkit") && refusal_phrases.iter().any(|phrase| lower.contains(phrase))
        || lower.contains("page not found")
        || lower.contains("/session") && lower.contains("not found")
        || lower.contains("unsupported build version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_without_buildkit_are_recognised() {
        for (message, lacks) in [
            ("buildkit is not supported by daemon", true),
            ("BuildKit is not enabled on daemon", true),
            ("Docker responded with status code 404: page not found", true),
            ("failed to solve: process \"/bin/sh -c true\" did not complete successfully: exit code: 1", false),
            ("failed to solve: buildkit/frontend: file with no instructions", false),
        ] {
            assert_eq!(lacks_buildkit(&message.to_lowercase()), lacks, "{message}");
        }
    }
}
