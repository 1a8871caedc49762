//! What the editor has open, and which manifests are looked at because of it. One owner, behind one lock that is never
//! held across a wait: each handler changes this before its first `await`, so that changes keep the order of arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use manifest::FileId;
use manifest::syntax::{self, Node, Parsed};
use plan::application::RuntimeKind;
use plan::check::Question;
use plan::load::LoadOptions;
use tower_lsp::ls_types::{TextDocumentContentChangeEvent, Uri};

use crate::check::{Analysis, Job, today};
use crate::convert::Encoding;
use crate::files::{Buffers, Stamp, from_disk};
use crate::settings::Settings;
use crate::text::Text;

pub const MANIFEST: &str = "pdev.yaml";
pub const LOCK: &str = "pdev.lock";
pub const MODULE: &str = "module.yaml";

/// What a file is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Manifest,
    Module,
    Lock,
    /// Somebody else's, unless a manifest includes it.
    Other,
}

impl Kind {
    /// Ours, and no part of a manifest.
    #[must_use]
    pub fn is_related(self) -> bool {
        matches!(self, Self::Module | Self::Lock)
    }
}

#[derive(Debug, Default)]
pub struct Workspace {
    pub encoding: Encoding,
    pub settings: Settings,
    pub folders: BTreeSet<PathBuf>,
    documents: HashMap<PathBuf, Document>,
    roots: BTreeMap<PathBuf, Root>,
    /// Files of ours beside a manifest that wait to be looked at.
    related: BTreeSet<PathBuf>,
    generation: u64,
    /// Nothing was written, but what runs has changed.
    shown_again: bool,
    live_generation: u64,
}

#[derive(Debug)]
struct Document {
    uri: Uri,
    kind: Kind,
    version: i32,
    /// What the client has.
    buffer: Text,
    /// Newer contents of the disk, where the client never changed what it has: some clients open once and forget.
    disk: Option<Text>,
    /// The file as it was when the buffer was last known to equal it.
    stamp: Option<Stamp>,
    clean: bool,
    parsed: Arc<OnceLock<Parsed>>,
}

#[derive(Debug, Default)]
struct Root {
    generation: u64,
    waiting: bool,
    latest: Option<Arc<Analysis>>,
}

/// One moment of one document, for a request.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub uri: Uri,
    pub path: PathBuf,
    pub kind: Kind,
    pub text: Text,
    pub encoding: Encoding,
    pub settings: Settings,
    /// The newest look at the manifest it belongs to, perhaps of an earlier version.
    pub analysis: Option<Arc<Analysis>>,
    /// What would bring that look up to date.
    pub job: Option<Job>,
    /// The files around it, for a file of ours that is no manifest.
    pub beside: Option<Buffers>,
    parsed: Arc<OnceLock<Parsed>>,
}

impl Snapshot {
    /// Its own tree: the one that was checked where that is as new as the text.
    #[must_use]
    pub fn root(&self) -> Option<&Node> {
        let checked = self.analysis.as_ref().filter(|analysis| {
            let newest = self.job.as_ref().is_some_and(|job| job.generation == analysis.generation);
            newest && analysis.root == self.path
        });
        match checked {
            Some(analysis) => analysis.loaded().root.as_ref(),
            None => self.parsed().root.as_ref(),
        }
    }

    /// The tree and the comments of this text alone; made once for all requests about this version.
    #[must_use]
    pub fn parsed(&self) -> &Parsed {
        self.parsed.get_or_init(|| syntax::parse(self.text.as_str(), FileId(0)))
    }
}

impl Document {
    fn text(&self) -> &Text {
        self.disk.as_ref().unwrap_or(&self.buffer)
    }

    /// True when the disk has something newer than a buffer that nobody changed.
    fn refresh(&mut self, path: &Path) -> bool {
        let stamp = Stamp::of(path);
        if !self.clean || stamp.is_none() || stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        let Ok(bytes) = from_disk(path) else { return false };
        let (text, _) = syntax::decode(bytes, FileId(0));
        if text == self.text().as_str() {
            return false;
        }
        self.disk = (text != self.buffer.as_str()).then(|| Text::new(text));
        self.parsed = Arc::default();
        true
    }
}

