//! Diagnostics in the wire's form.

use manifest::{Diagnostic, Severity, Sources, Span};
use protocol::problem::{DiagnosticView, EditView, FixView, RelatedView};

#[must_use]
pub(crate) fn diagnostics(found: &[Diagnostic], sources: &Sources) -> Vec<DiagnosticView> {
    found.iter().map(|diagnostic| diagnostic_view(diagnostic, sources)).collect()
}

fn diagnostic_view(diagnostic: &Diagnostic, sources: &Sources) -> DiagnosticView {
    let span = diagnostic.span;
    let start = sources.position(span.file, span.start as usize);
    let end = sources.position(span.file, span.end as usize);
    DiagnosticView {
        code: diagnostic.code.0.to_owned(),
        severity: severity(diagnostic.severity).to_owned(),
        message: diagnostic.message.clone(),
        file: file(sources, span),
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
                    file: file(sources, related.span),
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
                        file: file(sources, edit.span),
                        start: edit.span.start,
                        end: edit.span.end,
                        text: edit.text.clone(),
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn file(sources: &Sources, span: Span) -> String {
    sources.get(span.file).map(|source| source.path.clone()).unwrap_or_default()
}

#[must_use]
pub(crate) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}
