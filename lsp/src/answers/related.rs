//! `module.yaml` and `pdev.lock`: files that belong to pdev and to no manifest. Each is looked at alone, when asked.

use std::collections::HashMap;

use manifest::diagnostic::Edit;
use manifest::{Diagnostic as Finding, Severity};
use serde_json::json;
use tower_lsp::ls_types::*;

use crate::analysis::completion::Item;
use crate::analysis::{lock_file, module_file};
use crate::client_can::ClientCan;
use crate::convert::diagnostics::{self, SOURCE};
use crate::convert::edits::text_edit;
use crate::workspace::{Kind, Snapshot};

fn found(snapshot: &Snapshot) -> Vec<Finding> {
    let Some(files) = &snapshot.beside else { return Vec::new() };
    match snapshot.kind {
        Kind::Module => catalog::check(".", files),
        Kind::Lock => lock_file::findings(&snapshot.text, files),
        _ => Vec::new(),
    }
}

#[must_use]
pub fn findings(snapshot: &Snapshot) -> Vec<Diagnostic> {
    found(snapshot).iter().filter_map(|one| converted(snapshot, one)).collect()
}

fn converted(snapshot: &Snapshot, one: &Finding) -> Option<Diagnostic> {
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
        code_description: diagnostics::page(one.code.0).map(|href| CodeDescription { href }),
        source: Some(SOURCE.to_owned()),
        message: diagnostics::message(one),
        data: Some(data),
        ..Diagnostic::default()
    })
}

/// The fixes of what is found around the range.
#[must_use]
pub fn code_actions(snapshot: &Snapshot, params: &CodeActionParams) -> CodeActionResponse {
    let wanted = snapshot.encoding.bytes(&snapshot.text, params.range);
    let mut answer = Vec::new();
    for one in found(snapshot) {
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
                diagnostics: converted(snapshot, &one).map(|one| vec![one]),
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
    let (value, range) = match (snapshot.kind, &snapshot.beside) {
        (Kind::Module, _) => module_file::hover(snapshot.root()?, offset)?,
        (Kind::Lock, Some(files)) => lock_file::hover(&snapshot.text, files, offset)?,
        _ => return None,
    };
    let kind = if markdown { MarkupKind::Markdown } else { MarkupKind::PlainText };
    Some(Hover {
        contents: HoverContents::Markup(MarkupContent { kind, value }),
        range: Some(snapshot.encoding.range(&snapshot.text, range)),
    })
}

#[must_use]
pub fn completion(snapshot: &Snapshot, can: ClientCan, position: Position) -> Vec<CompletionItem> {
    if snapshot.kind != Kind::Module {
        return Vec::new();
    }
    let offset = snapshot.encoding.offset(&snapshot.text, position);
    let items: Vec<Item> = module_file::complete(&snapshot.text, snapshot.root(), offset);
    let convert = |(index, item)| super::completion::completion_item(snapshot, can, index, item);
    items.into_iter().enumerate().map(convert).collect()
}
