//! What all handlers share: the workspace behind its lock, and the one task that looks at manifests and publishes.
//!
//! One task for all, so that publications keep their order; newest wins, so that a burst of keys costs one look at its
//! end. There is no timer: work begins with a change and ends with its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use client::SocketLocation;
use tokio::sync::Notify;
use tower_lsp::Client;
use tower_lsp::ls_types as lsp;

use crate::analysis_worker::AnalysisWorker;
use crate::check::{Analysis, AnalysisJob};
use crate::client_capabilities::ClientCapabilities;
use crate::convert::diagnostics;
use crate::handlers;
use crate::live::LiveState;
use crate::log_tail;
use crate::settings::DiagnosticDelivery;
use crate::virtual_documents::DocumentFolder;
use crate::workspace::{Snapshot, Workspace};

#[derive(Debug)]
pub struct ServerState {
    pub client: Client,
    workspace: Mutex<Workspace>,
    analysis_worker: AnalysisWorker,
    client_capabilities: Mutex<ClientCapabilities>,
    live: Mutex<LiveState>,
    virtual_documents: Mutex<DocumentFolder>,
    /// Where an agent would be.
    pub agent_socket: SocketLocation,
    pub analysis_requested: Notify,
    /// The user did something: a good moment to see whether an agent runs by now.
    pub agent_check_requested: Notify,
    refresh_requested: Notify,
    /// Units whose last lines somebody may want to see soon.
    log_tail_requests: Mutex<BTreeSet<log_tail::UnitKey>>,
    pub log_tail_requested: Notify,
    /// Something changed that the client cannot know of, and has to be asked to pull again.
    is_client_stale: AtomicBool,
    pub is_shut_down: AtomicBool,
}

impl ServerState {
    #[must_use]
    pub fn new(client: Client, place: SocketLocation) -> Self {
        Self {
            client,
            workspace: Mutex::default(),
            analysis_worker: AnalysisWorker::start(),
            client_capabilities: Mutex::default(),
            live: Mutex::default(),
            virtual_documents: Mutex::default(),
            agent_socket: place,
            analysis_requested: Notify::new(),
            agent_check_requested: Notify::new(),
            refresh_requested: Notify::new(),
            log_tail_requests: Mutex::default(),
            log_tail_requested: Notify::new(),
            is_client_stale: AtomicBool::new(false),
            is_shut_down: AtomicBool::new(false),
        }
    }

