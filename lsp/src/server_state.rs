//! The state that all handlers share: the workspace behind its lock, and the task that analyses and publishes.
//!
//! One task publishes all diagnostics, so they keep their order. It analyses only the newest text, so a burst of
//! keystrokes costs one analysis at its end. There is no timer: each change starts the work at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use client::SocketLocation;
use tasks::TaskGroup;
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

const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct ServerState {
    pub client: Client,
    workspace: Mutex<Workspace>,
    pub analysis_worker: AnalysisWorker,
    client_capabilities: Mutex<ClientCapabilities>,
    live: Mutex<LiveState>,
    virtual_documents: Mutex<DocumentFolder>,
    /// The socket of the agent, whether one runs or not.
    pub agent_socket: SocketLocation,
    pub analysis_requested: Notify,
    /// Set after an action of the user, when an agent may run by now.
    pub agent_check_requested: Notify,
    refresh_requested: Notify,
    /// Units whose last log lines will be fetched.
    log_tail_requests: Mutex<BTreeSet<log_tail::UnitKey>>,
    pub log_tail_requested: Notify,
    /// Something changed without the client's knowledge, so the server must ask it to refresh.
    is_client_stale: AtomicBool,
    pub is_shut_down: AtomicBool,
    /// The process that started the server has ended.
    pub client_ended: Notify,
    /// Operations of the user and requests to the client whose responses are not awaited.
    pub tasks: TaskGroup,
}

impl ServerState {
    #[must_use]
    pub fn new(client: Client, agent_socket: SocketLocation) -> Self {
        Self {
            client,
            workspace: Mutex::default(),
            analysis_worker: AnalysisWorker::start(),
            client_capabilities: Mutex::default(),
            live: Mutex::default(),
            virtual_documents: Mutex::default(),
            agent_socket,
            analysis_requested: Notify::new(),
            agent_check_requested: Notify::new(),
            refresh_requested: Notify::new(),
            log_tail_requests: Mutex::default(),
            log_tail_requested: Notify::new(),
            is_client_stale: AtomicBool::new(false),
            is_shut_down: AtomicBool::new(false),
            client_ended: Notify::new(),
            tasks: TaskGroup::default(),
        }
    }

    /// Never hold this lock across an await. A poisoned lock stays usable, because no change leaves the state half
    /// done.
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

    /// Fetches the last log lines of a unit in the background.
    pub fn request_log_tail(&self, unit: log_tail::UnitKey) {
        log_tail::enqueue_request(&mut self.log_tail_requests.lock().unwrap_or_else(PoisonError::into_inner), unit);
        self.log_tail_requested.notify_one();
    }

