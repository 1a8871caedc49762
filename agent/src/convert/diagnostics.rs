//! Diagnostics of the manifest to their wire type, with lines and columns.

use manifest::{Diagnostic, Severity, Sources, Span};
use protocol::problem::{DiagnosticView, EditView, FixView, RelatedView};

#[must_use]
pub fn diagnostic_views(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<DiagnosticView> {
    diagnostics.iter().map(|diagnostic| diagnostic_view(diagnostic, sources)).collect()
}

fn diagnostic_view(diagnostic: &Diagnostic, sources: &Sources) -> DiagnosticView {
    let span = diagnostic.span;
    let start = sources.position(span.file, span.start as usize);
    let end = sources.position(span.file, span.end as usize);
    DiagnosticView {
        code: diagnostic.code.0.to_owned(),
        severity: severity_name(diagnostic.severity).to_owned(),
        message: diagnostic.message.clone(),
        file: file_path(sources, span),
        line: start.line,
        column: start.column,
        end_line: end.line,
        end_column: end.column,
        start: span.start,
        end: span.end,
        path: diagnostic.path.clone(),
        help: diagnostic.help.clone(),
        related: diagnostic
            .related
            .iter()
            .map(|related| {
                let at = sources.position(related.span.file, related.span.start as usize);
                RelatedView {
                    message: related.message.clone(),
                    file: file_path(sources, related.span),
                    line: at.line,
                    column: at.column,
                }
            })
            .collect(),
        fixes: diagnostic
            .fixes
            .iter()
            .map(|fix| FixView {
                title: fix.title.clone(),
                safe: fix.safe,
                edits: fix
                    .edits
                    .iter()
                    .map(|edit| EditView {
                        file: file_path(sources, edit.span),
                        start: edit.span.start,
                        end: edit.span.end,
                        text: edit.text.clone(),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn file_path(sources: &Sources, span: Span) -> String {
    sources.get(span.file).map(|source| source.path.clone()).unwrap_or_default()
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}
