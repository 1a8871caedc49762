//! The methods of the protocol. Each takes a snapshot before its first await, reads an analysis and converts the
//! result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::SocketLocation;
use host::clock::now_milliseconds;
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::ls_types::*;
use tower_lsp::{Client, LanguageServer};

use crate::check::Analysis;
use crate::client_capabilities::ClientCapabilities;
use crate::commands;
use crate::convert::Encoding;
use crate::files;
use crate::framing;
use crate::handlers::live::LiveContext;
use crate::handlers::{
    code_actions, completion, hints, hover, identities, live, navigation, standalone_files, structure,
};
use crate::live::{AgentState, refresh_drift};
use crate::server_capabilities;
use crate::server_state::{ServerState, uri_to_path};
use crate::settings::Settings;
use crate::text::Text;
use crate::workspace::{FileKind, MANIFEST_FILE, Snapshot};

pub struct Server {
    pub state: Arc<ServerState>,
}

impl Server {
    #[must_use]
    pub fn new(client: Client, agent_socket: SocketLocation) -> Self {
        Self { state: Arc::new(ServerState::new(client, agent_socket)) }
    }

    /// Answers the request that replaces a malformed message.
    pub async fn invalid_message(&self, params: LSPAny) -> Result<()> {
        framing::reject_invalid_message(&params)
    }

    /// The snapshot of a YAML file of pdev: not of `pdev.lock`, which is TOML.
    fn snapshot(&self, uri: &Uri) -> Option<Snapshot> {
        self.state.snapshot(uri).filter(|snapshot| snapshot.kind != FileKind::Lock)
    }

    /// Returns `None` for files without a manifest. A failed analysis is an error, because an empty response would mean
    /// that nothing was found.
    async fn current_analysis(&self, snapshot: &Snapshot) -> Result<Option<Arc<Analysis>>> {
        analysis_or_error(snapshot, self.state.current_analysis(snapshot).await)
    }

    async fn available_analysis(&self, snapshot: &Snapshot) -> Result<Option<Arc<Analysis>>> {
        analysis_or_error(snapshot, self.state.available_analysis(snapshot).await)
    }

    /// The actions of a request whose edits were checked. The checks analyse the manifest again, so they run on the
    /// thread for that.
    async fn checked_actions(
        &self,
        snapshot: &Snapshot,
        analysis: Arc<Analysis>,
        capabilities: ClientCapabilities,
        params: CodeActionParams,
    ) -> Result<CodeActionResponse> {
        let snapshot = snapshot.clone();
        let create = move || code_actions::code_action_response(&snapshot, &analysis, capabilities, &params);
        self.state.analysis_worker.run(create).await.ok_or_else(Error::internal_error)
    }

    /// Formatting parses the text twice, so it does not run on the thread of the requests.
    async fn format(&self, uri: &Uri, range: Option<Range>) -> Result<Option<Vec<TextEdit>>> {
        let Some(snapshot) = self.snapshot(uri) else { return Ok(None) };
        let format = move || structure::formatting_edits(&snapshot, range);
        let (edits, message) = self.state.analysis_worker.run(format).await.ok_or_else(Error::internal_error)?;
        if let Some(message) = message {
            self.state.client.show_message(MessageType::INFO, message).await;
        }
        Ok(Some(edits))
    }

