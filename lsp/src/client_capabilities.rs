//! The capabilities of the client, reduced to those that change the server's behaviour.

use tower_lsp::ls_types::{
    ClientCapabilities as LspClientCapabilities, InsertTextMode, MarkupKind, ResourceOperationKind,
};

/// A command that a client lists in `experimental.commands` because it carries it out, or supports it, itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCommand {
    /// Opens a terminal in a unit.
    Shell,
    /// Follows the logs of a unit in a terminal.
    Tail,
    /// Makes the user type the value of `typed` before it sends that action of a question back.
    Approve,
    /// Puts the value of `copy` in a chosen action into the clipboard.
    Copy,
}

impl ClientCommand {
    /// The name on the wire.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Shell => "pdev.shell",
            Self::Tail => "pdev.tail",
            Self::Approve => "pdev.approve",
            Self::Copy => "pdev.copy",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientCapabilities {
    pub pull_diagnostics: bool,
    pub refresh_diagnostics: bool,
    pub refresh_inlay_hints: bool,
    pub refresh_code_lenses: bool,
    pub watch_files: bool,
    pub snippets: bool,
    /// The client inserts completions unchanged. Other clients indent the lines of a snippet once more.
    pub insert_text_as_is: bool,
    pub show_progress: bool,
    pub show_document: bool,
    pub markdown: bool,
    pub hierarchical_symbols: bool,
    pub line_folding_only: bool,
    pub apply_edit: bool,
    /// The client shows inlay hints, unless its user has turned them off.
    pub inlay_hints: bool,
    pub create_files: bool,
    /// The client requests the edits of a code action when the user chooses it.
    pub resolve_edits: bool,
    /// [`ClientCommand::Shell`] is listed.
    pub run_shell: bool,
    /// [`ClientCommand::Tail`] is listed.
    pub tail_logs: bool,
    /// [`ClientCommand::Approve`] is listed.
    pub confirm_by_typing: bool,
    /// [`ClientCommand::Copy`] is listed.
    pub copy_text: bool,
}

impl ClientCapabilities {
    #[must_use]
    pub fn from_lsp(capabilities: &LspClientCapabilities) -> Self {
        let document = capabilities.text_document.as_ref();
        let workspace = capabilities.workspace.as_ref();
        let window = capabilities.window.as_ref();
        let hover = document.and_then(|document| document.hover.as_ref());
        let item = document.and_then(|document| document.completion.as_ref()?.completion_item.as_ref());
        let listed =
            capabilities.experimental.as_ref().and_then(|experimental| experimental.get("commands")?.as_array());
        let supports = |command: ClientCommand| listed.is_some_and(|ids| ids.iter().any(|id| id == command.id()));
        let folding = document.and_then(|document| document.folding_range.as_ref());
        Self {
            pull_diagnostics: document.is_some_and(|document| document.diagnostic.is_some()),
            refresh_diagnostics: workspace
                .and_then(|workspace| workspace.diagnostics.as_ref()?.refresh_support)
                .unwrap_or_default(),
            refresh_inlay_hints: workspace
                .and_then(|workspace| workspace.inlay_hint.as_ref()?.refresh_support)
                .unwrap_or_default(),
            refresh_code_lenses: workspace
                .and_then(|workspace| workspace.code_lens.as_ref()?.refresh_support)
                .unwrap_or_default(),
            watch_files: workspace
                .and_then(|workspace| workspace.did_change_watched_files.as_ref()?.dynamic_registration)
                .unwrap_or_default(),
            insert_text_as_is: item
                .and_then(|item| item.insert_text_mode_support.as_ref())
                .is_some_and(|modes| modes.value_set.contains(&InsertTextMode::AS_IS)),
            snippets: item.and_then(|item| item.snippet_support).unwrap_or_default(),
            show_progress: window.and_then(|window| window.work_done_progress).unwrap_or_default(),
            show_document: window.and_then(|window| window.show_document.as_ref()).is_some_and(|show| show.support),
            markdown: hover
                .and_then(|hover| hover.content_format.as_ref())
                .is_none_or(|formats| formats.contains(&MarkupKind::Markdown)),
            hierarchical_symbols: document
                .and_then(|document| document.document_symbol.as_ref()?.hierarchical_document_symbol_support)
                .unwrap_or_default(),
            line_folding_only: folding.and_then(|folding| folding.line_folding_only).unwrap_or_default(),
            run_shell: supports(ClientCommand::Shell),
            tail_logs: supports(ClientCommand::Tail),
            confirm_by_typing: supports(ClientCommand::Approve),
            copy_text: supports(ClientCommand::Copy),
            inlay_hints: document.is_some_and(|document| document.inlay_hint.is_some()),
            create_files: workspace
                .and_then(|workspace| workspace.workspace_edit.as_ref())
                .filter(|edit| edit.document_changes == Some(true))
                .and_then(|edit| edit.resource_operations.as_ref())
                .is_some_and(|kinds| kinds.contains(&ResourceOperationKind::Create)),
            resolve_edits: document
                .and_then(|document| document.code_action.as_ref())
                .filter(|action| action.data_support == Some(true))
                .and_then(|action| action.resolve_support.as_ref())
                .is_some_and(|resolve| resolve.properties.iter().any(|name| name == "edit")),
            apply_edit: workspace.and_then(|workspace| workspace.apply_edit).unwrap_or_default(),
        }
    }
}
