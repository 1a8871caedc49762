//! `textDocument/codeAction`.

use host::clock::now_milliseconds;
use manifest::date::Date;
use manifest::{Diagnostic, FileId, Span};
use serde_json::json;
use tower_lsp::ls_types::*;

use crate::analysis::actions::{self, Action, NewFile, SecretLiteral};
use crate::analysis::{organise, refactors};
use crate::check::Analysis;
use crate::client_capabilities::ClientCapabilities;
use crate::commands::Command as ServerCommand;
use crate::convert::diagnostics::{self, AdviceDisplay};
use crate::convert::edits;
use crate::edit_check;
use crate::workspace::Snapshot;

pub const FIX_ALL: &str = "source.fixAll.pdev";
/// Deliberately not a child of `source.organizeImports`, which many editors run on every save.
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
    let requested = RequestedKinds::from_params(params);
    let range = snapshot.encoding.byte_range(text, params.range);
    let mut answer = Vec::new();
    if requested.includes(&CodeActionKind::QUICKFIX) {
        answer.extend(quick_fixes(snapshot, analysis, file, &range, &params.context.diagnostics));
        answer.extend(advice_action(snapshot, analysis, file, &range));
    }
    // Kate requests the fixes of one diagnostic with the range of the file, and applies all actions that it gets.
    let is_whole_file = range.start == 0 && range.end + 1 >= text.len();
    if is_whole_file && params.context.only.is_none() && !params.context.diagnostics.is_empty() {
        return answer;
    }
    let refactors = refactorings(snapshot, analysis, file, &range)
        .into_iter()
        .filter(|action| can_create_files(analysis, capabilities, action));
    for action in refactors {
        let kind =
            if action.is_extraction { CodeActionKind::REFACTOR_EXTRACT } else { CodeActionKind::REFACTOR_REWRITE };
        if !requested.includes(&kind) || !edit_check::is_valid_refactoring(analysis, &action) {
            continue;
        }
        if let (Some(literal), true) = (&action.secret_literal, capabilities.apply_edit) {
            answer.push(vault_action(snapshot, literal, kind.clone()));
        }
        let mut offer = code_action(snapshot, analysis, action, kind, None);
        if let (CodeActionOrCommand::CodeAction(offer), true) = (&mut offer, capabilities.resolve_edits) {
            offer.edit = None;
            offer.data = Some(json!({ "uri": snapshot.uri, "range": params.range }));
        }
        answer.push(offer);
    }
    let fix_all = CodeActionKind::new(FIX_ALL);
    // A request about particular diagnostics is not about the others.
    let is_about_all = params.context.only.is_some() || params.context.diagnostics.is_empty();
    if is_about_all && requested.includes(&fix_all) {
        let safe_edits = edit_check::valid_safe_edits(analysis, file);
        if !safe_edits.is_empty() {
            let action = Action { title: "Apply all safe fixes".to_owned(), edits: safe_edits, ..Action::default() };
            answer.push(code_action(snapshot, analysis, action, fix_all, None));
        }
    }
    answer.extend(organise_action(snapshot, analysis, file, params));
    answer
}

fn quick_fixes(
    snapshot: &Snapshot,
    analysis: &Analysis,
    file: FileId,
    range: &std::ops::Range<usize>,
    named: &[tower_lsp::ls_types::Diagnostic],
) -> Vec<CodeActionOrCommand> {
    let Some(text) = analysis.text(file) else { return Vec::new() };
    let today = Date::from_unix_milliseconds(now_milliseconds());
    let requested = requested_diagnostics(snapshot, analysis, file, range, named);
    let candidates = requested.into_iter().flat_map(|(diagnostic, shown)| {
        let actions = actions::diagnostic_actions(analysis.loaded(), text, diagnostic, today);
        actions.into_iter().map(move |action| (diagnostic, shown.clone(), action))
    });
    candidates
        .take(edit_check::CHECKS_MAX)
        .filter(|(diagnostic, _, action)| edit_check::is_valid_fix(analysis, diagnostic, &action.edits))
        .map(|(_, shown, action)| code_action(snapshot, analysis, action, CodeActionKind::QUICKFIX, shown))
        .collect()
}

