//! Repairs half-typed text: blanks out the smallest piece that stops the parser, reports it, and parses again.
//!
//! Blanking preserves all offsets, so the rest of the tree has correct spans. Each repair is one diagnostic.

use super::ParsedFile;
use super::incremental::{self, PreviousParse, ReparseBase};
use super::tree_builder::{BuiltTree, ParseError, build_tree};
use crate::codes;
use crate::diagnostic::{Diagnostic, Edit, Severity};
use crate::text::{FileId, Span};

/// Limit of repairs per file; later syntax errors are not reported until the first ones are fixed.
const REPAIRS_MAX: usize = 8;

pub(super) fn parse_with_repairs(text: &str, file: FileId, previous: Option<PreviousParse<'_>>) -> ParsedFile {
    let build = |text: &str| {
        previous
            .and_then(|previous| incremental::reparse(text, file, previous))
            .unwrap_or_else(|| build_tree(text, file))
    };
    let mut repaired_text: Option<String> = None;
    let mut diagnostics = Vec::new();
    let mut built = build(text);
    while let Some(stop) = built.error.take() {
        let source = repaired_text.as_deref().unwrap_or(text);
        let Some((repaired, next, blanked)) = best_repair(source, &build, &stop) else {
            diagnostics.push(syntax_diagnostic(text, file, &stop, None));
            // The tree is incomplete, so it is not a base for incremental parsing.
            built.is_self_contained = false;
            break;
        };
        diagnostics.push(syntax_diagnostic(text, file, &stop, Some(blanked)));
        repaired_text = Some(repaired);
        built = next;
        if diagnostics.len() == REPAIRS_MAX {
            if let Some(stop) = &built.error {
                diagnostics.push(syntax_diagnostic(text, file, stop, None));
            }
            break;
        }
    }
    let reparse_base = ReparseBase::from_tree(&built, repaired_text.as_deref());
    diagnostics.extend(built.diagnostics);
    ParsedFile { root: built.root, comments: built.comments, diagnostics, reparse_base }
}

type Range = std::ops::Range<usize>;

/// The repair with which the parser gets furthest. `None` if no candidate gets past the current error.
fn best_repair(text: &str, build: &dyn Fn(&str) -> BuiltTree, stop: &ParseError) -> Option<(String, BuiltTree, Range)> {
    let mut best: Option<(usize, String, BuiltTree, Range)> = None;
    for range in repair_candidates(text, stop) {
        let repaired = blank_out(text, &range);
        let next = build(&repaired);
        let reach = next.error.as_ref().map_or(usize::MAX, |error| error.offset);
        if reach == usize::MAX {
            return Some((repaired, next, range));
        }
        if best.as_ref().is_none_or(|(furthest, ..)| reach > *furthest) {
            best = Some((reach, repaired, next, range));
        }
    }
    best.filter(|(reach, ..)| *reach > stop.offset || *reach == text.len())
        .map(|(_, repaired, next, range)| (repaired, next, range))
}

/// Candidates for blanking, smallest first: the text from an unclosed bracket or quote on, the line of the error, the
/// last line before it that is neither empty nor a comment.
fn repair_candidates(text: &str, stop: &ParseError) -> Vec<Range> {
    let line = line_at(text, stop.offset.min(text.len().saturating_sub(1)));
    let before = previous_content_line(text, line.start);
    let mut candidates: Vec<Range> = Vec::new();
    if let Some(open) = last_unclosed(text, stop.offset) {
        candidates.push(open);
    }
    for line in [Some(line), before].into_iter().flatten() {
        if let Some(tail) = unclosed_tail(text, &line) {
            candidates.push(tail);
        }
        if let Some(tail) = second_colon(text, &line) {
            candidates.push(tail);
        }
        candidates.push(line);
    }
    candidates.retain(|range| !text[range.clone()].trim().is_empty());
    candidates.dedup();
    candidates
}

fn line_at(text: &str, mut at: usize) -> Range {
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end
}

fn previous_line(text: &str, before: usize) -> Option<Range> {
    let head = text[..before].trim_end();
    (!head.is_empty()).then(|| line_at(text, head.len() - 1))
}

/// A comment cannot be the cause of an error: a name above it can.
fn previous_content_line(text: &str, before: usize) -> Option<Range> {
    let mut line = previous_line(text, before)?;
    while text[line.clone()].trim_start().starts_with('#') {
        line = previous_line(text, line.start)?;
    }
    Some(line)
}

