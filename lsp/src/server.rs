//! The protocol's methods, each a few lines: take the moment before any wait, ask the analysis, convert the answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::Place;
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::ls_types::*;
use tower_lsp::{Client, LanguageServer};

use crate::answers::live::Scene;
use crate::answers::{code_actions, completion, hints, hover, identities, live, navigation, related, structure};
use crate::capabilities;
use crate::check::Analysis;
use crate::client_can::ClientCan;
use crate::commands;
use crate::convert::Encoding;
use crate::desk::{Desk, path_of};
use crate::files;
use crate::live::{Agent, ask_drift};
use crate::peek;
use crate::settings::Settings;
use crate::text::Text;
use crate::workspace::{Kind, MANIFEST, Snapshot};

pub struct Server {
    pub desk: Arc<Desk>,
}

impl Server {
    #[must_use]
    pub fn new(client: Client, place: Place) -> Self {
        Self { desk: Arc::new(Desk::new(client, place)) }
    }

    /// Of a file in the language of manifests and modules; a lock is another one.
    fn snapshot(&self, uri: &Uri) -> Option<Snapshot> {
        self.desk.snapshot(uri).filter(|snapshot| snapshot.kind != Kind::Lock)
    }

    /// A look that failed is an error: nothing at all would say that there is nothing. None for files without a manifest.
    async fn fresh(&self, snapshot: &Snapshot) -> Result<Option<Arc<Analysis>>> {
        told(snapshot, self.desk.fresh(snapshot).await)
    }

    async fn recent(&self, snapshot: &Snapshot) -> Result<Option<Arc<Analysis>>> {
        told(snapshot, self.desk.recent(snapshot).await)
    }

