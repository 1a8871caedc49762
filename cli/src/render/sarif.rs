//! Diagnostics as SARIF 2.1.0, for code scanning.

use protocol::problem::{DiagnosticView, FixView};
use serde_json::{Value, json};

/// One run over any number of manifests.
pub(crate) fn log(views: &[DiagnosticView]) -> Value {
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

/// SARIF groups the edits of a fix by file.
fn sarif_fix(fix: &FixView) -> Value {
    let mut files: Vec<&str> = fix.edits.iter().map(|edit| edit.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    let changes: Vec<Value> = files
        .iter()
        .map(|file| {
            let edits = fix.edits.iter().filter(|edit| edit.file == *file);
            let replacements: Vec<Value> = edits
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
