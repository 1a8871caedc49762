//! The open documents, and the manifests to analyse because of them.
//!
//! One lock guards all of it and is never held across an await. Each handler updates the workspace before its first
//! await, so changes are applied in the order of their arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use host::clock::now_milliseconds;
use manifest::date::Date;
use manifest::syntax::{self, Node, ParsedFile};
use manifest::{FileId, Severity};
use plan::application::RuntimeKind;
use plan::check::CheckOptions;
use plan::load::LoadOptions;
use tower_lsp::ls_types::{TextDocumentContentChangeEvent, Uri};

use crate::analysis::format::ValidTree;
use crate::check::{Analysis, AnalysisJob};
use crate::convert::Encoding;
use crate::convert::diagnostics::AdviceDisplay;
use crate::files::{Buffers, FileStamp, read_from_disk};
use crate::settings::Settings;
use crate::text::Text;

pub const MANIFEST_FILE: &str = "pdev.yaml";
pub const LOCK_FILE: &str = "pdev.lock";
pub const MODULE_FILE: &str = "module.yaml";

/// The role of a file for pdev.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    Manifest,
    Module,
    Lock,
    /// A file of another tool, unless a manifest includes it.
    Other,
}

impl FileKind {
    /// Belongs to pdev, but to no manifest.
    #[must_use]
    pub fn is_standalone(self) -> bool {
        matches!(self, Self::Module | Self::Lock)
    }
}

#[derive(Debug, Default)]
pub struct Workspace {
    pub encoding: Encoding,
    pub settings: Settings,
    pub folders: BTreeSet<PathBuf>,
    documents: HashMap<PathBuf, Document>,
    manifests: BTreeMap<PathBuf, ManifestState>,
    /// Standalone files to analyse and publish.
    pending_standalone: BTreeSet<PathBuf>,
    generation: u64,
    /// The live state has changed since the last publication, but no file has.
    needs_republish: bool,
    live_generation: u64,
    /// Open files that show each piece of advice.
    files_with_advice: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Document {
    uri: Uri,
    kind: FileKind,
    version: i32,
    /// The text of the client.
    buffer: Text,
    /// The newer text on disk, if the buffer is unmodified. Some clients open a file once and then edit it elsewhere.
    disk_text: Option<Text>,
    /// The file on disk when it was last compared with the buffer.
    stamp: Option<FileStamp>,
    /// The client has not changed the text since it opened or saved the file.
    is_clean: bool,
    parsed: Arc<OnceLock<ParsedFile>>,
}

#[derive(Debug, Default)]
struct ManifestState {
    generation: u64,
    needs_analysis: bool,
    latest_analysis: Option<Arc<Analysis>>,
}

/// A document at one moment, for one request.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub uri: Uri,
    pub path: PathBuf,
    pub kind: FileKind,
    pub text: Text,
    pub encoding: Encoding,
    pub settings: Settings,
    pub advice_display: AdviceDisplay,
    /// The newest analysis of its manifest, which may be of an earlier text.
    pub analysis: Option<Arc<Analysis>>,
    /// The job that would bring `analysis` up to date. `None` for files without a manifest.
    pub job: Option<AnalysisJob>,
    /// The files in its folder, for standalone files.
    pub sibling_files: Option<Buffers>,
    parsed: Arc<OnceLock<ParsedFile>>,
}

impl Snapshot {
    /// The tree of this document. Reuses the tree of the analysis if that is current.
    #[must_use]
    pub fn root(&self) -> Option<&Node> {
        match self.own_analysis() {
            Some(analysis) => analysis.loaded().root.as_ref(),
            None => self.parsed().root.as_ref(),
        }
    }

    /// The analysis of this document as a manifest, if it is current.
    fn own_analysis(&self) -> Option<&Analysis> {
        self.analysis.as_deref().filter(|analysis| {
            let is_current = self.job.as_ref().is_some_and(|job| job.generation == analysis.generation);
            is_current && analysis.manifest_path == self.path
        })
    }

