//! Builds through the engine's BuildKit: the context streamed as a tar, progress as it comes, failures with their output.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker as Engine;
use bollard::body_stream;
use bollard::models::{BuildInfo, BuildInfoAux};
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use plan::application::{BuildSpec, Unit};
use tokio::sync::mpsc;

use super::build_inputs::{BuildInputs, ContextEntry, EntryKind, scan_context};
use super::problems::to_problem;
use crate::driver::{Problem, ProblemKind, ProgressLine, Scope};

/// Pieces of the tar that wait for the engine.
const QUEUE_CAPACITY: usize = 16;
const CHUNK_SIZE: usize = 256 << 10;
/// A build that says nothing for so long has stopped.
const BUILD_SILENCE_TIMEOUT: Duration = Duration::from_secs(900);
/// Lines of the failing step that are shown.
const OUTPUT_LINES_MAX: usize = 40;

/// `pdev/shop-api:0123456789ab`: the hash of its inputs is the tag, so that what is there tells what it was built from.
pub(super) fn image_tag(scope: &Scope, unit: &Unit, hash: &str) -> String {
    format!("pdev/{}-{}:{}", scope.preview.app, unit.name, hash.get(..12).unwrap_or(hash))
}

pub(super) async fn read_inputs(scope: &Scope, unit: &Unit, spec: &BuildSpec) -> Result<Arc<BuildInputs>, Problem> {
    let (name, spec) = (unit.name.clone(), spec.clone());
    let (project, cache) = (scope.locations.project.clone(), scope.locations.cache.clone());
    let work = tokio::task::spawn_blocking(move || scan_context(&name, &project, &spec, &cache));
    work.await
        .unwrap_or_else(|error| {
            Err(Problem::new(ProblemKind::Internal, format!("reading the build context broke off: {error}")))
        })
        .map(Arc::new)
}

pub(super) async fn build_image(
    engine: &Engine,
    scope: &Scope,
    unit: &Unit,
    spec: &BuildSpec,
    inputs: Arc<BuildInputs>,
) -> Result<String, Problem> {
    let tag = image_tag(scope, unit, &inputs.hash);
    let session = format!("pdev-{}-{}-{}", scope.preview.id.0, unit.name, inputs.hash.get(..12).unwrap_or_default());
    let mut options = BuildImageOptionsBuilder::default()
        .dockerfile(&inputs.dockerfile.to_string_lossy())
        .t(&tag)
        .rm(true)
        .version(BuilderVersion::BuilderBuildKit)
        .session(&session)
        .labels(&HashMap::from([("dev.pdev.build".to_owned(), inputs.hash.clone())]))
        .buildargs(&spec.args.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<HashMap<_, _>>());
    if let Some(target) = &spec.target {
        options = options.target(target);
    }
    if let Some(platform) = &spec.platform {
        options = options.platform(platform);
    }
    let (body, sending) = stream_context(inputs);
    let mut watch = BuildProgress::new(scope, unit);
    // The answers are dropped with this future: a writer that waits for the engine to read on is then let go.
    let outcome = follow_build(engine.build_image(options.build(), None, Some(body_stream(body))), &mut watch).await;
    // Why a file could not be read is a better answer than the engine's complaint about a short tar.
    match (outcome, sending.await) {
        (Err(_), Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::io(format!("`{}`: cannot send the build context", unit.name), &error))
        }
        (outcome, _) => outcome.map(|()| tag),
    }
}

async fn follow_build(
    answers: impl futures_util::Stream<Item = Result<BuildInfo, bollard::errors::Error>>,
    watch: &mut BuildProgress<'_>,
) -> Result<(), Problem> {
    let mut answers = std::pin::pin!(answers);
    loop {
        match tokio::time::timeout(BUILD_SILENCE_TIMEOUT, answers.next()).await {
            Err(_) => {
                let words =
                    format!("`{}`: the build said nothing for {} s", watch.unit.name, BUILD_SILENCE_TIMEOUT.as_secs());
                return Err(Problem::new(ProblemKind::Timeout, words));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Ok(info))) => {
                if let Some(words) = watch.handle_message(info) {
                    return Err(watch.to_problem(&words));
                }
            }
            Ok(Some(Err(error))) => return Err(watch.to_problem(&to_problem("the build failed", &error).message)),
        }
    }
}

type ContextTask = tokio::task::JoinHandle<io::Result<()>>;

/// The tar as a body: written by a blocking thread, a few pieces ahead of the engine, never whole in memory.
fn stream_context(inputs: Arc<BuildInputs>) -> (impl futures_util::Stream<Item = Bytes> + Send + 'static, ContextTask) {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE_CAPACITY);
    let sending = tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(ChunkWriter { sender, buffer: Vec::with_capacity(CHUNK_SIZE) });
        for entry in &inputs.entries {
            append_entry(&mut tar, &inputs.context_folder, entry)?;
        }
        tar.into_inner()?.flush_all()
    });
    let pieces =
        stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
    (pieces, sending)
}

fn append_entry(
    tar: &mut tar::Builder<ChunkWriter>,
    context: &std::path::Path,
    entry: &ContextEntry,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    // The same inputs give the same bytes, whoever checked them out and when.
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(entry.mode);
    match &entry.kind {
        EntryKind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, &entry.path, io::empty())
        }
        EntryKind::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &entry.path, target)
        }
        EntryKind::File { size } => {
            header.set_size(*size);
            let file = std::fs::File::open(context.join(&entry.path))?;
            // A file that grew meanwhile is cut, one that shrank is filled: the tar stays readable, the hash will differ.
            let exact = io::Read::chain(io::Read::take(file, *size), io::repeat(0));
            tar.append_data(&mut header, &entry.path, io::Read::take(exact, *size))
        }
    }
}

struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn flush_all(mut self) -> io::Result<()> {
        self.send_chunk()
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_SIZE)));
        self.sender.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_SIZE {
            self.send_chunk()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Turns the engine's messages into progress, and keeps what a failure needs.
struct BuildProgress<'a> {
    scope: &'a Scope,
    unit: &'a Unit,
    step_names: BTreeMap<String, String>,
    /// The last lines of each step.
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

    /// The engine's words when it failed.
    fn handle_message(&mut self, info: BuildInfo) -> Option<String> {
        if let Some(BuildInfoAux::BuildKit(status)) = info.aux {
            for vertex in status.vertexes {
                self.handle_vertex(vertex.digest, vertex.name, vertex.completed.is_some(), vertex.cached, vertex.error);
            }
            for log in status.logs {
                self.handle_log(&log.vertex, &log.msg);
            }
        }
        // The classic builder's way of speaking.
        if let Some(text) = info.stream {
            self.handle_log("", text.as_bytes());
        }
        info.error_detail.and_then(|detail| detail.message)
    }

    fn handle_vertex(&mut self, digest: String, name: String, done: bool, cached: bool, error: String) {
        // Steps of the builder's own housekeeping are noise.
        let shown =
            !name.starts_with("[internal]") && !name.starts_with("exporting") && !name.starts_with("docker-image://");
        let known = self.reported_steps.get(&digest).copied();
        if shown && known != Some(true) && (known.is_none() || done) {
            let error = (!error.is_empty()).then(|| error.clone());
            self.report(ProgressLine::BuildStep { name: name.clone(), is_done: done, is_cached: cached, error });
            self.reported_steps.insert(digest.clone(), done);
        }
        if !error.is_empty() && self.failed_step.is_none() {
            self.failed_step = Some((digest.clone(), error));
        }
        self.step_names.insert(digest, name);
    }

    fn handle_log(&mut self, step: &str, bytes: &[u8]) {
        for text in String::from_utf8_lossy(bytes).lines().filter(|text| !text.trim().is_empty()) {
            self.report(ProgressLine::BuildOutput(text.to_owned()));
            let kept = self.step_lines.entry(step.to_owned()).or_default();
            if kept.len() == OUTPUT_LINES_MAX {
                kept.pop_front();
            }
            kept.push_back(text.to_owned());
        }
    }

    fn to_problem(&self, words: &str) -> Problem {
        let (step, error) = match &self.failed_step {
            Some((digest, error)) => (self.step_names.get(digest).cloned(), error.as_str()),
            None => (None, words),
        };
        let output: Vec<_> = match &self.failed_step {
            Some((digest, _)) => self.step_lines.get(digest).cloned().unwrap_or_default().into(),
            None => self.step_lines.values().flatten().cloned().collect(),
        };
        let name = &self.unit.name;
        let lower = format!("{error} {words}").to_lowercase();
        if lacks_buildkit(&lower) {
            return Problem::new(
                ProblemKind::BuildFailed,
                format!("`{name}`: this engine cannot build with BuildKit, which pdev needs: {}", words.trim()),
            )
            .hint(format!(
                "Use Docker 19.03 or newer with BuildKit on, or build it yourself and give `services.{name}.image`."
            ));
        }
        if lower.contains("target stage") || lower.contains("target image") && lower.contains("not found") {
            return Problem::new(
                ProblemKind::BuildFailed,
                format!("`{name}`: the Dockerfile has no such target: {error}"),
            )
            .hint(format!("Correct `services.{name}.build.target`."));
        }
        let base_missing = step.as_deref().is_some_and(|step| step.contains("load metadata for"))
            || lower.contains("pull access denied");
        if base_missing {
            let image =
                step.as_deref().and_then(|step| step.split("load metadata for ").nth(1)).unwrap_or("of the Dockerfile");
            return Problem::new(
                ProblemKind::ImageNotFound,
                format!("`{name}`: the base image {image} cannot be had: {error}"),
            )
            .hint("Is its name right, and is the registry reachable? `docker pull` tells more.");
        }
        let at = step.map(|step| format!(" at {step}")).unwrap_or_default();
        Problem::new(ProblemKind::BuildFailed, format!("`{name}`: the build failed{at}: {error}"))
            .hint(if output.is_empty() {
                "Correct this step of the Dockerfile and run `pdev up` again."
            } else {
                "The step's last lines are above; correct it and run `pdev up` again."
            })
            .output(output)
    }
}

/// How engines without it answer: old ones know no session, Windows ones and those with it switched off say so.
fn lacks_buildkit(lower: &str) -> bool {
    let refuses = ["not supported", "not enabled", "unsupported", "disabled", "not available"];
    lower.contains("buildkit") && refuses.iter().any(|word| lower.contains(word))
        || lower.contains("page not found")
        || lower.contains("/session") && lower.contains("not found")
        || lower.contains("unsupported build version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_without_buildkit_are_recognised() {
        for (words, lacks) in [
            ("buildkit is not supported by daemon", true),
            ("BuildKit is not enabled on daemon", true),
            ("Docker responded with status code 404: page not found", true),
            ("failed to solve: process \"/bin/sh -c true\" did not complete successfully: exit code: 1", false),
            ("failed to solve: buildkit/frontend: file with no instructions", false),
        ] {
            assert_eq!(lacks_buildkit(&words.to_lowercase()), lacks, "{words}");
        }
    }
}
