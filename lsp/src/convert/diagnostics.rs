//! Findings as the client wants them: place, code with its page, the way out in the words, the edits in `data`.

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

/// The folder with the page of each code: files of this machine, so that a link works without a network and means the
/// very version that found something. Said once, before anybody is served.
static PAGES_FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Where `CODE.md` lies for every code.
pub fn set_pages_folder(folder: PathBuf) {
    // A second server of one process has the same pages.
    drop(PAGES_FOLDER.set(folder));
}

/// All findings of one file, as set by the user.
#[must_use]
pub fn file_diagnostics(
    analysis: &Analysis,
    file: FileId,
    encoding: Encoding,
    settings: &Settings,
) -> Vec<lsp::Diagnostic> {
    analysis.diagnostics_in(file).filter_map(|found| to_lsp_diagnostic(analysis, found, encoding, settings)).collect()
}

#[must_use]
pub fn to_lsp_diagnostic(
    analysis: &Analysis,
    found: &Diagnostic,
    encoding: Encoding,
    settings: &Settings,
) -> Option<lsp::Diagnostic> {
    let text = analysis.text(found.span.file)?;
    let related: Vec<_> = found
        .related
        .iter()
        .filter_map(|related| {
            let uri = Uri::from_file_path(analysis.path(related.span.file)?)?;
            let range = encoding.range(analysis.text(related.span.file)?, related.span.range());
            Some(DiagnosticRelatedInformation { location: Location { uri, range }, message: related.message.clone() })
        })
        .collect();
    Some(lsp::Diagnostic {
        range: encoding.range(text, found.span.range()),
        severity: Some(severity(found, settings)?),
        code: Some(NumberOrString::String(found.code.0.to_owned())),
        code_description: page_uri(found.code.0).map(|href| CodeDescription { href }),
        source: Some(SOURCE.to_owned()),
        message: message(found),
        related_information: (!related.is_empty()).then_some(related),
        tags: tags(found.code),
        data: Some(data(analysis, found, encoding)),
    })
}

#[must_use]
pub fn page_uri(code: &str) -> Option<Uri> {
    /// A long manifest has thousands of findings of a few codes.
    static URI_CACHE: Mutex<BTreeMap<String, Option<Uri>>> = Mutex::new(BTreeMap::new());
    let folder = PAGES_FOLDER.get()?;
    let mut known = URI_CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(page) = known.get(code) {
        return page.clone();
    }
    let page = Uri::from_file_path(folder.join(format!("{code}.md")));
    known.insert(code.to_owned(), page.clone());
    page
}

/// `None` when the user does not want to see it.
#[must_use]
pub fn severity(found: &Diagnostic, settings: &Settings) -> Option<DiagnosticSeverity> {
    let own = match found.severity {
        Severity::Error => DiagnosticSeverity::ERROR,
        Severity::Warning => DiagnosticSeverity::WARNING,
        // Advice concerns nearly every service: there for who looks, and quiet.
        Severity::Info => DiagnosticSeverity::HINT,
    };
    match settings.codes.get(found.code.0) {
        Some(SeverityOverride::Off) => None,
        Some(SeverityOverride::Hint) => Some(DiagnosticSeverity::HINT),
        Some(SeverityOverride::Info) => Some(DiagnosticSeverity::INFORMATION),
        Some(SeverityOverride::Warning) => Some(DiagnosticSeverity::WARNING),
        Some(SeverityOverride::Error) => Some(DiagnosticSeverity::ERROR),
        None => Some(own),
    }
}

/// With the way out: some clients, coding agents above all, show nothing else.
#[must_use]
pub fn message(found: &Diagnostic) -> String {
    let mut text = found.message.clone();
    if let Some(help) = &found.help {
        text.push('\n');
        text.push_str(help);
    }
    for fix in &found.fixes {
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

/// The same as in `pdev check --json`: where in the manifest, and edits with both kinds of places.
fn data(analysis: &Analysis, found: &Diagnostic, encoding: Encoding) -> Value {
    let edit = |edit: &manifest::diagnostic::Edit| {
        let text = analysis.text(edit.span.file)?;
        let uri = Uri::from_file_path(analysis.path(edit.span.file)?)?;
        let range = encoding.range(text, edit.span.range());
        Some(
            json!({ "uri": uri, "range": range, "newText": edit.text, "start": edit.span.start, "end": edit.span.end }),
        )
    };
    let fixes: Vec<Value> = found
        .fixes
        .iter()
        .map(|fix| {
            let edits: Vec<Value> = fix.edits.iter().filter_map(edit).collect();
            json!({ "title": fix.title, "safe": fix.safe, "edits": edits })
        })
        .collect();
    json!({ "path": found.path, "start": found.span.start, "end": found.span.end, "fixes": fixes })
}
