//! `# pdev: allow PD008 -- reason`: a finding that somebody has looked at, silenced on its line or the one below.
//!
//! Only what `up` goes on with can be silenced: an error stays. What silences nothing is told, or it would hide the next
//! finding. Guardrails that other environments deny are waived in the manifest, with an owner and an end.

use manifest::diagnostic::Edit;
use manifest::{Diagnostic, FileId, Severity, Span};

use crate::codes;
use crate::load::LoadedManifest;

const ALLOW_PREFIX: &str = "pdev: allow ";

struct AllowComment<'a> {
    code: &'a str,
    reason: &'a str,
    file: FileId,
    /// Zero-based; the line whose findings it silences.
    line: usize,
    span: Span,
    /// What goes with it when it is removed.
    removal_span: Span,
    used: bool,
}

/// Takes out what is allowed, and adds what is wrong with the comments themselves.
pub(crate) fn apply(loaded: &LoadedManifest, diagnostics: &mut Vec<Diagnostic>) {
    let mut all: Vec<AllowComment<'_>> =
        loaded.comments.iter().flat_map(|comment| parse_comment(loaded, comment.span, &comment.text)).collect();
    if all.is_empty() {
        return;
    }
    diagnostics.retain(|found| {
        let line = line_index(loaded, found.span);
        let fits = |one: &&mut AllowComment<'_>| {
            one.file == found.span.file
                && one.line == line
                && one.code == found.code.0
                && !one.reason.is_empty()
                && found.severity != Severity::Error
        };
        let allowed = all.iter_mut().find(fits);
        allowed.map(|one| one.used = true).is_none()
    });
    diagnostics.extend(all.iter().filter(|one| !one.used).map(unused_diagnostic));
}

fn unused_diagnostic(one: &AllowComment<'_>) -> Diagnostic {
    let code = one.code;
    let (message, help) = if one.reason.is_empty() {
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
    let found = Diagnostic::new(codes::ALLOW_UNUSED, Severity::Warning, one.span, message).help(help);
    if one.reason.is_empty() {
        return found;
    }
    found.fix("remove the comment", true, vec![Edit { span: one.removal_span, text: String::new() }])
}

fn parse_comment<'a>(loaded: &'a LoadedManifest, span: Span, text: &'a str) -> Option<AllowComment<'a>> {
    let rest = text.trim_start_matches('#').trim().strip_prefix(ALLOW_PREFIX)?;
    let (code, reason) = rest.split_once("--").unwrap_or((rest, ""));
    let text = loaded.sources.get(span.file)?.text.as_ref();
    let start = span.start as usize;
    let before = text.get(..start)?.rsplit('\n').next().unwrap_or_default();
    let own = line_index(loaded, span);
    // Alone on its line it speaks of the next one that is no comment, behind a value of that value's line.
    let alone = before.trim_start_matches('\u{feff}').trim().is_empty();
    let end = span.end as usize;
    let whole = if alone {
        let newline = text.get(end..)?.find('\n').map_or(text.len(), |found| end + found + 1);
        Span::new(span.file, start - before.len(), newline)
    } else {
        Span::new(span.file, start - (before.len() - before.trim_end().len()), end)
    };
    let target = if alone {
        let below = text.get(start..)?.lines().skip(1);
        own + 1 + below.take_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#')).count()
    } else {
        own
    };
    Some(AllowComment {
        code: code.trim(),
        reason: reason.trim(),
        file: span.file,
        line: target,
        span,
        removal_span: whole,
        used: false,
    })
}

fn line_index(loaded: &LoadedManifest, span: Span) -> usize {
    let Some(source) = loaded.sources.get(span.file) else { return 0 };
    source.line_starts.partition_point(|&start| start <= span.start).saturating_sub(1)
}