    fn live<T>(&self, snapshot: &Snapshot, read: impl FnOnce(&Scene<'_>) -> T) -> Option<T> {
        if snapshot.kind != Kind::Manifest || !snapshot.settings.live.enabled {
            return None;
        }
        let environment = self.desk.environment();
        let can = self.desk.can();
        Some(self.desk.with_live(|live| read(&Scene { snapshot, live, environment: &environment, can })))
    }

    fn set(&self, settings: Settings) {
        let mut workspace = self.desk.workspace();
        if workspace.settings != settings {
            workspace.settings = settings;
            workspace.touch_all();
            drop(workspace);
            self.desk.mark_stale();
        }
    }

    async fn watch(&self) {
        if !self.desk.can().watch {
            return;
        }
        // The answer is only yes or no, and without a watcher requests look at the disk themselves.
        let client = self.desk.client.clone();
        drop(tokio::spawn(async move { client.register_capability(vec![capabilities::watchers()]).await }));
    }
}

impl LanguageServer for Server {
    async fn initialize(&self, params: InitializeParams) -> Result<InitializeResult> {
        let can = ClientCan::of(&params.capabilities);
        let offered = params.capabilities.general.and_then(|general| general.position_encodings);
        let encoding = Encoding::agreed(offered.as_deref());
        self.desk.know(can);
        let mut workspace = self.desk.workspace();
        workspace.encoding = encoding;
        if let Some(settings) = params.initialization_options.as_ref().and_then(Settings::read) {
            workspace.settings = settings;
        }
        let folders = params.workspace_folders.unwrap_or_default();
        workspace.folders = folders.iter().filter_map(|folder| path_of(&folder.uri)).collect();
        drop(workspace);
        Ok(InitializeResult {
            capabilities: capabilities::ours(encoding, self.desk.pulls()),
            server_info: Some(ServerInfo {
                name: "pdev".to_owned(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            }),
            offset_encoding: None,
        })
    }

    async fn initialized(&self, _: InitializedParams) {
        self.watch().await;
    }

    async fn shutdown(&self) -> Result<()> {
        self.desk.shut_down.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn did_open(&self, params: DidOpenTextDocumentParams) {
        let document = params.text_document;
        let Some(path) = path_of(&document.uri) else { return };
        self.desk.workspace().open(path, document.uri, document.version, document.text);
        self.desk.wake.notify_one();
        self.desk.look_for_agent.notify_one();
    }

    async fn did_change(&self, params: DidChangeTextDocumentParams) {
        let Some(path) = path_of(&params.text_document.uri) else { return };
        self.desk.workspace().change(&path, params.text_document.version, &params.content_changes);
        self.desk.wake.notify_one();
    }

    async fn did_save(&self, params: DidSaveTextDocumentParams) {
        let Some(path) = path_of(&params.text_document.uri) else { return };
        self.desk.workspace().save(&path, params.text);
        self.desk.wake.notify_one();
        self.desk.look_for_agent.notify_one();
        // The plan is made from the disk, which has only now what was written.
        let desk = Arc::clone(&self.desk);
        if desk.with_live(|live| live.agent == Agent::Present) {
            drop(tokio::spawn(async move { ask_drift(&desk).await }));
        }
    }

    async fn did_close(&self, params: DidCloseTextDocumentParams) {
        let Some(path) = path_of(&params.text_document.uri) else { return };
        self.desk.workspace().close(&path);
        self.desk.wake.notify_one();
    }

    async fn did_change_watched_files(&self, params: DidChangeWatchedFilesParams) {
        let mut workspace = self.desk.workspace();
        let mut matters = false;
        for path in params.changes.iter().filter_map(|change| path_of(&change.uri)) {
            matters |= workspace.changed_on_disk(&path);
        }
        drop(workspace);
        if matters {
            self.desk.mark_stale();
        }
    }

    async fn did_change_configuration(&self, params: DidChangeConfigurationParams) {
        if let Some(settings) = Settings::read(&params.settings) {
            self.set(settings);
        }
    }

    async fn did_change_workspace_folders(&self, params: DidChangeWorkspaceFoldersParams) {
        let mut workspace = self.desk.workspace();
        for gone in params.event.removed.iter().filter_map(|folder| path_of(&folder.uri)) {
            workspace.folders.remove(&gone);
        }
        workspace.folders.extend(params.event.added.iter().filter_map(|folder| path_of(&folder.uri)));
    }

    async fn diagnostic(&self, params: DocumentDiagnosticParams) -> Result<DocumentDiagnosticReportResult> {
        let Some(snapshot) = self.desk.snapshot(&params.text_document.uri) else { return Ok(full(None, Vec::new())) };
        if snapshot.kind.is_related() {
            return Ok(full(None, related::findings(&snapshot)));
        }
        let Some(job) = &snapshot.job else { return Ok(full(None, Vec::new())) };
        let id = self.desk.workspace().result_id(job);
        if params.previous_result_id.as_ref() == Some(&id) {
            return Ok(unchanged(id));
        }
        // A failure is told as one: an empty list would say that all is well.
        self.desk.fresh(&snapshot).await.ok_or_else(Error::internal_error)?;
        let found = self.desk.found(&snapshot.path);
        Ok(full(Some(id), found))
    }

    async fn code_action(&self, params: CodeActionParams) -> Result<Option<CodeActionResponse>> {
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(None) };
        if snapshot.kind.is_related() {
            return Ok(Some(related::code_actions(&snapshot, &params)));
        }
        let Some(analysis) = self.fresh(&snapshot).await? else { return Ok(None) };
        let mut answer = code_actions::answer(&snapshot, &analysis, self.desk.can(), &params);
        answer.extend(identities::logins(&params));
        answer.extend(identities::approvals(&params));
        answer.extend(live::applications(&params));
        answer.extend(self.live(&snapshot, |scene| scene.start_action(&params)).flatten());
        Ok(Some(answer))
    }

    async fn code_action_resolve(&self, mut action: CodeAction) -> Result<CodeAction> {
        let Some(params) = code_actions::asked(&action) else { return Ok(action) };
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(action) };
        let Some(analysis) = self.fresh(&snapshot).await? else { return Ok(action) };
        let can = ClientCan { resolves_edits: false, ..self.desk.can() };
        action.edit = code_actions::resolved(code_actions::answer(&snapshot, &analysis, can, &params), &action.title);
        Ok(action)
    }

