//! `textDocument/codeAction`.

use manifest::{Diagnostic, FileId, Span};
use serde_json::json;
use tower_lsp::ls_types::*;

use crate::analysis::actions::{self, Action, NewFile, SecretLiteral};
use crate::analysis::{organise, refactors};
use crate::check::{Analysis, today};
use crate::client_capabilities::ClientCapabilities;
use crate::commands;
use crate::convert::{diagnostics, edits};
use crate::workspace::Snapshot;

pub const FIX_ALL: &str = "source.fixAll.pdev";
/// Not below `source.organizeImports`, which many editors run on every save.
pub const ORGANISE: &str = "source.organize.pdev";

#[must_use]
pub fn code_action_response(
    snapshot: &Snapshot,
    analysis: &Analysis,
    capabilities: ClientCapabilities,
    params: &CodeActionParams,
) -> CodeActionResponse {
    let Some(file) = analysis.file_id(&snapshot.path) else { return Vec::new() };
    let Some(text) = analysis.text(file) else { return Vec::new() };
    let wanted = RequestedKinds::from_params(params);
    let range = snapshot.encoding.byte_range(text, params.range);
    let mut answer = Vec::new();
    if wanted.includes(&CodeActionKind::QUICKFIX) {
        for (found, shown) in requested_diagnostics(snapshot, analysis, file, &range, &params.context.diagnostics) {
            for action in actions::diagnostic_actions(analysis.loaded(), text, found, today()) {
                answer.push(code_action(snapshot, analysis, action, CodeActionKind::QUICKFIX, shown.clone()));
            }
        }
    }
    // Kate asks about one finding for the whole file, and carries out all that it is given.
    let whole_file = range.start == 0 && range.end + 1 >= text.len();
    if whole_file && params.context.only.is_none() && !params.context.diagnostics.is_empty() {
        return answer;
    }
    let refactors = refactorings(snapshot, analysis, file, &range)
        .into_iter()
        .filter(|action| can_create_files(analysis, capabilities, action));
    for action in refactors {
        let kind =
            if action.is_extraction { CodeActionKind::REFACTOR_EXTRACT } else { CodeActionKind::REFACTOR_REWRITE };
        if !wanted.includes(&kind) {
            continue;
        }
        if let (Some(kept), true) = (&action.secret_literal, capabilities.apply_edit) {
            answer.push(vault_action(snapshot, kept, kind.clone()));
        }
        let mut shown = code_action(snapshot, analysis, action, kind, None);
        if let (CodeActionOrCommand::CodeAction(shown), true) = (&mut shown, capabilities.resolve_edits) {
            shown.edit = None;
            shown.data = Some(json!({ "uri": snapshot.uri, "range": params.range }));
        }
        answer.push(shown);
    }
    let fix_all = CodeActionKind::new(FIX_ALL);
    // Who asks about a finding means that one.
    let means_all = params.context.only.is_some() || params.context.diagnostics.is_empty();
    if means_all && wanted.includes(&fix_all) {
        let safe = actions::safe_fix_edits(&analysis.checked.diagnostics, file);
        if !safe.is_empty() {
            let action = Action { title: "Fix all that is safe to fix".to_owned(), edits: safe, ..Action::default() };
            answer.push(code_action(snapshot, analysis, action, fix_all, None));
        }
    }
    answer.extend(organise_action(snapshot, analysis, file, params));
    answer
}

/// The findings of the range; of those only the ones that the client names, where it names any of them.
fn requested_diagnostics<'a>(
    snapshot: &Snapshot,
    analysis: &'a Analysis,
    file: FileId,
    range: &std::ops::Range<usize>,
    named: &[tower_lsp::ls_types::Diagnostic],
) -> Vec<(&'a Diagnostic, Option<tower_lsp::ls_types::Diagnostic>)> {
    let near = analysis.diagnostics_in(file).filter(|found| overlaps(found.span, range));
    let mut all: Vec<_> = near
        .map(|found| (found, diagnostics::to_lsp_diagnostic(analysis, found, snapshot.encoding, &snapshot.settings)))
        .collect();
    let is_named = |shown: &Option<tower_lsp::ls_types::Diagnostic>| {
        shown.as_ref().is_some_and(|shown| named.iter().any(|one| one.code == shown.code && one.range == shown.range))
    };
    if all.iter().any(|(_, shown)| is_named(shown)) {
        all.retain(|(_, shown)| is_named(shown));
    }
    all
}

