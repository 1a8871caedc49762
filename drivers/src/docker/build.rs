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

use super::build_inputs::{Entry, Inputs, Kind, read};
use super::problems::problem;
use crate::driver::{Problem, ProblemKind, ProgressLine, Scope};

/// Pieces of the tar that wait for the engine.
const QUEUE: usize = 16;
const PIECE: usize = 256 << 10;
/// A build that says nothing for so long has stopped.
const SILENCE: Duration = Duration::from_secs(900);
/// Lines of the failing step that are shown.
const LINES_KEPT: usize = 40;

/// `pdev/shop-api:0123456789ab`: the hash of its inputs is the tag, so that what is there tells what it was built from.
pub(super) fn tag(scope: &Scope, unit: &Unit, hash: &str) -> String {
    format!("pdev/{}-{}:{}", scope.preview.app, unit.name, hash.get(..12).unwrap_or(hash))
}

pub(super) async fn inputs(scope: &Scope, unit: &Unit, spec: &BuildSpec) -> Result<Arc<Inputs>, Problem> {
    let (name, spec) = (unit.name.clone(), spec.clone());
    let (project, cache) = (scope.places.project.clone(), scope.places.cache.clone());
    let work = tokio::task::spawn_blocking(move || read(&name, &project, &spec, &cache));
    work.await
        .unwrap_or_else(|error| {
            Err(Problem::new(ProblemKind::Internal, format!("reading the build context broke off: {error}")))
        })
        .map(Arc::new)
}

pub(super) async fn build(
    engine: &Engine,
    scope: &Scope,
    unit: &Unit,
    spec: &BuildSpec,
    inputs: Arc<Inputs>,
) -> Result<String, Problem> {
    let tag = tag(scope, unit, &inputs.hash);
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
    let (body, sending) = context(inputs);
    let mut watch = Watch::new(scope, unit);
    // The answers are dropped with this future: a writer that waits for the engine to read on is then let go.
    let outcome = listen(engine.build_image(options.build(), None, Some(body_stream(body))), &mut watch).await;
    // Why a file could not be read is a better answer than the engine's complaint about a short tar.
    match (outcome, sending.await) {
        (Err(_), Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::io(format!("`{}`: cannot send the build context", unit.name), &error))
        }
        (outcome, _) => outcome.map(|()| tag),
    }
}

async fn listen(
    answers: impl futures_util::Stream<Item = Result<BuildInfo, bollard::errors::Error>>,
    watch: &mut Watch<'_>,
) -> Result<(), Problem> {
    let mut answers = std::pin::pin!(answers);
    loop {
        match tokio::time::timeout(SILENCE, answers.next()).await {
            Err(_) => {
                let words = format!("`{}`: the build said nothing for {} s", watch.unit.name, SILENCE.as_secs());
                return Err(Problem::new(ProblemKind::Timeout, words));
            }
            Ok(None) => return Ok(()),
            Ok(Some(Ok(info))) => {
                if let Some(words) = watch.take(info) {
                    return Err(watch.failure(&words));
                }
            }
            Ok(Some(Err(error))) => return Err(watch.failure(&problem("the build failed", &error).message)),
        }
    }
}

type Sending = tokio::task::JoinHandle<io::Result<()>>;

/// The tar as a body: written by a blocking thread, a few pieces ahead of the engine, never whole in memory.
fn context(inputs: Arc<Inputs>) -> (impl futures_util::Stream<Item = Bytes> + Send + 'static, Sending) {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let sending = tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(Pieces { sender, waiting: Vec::with_capacity(PIECE) });
        for entry in &inputs.entries {
            append(&mut tar, &inputs.context, entry)?;
        }
        tar.into_inner()?.flush_all()
    });
    let pieces =
        stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
    (pieces, sending)
}

fn append(tar: &mut tar::Builder<Pieces>, context: &std::path::Path, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    // The same inputs give the same bytes, whoever checked them out and when.
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(entry.mode);
    match &entry.kind {
        Kind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, &entry.path, io::empty())
        }
        Kind::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &entry.path, target)
        }
        Kind::File { size } => {
            header.set_size(*size);
            let file = std::fs::File::open(context.join(&entry.path))?;
            // A file that grew meanwhile is cut, one that shrank is filled: the tar stays readable, the hash will differ.
            let exact = io::Read::chain(io::Read::take(file, *size), io::repeat(0));
            tar.append_data(&mut header, &entry.path, io::Read::take(exact, *size))
        }
    }
}

struct Pieces {
    sender: mpsc::Sender<Bytes>,
    waiting: Vec<u8>,
}

impl Pieces {
    fn flush_all(mut self) -> io::Result<()> {
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE)));
        self.sender.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Turns the engine's messages into progress, and keeps what a failure needs.
struct Watch<'a> {
    scope: &'a Scope,
    unit: &'a Unit,
    names: BTreeMap<String, String>,
    /// The last lines of each step.
    lines: BTreeMap<String, VecDeque<String>>,
    failed: Option<(String, String)>,
    told: BTreeMap<String, bool>,
}

impl<'a> Watch<'a> {
    fn new(scope: &'a Scope, unit: &'a Unit) -> Self {
        Self { scope, unit, names: BTreeMap::new(), lines: BTreeMap::new(), failed: None, told: BTreeMap::new() }
    }

    fn line(&self, line: ProgressLine) {
        self.scope.progress.line(&self.unit.name, line);
    }

    /// The engine's words when it failed.
    fn take(&mut self, info: BuildInfo) -> Option<String> {
        if let Some(BuildInfoAux::BuildKit(status)) = info.aux {
            for vertex in status.vertexes {
                self.vertex(vertex.digest, vertex.name, vertex.completed.is_some(), vertex.cached, vertex.error);
            }
            for log in status.logs {
                self.log(&log.vertex, &log.msg);
            }
        }
        // The classic builder's way of speaking.
        if let Some(text) = info.stream {
            self.log("", text.as_bytes());
        }
        info.error_detail.and_then(|detail| detail.message)
    }

    fn vertex(&mut self, digest: String, name: String, done: bool, cached: bool, error: String) {
        // Steps of the builder's own housekeeping are noise.
        let shown =
            !name.starts_with("[internal]") && !name.starts_with("exporting") && !name.starts_with("docker-image://");
        let known = self.told.get(&digest).copied();
        if shown && known != Some(true) && (known.is_none() || done) {
            let error = (!error.is_empty()).then(|| error.clone());
            self.line(ProgressLine::BuildStep { name: name.clone(), done, cached, error });
            self.told.insert(digest.clone(), done);
        }
        if !error.is_empty() && self.failed.is_none() {
            self.failed = Some((digest.clone(), error));
        }
        self.names.insert(digest, name);
    }

    fn log(&mut self, step: &str, bytes: &[u8]) {
        for text in String::from_utf8_lossy(bytes).lines().filter(|text| !text.trim().is_empty()) {
            self.line(ProgressLine::BuildOutput(text.to_owned()));
            let kept = self.lines.entry(step.to_owned()).or_default();
            if kept.len() == LINES_KEPT {
                kept.pop_front();
            }
            kept.push_back(text.to_owned());
        }
    }

    fn failure(&self, words: &str) -> Problem {
        let (step, error) = match &self.failed {
            Some((digest, error)) => (self.names.get(digest).cloned(), error.as_str()),
            None => (None, words),
        };
        let output: Vec<_> = match &self.failed {
            Some((digest, _)) => self.lines.get(digest).cloned().unwrap_or_default().into(),
            None => self.lines.values().flatten().cloned().collect(),
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