    /// The tree and comments of this document, if it has no syntax errors. Like [`Self::root`], it avoids a second
    /// parse of a long manifest.
    #[must_use]
    pub fn valid_tree(&self) -> Option<ValidTree<'_>> {
        let file = FileId(0);
        let is_valid = |analysis: &&Analysis| {
            let mut findings = analysis.diagnostics_in(file);
            findings.all(|found| found.severity != Severity::Error)
        };
        let Some(analysis) = self.own_analysis().filter(is_valid) else {
            return ValidTree::from_parsed(self.parsed());
        };
        let comments = &analysis.loaded().comments;
        let end = comments.partition_point(|comment| comment.span.file == file);
        Some(ValidTree { root: analysis.loaded().root.as_ref()?, comments: &comments[..end] })
    }

    /// The tree and comments of this text, parsed once for all requests about this version.
    #[must_use]
    pub fn parsed(&self) -> &ParsedFile {
        self.parsed.get_or_init(|| syntax::parse(self.text.as_str(), FileId(0)))
    }
}

impl Document {
    fn text(&self) -> &Text {
        self.disk_text.as_ref().unwrap_or(&self.buffer)
    }

    /// Reads the disk if the buffer is unmodified. Returns whether the text has changed.
    fn refresh_from_disk(&mut self, path: &Path) -> bool {
        let stamp = FileStamp::read(path);
        if !self.is_clean || stamp.is_none() || stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        let Ok(bytes) = read_from_disk(path) else { return false };
        let (text, _) = syntax::decode_utf8(bytes, FileId(0));
        if text == self.text().as_str() {
            return false;
        }
        self.disk_text = (text != self.buffer.as_str()).then(|| Text::new(text));
        self.parsed = Arc::default();
        true
    }
}

impl Workspace {
    pub fn open(&mut self, path: PathBuf, uri: Uri, version: i32, text: String) {
        let kind = detect_kind(&path, &text);
        let stamp = FileStamp::read(&path);
        // A buffer that differs from the disk when it is opened contains unsaved work.
        let is_clean = kind != FileKind::Other && read_from_disk(&path).is_ok_and(|bytes| bytes == text.as_bytes());
        let buffer = Text::new(text);
        let document =
            Document { uri, kind, version, buffer, disk_text: None, stamp, is_clean, parsed: Arc::default() };
        self.documents.insert(path.clone(), document);
        if kind == FileKind::Manifest {
            self.manifests.entry(path.clone()).or_default();
        }
        self.invalidate(&path);
    }

    /// Applies changes in order. Unknown documents and older versions change nothing.
    pub fn change(&mut self, path: &Path, version: i32, changes: &[TextDocumentContentChangeEvent]) {
        let encoding = self.encoding;
        let Some(document) = self.documents.get_mut(path) else { return };
        for change in changes {
            document.buffer = match change.range {
                Some(range) => {
                    let bytes = encoding.byte_range(&document.buffer, range);
                    document.buffer.with_replaced(bytes, &change.text)
                }
                None => Text::new(change.text.as_str()),
            };
        }
        document.version = version;
        // The user may have just typed `module:` into a new `module.yaml`.
        if document.kind == FileKind::Other {
            document.kind = detect_kind(path, document.buffer.as_str());
        }
        document.is_clean = false;
        document.disk_text = None;
        document.parsed = Arc::default();
        self.invalidate(path);
    }

    pub fn save(&mut self, path: &Path, text: Option<String>) {
        let Some(document) = self.documents.get_mut(path) else { return };
        if let Some(text) = text.filter(|text| text != document.buffer.as_str()) {
            document.buffer = Text::new(text);
            document.parsed = Arc::default();
        }
        document.disk_text = None;
        document.is_clean = true;
        document.stamp = FileStamp::read(path);
        self.invalidate(path);
    }

    pub fn close(&mut self, path: &Path) {
        // Publish once more, so that the diagnostics of a closed file disappear.
        if self.documents.remove(path).is_some_and(|document| document.kind.is_standalone()) {
            self.pending_standalone.insert(path.to_owned());
        }
        self.manifests.remove(path);
        self.files_with_advice.remove(path);
        self.invalidate(path);
    }

    #[must_use]
    pub fn advice_display(&self, path: &Path) -> AdviceDisplay {
        if self.files_with_advice.contains(path) { AdviceDisplay::All } else { AdviceDisplay::Summary }
    }

