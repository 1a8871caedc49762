//! `# pdev: allow PD008 -- reason` silences a reviewed finding on its own line or on the next one.
//!
//! Errors cannot be silenced. A comment that silences nothing is reported, because it would hide the next finding.
//! Guardrails that other environments deny are waived in the manifest instead, with an owner and an expiry date.

use manifest::diagnostic::Edit;
use manifest::{Diagnostic, FileId, Severity, Span};

use crate::broken_units::BrokenUnits;
use crate::codes;
use crate::load::LoadedManifest;

const ALLOW_PREFIX: &str = "pdev: allow ";

struct AllowComment<'a> {
    code: &'a str,
    reason: &'a str,
    file: FileId,
    /// The line whose findings it silences, zero-based.
    line: usize,
    span: Span,
    /// The text to delete when the comment is removed: the comment with its line break or leading spaces.
    removal_span: Span,
    used: bool,
}

/// Removes the allowed diagnostics, and adds diagnostics about the comments themselves.
pub(crate) fn apply(loaded: &LoadedManifest, broken_units: &BrokenUnits, diagnostics: &mut Vec<Diagnostic>) {
    let mut comments: Vec<AllowComment<'_>> =
        loaded.comments.iter().flat_map(|comment| parse_comment(loaded, comment.span, &comment.text)).collect();
    if comments.is_empty() {
        return;
    }
    diagnostics.retain(|diagnostic| {
        let line = line_index(loaded, diagnostic.span);
        let allows = |comment: &&mut AllowComment<'_>| {
            comment.file == diagnostic.span.file
                && comment.line == line
                && comment.code == diagnostic.code.0
                && !comment.reason.is_empty()
                && diagnostic.severity != Severity::Error
        };
        let allowing_comment = comments.iter_mut().find(allows);
        allowing_comment.map(|comment| comment.used = true).is_none()
    });
    // The finding may be among those that are not reported because of another error.
    let reported: Vec<(FileId, usize, &str)> =
        diagnostics.iter().map(|found| (found.span.file, line_index(loaded, found.span), found.code.0)).collect();
    let is_undecided = |comment: &AllowComment<'_>| {
        if reported.contains(&(comment.file, comment.line, comment.code)) {
            return false;
        }
        let target = loaded.sources.get(comment.file).and_then(|source| source.line_starts.get(comment.line + 1));
        let line_end = target.map_or(comment.span.range().end, |next| (*next as usize).saturating_sub(1));
        broken_units.contains(comment.file, line_end.saturating_sub(1))
    };
    let unused = comments.iter().filter(|comment| !comment.used && !is_undecided(comment));
    let unused: Vec<Diagnostic> = unused.map(unused_diagnostic).collect();
    diagnostics.extend(unused);
}

fn unused_diagnostic(comment: &AllowComment<'_>) -> Diagnostic {
    let code = comment.code;
    let (message, help) = if comment.reason.is_empty() {
        (
            format!("this comment allows `{code}` without a reason"),
            format!("Write `# {ALLOW_PREFIX}{code} -- why it is right here`."),
        )
    } else {
        (
            format!("this comment allows `{code}`, but silences nothing"),
            "Remove it: the finding is gone, or it is an error, which cannot be silenced.".to_owned(),
        )
    };
    let diagnostic = Diagnostic::new(codes::ALLOW_UNUSED, Severity::Warning, comment.span, message).help(help);
    if comment.reason.is_empty() {
        return diagnostic;
    }
    diagnostic.fix("remove the comment", true, vec![Edit { span: comment.removal_span, text: String::new() }])
}

fn parse_comment<'a>(loaded: &'a LoadedManifest, span: Span, text: &'a str) -> Option<AllowComment<'a>> {
    let rest = text.trim_start_matches('#').trim().strip_prefix(ALLOW_PREFIX)?;
    let (code, reason) = rest.split_once("--").unwrap_or((rest, ""));
    let text = loaded.sources.get(span.file)?.text.as_ref();
    let start = span.start as usize;
    let before = text.get(..start)?.rsplit('\n').next().unwrap_or_default();
    let own_line = line_index(loaded, span);
    // A comment alone on its line applies to the next line that is not a comment, else to its own line. A byte order
    // mark at the start of the file is not text.
    let is_alone = before.trim_start_matches('\u{feff}').trim().is_empty();
    let end = span.end as usize;
    let removal_span = if is_alone {
        let newline = text.get(end..)?.find('\n').map_or(text.len(), |offset| end + offset + 1);
        Span::new(span.file, start - before.len(), newline)
    } else {
        Span::new(span.file, start - (before.len() - before.trim_end().len()), end)
    };
    let target = if is_alone {
        let below = text.get(start..)?.lines().skip(1);
        own_line + 1 + below.take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#')).count()
    } else {
        own_line
    };
    Some(AllowComment {
        code: code.trim(),
        reason: reason.trim(),
        file: span.file,
        line: target,
        span,
        removal_span,
        used: false,
    })
}

fn line_index(loaded: &LoadedManifest, span: Span) -> usize {
    let Some(source) = loaded.sources.get(span.file) else { return 0 };
    source.line_starts.partition_point(|&start| start <= span.start).saturating_sub(1)
}