    pub fn take_log_tail_requests(&self) -> BTreeSet<log_tail::UnitKey> {
        std::mem::take(&mut self.log_tail_requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The environment whose preview is shown.
    pub fn environment(&self) -> String {
        let chosen = self.workspace().settings.environment.clone();
        chosen.filter(|name| !name.is_empty()).unwrap_or_else(|| "local".to_owned())
    }

    /// Refreshes lenses and hints, which show whether an agent runs.
    pub fn notify_agent_changed(&self) {
        self.refresh_requested.notify_one();
    }

    /// Refreshes lenses, hints and live diagnostics.
    pub fn notify_live_changed(&self) {
        if self.workspace().settings.live.diagnostics {
            self.workspace().request_republish();
            self.mark_client_stale();
        } else {
            self.refresh_requested.notify_one();
        }
    }

    /// Asks the client to refresh hints and lenses, one request at a time. Changes during a request cause one more
    /// round.
    pub async fn run_refresh_loop(self: Arc<Self>) {
        const TIMEOUT: Duration = Duration::from_secs(5);
        loop {
            self.refresh_requested.notified().await;
            let capabilities = self.client_capabilities();
            // The responses have no content. The limit keeps the loop alive if a client never responds.
            if capabilities.refresh_inlay_hints {
                drop(tokio::time::timeout(TIMEOUT, self.client.inlay_hint_refresh()).await);
            }
            if capabilities.refresh_code_lenses {
                drop(tokio::time::timeout(TIMEOUT, self.client.code_lens_refresh()).await);
            }
        }
    }

    /// Ends the server after the process that started it. Its end does not always close the server's input.
    ///
    /// The pid is ignored if there is no such process: the client may run on another machine or in a container.
    pub fn watch_client_process(self: &Arc<Self>, pid: u32) {
        let Some(pid) = i32::try_from(pid).ok().filter(|pid| host::processes::is_running(*pid)) else { return };
        let state = Arc::downgrade(self);
        self.tasks.spawn(async move {
            while host::processes::is_running(pid) {
                tokio::time::sleep(CLIENT_CHECK_INTERVAL).await;
            }
            if let Some(state) = state.upgrade() {
                state.client_ended.notify_one();
            }
        });
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

    /// After the next analysis, asks the client to refresh hints, lenses and diagnostics.
    pub fn mark_client_stale(&self) {
        self.is_client_stale.store(true, Ordering::Relaxed);
        self.analysis_requested.notify_one();
    }

    /// Returns an analysis of the snapshot's text. Analyses now if there is none.
    pub async fn current_analysis(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Arc<Analysis>> {
        let job = snapshot.job.clone()?;
        match &snapshot.analysis {
            Some(latest) if latest.generation == job.generation => Some(Arc::clone(latest)),
            _ => self.analyse(job).await.map(|(analysis, _)| analysis),
        }
    }

    /// Returns the newest analysis, even of an earlier text. Analyses now only if there is none at all.
    pub async fn available_analysis(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Arc<Analysis>> {
        match &snapshot.analysis {
            Some(latest) => Some(Arc::clone(latest)),
            None => self.current_analysis(snapshot).await,
        }
    }

    /// Also returns whether the analysis is still current.
    async fn analyse(&self, job: AnalysisJob) -> Option<(Arc<Analysis>, bool)> {
        let _guard = self.analysis_worker.analysis_lock.lock().await;
        // Another request may have analysed the same text while this one waited for the lock.
        let cached = self.workspace().cached_analysis(&job);
        let analysis = match cached {
            Some(analysis) => analysis,
            None => self.analysis_worker.analyse(job).await?,
        };
        let (is_current, replaced) = self.workspace().store_analysis(&analysis);
        if let Some(replaced) = replaced {
            self.analysis_worker.free(replaced);
        }
        Some((analysis, is_current))
    }

    /// Analyses and publishes after each request for it, until the server ends.
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
            let standalone = self.workspace().take_pending_standalone();
            for path in standalone.into_iter().filter(|_| self.is_push_enabled()) {
                self.publish_standalone(&path).await;
            }
            let republished = self.workspace().take_analyses_to_republish();
            for analysis in republished.into_iter().filter(|_| self.is_push_enabled()) {
                published.publish_analysis(&self, &analysis).await;
            }
            published.clear_closed_manifests(&self).await;
            let is_stale = self.is_client_stale.swap(false, Ordering::Relaxed);
            if is_stale {
                // Hints depend on files and settings too.
                self.refresh_requested.notify_one();
            }
            if is_stale && self.is_pull_enabled() && self.client_capabilities().refresh_diagnostics {
                let client = self.client.clone();
                // Not awaited: the response has no content, and must not delay the next analysis.
                self.tasks.spawn(async move { drop(client.workspace_diagnostic_refresh().await) });
            }
        }
    }

    /// Publishes the diagnostics of a standalone file, or an empty list if it is closed.
    async fn publish_standalone(&self, path: &Path) {
        let Some((uri, version)) = self.workspace().uri_and_version(path) else { return };
        let snapshot = self.workspace().snapshot(path);
        let diagnostics = snapshot.as_ref().map(handlers::standalone_files::standalone_diagnostics).unwrap_or_default();
        self.client.publish_diagnostics(uri, diagnostics, version).await;
    }

    fn next_job(&self) -> Option<AnalysisJob> {
        self.workspace().next_job()
    }
}

/// The files whose diagnostics the client shows, by manifest. A file that leaves the manifest is published once more,
/// so that its diagnostics disappear.
#[derive(Default)]
struct PublishedFiles {
    files_by_manifest: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl PublishedFiles {
    async fn publish_analysis(&mut self, state: &ServerState, analysis: &Analysis) {
        let before = self.files_by_manifest.remove(&analysis.manifest_path).unwrap_or_default();
        let now: BTreeSet<PathBuf> = analysis.paths().map(Path::to_owned).collect();
        for removed in before.difference(&now) {
            self.publish_file(state, removed).await;
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

    /// A file that several manifests include gets the diagnostics of all of them.
    async fn publish_file(&self, state: &ServerState, path: &Path) {
        let Some((uri, version)) = state.workspace().uri_and_version(path) else { return };
        let diagnostics = state.all_diagnostics(path);
        state.client.publish_diagnostics(uri, diagnostics, version).await;
    }
}

impl ServerState {
    /// All diagnostics of a file, static and live.
    #[must_use]
    pub fn all_diagnostics(&self, path: &Path) -> Vec<lsp::Diagnostic> {
        let environment = self.environment();
        let workspace = self.workspace();
        let mut all = static_diagnostics(&workspace, path, workspace.advice_display(path));
        if workspace.settings.live.enabled && workspace.settings.live.diagnostics {
            for analysis in workspace.analyses() {
                let Some(file) = analysis.file_id(path) else { continue };
                let live = |live: &LiveState| {
                    handlers::live::live_diagnostics(analysis, live, file, &environment, workspace.encoding)
                };
                all.extend(self.with_live(live));
            }
        }
        all
    }
}

/// The static diagnostics of a file, from each manifest that reads it.
#[must_use]
pub fn static_diagnostics(
    workspace: &Workspace,
    path: &Path,
    advice_display: diagnostics::AdviceDisplay,
) -> Vec<lsp::Diagnostic> {
    let (encoding, settings) = (workspace.encoding, &workspace.settings);
    let mut all: Vec<lsp::Diagnostic> = Vec::new();
    for analysis in workspace.analyses() {
        let Some(file) = analysis.file_id(path) else { continue };
        for diagnostic in diagnostics::file_diagnostics(analysis, file, encoding, settings, advice_display) {
            if !all.contains(&diagnostic) {
                all.push(diagnostic);
            }
        }
    }
    all
}

/// The path of a `file` URI. Other schemes have no path.
#[must_use]
pub fn uri_to_path(uri: &lsp::Uri) -> Option<PathBuf> {
    (uri.scheme().as_str() == "file").then(|| uri.to_file_path().map(std::borrow::Cow::into_owned))?
}