    async fn completion(&self, params: CompletionParams) -> Result<Option<CompletionResponse>> {
        let place = params.text_document_position;
        let Some(snapshot) = self.snapshot(&place.text_document.uri) else { return Ok(None) };
        if snapshot.kind.is_related() {
            let items = related::completion(&snapshot, self.desk.can(), place.position);
            return Ok(Some(CompletionResponse::List(CompletionList { is_incomplete: false, items })));
        }
        let Some(analysis) = self.recent(&snapshot).await? else { return Ok(None) };
        let items = completion::answer(&snapshot, &analysis, self.desk.can(), place.position);
        Ok(Some(CompletionResponse::List(CompletionList { is_incomplete: false, items })))
    }

    async fn completion_resolve(&self, item: CompletionItem) -> Result<CompletionItem> {
        let Some((uri, about)) = completion::about(item.data.as_ref()) else { return Ok(item) };
        let Some(snapshot) = self.snapshot(&uri) else { return Ok(item) };
        let Some(analysis) = self.recent(&snapshot).await? else { return Ok(item) };
        Ok(completion::documented(item, &about, &analysis))
    }

    async fn hover(&self, params: HoverParams) -> Result<Option<Hover>> {
        let place = params.text_document_position_params;
        let Some(snapshot) = self.desk.snapshot(&place.text_document.uri) else { return Ok(None) };
        if snapshot.kind.is_related() {
            return Ok(related::hover(&snapshot, self.desk.can().markdown, place.position));
        }
        let Some(analysis) = self.recent(&snapshot).await? else { return Ok(None) };
        let now = peek::now();
        let live = self.live(&snapshot, |scene| scene.hover(place.position, now)).flatten();
        if let Some(whose) = self.live(&snapshot, |scene| scene.unit_at(place.position)).flatten() {
            self.desk.want_peek(whose);
        }
        Ok(hover::answer(&snapshot, &analysis, self.desk.can().markdown, place.position, live))
    }

    async fn goto_definition(&self, params: GotoDefinitionParams) -> Result<Option<GotoDefinitionResponse>> {
        let place = params.text_document_position_params;
        let Some(snapshot) = self.snapshot(&place.text_document.uri) else { return Ok(None) };
        if let Some(linked) = structure::linked(&snapshot, place.position) {
            return Ok(Some(linked));
        }
        let Some(analysis) = self.fresh(&snapshot).await? else { return Ok(None) };
        Ok(navigation::definition(&snapshot, &analysis, place.position))
    }

    async fn references(&self, params: ReferenceParams) -> Result<Option<Vec<Location>>> {
        let place = params.text_document_position;
        let Some(snapshot) = self.snapshot(&place.text_document.uri) else { return Ok(None) };
        let Some(analysis) = self.fresh(&snapshot).await? else { return Ok(None) };
        Ok(navigation::all(&snapshot, &analysis, place.position, params.context.include_declaration))
    }

    async fn document_highlight(&self, params: DocumentHighlightParams) -> Result<Option<Vec<DocumentHighlight>>> {
        let place = params.text_document_position_params;
        let snapshot = self.snapshot(&place.text_document.uri);
        Ok(snapshot.and_then(|snapshot| navigation::highlights(&snapshot, place.position)))
    }

    async fn prepare_rename(&self, place: TextDocumentPositionParams) -> Result<Option<PrepareRenameResponse>> {
        let Some(snapshot) = self.snapshot(&place.text_document.uri) else { return Ok(None) };
        let Some(analysis) = self.fresh(&snapshot).await? else { return Ok(None) };
        Ok(navigation::prepare_rename(&snapshot, &analysis, place.position))
    }

    async fn rename(&self, params: RenameParams) -> Result<Option<WorkspaceEdit>> {
        let place = params.text_document_position;
        let Some(snapshot) = self.snapshot(&place.text_document.uri) else { return Ok(None) };
        let Some(analysis) = self.fresh(&snapshot).await? else { return Ok(None) };
        navigation::rename(&snapshot, &analysis, place.position, &params.new_name)
    }

    async fn document_symbol(&self, params: DocumentSymbolParams) -> Result<Option<DocumentSymbolResponse>> {
        let nested = self.desk.can().hierarchical_symbols;
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.and_then(|snapshot| structure::symbols(&snapshot, nested)))
    }

