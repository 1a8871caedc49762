//! Applies fixes to a text. All offsets refer to the original text, and edits never overlap.

use crate::diagnostic::{Diagnostic, Edit};
use crate::text::FileId;

/// Applies the edits of one file. Skips an edit that overlaps an earlier edit: the next check reports it again.
#[must_use]
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let mut sorted: Vec<&Edit> = edits.iter().collect();
    sorted.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut result = String::with_capacity(text.len() + 64);
    let mut at = 0;
    for edit in sorted {
        let range = edit.span.range();
        // Edits may come from an older version of the text, so the range is checked before slicing.
        if range.start < at
            || range.end > text.len()
            || !text.is_char_boundary(range.start)
            || !text.is_char_boundary(range.end)
        {
            continue;
        }
        result.push_str(&text[at..range.start]);
        result.push_str(&edit.text);
        at = range.end;
    }
    result.push_str(&text[at..]);
    result
}

/// The edits of all safe fixes that change only this file.
#[must_use]
pub fn safe_edits(diagnostics: &[Diagnostic], file: FileId) -> Vec<Edit> {
    diagnostics
        .iter()
        .filter_map(|diagnostic| diagnostic.fixes.iter().find(|fix| fix.safe))
        .filter(|fix| fix.edits.iter().all(|edit| edit.span.file == file))
        .flat_map(|fix| fix.edits.iter().cloned())
        .collect()
}
