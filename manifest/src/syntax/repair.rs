//! Half-typed text: blank out the smallest piece that stops the parser, say so, and try again.
//!
//! Blanking keeps every position, so what is still there has its true spans. Each repair is one diagnostic.

use super::ParsedFile;
use super::incremental::{self, PreviousParse, ReparseBase};
use super::tree_builder::{BuiltTree, ParseError, build_tree};
use crate::codes;
use crate::diagnostic::{Diagnostic, Edit, Severity};
use crate::text::{FileId, Span};

/// Repairs per file; a file with more broken places is shown the first ones.
const REPAIRS_MAX: usize = 8;

pub(super) fn parse_with_repairs(text: &str, file: FileId, earlier: Option<PreviousParse<'_>>) -> ParsedFile {
    let build = |text: &str| {
        earlier.and_then(|earlier| incremental::reparse(text, file, earlier)).unwrap_or_else(|| build_tree(text, file))
    };
    let mut current: Option<String> = None;
    let mut found = Vec::new();
    let mut built = build(text);
    while let Some(stop) = built.error.take() {
        let source = current.as_deref().unwrap_or(text);
        let Some((repaired, next, blanked)) = best_repair(source, &build, &stop) else {
            found.push(syntax_diagnostic(text, file, &stop, None));
            // What was read up to here is kept, but is not the whole.
            built.is_self_contained = false;
            break;
        };
        found.push(syntax_diagnostic(text, file, &stop, Some(blanked)));
        current = Some(repaired);
        built = next;
        if found.len() == REPAIRS_MAX {
            if let Some(stop) = &built.error {
                found.push(syntax_diagnostic(text, file, stop, None));
            }
            break;
        }
    }
    let basis = ReparseBase::from_tree(&built, current.as_deref());
    found.extend(built.diagnostics);
    ParsedFile { root: built.root, comments: built.comments, diagnostics: found, reparse_base: basis }
}

type Range = std::ops::Range<usize>;

/// The candidate after which the parser gets furthest.
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

/// Pieces that may be at fault, the smallest first: the tail behind an unclosed bracket or quote, the line of the error,
/// the last line with text before it.
fn repair_candidates(text: &str, stop: &ParseError) -> Vec<Range> {
    let line = line_at(text, stop.offset.min(text.len().saturating_sub(1)));
    let before = previous_line(text, line.start);
    let mut found: Vec<Range> = Vec::new();
    if let Some(open) = last_unclosed(text, stop.offset) {
        found.push(open);
    }
    for line in [Some(line), before].into_iter().flatten() {
        if let Some(tail) = unclosed_tail(text, &line) {
            found.push(tail);
        }
        if let Some(tail) = second_colon(text, &line) {
            found.push(tail);
        }
        found.push(line);
    }
    found.retain(|range| !text[range.clone()].trim().is_empty());
    found.dedup();
    found
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

/// The line, from the first bracket or quote that is not closed on it.
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

/// The nearest line above the error that leaves a bracket or quote open: everything below was read as part of it.
fn last_unclosed(text: &str, at: usize) -> Option<Range> {
    let mut line = line_at(text, at.min(text.len().saturating_sub(1)));
    for _ in 0..200 {
        if let Some(tail) = unclosed_tail(text, &line) {
            return Some(tail);
        }
        line = previous_line(text, line.start)?;
    }
    None
}

/// `a: b: c`: everything from the second colon's word on.
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
    let shown = text.get(range.clone()).unwrap_or_default();
    let lead = shown.len() - shown.trim_start().len();
    let span = Span::new(file, range.start + lead, range.start + lead + shown.trim().len());
    let (words, help) = explain_error(shown.trim(), &stop.message);
    let found = Diagnostic::new(codes::SYNTAX, Severity::Error, span, words).help(help);
    let lone_word = shown.trim().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && !shown.trim().is_empty();
    if blanked.is_some() && lone_word {
        let end = Span::new(file, span.end as usize, span.end as usize);
        return found.fix(
            format!("add a colon after `{}`", shown.trim()),
            false,
            vec![Edit { span: end, text: ":".into() }],
        );
    }
    found
}

/// The parser's words are about tokens; these are about what a person typed.
fn explain_error(shown: &str, parser: &str) -> (String, String) {
    let open = shown.starts_with(['[', '{']);
    if shown.contains('\t') || parser.contains("tab") {
        return ("a tab cannot indent YAML".into(), "Use spaces.".into());
    }
    if open {
        let close = if shown.starts_with('[') { ']' } else { '}' };
        return (format!("this is never closed: `{close}` is missing"), format!("Close it with `{close}`."));
    }
    if shown.starts_with(['"', '\'']) {
        return ("this quote is never closed".into(), "Close it with the same quote.".into());
    }
    if !shown.contains(':') && !shown.starts_with('-') {
        return (
            format!("`{shown}` is neither a key nor a value here"),
            "A key ends with a colon: `key: value`.".into(),
        );
    }
    let plain = parser.trim_end_matches('.');
    (
        format!("this line cannot be read as YAML: {plain}"),
        "Check its indentation and its colons against the lines around it.".into(),
    )
}
