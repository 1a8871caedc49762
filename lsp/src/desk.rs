//! What all handlers share: the workspace behind its lock, and the one task that looks at manifests and publishes.
//!
//! One task for all, so that publications keep their order; newest wins, so that a burst of keys costs one look at its
//! end. There is no timer: work begins with a change and ends with its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use client::Place;
use tokio::sync::Notify;
use tower_lsp::Client;
use tower_lsp::ls_types as lsp;

use crate::answers;
use crate::check::{Analysis, Job};
use crate::client_can::ClientCan;
use crate::convert::diagnostics;
use crate::live::Live;
use crate::looker::Looker;
use crate::peek;
use crate::settings::Delivery;
use crate::shown::Folder;
use crate::workspace::{Snapshot, Workspace};

#[derive(Debug)]
pub struct Desk {
    pub client: Client,
    workspace: Mutex<Workspace>,
    looker: Looker,
    can: Mutex<ClientCan>,
    live: Mutex<Live>,
    shown: Mutex<Folder>,
    /// Where an agent would be.
    pub place: Place,
    pub wake: Notify,
    /// The user did something: a good moment to see whether an agent runs by now.
    pub look_for_agent: Notify,
    refresh: Notify,
    /// Units whose last lines somebody may want to see soon.
    peeks: Mutex<BTreeSet<peek::Whose>>,
    pub peek: Notify,
    /// Something changed that the client cannot know of, and has to be asked to pull again.
    stale: AtomicBool,
    pub shut_down: AtomicBool,
}

impl Desk {
    #[must_use]
    pub fn new(client: Client, place: Place) -> Self {
        Self {
            client,
            workspace: Mutex::default(),
            looker: Looker::start(),
            can: Mutex::default(),
            live: Mutex::default(),
            shown: Mutex::default(),
            place,
            wake: Notify::new(),
            look_for_agent: Notify::new(),
            refresh: Notify::new(),
            peeks: Mutex::default(),
            peek: Notify::new(),
            stale: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
        }
    }