/// Shows all advice of the file, on the hint that counts it, or hides it again.
fn advice_action(
    snapshot: &Snapshot,
    analysis: &Analysis,
    file: FileId,
    range: &std::ops::Range<usize>,
) -> Option<CodeActionOrCommand> {
    let hidden = diagnostics::hidden_advice(analysis, file, &snapshot.settings, AdviceDisplay::Summary);
    let title = match snapshot.advice_display {
        AdviceDisplay::Summary => {
            let first = hidden.iter().min_by_key(|diagnostic| diagnostic.span.start)?;
            overlaps(first.span, range).then_some("Show advice")?
        }
        AdviceDisplay::All => {
            hidden.iter().any(|diagnostic| overlaps(diagnostic.span, range)).then_some("Hide advice")?
        }
    };
    let command = Command {
        title: title.to_owned(),
        command: ServerCommand::Advice.id().to_owned(),
        arguments: Some(vec![json!({ "uri": snapshot.uri })]),
    };
    Some(CodeActionOrCommand::CodeAction(CodeAction {
        title: title.to_owned(),
        kind: Some(CodeActionKind::QUICKFIX),
        command: Some(command),
        ..CodeAction::default()
    }))
}

/// The diagnostics of the range. If the client names some of them, only those.
fn requested_diagnostics<'a>(
    snapshot: &Snapshot,
    analysis: &'a Analysis,
    file: FileId,
    range: &std::ops::Range<usize>,
    named: &[tower_lsp::ls_types::Diagnostic],
) -> Vec<(&'a Diagnostic, Option<tower_lsp::ls_types::Diagnostic>)> {
    let hidden = diagnostics::hidden_advice(analysis, file, &snapshot.settings, snapshot.advice_display);
    let is_hidden =
        |diagnostic: &Diagnostic| !hidden.is_empty() && diagnostics::is_advice(diagnostic, &snapshot.settings);
    let in_range =
        analysis.diagnostics_in(file).filter(|diagnostic| overlaps(diagnostic.span, range) && !is_hidden(diagnostic));
    let mut all: Vec<_> = in_range
        .map(|diagnostic| {
            (diagnostic, diagnostics::to_lsp_diagnostic(analysis, diagnostic, snapshot.encoding, &snapshot.settings))
        })
        .collect();
    let is_named = |shown: &Option<tower_lsp::ls_types::Diagnostic>| {
        shown
            .as_ref()
            .is_some_and(|shown| named.iter().any(|named| named.code == shown.code && named.range == shown.range))
    };
    if all.iter().any(|(_, shown)| is_named(shown)) {
        all.retain(|(_, shown)| is_named(shown));
    }
    all
}

/// Offered only if the client requests source actions. Otherwise it would appear at every cursor position.
fn organise_action(
    snapshot: &Snapshot,
    analysis: &Analysis,
    file: FileId,
    params: &CodeActionParams,
) -> Option<CodeActionOrCommand> {
    let kind = CodeActionKind::new(ORGANISE);
    let is_current = analysis.text(file).is_some_and(|text| text.as_str() == snapshot.text.as_str());
    if params.context.only.is_none() || !RequestedKinds::from_params(params).includes(&kind) || !is_current {
        return None;
    }
    let text = organise::organise(&snapshot.text)?;
    let end = u32::try_from(snapshot.text.len()).ok()?;
    let edit = manifest::diagnostic::Edit { span: Span { file, start: 0, end }, text };
    let title = "Sort the sections into their usual order".to_owned();
    let action = Action { title, edits: vec![edit], ..Action::default() };
    Some(code_action(snapshot, analysis, action, kind, None))
}