    /// Shows the advice of a file, or only their number again.
    pub fn toggle_advice(&mut self, path: &Path) {
        if !self.files_with_advice.remove(path) {
            self.files_with_advice.insert(path.to_owned());
        }
        self.request_republish();
    }

    /// Handles a change of a file by another program. Returns whether a manifest or standalone file is affected.
    pub fn handle_disk_change(&mut self, path: &Path) -> bool {
        // The text that the user has typed takes precedence over the file on disk.
        let is_ignored = self.documents.get_mut(path).is_some_and(|document| !document.refresh_from_disk(path));
        !is_ignored && self.invalidate(path)
    }

    /// Schedules all files for analysis, for example after a change of the settings.
    pub fn invalidate_all(&mut self) {
        self.generation += 1;
        for root in self.manifests.values_mut() {
            root.generation = self.generation;
            root.needs_analysis = true;
        }
        let standalone = self.documents.iter().filter(|(_, document)| document.kind.is_standalone());
        self.pending_standalone.extend(standalone.map(|(path, _)| path.clone()));
    }

    /// Publishes the diagnostics again although no file has changed.
    pub fn request_republish(&mut self) {
        self.needs_republish = true;
        self.live_generation += 1;
    }

    pub fn take_analyses_to_republish(&mut self) -> Vec<Arc<Analysis>> {
        if std::mem::take(&mut self.needs_republish) { self.analyses().cloned().collect() } else { Vec::new() }
    }

    /// Identifies the result of a pull. It changes with the files and with the live state.
    #[must_use]
    pub fn result_id(&self, job: &AnalysisJob) -> String {
        format!("{}.{}", job.generation, self.live_generation)
    }

    /// Schedules every manifest that has read this file, or looked for it in vain. Returns whether there is one.
    fn invalidate(&mut self, path: &Path) -> bool {
        self.generation += 1;
        let mut any = self.invalidate_standalone(path);
        for (manifest_path, root) in &mut self.manifests {
            let is_affected = manifest_path == path
                || root.latest_analysis.as_ref().is_none_or(|latest| latest.requested_paths.contains(path));
            if is_affected {
                root.generation = self.generation;
                root.needs_analysis = true;
                any = true;
            }
        }
        any
    }

    /// Schedules the file itself, and all lock files if it is a module, because they pin modules.
    fn invalidate_standalone(&mut self, path: &Path) -> bool {
        let is_module = path.file_name().is_some_and(|name| name == MODULE_FILE);
        let is_affected = |document_path: &Path, kind: FileKind| {
            document_path == path && kind.is_standalone() || is_module && kind == FileKind::Lock
        };
        let affected = self.documents.iter().filter(|(own_path, document)| is_affected(own_path, document.kind));
        let before = self.pending_standalone.len();
        self.pending_standalone.extend(affected.map(|(own_path, _)| own_path.clone()).collect::<Vec<_>>());
        self.pending_standalone.len() > before
    }