    async fn symbol(&self, params: WorkspaceSymbolParams) -> Result<Option<WorkspaceSymbolResponse>> {
        let workspace = self.desk.workspace();
        let encoding = workspace.encoding;
        let mut texts: BTreeMap<PathBuf, Text> = workspace.analyses().flat_map(|one| structure::texts(one)).collect();
        let closed: Vec<PathBuf> = workspace.folders.iter().map(|folder| folder.join(MANIFEST)).collect();
        drop(workspace);
        for path in closed {
            if let (false, Ok(bytes)) = (texts.contains_key(&path), files::from_disk(&path)) {
                texts.insert(path, Text::new(String::from_utf8_lossy(&bytes)));
            }
        }
        let matching = |(path, text): (&PathBuf, &Text)| structure::matching(path, text, &params.query, encoding);
        Ok(Some(WorkspaceSymbolResponse::Flat(texts.iter().flat_map(matching).collect())))
    }

    async fn folding_range(&self, params: FoldingRangeParams) -> Result<Option<Vec<FoldingRange>>> {
        Ok(self.snapshot(&params.text_document.uri).map(|snapshot| structure::folds(&snapshot)))
    }

    async fn selection_range(&self, params: SelectionRangeParams) -> Result<Option<Vec<SelectionRange>>> {
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::selections(&snapshot, &params.positions)))
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
        Ok(self.snapshot(&params.text_document.uri).map(|snapshot| structure::formatting(&snapshot, None)))
    }

    async fn range_formatting(&self, params: DocumentRangeFormattingParams) -> Result<Option<Vec<TextEdit>>> {
        let snapshot = self.snapshot(&params.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::formatting(&snapshot, Some(params.range))))
    }

    async fn code_lens(&self, params: CodeLensParams) -> Result<Option<Vec<CodeLens>>> {
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(None) };
        if !snapshot.settings.live.lenses {
            return Ok(None);
        }
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "a scene of any lifetime, which a path cannot say"
        )]
        let lenses = self.live(&snapshot, |scene| scene.lenses());
        Ok(lenses)
    }

    async fn inlay_hint(&self, params: InlayHintParams) -> Result<Option<Vec<InlayHint>>> {
        let Some(snapshot) = self.snapshot(&params.text_document.uri) else { return Ok(None) };
        let mut all = Vec::new();
        if snapshot.settings.inlay_hints.state {
            all.extend(self.live(&snapshot, |scene| scene.hints(params.range)).unwrap_or_default());
        }
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "a scene of any lifetime, which a path cannot say"
        )]
        let running = self.live(&snapshot, |scene| scene.running()).unwrap_or_default();
        if let Some(analysis) = self.recent(&snapshot).await? {
            all.extend(hints::answer(&snapshot, &analysis, &running, params.range));
        }
        Ok(Some(all))
    }

    async fn on_type_formatting(&self, params: DocumentOnTypeFormattingParams) -> Result<Option<Vec<TextEdit>>> {
        let place = params.text_document_position;
        let snapshot = self.snapshot(&place.text_document.uri);
        Ok(snapshot.map(|snapshot| structure::on_type(&snapshot, place.position, &params.ch)))
    }

    async fn execute_command(&self, params: ExecuteCommandParams) -> Result<Option<LSPAny>> {
        self.desk.look_for_agent.notify_one();
        commands::run(&self.desk, params).await
    }
}

fn told(snapshot: &Snapshot, look: Option<Arc<Analysis>>) -> Result<Option<Arc<Analysis>>> {
    if look.is_none() && snapshot.job.is_some() { Err(Error::internal_error()) } else { Ok(look) }
}

fn full(result_id: Option<String>, items: Vec<Diagnostic>) -> DocumentDiagnosticReportResult {
    let report = RelatedFullDocumentDiagnosticReport {
        related_documents: None,
        full_document_diagnostic_report: FullDocumentDiagnosticReport { result_id, items },
    };
    DocumentDiagnosticReportResult::Report(DocumentDiagnosticReport::Full(report))
}

fn unchanged(result_id: String) -> DocumentDiagnosticReportResult {
    let report = RelatedUnchangedDocumentDiagnosticReport {
        related_documents: None,
        unchanged_document_diagnostic_report: UnchangedDocumentDiagnosticReport { result_id },
    };
    DocumentDiagnosticReportResult::Report(DocumentDiagnosticReport::Unchanged(report))
}
