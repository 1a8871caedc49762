//! Diagnostics, converted to protocol types: range, code with its page, fixes as text in the message and as edits in
//! `data`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use manifest::{Code, Diagnostic, FileId, Severity};
use serde_json::{Value, json};
use tower_lsp::ls_types::{
    self as lsp, CodeDescription, DiagnosticRelatedInformation, DiagnosticSeverity, DiagnosticTag, Location,
    NumberOrString, Uri,
};

use super::Encoding;
use crate::check::Analysis;
use crate::settings::{Settings, SeverityOverride};

pub const SOURCE: &str = "pdev";

/// The folder with the page of each code. The pages are local files, so links work offline and fit this version of
/// pdev. Set once, before the server starts.
static PAGES_FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Sets the folder that contains `CODE.md` for every code.
pub fn set_pages_folder(folder: PathBuf) {
    // A second server in the same process uses the same pages.
    drop(PAGES_FOLDER.set(folder));
}

/// The code of the hint that counts the advice of a file.
pub const ADVICE: &str = "advice";

/// How to show advice. Nearly every service has some, so a long manifest has hundreds of hints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AdviceDisplay {
    /// One hint per file, which counts them.
    #[default]
    Summary,
    All,
}

/// The diagnostics of one file, with the severities of the user's settings.
#[must_use]
pub fn file_diagnostics(
    analysis: &Analysis,
    file: FileId,
    encoding: Encoding,
    settings: &Settings,
    advice_display: AdviceDisplay,
) -> Vec<lsp::Diagnostic> {
    let hidden = hidden_advice(analysis, file, settings, advice_display);
    let summary = advice_summary(analysis, &hidden, encoding);
    let is_shown = |diagnostic: &&Diagnostic| hidden.is_empty() || !is_advice(diagnostic, settings);
    let shown = analysis.diagnostics_in(file).filter(is_shown);
    shown.filter_map(|diagnostic| to_lsp_diagnostic(analysis, diagnostic, encoding, settings)).chain(summary).collect()
}

/// The advice that the summary replaces. A single one is shown as it is.
#[must_use]
pub fn hidden_advice<'a>(
    analysis: &'a Analysis,
    file: FileId,
    settings: &Settings,
    advice_display: AdviceDisplay,
) -> Vec<&'a Diagnostic> {
    if advice_display == AdviceDisplay::All {
        return Vec::new();
    }
    let advice: Vec<&Diagnostic> =
        analysis.diagnostics_in(file).filter(|diagnostic| is_advice(diagnostic, settings)).collect();
    if advice.len() > 1 { advice } else { Vec::new() }
}

/// Advice for which the user has chosen no severity. Deprecated and unused parts are always shown.
#[must_use]
pub fn is_advice(diagnostic: &Diagnostic, settings: &Settings) -> bool {
    diagnostic.severity == Severity::Info
        && !settings.codes.contains_key(diagnostic.code.0)
        && tags(diagnostic.code).is_none()
}

/// The hint at the first hidden advice.
fn advice_summary(analysis: &Analysis, hidden: &[&Diagnostic], encoding: Encoding) -> Option<lsp::Diagnostic> {
    let first = hidden.iter().min_by_key(|diagnostic| diagnostic.span.start)?;
    let range = encoding.range(analysis.text(first.span.file)?, first.span.range());
    let message = format!("{} suggestions for this file. The action *Show advice* lists them.", hidden.len());
    Some(lsp::Diagnostic {
        range,
        severity: Some(DiagnosticSeverity::HINT),
        code: Some(NumberOrString::String(ADVICE.to_owned())),
        source: Some(SOURCE.to_owned()),
        message,
        data: Some(json!({ "path": "", "start": first.span.start, "end": first.span.end, "fixes": [] })),
        ..lsp::Diagnostic::default()
    })
}