/// Only for who asks for source actions: nobody wants it at every word.
fn organise_action(
    snapshot: &Snapshot,
    analysis: &Analysis,
    file: FileId,
    params: &CodeActionParams,
) -> Option<CodeActionOrCommand> {
    let kind = CodeActionKind::new(ORGANISE);
    let same = analysis.text(file).is_some_and(|text| text.as_str() == snapshot.text.as_str());
    if params.context.only.is_none() || !RequestedKinds::from_params(params).includes(&kind) || !same {
        return None;
    }
    let text = organise::organise(&snapshot.text)?;
    let end = u32::try_from(snapshot.text.len()).ok()?;
    let edit = manifest::diagnostic::Edit { span: Span { file, start: 0, end }, text };
    let title = "Put the sections into their usual order".to_owned();
    let action = Action { title, edits: vec![edit], ..Action::default() };
    Some(code_action(snapshot, analysis, action, kind, None))
}

/// Only of a text that was looked at as it is: an edit of another one would land anywhere.
fn refactorings(snapshot: &Snapshot, analysis: &Analysis, file: FileId, range: &std::ops::Range<usize>) -> Vec<Action> {
    let same = analysis.text(file).is_some_and(|text| text.as_str() == snapshot.text.as_str());
    let Some(root) = snapshot.root().filter(|_| same) else { return Vec::new() };
    let context = refactors::RefactorContext {
        root,
        text: &snapshot.text,
        manifest: &analysis.loaded().manifest,
        file,
        files: &analysis.buffers,
        has_other_files: analysis.paths().count() > 1,
    };
    refactors::refactorings_at(&context, range)
}

/// Files that the client can make, and that are not there yet.
fn can_create_files(analysis: &Analysis, capabilities: ClientCapabilities, action: &Action) -> bool {
    let free = |file: &NewFile| !analysis.buffers.path(&file.path).exists();
    action.new_files.is_empty() || (capabilities.create_files && action.new_files.iter().all(free))
}

/// The value goes into the vault first; the manifest is edited when it is there.
fn vault_action(snapshot: &Snapshot, kept: &SecretLiteral, kind: CodeActionKind) -> CodeActionOrCommand {
    let title = format!("Move `{}` into the vault, as the secret `{}`", kept.variable, kept.secret);
    let argument = json!({ "uri": snapshot.uri, "unit": kept.unit, "variable": kept.variable });
    let command = Command {
        title: title.clone(),
        command: commands::Command::Keep.id().to_owned(),
        arguments: Some(vec![argument]),
    };
    CodeActionOrCommand::CodeAction(CodeAction {
        title,
        kind: Some(kind),
        command: Some(command),
        ..CodeAction::default()
    })
}

/// What an action was about, for the client that asks for its edits once it is chosen.
#[must_use]
pub fn resolve_params(action: &CodeAction) -> Option<CodeActionParams> {
    let data = action.data.as_ref()?;
    let uri = serde_json::from_value(data.get("uri")?.clone()).ok()?;
    Some(CodeActionParams {
        text_document: TextDocumentIdentifier { uri },
        range: serde_json::from_value(data.get("range")?.clone()).ok()?,
        context: CodeActionContext {
            only: Some(action.kind.clone().into_iter().collect()),
            ..CodeActionContext::default()
        },
        work_done_progress_params: WorkDoneProgressParams::default(),
        partial_result_params: PartialResultParams::default(),
    })
}

/// The action of this title, with its edits.
#[must_use]
pub fn resolved_edit(answer: CodeActionResponse, title: &str) -> Option<WorkspaceEdit> {
    answer.into_iter().find_map(|one| match one {
        CodeActionOrCommand::CodeAction(one) if one.title == title => one.edit,
        _ => None,
    })
}

/// What the client asked for; everything when it named no kinds.
pub(super) struct RequestedKinds<'a> {
    only: Option<&'a [CodeActionKind]>,
}

impl<'a> RequestedKinds<'a> {
    pub(super) fn from_params(params: &'a CodeActionParams) -> Self {
        Self { only: params.context.only.as_deref() }
    }

    /// Kinds are hierarchical: `source` asks for `source.fixAll.pdev` too.
    pub(super) fn includes(&self, kind: &CodeActionKind) -> bool {
        let below = |asked: &CodeActionKind| {
            let rest = kind.as_str().strip_prefix(asked.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || asked.as_str().is_empty())
        };
        self.only.is_none_or(|only| only.iter().any(below))
    }
}

/// A cursor at the very end of a word still means it.
fn overlaps(span: Span, range: &std::ops::Range<usize>) -> bool {
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
    let edit = match action.new_files.is_empty() {
        true => edits::workspace_edit(analysis, &action.edits, snapshot.encoding),
        false => edits::workspace_edit_with_new_files(analysis, &action, snapshot.encoding),
    };
    CodeActionOrCommand::CodeAction(CodeAction {
        title: action.title,
        kind: Some(kind),
        diagnostics: about.map(|one| vec![one]),
        edit: Some(edit),
        is_preferred: Some(action.is_preferred),
        ..CodeAction::default()
    })
}
