//! `module.yaml` and `pdev.lock`: files that belong to pdev but to no manifest. Each is analysed alone, for each
//! request.

use std::collections::HashMap;

use manifest::diagnostic::Edit;
use manifest::{Diagnostic as ManifestDiagnostic, Severity};
use serde_json::json;
use tower_lsp::ls_types::*;

use crate::analysis::completion::Item;
use crate::analysis::{lock_file, module_file};
use crate::client_capabilities::ClientCapabilities;
use crate::convert::diagnostics::{self, SOURCE};
use crate::convert::edits::text_edit;
use crate::workspace::{FileKind, Snapshot};

fn analyse_file(snapshot: &Snapshot) -> Vec<ManifestDiagnostic> {
    let Some(files) = &snapshot.sibling_files else { return Vec::new() };
    match snapshot.kind {
        FileKind::Module => catalog::check_module(".", files),
        FileKind::Lock => lock_file::lock_diagnostics(&snapshot.text, files),
        _ => Vec::new(),
    }
}

#[must_use]
pub fn standalone_diagnostics(snapshot: &Snapshot) -> Vec<Diagnostic> {
    analyse_file(snapshot).iter().filter_map(|found| to_lsp_diagnostic(snapshot, found)).collect()
}

fn to_lsp_diagnostic(snapshot: &Snapshot, found: &ManifestDiagnostic) -> Option<Diagnostic> {
    let mut severity = diagnostics::severity(found, &snapshot.settings)?;
    // In a manifest advice is a hint. Here it is the only diagnostic of its kind, so it is shown.
    if found.severity == Severity::Info && severity == DiagnosticSeverity::HINT {
        severity = DiagnosticSeverity::INFORMATION;
    }
    let edit = |edit: &Edit| {
        let TextEdit { range, new_text } = text_edit(&snapshot.text, edit, snapshot.encoding);
        json!({ "uri": snapshot.uri, "range": range, "newText": new_text, "start": edit.span.start, "end": edit.span.end })
    };
    let fixes = found.fixes.iter().map(
        |fix| json!({ "title": fix.title, "safe": fix.safe, "edits": fix.edits.iter().map(edit).collect::<Vec<_>>() }),
    );
    let data = json!({ "path": found.path, "start": found.span.start, "end": found.span.end, "fixes": fixes.collect::<Vec<_>>() });
    Some(Diagnostic {
        range: snapshot.encoding.range(&snapshot.text, found.span.range()),
        severity: Some(severity),
        code: Some(NumberOrString::String(found.code.0.to_owned())),
        code_description: diagnostics::page_uri(found.code.0).map(|href| CodeDescription { href }),
        source: Some(SOURCE.to_owned()),
        message: diagnostics::message(found),
        data: Some(data),
        ..Diagnostic::default()
    })
}

/// The fixes of the diagnostics in the range.
#[must_use]
pub fn code_actions(snapshot: &Snapshot, params: &CodeActionParams) -> CodeActionResponse {
    let requested = snapshot.encoding.byte_range(&snapshot.text, params.range);
    let mut answer = Vec::new();
    for found in analyse_file(snapshot) {
        let range = found.span.range();
        if range.start > requested.end || requested.start > range.end {
            continue;
        }
        for fix in &found.fixes {
            let edits = fix.edits.iter().map(|edit| text_edit(&snapshot.text, edit, snapshot.encoding)).collect();
            let changes = HashMap::from([(snapshot.uri.clone(), edits)]);
            answer.push(CodeActionOrCommand::CodeAction(CodeAction {
                title: fix.title.clone(),
                kind: Some(CodeActionKind::QUICKFIX),
                diagnostics: to_lsp_diagnostic(snapshot, &found).map(|diagnostic| vec![diagnostic]),
                edit: Some(WorkspaceEdit { changes: Some(changes), ..WorkspaceEdit::default() }),
                is_preferred: Some(fix.safe),
                ..CodeAction::default()
            }));
        }
    }
    answer
}

#[must_use]
pub fn hover(snapshot: &Snapshot, markdown: bool, position: Position) -> Option<Hover> {
    let offset = snapshot.encoding.offset(&snapshot.text, position);
    let (value, range) = match (snapshot.kind, &snapshot.sibling_files) {
        (FileKind::Module, _) => module_file::hover(snapshot.root()?, offset)?,
        (FileKind::Lock, Some(files)) => lock_file::hover(&snapshot.text, files, offset)?,
        _ => return None,
    };
    let kind = if markdown { MarkupKind::Markdown } else { MarkupKind::PlainText };
    Some(Hover {
        contents: HoverContents::Markup(MarkupContent { kind, value }),
        range: Some(snapshot.encoding.range(&snapshot.text, range)),
    })
}

#[must_use]
pub fn completion_items(
    snapshot: &Snapshot,
    capabilities: ClientCapabilities,
    position: Position,
) -> Vec<CompletionItem> {
    if snapshot.kind != FileKind::Module {
        return Vec::new();
    }
    let offset = snapshot.encoding.offset(&snapshot.text, position);
    let items: Vec<Item> = module_file::complete(&snapshot.text, snapshot.root(), offset);
    let convert = |(index, item)| super::completion::completion_item(snapshot, capabilities, index, item);
    items.into_iter().enumerate().map(convert).collect()
}