/// Offered only if the analysis is of the current text. Edits for another text would change the wrong bytes.
fn refactorings(snapshot: &Snapshot, analysis: &Analysis, file: FileId, range: &std::ops::Range<usize>) -> Vec<Action> {
    let is_current = analysis.text(file).is_some_and(|text| text.as_str() == snapshot.text.as_str());
    let Some(root) = snapshot.root().filter(|_| is_current) else { return Vec::new() };
    let context = refactors::RefactorContext {
        root,
        text: &snapshot.text,
        comments: &analysis.loaded().comments,
        manifest: &analysis.loaded().manifest,
        file,
        files: &analysis.buffers,
        has_other_files: analysis.paths().count() > 1,
    };
    refactors::refactorings_at(&context, range)
}

/// Whether the client can create the action's files, and none of them exists.
fn can_create_files(analysis: &Analysis, capabilities: ClientCapabilities, action: &Action) -> bool {
    let is_absent = |file: &NewFile| !analysis.buffers.path(&file.path).exists();
    action.new_files.is_empty() || (capabilities.create_files && action.new_files.iter().all(is_absent))
}

/// A command instead of an edit, because the value must be in the vault before the manifest changes.
fn vault_action(snapshot: &Snapshot, literal: &SecretLiteral, kind: CodeActionKind) -> CodeActionOrCommand {
    let title = format!("Move `{}` into the vault, as the secret `{}`", literal.variable, literal.secret);
    let argument = json!({ "uri": snapshot.uri, "unit": literal.unit, "variable": literal.variable });
    let command =
        Command { title: title.clone(), command: ServerCommand::Keep.id().to_owned(), arguments: Some(vec![argument]) };
    CodeActionOrCommand::CodeAction(CodeAction {
        title,
        kind: Some(kind),
        command: Some(command),
        ..CodeAction::default()
    })
}

/// Restores the request that offered an action, when the client requests the action's edits.
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

/// The edit of the action with this title.
#[must_use]
pub fn resolved_edit(answer: CodeActionResponse, title: &str) -> Option<WorkspaceEdit> {
    answer.into_iter().find_map(|entry| match entry {
        CodeActionOrCommand::CodeAction(action) if action.title == title => action.edit,
        _ => None,
    })
}

/// The kinds of actions that the client requests. All kinds if it names none.
pub(super) struct RequestedKinds<'a> {
    only: Option<&'a [CodeActionKind]>,
}

impl<'a> RequestedKinds<'a> {
    pub(super) fn from_params(params: &'a CodeActionParams) -> Self {
        Self { only: params.context.only.as_deref() }
    }

    /// Kinds are hierarchical: `source` includes `source.fixAll.pdev`.
    pub(super) fn includes(&self, kind: &CodeActionKind) -> bool {
        let is_ancestor = |requested: &CodeActionKind| {
            let rest = kind.as_str().strip_prefix(requested.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || requested.as_str().is_empty())
        };
        self.only.is_none_or(|only| only.iter().any(is_ancestor))
    }
}

/// Both ends are inclusive: a cursor directly after a word is still on that word.
fn overlaps(span: Span, range: &std::ops::Range<usize>) -> bool {
    let span = span.range();
    span.start <= range.end && range.start <= span.end
}

fn code_action(
    snapshot: &Snapshot,
    analysis: &Analysis,
    action: Action,
    kind: CodeActionKind,
    diagnostic: Option<tower_lsp::ls_types::Diagnostic>,
) -> CodeActionOrCommand {
    let edit = match action.new_files.is_empty() {
        true => edits::workspace_edit(analysis, &action.edits, snapshot.encoding),
        false => edits::workspace_edit_with_new_files(analysis, &action, snapshot.encoding),
    };
    CodeActionOrCommand::CodeAction(CodeAction {
        title: action.title,
        kind: Some(kind),
        diagnostics: diagnostic.map(|diagnostic| vec![diagnostic]),
        edit: Some(edit),
        is_preferred: Some(action.is_preferred),
        ..CodeAction::default()
    })
}
