//! Diagnostics as data: the wire's form, and SARIF 2.1.0 for code scanning.

use manifest::diagnostic::{Edit, Fix, Related};
use manifest::{Diagnostic, FileId, Sources};
use protocol::problem::{DiagnosticView, EditView, FixView, RelatedView};
use serde_json::{Value, json};

use super::diagnostic::severity_word;

fn path(file: FileId, sources: &Sources) -> String {
    sources.get(file).map(|source| source.path.clone()).unwrap_or_default()
}

pub(crate) fn view(diagnostic: &Diagnostic, sources: &Sources) -> DiagnosticView {
    let span = diagnostic.span;
    let start = sources.position(span.file, span.start as usize);
    let end = sources.position(span.file, span.end as usize);
    DiagnosticView {
        code: diagnostic.code.0.to_owned(),
        severity: severity_word(diagnostic.severity).to_owned(),
        message: diagnostic.message.clone(),
        file: path(span.file, sources),
        line: start.line,
        column: start.column,
        end_line: end.line,
        end_column: end.column,
        start: span.start,
        end: span.end,
        path: diagnostic.path.clone(),
        help: diagnostic.help.clone(),
        related: diagnostic.related.iter().map(|related| related_view(related, sources)).collect(),
        fixes: diagnostic.fixes.iter().map(|fix| fix_view(fix, sources)).collect(),
    }
}

fn related_view(related: &Related, sources: &Sources) -> RelatedView {
    let start = sources.position(related.span.file, related.span.start as usize);
    RelatedView {
        message: related.message.clone(),
        file: path(related.span.file, sources),
        line: start.line,
        column: start.column,
    }
}

fn fix_view(fix: &Fix, sources: &Sources) -> FixView {
    let edit = |edit: &Edit| EditView {
        file: path(edit.span.file, sources),
        start: edit.span.start,
        end: edit.span.end,
        text: edit.text.clone(),
    };
    FixView { title: fix.title.clone(), safe: fix.safe, edits: fix.edits.iter().map(edit).collect() }
}

/// One run over any number of manifests.
pub(crate) fn sarif(views: &[DiagnosticView]) -> Value {
    let mut codes: Vec<&str> = views.iter().map(|view| view.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    let rules: Vec<Value> = codes.iter().map(|code| json!({ "id": code })).collect();
    let results: Vec<Value> = views.iter().map(|view| sarif_result(view, &codes)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "pdev",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn sarif_result(view: &DiagnosticView, codes: &[&str]) -> Value {
    let mut text = view.message.clone();
    if let Some(help) = &view.help {
        text = format!("{text}. {help}");
    }
    let level = if view.severity == "info" { "note" } else { view.severity.as_str() };
    let related: Vec<Value> = view
        .related
        .iter()
        .map(|related| {
            json!({
                "message": { "text": related.message },
                "physicalLocation": {
                    "artifactLocation": { "uri": related.file },
                    "region": { "startLine": related.line, "startColumn": related.column },
                },
            })
        })
        .collect();
    json!({
        "ruleId": view.code,
        "ruleIndex": codes.binary_search(&view.code.as_str()).unwrap_or(0),
        "level": level,
        "message": { "text": text },
        "locations": [{
            "physicalLocation": { "artifactLocation": { "uri": view.file }, "region": region(view) },
            "logicalLocations": [{ "fullyQualifiedName": view.path }],
        }],
        "relatedLocations": related,
        "fixes": view.fixes.iter().map(sarif_fix).collect::<Vec<_>>(),
    })
}

fn region(view: &DiagnosticView) -> Value {
    json!({
        "startLine": view.line, "startColumn": view.column, "endLine": view.end_line, "endColumn": view.end_column,
        "byteOffset": view.start, "byteLength": view.end.saturating_sub(view.start),
    })
}

/// SARIF wants the edits of a fix grouped by file.
fn sarif_fix(fix: &FixView) -> Value {
    let mut files: Vec<&str> = fix.edits.iter().map(|edit| edit.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    let changes: Vec<Value> = files
        .iter()
        .map(|file| {
            let of_file = fix.edits.iter().filter(|edit| edit.file == *file);
            let replacements: Vec<Value> = of_file
                .map(|edit| {
                    json!({
                        "deletedRegion": { "byteOffset": edit.start, "byteLength": edit.end.saturating_sub(edit.start) },
                        "insertedContent": { "text": edit.text },
                    })
                })
                .collect();
            json!({ "artifactLocation": { "uri": file }, "replacements": replacements })
        })
        .collect();
    json!({ "description": { "text": fix.title }, "artifactChanges": changes })
}