impl Workspace {
    pub fn open(&mut self, path: PathBuf, uri: Uri, version: i32, text: String) {
        let kind = kind(&path, &text);
        let stamp = Stamp::of(&path);
        // A buffer that differs from the disk at the start is somebody's unsaved work.
        let clean = kind != Kind::Other && from_disk(&path).is_ok_and(|bytes| bytes == text.as_bytes());
        let buffer = Text::new(text);
        let document = Document { uri, kind, version, buffer, disk: None, stamp, clean, parsed: Arc::default() };
        self.documents.insert(path.clone(), document);
        if kind == Kind::Manifest {
            self.roots.entry(path.clone()).or_default();
        }
        self.touch(&path);
    }

    /// Applies changes in order. Unknown documents and older versions change nothing.
    pub fn change(&mut self, path: &Path, version: i32, changes: &[TextDocumentContentChangeEvent]) {
        let encoding = self.encoding;
        let Some(document) = self.documents.get_mut(path) else { return };
        for change in changes {
            document.buffer = match change.range {
                Some(range) => {
                    let bytes = encoding.bytes(&document.buffer, range);
                    document.buffer.replaced(bytes, &change.text)
                }
                None => Text::new(change.text.as_str()),
            };
        }
        document.version = version;
        // A module file is one as soon as it says so.
        if document.kind == Kind::Other {
            document.kind = kind(path, document.buffer.as_str());
        }
        document.clean = false;
        document.disk = None;
        document.parsed = Arc::default();
        self.touch(path);
    }

    pub fn save(&mut self, path: &Path, text: Option<String>) {
        let Some(document) = self.documents.get_mut(path) else { return };
        if let Some(text) = text.filter(|text| text != document.buffer.as_str()) {
            document.buffer = Text::new(text);
            document.parsed = Arc::default();
        }
        document.disk = None;
        document.clean = true;
        document.stamp = Stamp::of(path);
        self.touch(path);
    }

    pub fn close(&mut self, path: &Path) {
        // What was said about it goes with it.
        if self.documents.remove(path).is_some_and(|document| document.kind.is_related()) {
            self.related.insert(path.to_owned());
        }
        self.roots.remove(path);
        self.touch(path);
    }

    /// A file that changed behind the editor's back; true when that matters to a manifest.
    pub fn changed_on_disk(&mut self, path: &Path) -> bool {
        // What the user has changed is newer than anything on the disk.
        let kept = self.documents.get_mut(path).is_some_and(|document| !document.refresh(path));
        !kept && self.touch(path)
    }

    /// Everything is looked at again: settings changed, or the day.
    pub fn touch_all(&mut self) {
        self.generation += 1;
        for root in self.roots.values_mut() {
            root.generation = self.generation;
            root.waiting = true;
        }
        let related = self.documents.iter().filter(|(_, document)| document.kind.is_related());
        self.related.extend(related.map(|(path, _)| path.clone()));
    }

    /// Findings are published once more although no file changed.
    pub fn show_again(&mut self) {
        self.shown_again = true;
        self.live_generation += 1;
    }

    pub fn take_shown_again(&mut self) -> Vec<Arc<Analysis>> {
        if std::mem::take(&mut self.shown_again) { self.analyses().cloned().collect() } else { Vec::new() }
    }

    /// Tells one answer to a pull from the next.
    #[must_use]
    pub fn result_id(&self, job: &Job) -> String {
        format!("{}.{}", job.generation, self.live_generation)
    }

    /// Every manifest that read this file, or asked for it in vain, has to be looked at again.
    fn touch(&mut self, path: &Path) -> bool {
        self.generation += 1;
        let mut any = self.touch_related(path);
        for (own, root) in &mut self.roots {
            let concerned = own == path || root.latest.as_ref().is_none_or(|latest| latest.asked.contains(path));
            if concerned {
                root.generation = self.generation;
                root.waiting = true;
                any = true;
            }
        }
        any
    }

    /// The file itself; and locks, which tell of modules.
    fn touch_related(&mut self, path: &Path) -> bool {
        let is_module = path.file_name().is_some_and(|name| name == MODULE);
        let concerned = |own: &Path, kind: Kind| own == path && kind.is_related() || is_module && kind == Kind::Lock;
        let open = self.documents.iter().filter(|(own, document)| concerned(own, document.kind));
        let before = self.related.len();
        self.related.extend(open.map(|(own, _)| own.clone()).collect::<Vec<_>>());
        self.related.len() > before
    }