/// The part of the line from its first unclosed bracket or quote on.
fn unclosed_tail(text: &str, line: &Range) -> Option<Range> {
    let mut open: Vec<(char, usize)> = Vec::new();
    let mut quote: Option<(char, usize)> = None;
    for (offset, character) in text[line.clone()].char_indices() {
        let at = line.start + offset;
        match (quote, character) {
            (Some((mark, _)), _) if mark == character => quote = None,
            (Some(_), _) => {}
            (None, '#') if offset == 0 || text[..at].ends_with(' ') => break,
            (None, '"' | '\'')
                if text[line.start..at].trim_end().ends_with([':', '-', ',', '[', '{'])
                    || text[line.start..at].trim().is_empty() =>
            {
                quote = Some((character, at));
            }
            (None, '[' | '{') => open.push((character, at)),
            (None, ']' | '}') => drop(open.pop()),
            _ => {}
        }
    }
    let first = [quote.map(|(_, at)| at), open.first().map(|(_, at)| *at)].into_iter().flatten().min()?;
    Some(first..line.end)
}

/// The unclosed tail of the nearest line at or above the error: the parser read all lines below as part of it.
fn last_unclosed(text: &str, at: usize) -> Option<Range> {
    let mut line = line_at(text, at.min(text.len().saturating_sub(1)));
    // Limits the time for a long file; a bracket is rarely left open for more lines.
    for _ in 0..200 {
        if let Some(tail) = unclosed_tail(text, &line) {
            return Some(tail);
        }
        line = previous_line(text, line.start)?;
    }
    None
}

/// For `a: b: c`: the text from the second colon on.
fn second_colon(text: &str, line: &Range) -> Option<Range> {
    let content = &text[line.clone()];
    let first = content.find(": ")?;
    let second = content[first + 2..].find(": ")?;
    Some(line.start + first + 2 + second..line.end)
}

fn blank_out(text: &str, range: &Range) -> String {
    let mut repaired = String::with_capacity(text.len());
    repaired.push_str(&text[..range.start]);
    for character in text[range.clone()].chars() {
        match character {
            '\n' | '\r' => repaired.push(character),
            _ => repaired.extend(std::iter::repeat_n(' ', character.len_utf8())),
        }
    }
    repaired.push_str(&text[range.end..]);
    repaired
}

fn syntax_diagnostic(text: &str, file: FileId, stop: &ParseError, blanked: Option<Range>) -> Diagnostic {
    let range = blanked.clone().unwrap_or_else(|| line_at(text, stop.offset.min(text.len().saturating_sub(1))));
    let broken_text = text.get(range.clone()).unwrap_or_default();
    let indent = broken_text.len() - broken_text.trim_start().len();
    let broken_text = broken_text.trim();
    let span = Span::new(file, range.start + indent, range.start + indent + broken_text.len());
    let (message, help) = explain_error(broken_text, &stop.message);
    let diagnostic = Diagnostic::new(codes::SYNTAX, Severity::Error, span, message).help(help);
    let is_lone_word = broken_text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && !broken_text.is_empty();
    if blanked.is_some() && is_lone_word {
        let end = Span::new(file, span.end as usize, span.end as usize);
        return diagnostic.fix(
            format!("add a colon after `{broken_text}`"),
            false,
            vec![Edit { span: end, text: ":".into() }],
        );
    }
    diagnostic
}

/// The message and the help for a syntax error, in terms of the typed text instead of the parser's tokens.
fn explain_error(broken_text: &str, parser_message: &str) -> (String, String) {
    if broken_text.contains('\t') || parser_message.contains("tab") {
        return ("a tab cannot indent YAML".into(), "Use spaces.".into());
    }
    if broken_text.starts_with(['[', '{']) {
        let close = if broken_text.starts_with('[') { ']' } else { '}' };
        return (format!("this is never closed: `{close}` is missing"), format!("Close it with `{close}`."));
    }
    if broken_text.starts_with(['"', '\'']) {
        return ("this quote is never closed".into(), "Close it with the same quote.".into());
    }
    if !broken_text.contains(':') && !broken_text.starts_with('-') {
        return (
            format!("`{broken_text}` is neither a key nor a value here"),
            "A key ends with a colon: `key: value`.".into(),
        );
    }
    if broken_text.split_once(": ").is_some_and(|(_, value)| value.contains(": ")) {
        return (
            "this line has two keys".into(),
            "Write each key on its own line, or put a value that contains `: ` in quotes.".into(),
        );
    }
    (
        "this line cannot be read as YAML".into(),
        "Check its indentation and its colons against the lines around it.".into(),
    )
}