    fn with_live_context<T>(&self, snapshot: &Snapshot, read: impl FnOnce(&LiveContext<'_>) -> T) -> Option<T> {
        if snapshot.kind != FileKind::Manifest || !snapshot.settings.live.enabled {
            return None;
        }
        let environment = self.state.environment();
        let capabilities = self.state.client_capabilities();
        Some(self.state.with_live(|live| {
            read(&LiveContext { snapshot, live, environment: &environment, client_capabilities: capabilities })
        }))
    }

    fn apply_settings(&self, settings: Settings) {
        let mut workspace = self.state.workspace();
        if workspace.settings != settings {
            workspace.settings = settings;
            workspace.invalidate_all();
            drop(workspace);
            self.state.mark_client_stale();
        }
    }

    async fn register_file_watchers(&self) {
        if !self.state.client_capabilities().watch_files {
            return;
        }
        // Not awaited: without a watcher the requests themselves check the files on disk.
        let client = self.state.client.clone();
        self.state.tasks.spawn(async move {
            drop(client.register_capability(vec![server_capabilities::watcher_registration()]).await);
        });
    }
}

impl LanguageServer for Server {
    async fn initialize(&self, params: InitializeParams) -> Result<InitializeResult> {
        let capabilities = ClientCapabilities::from_lsp(&params.capabilities);
        let offered = params.capabilities.general.and_then(|general| general.position_encodings);
        let encoding = Encoding::negotiate(offered.as_deref());
        self.state.set_client_capabilities(capabilities);
        if let Some(pid) = params.process_id {
            self.state.watch_client_process(pid);
        }
        let mut workspace = self.state.workspace();
        workspace.encoding = encoding;
        if let Some(settings) = params.initialization_options.as_ref().and_then(Settings::read) {
            workspace.settings = settings;
        }
        let folders = params.workspace_folders.unwrap_or_default();
        workspace.folders = folders.iter().filter_map(|folder| uri_to_path(&folder.uri)).collect();
        drop(workspace);
        Ok(InitializeResult {
            capabilities: server_capabilities::server_capabilities(encoding, self.state.is_pull_enabled()),
            server_info: Some(ServerInfo {
                name: "pdev".to_owned(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            }),
            offset_encoding: None,
        })
    }

    async fn initialized(&self, _: InitializedParams) {
        self.register_file_watchers().await;
    }

    async fn shutdown(&self) -> Result<()> {
        self.state.is_shut_down.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn did_open(&self, params: DidOpenTextDocumentParams) {
        let document = params.text_document;
        let Some(path) = uri_to_path(&document.uri) else { return };
        self.state.workspace().open(path, document.uri, document.version, document.text);
        self.state.analysis_requested.notify_one();
        self.state.agent_check_requested.notify_one();
    }

    async fn did_change(&self, params: DidChangeTextDocumentParams) {
        let Some(path) = uri_to_path(&params.text_document.uri) else { return };
        // No await before this call: notifications are applied in the order of their arrival.
        self.state.workspace().change(&path, params.text_document.version, &params.content_changes);
        self.state.analysis_requested.notify_one();
    }

    async fn did_save(&self, params: DidSaveTextDocumentParams) {
        let Some(path) = uri_to_path(&params.text_document.uri) else { return };
        self.state.workspace().save(&path, params.text);
        self.state.analysis_requested.notify_one();
        self.state.agent_check_requested.notify_one();
        // The agent plans from the file on disk, which has the new text only now.
        let state = Arc::clone(&self.state);
        if state.with_live(|live| live.agent == AgentState::Present) {
            self.state.tasks.spawn(async move { refresh_drift(&state).await });
        }
    }

    async fn did_close(&self, params: DidCloseTextDocumentParams) {
        let Some(path) = uri_to_path(&params.text_document.uri) else { return };
        self.state.workspace().close(&path);
        self.state.analysis_requested.notify_one();
    }

    async fn did_change_watched_files(&self, params: DidChangeWatchedFilesParams) {
        let mut workspace = self.state.workspace();
        let mut is_relevant = false;
        for path in params.changes.iter().filter_map(|change| uri_to_path(&change.uri)) {
            is_relevant |= workspace.handle_disk_change(&path);
        }
        drop(workspace);
        if is_relevant {
            self.state.mark_client_stale();
        }
    }

    async fn did_change_configuration(&self, params: DidChangeConfigurationParams) {
        if let Some(settings) = Settings::read(&params.settings) {
            self.apply_settings(settings);
        }
    }

    async fn did_change_workspace_folders(&self, params: DidChangeWorkspaceFoldersParams) {
        let mut workspace = self.state.workspace();
        for removed in params.event.removed.iter().filter_map(|folder| uri_to_path(&folder.uri)) {
            workspace.folders.remove(&removed);
        }
        workspace.folders.extend(params.event.added.iter().filter_map(|folder| uri_to_path(&folder.uri)));
    }

    async fn diagnostic(&self, params: DocumentDiagnosticParams) -> Result<DocumentDiagnosticReportResult> {
        let Some(snapshot) = self.state.snapshot(&params.text_document.uri) else {
            return Ok(full_report(None, Vec::new()));
        };
        if snapshot.kind.is_standalone() {
            return Ok(full_report(None, standalone_files::standalone_diagnostics(&snapshot)));
        }
        let Some(job) = &snapshot.job else { return Ok(full_report(None, Vec::new())) };
        let id = self.state.workspace().result_id(job);
        if params.previous_result_id.as_ref() == Some(&id) {
            return Ok(unchanged_report(id));
        }
        // Report a failed analysis as an error, because an empty list would mean that the manifest is correct.
        self.state.current_analysis(&snapshot).await.ok_or_else(Error::internal_error)?;
        let diagnostics = self.state.all_diagnostics(&snapshot.path);
        Ok(full_report(Some(id), diagnostics))
    }

    async fn code_action(&self, params: CodeActionParams) -> Result<Option<CodeActionResponse>> {
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(None) };
        if snapshot.kind.is_standalone() {
            return Ok(Some(standalone_files::code_actions(&snapshot, &params)));
        }
        let Some(analysis) = self.current_analysis(&snapshot).await? else { return Ok(None) };
        let mut actions =
            self.checked_actions(&snapshot, analysis, self.state.client_capabilities(), params.clone()).await?;
        actions.extend(identities::login_actions(&params));
        actions.extend(identities::approval_actions(&params));
        actions.extend(live::drift_fix_actions(&params));
        actions.extend(live::failure_actions(&params));
        actions.extend(self.with_live_context(&snapshot, |context| context.start_agent_action(&params)).flatten());
        Ok(Some(actions))
    }

    async fn code_action_resolve(&self, mut action: CodeAction) -> Result<CodeAction> {
        let Some(params) = code_actions::resolve_params(&action) else { return Ok(action) };
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(action) };
        let Some(analysis) = self.current_analysis(&snapshot).await? else { return Ok(action) };
        let capabilities = ClientCapabilities { resolve_edits: false, ..self.state.client_capabilities() };
        let actions = self.checked_actions(&snapshot, analysis, capabilities, params).await?;
        action.edit = code_actions::resolved_edit(actions, &action.title);
        Ok(action)
    }