    pub fn take_related(&mut self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.related)
    }

    /// The next manifest that waits to be looked at.
    pub fn next_job(&mut self) -> Option<Job> {
        let path = self.roots.iter().find(|(_, root)| root.waiting).map(|(path, _)| path.clone())?;
        if let Some(root) = self.roots.get_mut(&path) {
            root.waiting = false;
        }
        self.job(&path)
    }

    fn job(&self, root: &Path) -> Option<Job> {
        let Root { generation, latest, .. } = self.roots.get(root)?;
        let buffers = self.buffers(root)?;
        let (generation, before) = (*generation, latest.clone());
        Some(Job { root: root.to_owned(), generation, question: self.question(), buffers, before })
    }

    fn buffers(&self, beside: &Path) -> Option<Buffers> {
        let open = self.documents.iter().map(|(path, document)| (path.clone(), document.text().shared())).collect();
        Some(Buffers::new(beside.parent()?.to_owned(), open))
    }

    fn question(&self) -> Question {
        let runtime = self.settings.runtime.as_deref().and_then(|word| match word {
            "docker" => Some(RuntimeKind::Docker),
            "process" => Some(RuntimeKind::Process),
            _ => None,
        });
        let environment = self.settings.environment.clone().filter(|name| !name.is_empty());
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Question {
            options: LoadOptions { environment, sets: Vec::new() },
            runtime,
            variables: std::env::vars_os().filter_map(text).collect(),
            today: today(),
        }
    }

    /// Keeps a look; false when the files have changed meanwhile. Beside it the look that it replaces.
    pub fn keep(&mut self, analysis: &Arc<Analysis>) -> (bool, Option<Arc<Analysis>>) {
        let Some(root) = self.roots.get_mut(&analysis.root) else { return (false, None) };
        let newer = root.latest.as_ref().is_none_or(|latest| latest.generation < analysis.generation);
        let before = if newer { root.latest.replace(Arc::clone(analysis)) } else { None };
        (root.generation == analysis.generation, before)
    }

    /// What this job would find, if it was looked for already.
    #[must_use]
    pub fn looked(&self, job: &Job) -> Option<Arc<Analysis>> {
        let latest = self.roots.get(&job.root)?.latest.as_ref()?;
        (latest.generation == job.generation).then(|| Arc::clone(latest))
    }

    /// The moment of a document that is ours; `None` for everybody else's.
    pub fn snapshot(&mut self, path: &Path) -> Option<Snapshot> {
        if self.documents.get_mut(path)?.refresh(path) {
            self.touch(path);
        }
        let document = self.documents.get(path)?;
        let root = self.root_of(path);
        if document.kind == Kind::Other && root.is_none() {
            return None;
        }
        Some(Snapshot {
            uri: document.uri.clone(),
            path: path.to_owned(),
            kind: document.kind,
            text: document.text().clone(),
            encoding: self.encoding,
            settings: self.settings.clone(),
            analysis: root.and_then(|root| self.roots[root].latest.clone()),
            job: root.and_then(|root| self.job(root)),
            beside: document.kind.is_related().then(|| self.buffers(path)).flatten(),
            parsed: Arc::clone(&document.parsed),
        })
    }

    /// The manifest a file belongs to: itself, or one that includes it.
    fn root_of(&self, path: &Path) -> Option<&PathBuf> {
        if let Some((own, _)) = self.roots.get_key_value(path) {
            return Some(own);
        }
        let reads = |root: &Root| root.latest.as_ref().is_some_and(|latest| latest.file(path).is_some());
        self.roots.iter().find(|(_, root)| reads(root)).map(|(own, _)| own)
    }

    /// The newest look at each open manifest.
    pub fn analyses(&self) -> impl Iterator<Item = &Arc<Analysis>> {
        self.roots.values().filter_map(|root| root.latest.as_ref())
    }

    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.keys().map(PathBuf::as_path)
    }

    /// How the client calls a file, and the version it has of it; none when it is not open or the disk is ahead.
    #[must_use]
    pub fn called(&self, path: &Path) -> Option<(Uri, Option<i32>)> {
        match self.documents.get(path) {
            Some(document) => {
                let version = document.disk.is_none().then_some(document.version);
                Some((document.uri.clone(), version))
            }
            None => Uri::from_file_path(path).map(|uri| (uri, None)),
        }
    }
}

fn kind(path: &Path, text: &str) -> Kind {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(MANIFEST) => Kind::Manifest,
        Some(LOCK) => Kind::Lock,
        // Others have files of this name too.
        Some(MODULE) if text.lines().any(|line| line.starts_with("module:")) => Kind::Module,
        _ => Kind::Other,
    }
}
