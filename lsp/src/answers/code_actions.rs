//! `textDocument/codeAction`.

use manifest::{Diagnostic, Span};
use tower_lsp::ls_types::*;

use crate::analysis::actions::{self, Action};
use crate::analysis::refactors;
use crate::check::{Analysis, today};
use crate::convert::{diagnostics, edits};
use crate::workspace::Snapshot;

pub const FIX_ALL: &str = "source.fixAll.pdev";

#[must_use]
pub fn answer(snapshot: &Snapshot, analysis: &Analysis, params: &CodeActionParams) -> CodeActionResponse {
    let Some(file) = analysis.file(&snapshot.path) else { return Vec::new() };
    let Some(text) = analysis.text(file) else { return Vec::new() };
    let wanted = Wanted::of(params);
    let range = snapshot.encoding.bytes(text, params.range);
    let mut answer = Vec::new();
    if wanted.wants(&CodeActionKind::QUICKFIX) {
        let near = |found: &&Diagnostic| meets(found.span, &range);
        for found in analysis.diagnostics_in(file).filter(near) {
            let shown = diagnostics::one(analysis, found, snapshot.encoding, &snapshot.settings);
            for action in actions::about(analysis.loaded(), text, found, today()) {
                answer.push(code_action(snapshot, analysis, action, CodeActionKind::QUICKFIX, shown.clone()));
            }
        }
    }
    if wanted.wants(&CodeActionKind::REFACTOR_REWRITE)
        && let Some(root) = snapshot.root()
        && analysis.text(file).is_some_and(|text| text.as_str() == snapshot.text.as_str())
    {
        let manifest = &analysis.loaded().manifest;
        let scene = refactors::Scene { root, text: &snapshot.text, manifest, file };
        for action in refactors::at(&scene, range.start) {
            answer.push(code_action(snapshot, analysis, action, CodeActionKind::REFACTOR_REWRITE, None));
        }
    }
    let fix_all = CodeActionKind::new(FIX_ALL);
    if wanted.wants(&fix_all) {
        let safe = actions::all_safe(&analysis.checked.diagnostics, file);
        if !safe.is_empty() {
            let action = Action { title: "Fix all that is safe to fix".to_owned(), edits: safe, preferred: false };
            answer.push(code_action(snapshot, analysis, action, fix_all, None));
        }
    }
    answer
}

/// What the client asked for; everything when it named no kinds.
pub(super) struct Wanted<'a> {
    only: Option<&'a [CodeActionKind]>,
}

impl<'a> Wanted<'a> {
    pub(super) fn of(params: &'a CodeActionParams) -> Self {
        Self { only: params.context.only.as_deref() }
    }

    /// Kinds are hierarchical: `source` asks for `source.fixAll.pdev` too.
    pub(super) fn wants(&self, kind: &CodeActionKind) -> bool {
        let below = |asked: &CodeActionKind| {
            let rest = kind.as_str().strip_prefix(asked.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || asked.as_str().is_empty())
        };
        self.only.is_none_or(|only| only.iter().any(below))
    }
}

/// A cursor at the very end of a word still means it.
fn meets(span: Span, range: &std::ops::Range<usize>) -> bool {
    let own = span.range();
    own.start <= range.end && range.start <= own.end
}

fn code_action(
    snapshot: &Snapshot,
    analysis: &Analysis,
    action: Action,
    kind: CodeActionKind,
    about: Option<tower_lsp::ls_types::Diagnostic>,
) -> CodeActionOrCommand {
    CodeActionOrCommand::CodeAction(CodeAction {
        title: action.title,
        kind: Some(kind),
        diagnostics: about.map(|one| vec![one]),
        edit: Some(edits::workspace_edit(analysis, &action.edits, snapshot.encoding)),
        is_preferred: Some(action.preferred),
        ..CodeAction::default()
    })
}