    /// Never held across a wait. A panic of another holder leaves it usable: every change is whole.
    pub fn workspace(&self) -> MutexGuard<'_, Workspace> {
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn can(&self) -> ClientCan {
        *self.can.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn know(&self, can: ClientCan) {
        *self.can.lock().unwrap_or_else(PoisonError::into_inner) = can;
    }

    pub fn with_live<T>(&self, read: impl FnOnce(&Live) -> T) -> T {
        read(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn shown<T>(&self, write: impl FnOnce(&mut Folder) -> T) -> T {
        write(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn change_live<T>(&self, change: impl FnOnce(&mut Live) -> T) -> T {
        change(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the last lines of a unit read, beside.
    pub fn want_peek(&self, whose: peek::Whose) {
        peek::want(&mut self.peeks.lock().unwrap_or_else(PoisonError::into_inner), whose);
        self.peek.notify_one();
    }

    pub fn wanted_peeks(&self) -> BTreeSet<peek::Whose> {
        std::mem::take(&mut self.peeks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The environment whose preview is meant.
    pub fn environment(&self) -> String {
        let chosen = self.workspace().settings.environment.clone();
        chosen.filter(|name| !name.is_empty()).unwrap_or_else(|| "local".to_owned())
    }

    /// Lenses say whether there is an agent at all.
    pub fn agent_changed(&self) {
        self.refresh.notify_one();
    }

    /// Lenses, hints and live findings are to be asked for again.
    pub fn live_changed(&self) {
        if self.workspace().settings.live.diagnostics {
            self.workspace().show_again();
            self.mark_stale();
        } else {
            self.refresh.notify_one();
        }
    }

    /// Asks the client to look again, one question after the other; what changes meanwhile is one more question.
    pub async fn refresh(self: Arc<Self>) {
        const LIMIT: Duration = Duration::from_secs(5);
        loop {
            self.refresh.notified().await;
            let can = self.can();
            // The client's answers say nothing; one that never answers must not end the refreshing.
            if can.refresh_hints {
                drop(tokio::time::timeout(LIMIT, self.client.inlay_hint_refresh()).await);
            }
            if can.refresh_lenses {
                drop(tokio::time::timeout(LIMIT, self.client.code_lens_refresh()).await);
            }
        }
    }

    pub fn snapshot(&self, uri: &lsp::Uri) -> Option<Snapshot> {
        self.workspace().snapshot(&path_of(uri)?)
    }

    pub fn pulls(&self) -> bool {
        match self.workspace().settings.diagnostics {
            Delivery::Auto => self.can().pull,
            Delivery::Push => false,
            Delivery::Pull | Delivery::Both => true,
        }
    }

    fn pushes(&self) -> bool {
        self.workspace().settings.diagnostics == Delivery::Both || !self.pulls()
    }

    /// The client is asked for hints, lenses and findings again once the next look is done.
    pub fn mark_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A look that is as new as the snapshot; made now if there is none yet.
    pub async fn fresh(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Arc<Analysis>> {
        let job = snapshot.job.clone()?;
        match &snapshot.analysis {
            Some(latest) if latest.generation == job.generation => Some(Arc::clone(latest)),
            _ => self.look(job).await.map(|(analysis, _)| analysis),
        }
    }

    /// The newest look there is, even of an earlier version; made now only if there is none at all.
    pub async fn recent(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Arc<Analysis>> {
        match &snapshot.analysis {
            Some(latest) => Some(Arc::clone(latest)),
            None => self.fresh(snapshot).await,
        }
    }

    /// True beside it when nothing has changed meanwhile.
    async fn look(&self, job: Job) -> Option<(Arc<Analysis>, bool)> {
        let _turn = self.looker.turn.lock().await;
        // Somebody else may have wanted the same.
        let seen = self.workspace().looked(&job);
        let analysis = match seen {
            Some(analysis) => analysis,
            None => self.looker.look(job).await?,
        };
        let (newest, before) = self.workspace().keep(&analysis);
        if let Some(before) = before {
            self.looker.forget(before);
        }
        Some((analysis, newest))
    }

    /// Ends when the server does.
    pub async fn work(self: Arc<Self>) {
        let mut published = Published::default();
        loop {
            self.wake.notified().await;
            while let Some(job) = self.next_job() {
                if let Some((analysis, true)) = self.look(job).await
                    && self.pushes()
                {
                    published.put(&self, &analysis).await;
                }
            }
            let related = self.workspace().take_related();
            for path in related.into_iter().filter(|_| self.pushes()) {
                self.publish_related(&path).await;
            }
            let again = self.workspace().take_shown_again();
            for analysis in again.into_iter().filter(|_| self.pushes()) {
                published.put(&self, &analysis).await;
            }
            published.forget_closed(&self).await;
            let stale = self.stale.swap(false, Ordering::Relaxed);
            if stale {
                // Hints show what files say and what settings want.
                self.refresh.notify_one();
            }
            if stale && self.pulls() && self.can().refresh_diagnostics {
                let client = self.client.clone();
                // The client's answer says nothing, and must not hold up the next look.
                drop(tokio::spawn(async move { client.workspace_diagnostic_refresh().await }));
            }
        }
    }

    /// A file of ours that is closed has nothing to show.
    async fn publish_related(&self, path: &Path) {
        let Some((uri, version)) = self.workspace().called(path) else { return };
        let snapshot = self.workspace().snapshot(path);
        let found = snapshot.as_ref().map(answers::related::findings).unwrap_or_default();
        self.client.publish_diagnostics(uri, found, version).await;
    }

    fn next_job(&self) -> Option<Job> {
        self.workspace().next_job()
    }
}

/// What the client shows now, by manifest, so that what is mended disappears.
#[derive(Default)]
struct Published {
    files: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl Published {
    async fn put(&mut self, desk: &Desk, analysis: &Analysis) {
        let before = self.files.remove(&analysis.root).unwrap_or_default();
        let now: BTreeSet<PathBuf> = analysis.paths().map(Path::to_owned).collect();
        for gone in before.difference(&now) {
            self.publish(desk, gone).await;
        }
        self.files.insert(analysis.root.clone(), now.clone());
        for path in &now {
            self.publish(desk, path).await;
        }
    }

    async fn forget_closed(&mut self, desk: &Desk) {
        let open: BTreeSet<PathBuf> = desk.workspace().roots().map(Path::to_owned).collect();
        let closed: Vec<PathBuf> = self.files.keys().filter(|root| !open.contains(*root)).cloned().collect();
        for root in closed {
            for path in self.files.remove(&root).unwrap_or_default() {
                self.publish(desk, &path).await;
            }
        }
    }

    /// A file that several manifests include shows what each of them finds in it.
    async fn publish(&self, desk: &Desk, path: &Path) {
        let Some((uri, version)) = desk.workspace().called(path) else { return };
        let found = desk.found(path);
        desk.client.publish_diagnostics(uri, found, version).await;
    }
}

impl Desk {
    /// Everything known of a file: what is written, and what became of it.
    #[must_use]
    pub fn found(&self, path: &Path) -> Vec<lsp::Diagnostic> {
        let environment = self.environment();
        let workspace = self.workspace();
        let mut found = found_in(&workspace, path);
        if workspace.settings.live.enabled && workspace.settings.live.diagnostics {
            for analysis in workspace.analyses() {
                let Some(file) = analysis.file(path) else { continue };
                let live =
                    |live: &Live| answers::live::findings(analysis, live, file, &environment, workspace.encoding);
                found.extend(self.with_live(live));
            }
        }
        found
    }
}

/// Everything found in a file, from every manifest that reads it.
#[must_use]
pub fn found_in(workspace: &Workspace, path: &Path) -> Vec<lsp::Diagnostic> {
    let (encoding, settings) = (workspace.encoding, &workspace.settings);
    let mut found: Vec<lsp::Diagnostic> = Vec::new();
    for analysis in workspace.analyses() {
        let Some(file) = analysis.file(path) else { continue };
        for one in diagnostics::of_file(analysis, file, encoding, settings) {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    found
}

/// The file behind a URI; other schemes have none.
#[must_use]
pub fn path_of(uri: &lsp::Uri) -> Option<PathBuf> {
    (uri.scheme().as_str() == "file").then(|| uri.to_file_path().map(std::borrow::Cow::into_owned))?
}
