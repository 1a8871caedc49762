//! Parses text to a tree of spanned nodes. Never fails: text that does not parse is blanked out and reported, and the
//! rest of the tree is kept.

mod incremental;
mod repair;
mod scalar;
mod tree;
mod tree_builder;

pub use incremental::{PreviousParse, ReparseBase};
pub use scalar::{Scalar, Value};
pub use tree::{Comment, Kind, Node, Pair};

use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::text::{FileId, Span};

/// The result of parsing one file.
#[derive(Clone, Debug, Default)]
pub struct ParsedFile {
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
    pub diagnostics: Vec<Diagnostic>,
    /// The base for incremental parsing of the next version.
    pub reparse_base: ReparseBase,
}

/// Parses one file. `text` is the result of [`decode_utf8`].
#[must_use]
pub fn parse(text: &str, file: FileId) -> ParsedFile {
    parse_incremental(text, file, None)
}

/// Returns the same result as [`parse`], but faster if the previous version differs within one unit only.
#[must_use]
pub fn parse_incremental(text: &str, file: FileId, previous: Option<PreviousParse<'_>>) -> ParsedFile {
    if let Some(conflict) = find_conflict_marker(text, file) {
        return ParsedFile { diagnostics: vec![conflict], ..ParsedFile::default() };
    }
    repair::parse_with_repairs(text, file, previous)
}

/// Decodes bytes to text. Replaces invalid UTF-8 with U+FFFD and reports the first occurrence.
#[must_use]
pub fn decode_utf8(bytes: Vec<u8>, file: FileId) -> (String, Option<Diagnostic>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let span = Span::new(file, at, at + '\u{fffd}'.len_utf8());
            let found = Diagnostic::new(codes::NOT_UTF8, Severity::Error, span, "this is not UTF-8 text");
            (text, Some(found.help("Save the file as UTF-8.")))
        }
    }
}

/// Finds the first merge conflict marker. Such a file gets this one diagnostic instead of one per broken line.
fn find_conflict_marker(text: &str, file: FileId) -> Option<Diagnostic> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            let span = Span::new(file, at, at + line.trim_end().len());
            let found = Diagnostic::new(
                codes::MERGE_CONFLICT,
                Severity::Error,
                span,
                "the file holds an unresolved merge conflict",
            );
            return Some(found.help("Resolve the conflict and remove its markers."));
        }
        at += line.len();
    }
    None
}