    async fn completion(&self, params: CompletionParams) -> Result<Option<CompletionResponse>> {
        let target = params.text_document_position;
        let Some(snapshot) = self.snapshot(&target.text_document.uri) else { return Ok(None) };
        if snapshot.kind.is_standalone() {
            let items =
                standalone_files::completion_items(&snapshot, self.state.client_capabilities(), target.position);
            return Ok(Some(CompletionResponse::List(CompletionList { is_incomplete: false, items })));
        }
        let Some(analysis) = self.available_analysis(&snapshot).await? else { return Ok(None) };
        let items =
            completion::completion_items(&snapshot, &analysis, self.state.client_capabilities(), target.position);
        Ok(Some(CompletionResponse::List(CompletionList { is_incomplete: false, items })))
    }

    async fn completion_resolve(&self, item: CompletionItem) -> Result<CompletionItem> {
        let Some((uri, about)) = completion::parse_item_data(item.data.as_ref()) else { return Ok(item) };
        let Some(snapshot) = self.snapshot(&uri) else { return Ok(item) };
        let Some(analysis) = self.available_analysis(&snapshot).await? else { return Ok(item) };
        Ok(completion::with_documentation(item, &about, &analysis))
    }

    async fn hover(&self, params: HoverParams) -> Result<Option<Hover>> {
        let target = params.text_document_position_params;
        let Some(snapshot) = self.state.snapshot(&target.text_document.uri) else { return Ok(None) };
        if snapshot.kind.is_standalone() {
            return Ok(standalone_files::hover(&snapshot, self.state.client_capabilities().markdown, target.position));
        }
        let Some(analysis) = self.available_analysis(&snapshot).await? else { return Ok(None) };
        let now = now_milliseconds();
        let live = self.with_live_context(&snapshot, |context| context.hover(target.position, now)).flatten();
        // The lines arrive after this response. A second hover, or the refresh of a diagnostic, shows them.
        if let Some(unit) = self.with_live_context(&snapshot, |context| context.unit_at(target.position)).flatten() {
            self.state.request_log_tail(unit);
        }
        Ok(hover::hover_response(
            &snapshot,
            &analysis,
            self.state.client_capabilities().markdown,
            target.position,
            live,
        ))
    }