#[must_use]
pub fn to_lsp_diagnostic(
    analysis: &Analysis,
    diagnostic: &Diagnostic,
    encoding: Encoding,
    settings: &Settings,
) -> Option<lsp::Diagnostic> {
    let text = analysis.text(diagnostic.span.file)?;
    let related: Vec<_> = diagnostic
        .related
        .iter()
        .filter_map(|related| {
            let uri = Uri::from_file_path(analysis.path(related.span.file)?)?;
            let range = encoding.range(analysis.text(related.span.file)?, related.span.range());
            Some(DiagnosticRelatedInformation { location: Location { uri, range }, message: related.message.clone() })
        })
        .collect();
    Some(lsp::Diagnostic {
        range: encoding.range(text, diagnostic.span.range()),
        severity: Some(severity(diagnostic, settings)?),
        code: Some(NumberOrString::String(diagnostic.code.0.to_owned())),
        code_description: page_uri(diagnostic.code.0).map(|href| CodeDescription { href }),
        source: Some(SOURCE.to_owned()),
        message: message(diagnostic),
        related_information: (!related.is_empty()).then_some(related),
        tags: tags(diagnostic.code),
        data: Some(data(analysis, diagnostic, encoding)),
    })
}

#[must_use]
pub fn page_uri(code: &str) -> Option<Uri> {
    /// A long manifest has thousands of diagnostics with a few codes, so each URI is built once.
    static URI_CACHE: Mutex<BTreeMap<String, Option<Uri>>> = Mutex::new(BTreeMap::new());
    let folder = PAGES_FOLDER.get()?;
    let mut cache = URI_CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(page) = cache.get(code) {
        return page.clone();
    }
    let page = Uri::from_file_path(folder.join(format!("{code}.md")));
    cache.insert(code.to_owned(), page.clone());
    page
}

/// Returns `None` if the user turned this code off.
#[must_use]
pub fn severity(diagnostic: &Diagnostic, settings: &Settings) -> Option<DiagnosticSeverity> {
    let default = match diagnostic.severity {
        Severity::Error => DiagnosticSeverity::ERROR,
        Severity::Warning => DiagnosticSeverity::WARNING,
        // Nearly every service has some advice, so it is shown with the least prominent severity.
        Severity::Info => DiagnosticSeverity::HINT,
    };
    match settings.codes.get(diagnostic.code.0) {
        Some(SeverityOverride::Off) => None,
        Some(SeverityOverride::Hint) => Some(DiagnosticSeverity::HINT),
        Some(SeverityOverride::Info) => Some(DiagnosticSeverity::INFORMATION),
        Some(SeverityOverride::Warning) => Some(DiagnosticSeverity::WARNING),
        Some(SeverityOverride::Error) => Some(DiagnosticSeverity::ERROR),
        None => Some(default),
    }
}

/// The message with its fixes, because some clients, such as coding agents, show only the message.
#[must_use]
pub fn message(diagnostic: &Diagnostic) -> String {
    let mut text = diagnostic.message.clone();
    if let Some(help) = &diagnostic.help {
        text.push('\n');
        text.push_str(help);
    }
    for fix in &diagnostic.fixes {
        text.push_str("\nfix: ");
        text.push_str(&fix.title);
    }
    text
}

fn tags(code: Code) -> Option<Vec<DiagnosticTag>> {
    match code {
        catalog::codes::DEPRECATED => Some(vec![DiagnosticTag::DEPRECATED]),
        plan::codes::WAIVER_UNUSED | plan::codes::ALLOW_UNUSED => Some(vec![DiagnosticTag::UNNECESSARY]),
        _ => None,
    }
}

/// The same data as in `pdev check --json`: the path in the manifest, and edits with both ranges and byte offsets.
fn data(analysis: &Analysis, diagnostic: &Diagnostic, encoding: Encoding) -> Value {
    let edit = |edit: &manifest::diagnostic::Edit| {
        let text = analysis.text(edit.span.file)?;
        let uri = Uri::from_file_path(analysis.path(edit.span.file)?)?;
        let range = encoding.range(text, edit.span.range());
        Some(
            json!({ "uri": uri, "range": range, "newText": edit.text, "start": edit.span.start, "end": edit.span.end }),
        )
    };
    let fixes: Vec<Value> = diagnostic
        .fixes
        .iter()
        .map(|fix| {
            let edits: Vec<Value> = fix.edits.iter().filter_map(edit).collect();
            json!({ "title": fix.title, "safe": fix.safe, "edits": edits })
        })
        .collect();
    json!({ "path": diagnostic.path, "start": diagnostic.span.start, "end": diagnostic.span.end, "fixes": fixes })
}
