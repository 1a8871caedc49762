//! `module.yaml` and `pdev.lock`: files that belong to pdev and to no manifest. Each is looked at alone, when asked.

use std::collections::HashMap;

use manifest::diagnostic::Edit;
use manifest::{Diagnostic as Finding, Severity};
use serde_json::json;
use tower_lsp::ls_types::*;

use crate::analysis::completion::Item;
use crate::analysis::{lock_file, module_file};
use crate::client_capabilities::ClientCapabilities;
use crate::convert::diagnostics::{self, SOURCE};
use crate::convert::edits::text_edit;
use crate::workspace::{FileKind, Snapshot};

fn analyse_file(snapshot: &Snapshot) -> Vec<Finding> {
    let Some(files) = &snapshot.sibling_files else { return Vec::new() };
    match snapshot.kind {
        FileKind::Module => catalog::check_module(".", files),
        FileKind::Lock => lock_file::lock_diagnostics(&snapshot.text, files),
        _ => Vec::new(),
    }
}

#[must_use]
pub fn standalone_diagnostics(snapshot: &Snapshot) -> Vec<Diagnostic> {
    analyse_file(snapshot).iter().filter_map(|one| to_lsp_diagnostic(snapshot, one)).collect()
}

fn to_lsp_diagnostic(snapshot: &Snapshot, one: &Finding) -> Option<Diagnostic> {
    let mut severity = diagnostics::severity(one, &snapshot.settings)?;
    if one.severity == Severity::Info && severity == DiagnosticSeverity::HINT {
        severity = DiagnosticSeverity::INFORMATION;
    }
    let edit = |edit: &Edit| {
        let TextEdit { range, new_text } = text_edit(&snapshot.text, edit, snapshot.encoding);
        json!({ "uri": snapshot.uri, "range": range, "newText": new_text, "start": edit.span.start, "end": edit.span.end })
    };
    let fixes = one.fixes.iter().map(
        |fix| json!({ "title": fix.title, "safe": fix.safe, "edits": fix.edits.iter().map(edit).collect::<Vec<_>>() }),
    );
    let data =
        json!({ "path": one.path, "start": one.span.start, "end": one.span.end, "fixes": fixes.collect::<Vec<_>>() });
    Some(Diagnostic {
        range: snapshot.encoding.range(&snapshot.text, one.span.range()),
        severity: Some(severity),
        code: Some(NumberOrString::String(one.code.0.to_owned())),
        code_description: diagnostics::page_uri(one.code.0).map(|href| CodeDescription { href }),
        source: Some(SOURCE.to_owned()),
        message: diagnostics::message(one),
        data: Some(data),
        ..Diagnostic::default()
    })
}

/// The fixes of what is found around the range.
#[must_use]
pub fn code_actions(snapshot: &Snapshot, params: &CodeActionParams) -> CodeActionResponse {
    let wanted = snapshot.encoding.byte_range(&snapshot.text, params.range);
    let mut answer = Vec::new();
    for one in analyse_file(snapshot) {
        let own = one.span.range();
        if own.start > wanted.end || wanted.start > own.end {
            continue;
        }
        for fix in &one.fixes {
            let edits = fix.edits.iter().map(|edit| text_edit(&snapshot.text, edit, snapshot.encoding)).collect();
            let changes = HashMap::from([(snapshot.uri.clone(), edits)]);
            answer.push(CodeActionOrCommand::CodeAction(CodeAction {
                title: fix.title.clone(),
                kind: Some(CodeActionKind::QUICKFIX),
                diagnostics: to_lsp_diagnostic(snapshot, &one).map(|one| vec![one]),
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