    async fn goto_definition(&self, params: GotoDefinitionParams) -> Result<Option<GotoDefinitionResponse>> {
        let target = params.text_document_position_params;
        let Some(snapshot) = self.snapshot(&target.text_document.uri) else { return Ok(None) };
        if let Some(linked) = structure::link_definition(&snapshot, target.position) {
            return Ok(Some(linked));
        }
        let Some(analysis) = self.current_analysis(&snapshot).await? else { return Ok(None) };
        Ok(navigation::definition(&snapshot, &analysis, target.position))
    }

    async fn references(&self, params: ReferenceParams) -> Result<Option<Vec<Location>>> {
        let target = params.text_document_position;
        let Some(snapshot) = self.snapshot(&target.text_document.uri) else { return Ok(None) };
        let Some(analysis) = self.current_analysis(&snapshot).await? else { return Ok(None) };
        Ok(navigation::find_references(&snapshot, &analysis, target.position, params.context.include_declaration))
    }

    async fn document_highlight(&self, params: DocumentHighlightParams) -> Result<Option<Vec<DocumentHighlight>>> {
        let target = params.text_document_position_params;
        let snapshot = self.snapshot(&target.text_document.uri);
        Ok(snapshot.and_then(|snapshot| navigation::document_highlights(&snapshot, target.position)))
    }

    async fn prepare_rename(&self, target: TextDocumentPositionParams) -> Result<Option<PrepareRenameResponse>> {
        let Some(snapshot) = self.snapshot(&target.text_document.uri) else { return Ok(None) };
        let Some(analysis) = self.current_analysis(&snapshot).await? else { return Ok(None) };
        Ok(navigation::prepare_rename(&snapshot, &analysis, target.position))
    }

    async fn rename(&self, params: RenameParams) -> Result<Option<WorkspaceEdit>> {
        let target = params.text_document_position;
        let Some(snapshot) = self.snapshot(&target.text_document.uri) else { return Ok(None) };
        let Some(analysis) = self.current_analysis(&snapshot).await? else { return Ok(None) };
        navigation::rename(&snapshot, &analysis, target.position, &params.new_name)
    }

    async fn document_symbol(&self, params: DocumentSymbolParams) -> Result<Option<DocumentSymbolResponse>> {
        let is_hierarchical = self.state.client_capabilities().hierarchical_symbols;
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.and_then(|snapshot| structure::document_symbols(&snapshot, is_hierarchical)))
    }

    async fn symbol(&self, params: WorkspaceSymbolParams) -> Result<Option<WorkspaceSymbolResponse>> {
        let workspace = self.state.workspace();
        let encoding = workspace.encoding;
        let mut texts: BTreeMap<PathBuf, Text> =
            workspace.analyses().flat_map(|analysis| structure::source_texts(analysis)).collect();
        let candidates: Vec<PathBuf> = workspace.folders.iter().map(|folder| folder.join(MANIFEST_FILE)).collect();
        // Release the lock before the reads from disk.
        drop(workspace);
        for path in candidates {
            if let (false, Ok(bytes)) = (texts.contains_key(&path), files::read_from_disk(&path)) {
                texts.insert(path, Text::new(String::from_utf8_lossy(&bytes)));
            }
        }
        let matching =
            |(path, text): (&PathBuf, &Text)| structure::matching_symbols(path, text, &params.query, encoding);
        Ok(Some(WorkspaceSymbolResponse::Flat(texts.iter().flat_map(matching).collect())))
    }