    /// Never held across a wait. A panic of another holder leaves it usable: every change is whole.
    pub fn workspace(&self) -> MutexGuard<'_, Workspace> {
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn client_capabilities(&self) -> ClientCapabilities {
        *self.client_capabilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_client_capabilities(&self, capabilities: ClientCapabilities) {
        *self.client_capabilities.lock().unwrap_or_else(PoisonError::into_inner) = capabilities;
    }

    pub fn with_live<T>(&self, read: impl FnOnce(&LiveState) -> T) -> T {
        read(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn with_virtual_documents<T>(&self, write: impl FnOnce(&mut DocumentFolder) -> T) -> T {
        write(&mut self.virtual_documents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn change_live<T>(&self, change: impl FnOnce(&mut LiveState) -> T) -> T {
        change(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the last lines of a unit read, beside.
    pub fn request_log_tail(&self, whose: log_tail::UnitKey) {
        log_tail::enqueue_request(&mut self.log_tail_requests.lock().unwrap_or_else(PoisonError::into_inner), whose);
        self.log_tail_requested.notify_one();
    }

    pub fn take_log_tail_requests(&self) -> BTreeSet<log_tail::UnitKey> {
        std::mem::take(&mut self.log_tail_requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The environment whose preview is meant.
    pub fn environment(&self) -> String {
        let chosen = self.workspace().settings.environment.clone();
        chosen.filter(|name| !name.is_empty()).unwrap_or_else(|| "local".to_owned())
    }

    /// Lenses say whether there is an agent at all.
    pub fn notify_agent_changed(&self) {
        self.refresh_requested.notify_one();
    }

    /// Lenses, hints and live findings are to be asked for again.
    pub fn notify_live_changed(&self) {
        if self.workspace().settings.live.diagnostics {
            self.workspace().request_republish();
            self.mark_client_stale();
        } else {
            self.refresh_requested.notify_one();
        }
    }

    /// Asks the client to look again, one question after the other; what changes meanwhile is one more question.
    pub async fn run_refresh_loop(self: Arc<Self>) {
        const TIMEOUT: Duration = Duration::from_secs(5);
        loop {
            self.refresh_requested.notified().await;
            let capabilities = self.client_capabilities();
            // The client's answers say nothing; one that never answers must not end the refreshing.
            if capabilities.refresh_inlay_hints {
                drop(tokio::time::timeout(TIMEOUT, self.client.inlay_hint_refresh()).await);
            }
            if capabilities.refresh_code_lenses {
                drop(tokio::time::timeout(TIMEOUT, self.client.code_lens_refresh()).await);
            }
        }
    }

    pub fn snapshot(&self, uri: &lsp::Uri) -> Option<Snapshot> {
        self.workspace().snapshot(&uri_to_path(uri)?)
    }

    pub fn is_pull_enabled(&self) -> bool {
        match self.workspace().settings.diagnostics {
            DiagnosticDelivery::Auto => self.client_capabilities().pull_diagnostics,
            DiagnosticDelivery::Push => false,
            DiagnosticDelivery::Pull | DiagnosticDelivery::Both => true,
        }
    }

    fn is_push_enabled(&self) -> bool {
        self.workspace().settings.diagnostics == DiagnosticDelivery::Both || !self.is_pull_enabled()
    }

    /// The client is asked for hints, lenses and findings again once the next look is done.
    pub fn mark_client_stale(&self) {
        self.is_client_stale.store(true, Ordering::Relaxed);
        self.analysis_requested.notify_one();
    }

    /// A look that is as new as the snapshot; made now if there is none yet.
    pub async fn current_analysis(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Arc<Analysis>> {
        let job = snapshot.job.clone()?;
        match &snapshot.analysis {
            Some(latest) if latest.generation == job.generation => Some(Arc::clone(latest)),
            _ => self.analyse(job).await.map(|(analysis, _)| analysis),
        }
    }

    /// The newest look there is, even of an earlier version; made now only if there is none at all.
    pub async fn available_analysis(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Arc<Analysis>> {
        match &snapshot.analysis {
            Some(latest) => Some(Arc::clone(latest)),
            None => self.current_analysis(snapshot).await,
        }
    }

    /// True beside it when nothing has changed meanwhile.
    async fn analyse(&self, job: AnalysisJob) -> Option<(Arc<Analysis>, bool)> {
        let _turn = self.analysis_worker.analysis_lock.lock().await;
        // Somebody else may have wanted the same.
        let seen = self.workspace().cached_analysis(&job);
        let analysis = match seen {
            Some(analysis) => analysis,
            None => self.analysis_worker.analyse(job).await?,
        };
        let (newest, before) = self.workspace().store_analysis(&analysis);
        if let Some(before) = before {
            self.analysis_worker.free(before);
        }
        Some((analysis, newest))
    }

    /// Ends when the server does.
    pub async fn run_analysis_loop(self: Arc<Self>) {
        let mut published = PublishedFiles::default();
        loop {
            self.analysis_requested.notified().await;
            while let Some(job) = self.next_job() {
                if let Some((analysis, true)) = self.analyse(job).await
                    && self.is_push_enabled()
                {
                    published.publish_analysis(&self, &analysis).await;
                }
            }
            let related = self.workspace().take_pending_standalone();
            for path in related.into_iter().filter(|_| self.is_push_enabled()) {
                self.publish_standalone(&path).await;
            }
            let again = self.workspace().take_analyses_to_republish();
            for analysis in again.into_iter().filter(|_| self.is_push_enabled()) {
                published.publish_analysis(&self, &analysis).await;
            }
            published.clear_closed_manifests(&self).await;
            let stale = self.is_client_stale.swap(false, Ordering::Relaxed);
            if stale {
                // Hints show what files say and what settings want.
                self.refresh_requested.notify_one();
            }
            if stale && self.is_pull_enabled() && self.client_capabilities().refresh_diagnostics {
                let client = self.client.clone();
                // The client's answer says nothing, and must not hold up the next look.
                drop(tokio::spawn(async move { client.workspace_diagnostic_refresh().await }));
            }
        }
    }

    /// A file of ours that is closed has nothing to show.
    async fn publish_standalone(&self, path: &Path) {
        let Some((uri, version)) = self.workspace().uri_and_version(path) else { return };
        let snapshot = self.workspace().snapshot(path);
        let found = snapshot.as_ref().map(handlers::standalone_files::standalone_diagnostics).unwrap_or_default();
        self.client.publish_diagnostics(uri, found, version).await;
    }

    fn next_job(&self) -> Option<AnalysisJob> {
        self.workspace().next_job()
    }
}

/// What the client shows now, by manifest, so that what is mended disappears.
#[derive(Default)]
struct PublishedFiles {
    files_by_manifest: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl PublishedFiles {
    async fn publish_analysis(&mut self, state: &ServerState, analysis: &Analysis) {
        let before = self.files_by_manifest.remove(&analysis.manifest_path).unwrap_or_default();
        let now: BTreeSet<PathBuf> = analysis.paths().map(Path::to_owned).collect();
        for gone in before.difference(&now) {
            self.publish_file(state, gone).await;
        }
        self.files_by_manifest.insert(analysis.manifest_path.clone(), now.clone());
        for path in &now {
            self.publish_file(state, path).await;
        }
    }

    async fn clear_closed_manifests(&mut self, state: &ServerState) {
        let open: BTreeSet<PathBuf> = state.workspace().manifest_paths().map(Path::to_owned).collect();
        let closed: Vec<PathBuf> =
            self.files_by_manifest.keys().filter(|root| !open.contains(*root)).cloned().collect();
        for root in closed {
            for path in self.files_by_manifest.remove(&root).unwrap_or_default() {
                self.publish_file(state, &path).await;
            }
        }
    }

    /// A file that several manifests include shows what each of them finds in it.
    async fn publish_file(&self, state: &ServerState, path: &Path) {
        let Some((uri, version)) = state.workspace().uri_and_version(path) else { return };
        let found = state.all_diagnostics(path);
        state.client.publish_diagnostics(uri, found, version).await;
    }
}

impl ServerState {
    /// Everything known of a file: what is written, and what became of it.
    #[must_use]
    pub fn all_diagnostics(&self, path: &Path) -> Vec<lsp::Diagnostic> {
        let environment = self.environment();
        let workspace = self.workspace();
        let mut found = static_diagnostics(&workspace, path);
        if workspace.settings.live.enabled && workspace.settings.live.diagnostics {
            for analysis in workspace.analyses() {
                let Some(file) = analysis.file_id(path) else { continue };
                let live = |live: &LiveState| {
                    handlers::live::live_diagnostics(analysis, live, file, &environment, workspace.encoding)
                };
                found.extend(self.with_live(live));
            }
        }
        found
    }
}

/// Everything found in a file, from every manifest that reads it.
#[must_use]
pub fn static_diagnostics(workspace: &Workspace, path: &Path) -> Vec<lsp::Diagnostic> {
    let (encoding, settings) = (workspace.encoding, &workspace.settings);
    let mut found: Vec<lsp::Diagnostic> = Vec::new();
    for analysis in workspace.analyses() {
        let Some(file) = analysis.file_id(path) else { continue };
        for one in diagnostics::file_diagnostics(analysis, file, encoding, settings) {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    found
}

/// The file behind a URI; other schemes have none.
#[must_use]
pub fn uri_to_path(uri: &lsp::Uri) -> Option<PathBuf> {
    (uri.scheme().as_str() == "file").then(|| uri.to_file_path().map(std::borrow::Cow::into_owned))?
}