    pub fn take_pending_standalone(&mut self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.pending_standalone)
    }

    /// Takes the next manifest that needs an analysis.
    pub fn next_job(&mut self) -> Option<AnalysisJob> {
        let path = self.manifests.iter().find(|(_, root)| root.needs_analysis).map(|(path, _)| path.clone())?;
        if let Some(root) = self.manifests.get_mut(&path) {
            root.needs_analysis = false;
        }
        self.job(&path)
    }

    fn job(&self, root: &Path) -> Option<AnalysisJob> {
        let ManifestState { generation, latest_analysis: latest, .. } = self.manifests.get(root)?;
        let buffers = self.buffers(root)?;
        Some(AnalysisJob {
            manifest_path: root.to_owned(),
            generation: *generation,
            options: self.check_options(),
            buffers,
            previous: latest.clone(),
        })
    }

    /// The open buffers, relative to the folder of this file.
    fn buffers(&self, path: &Path) -> Option<Buffers> {
        let open = self.documents.iter().map(|(path, document)| (path.clone(), document.text().to_arc())).collect();
        Some(Buffers::new(path.parent()?.to_owned(), open))
    }

    fn check_options(&self) -> CheckOptions {
        let runtime = self.settings.runtime.as_deref().and_then(|name| RuntimeKind::parse(name).ok());
        let environment = self.settings.environment.clone().filter(|name| !name.is_empty());
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        CheckOptions {
            load_options: LoadOptions { environment, sets: Vec::new() },
            runtime,
            variables: std::env::vars_os().filter_map(text).collect(),
            today: Date::from_unix_milliseconds(now_milliseconds()),
        }
    }

    /// Stores an analysis, unless a newer one is stored. Returns whether it is current, and the analysis that it
    /// replaces.
    pub fn store_analysis(&mut self, analysis: &Arc<Analysis>) -> (bool, Option<Arc<Analysis>>) {
        let Some(root) = self.manifests.get_mut(&analysis.manifest_path) else { return (false, None) };
        let is_newer = root.latest_analysis.as_ref().is_none_or(|latest| latest.generation < analysis.generation);
        let replaced = if is_newer { root.latest_analysis.replace(Arc::clone(analysis)) } else { None };
        (root.generation == analysis.generation, replaced)
    }

    /// The stored result of this job, if there is one.
    #[must_use]
    pub fn cached_analysis(&self, job: &AnalysisJob) -> Option<Arc<Analysis>> {
        let latest = self.manifests.get(&job.manifest_path)?.latest_analysis.as_ref()?;
        (latest.generation == job.generation).then(|| Arc::clone(latest))
    }

    /// The snapshot of a document that belongs to pdev, `None` for other documents.
    pub fn snapshot(&mut self, path: &Path) -> Option<Snapshot> {
        if self.documents.get_mut(path)?.refresh_from_disk(path) {
            self.invalidate(path);
        }
        let document = self.documents.get(path)?;
        let root = self.manifest_of(path);
        if document.kind == FileKind::Other && root.is_none() {
            return None;
        }
        Some(Snapshot {
            uri: document.uri.clone(),
            path: path.to_owned(),
            kind: document.kind,
            text: document.text().clone(),
            encoding: self.encoding,
            settings: self.settings.clone(),
            advice_display: self.advice_display(path),
            analysis: root.and_then(|root| self.manifests[root].latest_analysis.clone()),
            job: root.and_then(|root| self.job(root)),
            sibling_files: document.kind.is_standalone().then(|| self.buffers(path)).flatten(),
            parsed: Arc::clone(&document.parsed),
        })
    }

    /// The manifest a file belongs to: itself, or one that includes it.
    fn manifest_of(&self, path: &Path) -> Option<&PathBuf> {
        if let Some((manifest_path, _)) = self.manifests.get_key_value(path) {
            return Some(manifest_path);
        }
        let reads =
            |root: &ManifestState| root.latest_analysis.as_ref().is_some_and(|latest| latest.file_id(path).is_some());
        self.manifests.iter().find(|(_, root)| reads(root)).map(|(manifest_path, _)| manifest_path)
    }

    /// The newest analysis of each open manifest.
    pub fn analyses(&self) -> impl Iterator<Item = &Arc<Analysis>> {
        self.manifests.values().filter_map(|root| root.latest_analysis.as_ref())
    }

    pub fn manifest_paths(&self) -> impl Iterator<Item = &Path> {
        self.manifests.keys().map(PathBuf::as_path)
    }

    /// The client's URI of a file and its version there. There is no version if the file is not open, or if the text is
    /// from the disk.
    #[must_use]
    pub fn uri_and_version(&self, path: &Path) -> Option<(Uri, Option<i32>)> {
        match self.documents.get(path) {
            Some(document) => {
                let version = document.disk_text.is_none().then_some(document.version);
                Some((document.uri.clone(), version))
            }
            None => Uri::from_file_path(path).map(|uri| (uri, None)),
        }
    }
}

fn detect_kind(path: &Path, text: &str) -> FileKind {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(MANIFEST_FILE) => FileKind::Manifest,
        Some(LOCK_FILE) => FileKind::Lock,
        // Other tools use this file name too.
        Some(MODULE_FILE) if text.lines().any(|line| line.starts_with("module:")) => FileKind::Module,
        _ => FileKind::Other,
    }
}