    async fn folding_range(&self, params: FoldingRangeParams) -> Result<Option<Vec<FoldingRange>>> {
        Ok(self.snapshot(&params.text_document.uri).map(|snapshot| structure::folding_ranges(&snapshot)))
    }

    async fn selection_range(&self, params: SelectionRangeParams) -> Result<Option<Vec<SelectionRange>>> {
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::selection_ranges(&snapshot, &params.positions)))
    }

    async fn document_link(&self, params: DocumentLinkParams) -> Result<Option<Vec<DocumentLink>>> {
        Ok(self.snapshot(&params.text_document.uri).map(|snapshot| structure::document_links(&snapshot)))
    }

    async fn semantic_tokens_full(&self, params: SemanticTokensParams) -> Result<Option<SemanticTokensResult>> {
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::semantic_tokens(&snapshot, None).into()))
    }

    async fn semantic_tokens_range(
        &self,
        params: SemanticTokensRangeParams,
    ) -> Result<Option<SemanticTokensRangeResult>> {
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::semantic_tokens(&snapshot, Some(params.range)).into()))
    }

    async fn formatting(&self, params: DocumentFormattingParams) -> Result<Option<Vec<TextEdit>>> {
        self.format(&params.text_document.uri, None).await
    }

    async fn range_formatting(&self, params: DocumentRangeFormattingParams) -> Result<Option<Vec<TextEdit>>> {
        self.format(&params.text_document.uri, Some(params.range)).await
    }

    async fn code_lens(&self, params: CodeLensParams) -> Result<Option<Vec<CodeLens>>> {
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(None) };
        if !snapshot.settings.live.lenses {
            return Ok(None);
        }
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the closure accepts a context of any lifetime; a path does not"
        )]
        let lenses = self.with_live_context(&snapshot, |context| context.lenses());
        Ok(lenses)
    }

    async fn inlay_hint(&self, params: InlayHintParams) -> Result<Option<Vec<InlayHint>>> {
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(None) };
        let mut all_hints = Vec::new();
        if snapshot.settings.inlay_hints.state {
            all_hints.extend(
                self.with_live_context(&snapshot, |context| context.inlay_hints(params.range)).unwrap_or_default(),
            );
        }
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the closure accepts a context of any lifetime; a path does not"
        )]
        let running = self.with_live_context(&snapshot, |context| context.running_values()).unwrap_or_default();
        if let Some(analysis) = self.available_analysis(&snapshot).await? {
            all_hints.extend(hints::inlay_hints(&snapshot, &analysis, &running, params.range));
        }
        Ok(Some(all_hints))
    }

    async fn on_type_formatting(&self, params: DocumentOnTypeFormattingParams) -> Result<Option<Vec<TextEdit>>> {
        let target = params.text_document_position;
        let snapshot = self.snapshot(&target.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::on_type_edits(&snapshot, target.position, &params.ch)))
    }

    async fn execute_command(&self, params: ExecuteCommandParams) -> Result<Option<LSPAny>> {
        // A command is a sign that the user works here, so an agent may run by now.
        self.state.agent_check_requested.notify_one();
        commands::run(&self.state, params).await
    }
}

fn analysis_or_error(snapshot: &Snapshot, analysis: Option<Arc<Analysis>>) -> Result<Option<Arc<Analysis>>> {
    if analysis.is_none() && snapshot.job.is_some() { Err(Error::internal_error()) } else { Ok(analysis) }
}

fn full_report(result_id: Option<String>, items: Vec<Diagnostic>) -> DocumentDiagnosticReportResult {
    let report = RelatedFullDocumentDiagnosticReport {
        related_documents: None,
        full_document_diagnostic_report: FullDocumentDiagnosticReport { result_id, items },
    };
    DocumentDiagnosticReportResult::Report(DocumentDiagnosticReport::Full(report))
}

fn unchanged_report(result_id: String) -> DocumentDiagnosticReportResult {
    let report = RelatedUnchangedDocumentDiagnosticReport {
        related_documents: None,
        unchanged_document_diagnostic_report: UnchangedDocumentDiagnosticReport { result_id },
    };
    DocumentDiagnosticReportResult::Report(DocumentDiagnosticReport::Unchanged(report))
}
