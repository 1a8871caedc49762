//! Formatting: two spaces per level, indented lists, even spaces in brackets, no trailing spaces or repeated empty
//! lines.
//!
//! Comments stay in place. A file with an error is not changed. The formatted text is parsed again and compared, so
//! that a bug of the formatter cannot change a manifest.

use std::ops::Range;

use manifest::FileId;
use manifest::syntax::{self, Kind, Node};

use crate::text::Text;

/// The replacement of one line. To remove a line, the range includes its line ending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineEdit {
    pub range: Range<usize>,
    pub text: String,
}

const INDENT_WIDTH: usize = 2;
const EMPTY_LINES_MAX: usize = 1;

/// The edits of all lines that change. Empty if the text is already formatted or does not parse.
#[must_use]
pub fn format(text: &Text) -> Vec<LineEdit> {
    let parsed = syntax::parse(text.as_str(), FileId(0));
    let (Some(root), true) = (&parsed.root, parsed.diagnostics.is_empty()) else { return Vec::new() };
    let lines = LineLayout::from_tree(text, root);
    let edits = lines.edits();
    let formatted = apply_edits(text, &edits);
    let again = syntax::parse(&formatted, FileId(0));
    let is_equivalent = again.diagnostics.is_empty()
        && again.root.as_ref().is_some_and(|again| is_same_tree(root, again))
        && again
            .comments
            .iter()
            .map(|comment| comment.text.trim())
            .eq(parsed.comments.iter().map(|comment| comment.text.trim()));
    if is_equivalent { edits } else { Vec::new() }
}

fn apply_edits(text: &Text, edits: &[LineEdit]) -> String {
    let mut formatted = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        formatted.push_str(&text.as_str()[at..edit.range.start]);
        formatted.push_str(&edit.text);
        at = edit.range.end;
    }
    formatted.push_str(&text.as_str()[at..]);
    formatted
}

/// Compares two trees without their spans.
pub(super) fn is_same_tree(left: &Node, right: &Node) -> bool {
    match (&left.kind, &right.kind) {
        (Kind::Scalar(left), Kind::Scalar(right)) => left == right,
        (Kind::List(left), Kind::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same_tree(left, right))
        }
        (Kind::Map(left), Kind::Map(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| left.key.value == right.key.value && is_same_tree(&left.value, &right.value))
        }
        _ => false,
    }
}

/// The layout of each line.
struct LineLayout<'a> {
    text: &'a Text,
    /// The indentation of each line that starts a key or an item.
    indents: Vec<Option<usize>>,
    /// Lines inside multi-line texts, whose spaces are content.
    verbatim: Vec<bool>,
    /// The brackets that open and close on this line.
    flows: Vec<Vec<Range<usize>>>,
}

impl<'a> LineLayout<'a> {
    fn from_tree(text: &'a Text, root: &Node) -> Self {
        let count = text.line_count();
        let mut lines =
            Self { text, indents: vec![None; count], verbatim: vec![false; count], flows: vec![Vec::new(); count] };
        lines.layout_node(root, 0);
        lines
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.line_at(offset)
    }

    fn is_flow(&self, node: &Node) -> bool {
        self.text.as_str()[node.span.range()].starts_with(['{', '['])
    }

    fn layout_node(&mut self, node: &Node, indent: usize) {
        if self.is_flow(node) {
            let (first, last) = (self.line_at(node.span.range().start), self.line_at(node.span.range().end));
            if first == last {
                self.flows[first].push(node.span.range());
            }
            return;
        }
        match &node.kind {
            Kind::Scalar(_) => {
                let (first, last) = (self.line_at(node.span.range().start), self.line_at(node.span.range().end));
                self.verbatim[first.min(last)..=last].iter_mut().skip(1).for_each(|line| *line = true);
            }
            Kind::Map(pairs) => {
                for pair in pairs {
                    let start = pair.key.span.range().start;
                    let line = self.line_at(start);
                    if self.text.as_str()[self.text.line_start(line)..start]
                        .trim_start_matches('\u{feff}')
                        .trim()
                        .is_empty()
                    {
                        self.indents[line] = Some(indent);
                    }
                    self.layout_node(&pair.value, indent + INDENT_WIDTH);
                }
            }
            Kind::List(items) => {
                for item in items {
                    let line = self.line_at(item.span.range().start);
                    if self.text.line(line).trim_start().starts_with('-') {
                        self.indents[line] = Some(indent);
                    }
                    self.layout_node(item, indent + INDENT_WIDTH);
                }
            }
        }
    }

    fn edits(&self) -> Vec<LineEdit> {
        let mut edits = Vec::new();
        // The shift of the last key or item. Lines without their own indentation shift with it.
        let mut moved = 0_isize;
        let mut empty = 0;
        let trailing_empty =
            (0..self.text.line_count()).rev().take_while(|line| self.text.line(*line).trim().is_empty()).count();
        let last = self.text.line_count() - trailing_empty;
        for line in 0..self.text.line_count() {
            let range = self.text.line_range(line);
            let old = self.text.line(line);
            if let Some(indent) = self.indents[line] {
                moved = to_isize(indent) - to_isize(leading_spaces(old));
            }
            if old.trim().is_empty() && !self.verbatim[line] {
                empty += 1;
                let next = self.text.line_start(line + 1);
                // The last line has no line ending, so it cannot be removed.
                if (empty > EMPTY_LINES_MAX || line >= last) && next > range.start {
                    edits.push(LineEdit { range: range.start..next, text: String::new() });
                } else if !old.is_empty() {
                    edits.push(LineEdit { range, text: String::new() });
                }
                continue;
            }
            empty = 0;
            let new = self.format_line(line, old, moved);
            if new != old {
                edits.push(LineEdit { range, text: new });
            }
        }
        if !self.text.is_empty() && !self.text.as_str().ends_with(['\n', '\r']) {
            let end = self.text.len();
            match edits.last_mut() {
                Some(edit) if edit.range.end == end => edit.text.push('\n'),
                _ => edits.push(LineEdit { range: end..end, text: "\n".to_owned() }),
            }
        }
        edits
    }

    fn format_line(&self, line: usize, old: &str, moved: isize) -> String {
        let (mark, body) = match old.strip_prefix('\u{feff}') {
            Some(rest) => ("\u{feff}", rest),
            None => ("", old),
        };
        let content = body.trim_start_matches(' ');
        let indent = match self.indents[line] {
            Some(indent) => indent,
            None if content.starts_with('#') && !self.verbatim[line] => {
                self.comment_indent(line, leading_spaces(body), moved)
            }
            None => usize::try_from(to_isize(leading_spaces(body)) + moved).unwrap_or_default(),
        };
        if self.verbatim[line] {
            let trimmed = if content.is_empty() { "" } else { body.trim_start_matches(' ') };
            return if trimmed.is_empty() { body.to_owned() } else { format!("{mark}{}{trimmed}", " ".repeat(indent)) };
        }
        let start = self.text.line_start(line) + old.len() - content.len();
        let content = self.format_flows(line, start, content);
        let content = single_space_after_dash(&content, self.indents[line].is_some());
        format!("{mark}{}{}", " ".repeat(indent), content.trim_end())
    }

    /// A comment that has the indentation of the next key or item moves with it.
    fn comment_indent(&self, line: usize, old_indent: usize, moved: isize) -> usize {
        let next = (line + 1..self.text.line_count()).find(|next| self.indents[*next].is_some());
        let with_next =
            next.filter(|next| leading_spaces(self.text.line(*next)) == old_indent).and_then(|next| self.indents[next]);
        with_next.unwrap_or_else(|| usize::try_from(to_isize(old_indent) + moved).unwrap_or_default())
    }

    /// Formats `{a: 1,b: [ x ]}` as `{ a: 1, b: [x] }`.
    fn format_flows(&self, line: usize, start: usize, content: &str) -> String {
        let mut formatted = String::with_capacity(content.len() + 8);
        let mut at = start;
        let mut flows = self.flows[line].clone();
        flows.sort_by_key(|range| range.start);
        for flow in flows.into_iter().filter(|flow| flow.end <= start + content.len()) {
            if flow.start < at {
                continue;
            }
            formatted.push_str(&content[at - start..flow.start - start]);
            formatted.push_str(&format_flow(&content[flow.start - start..flow.end - start]));
            at = flow.end;
        }
        formatted.push_str(&content[at - start..]);
        formatted
    }
}

fn leading_spaces(line: &str) -> usize {
    let line = line.trim_start_matches('\u{feff}');
    line.len() - line.trim_start_matches(' ').len()
}

fn to_isize(count: usize) -> isize {
    isize::try_from(count).unwrap_or_default()
}

fn single_space_after_dash(content: &str, starts_item: bool) -> String {
    let rest =
        content.strip_prefix('-').filter(|rest| starts_item && rest.starts_with("  ") && !rest.trim().is_empty());
    rest.map_or_else(|| content.to_owned(), |rest| format!("- {}", rest.trim_start()))
}

fn format_flow(flow: &str) -> String {
    let mut formatted = String::with_capacity(flow.len() + 8);
    let mut quote: Option<char> = None;
    let mut previous = ' ';
    let mut open: Vec<char> = Vec::new();
    for letter in flow.chars() {
        if let Some(mark) = quote {
            formatted.push(letter);
            // Only double-quoted scalars have backslash escapes.
            if letter == mark && (previous != '\\' || mark == '\'') {
                quote = None;
            }
            // An escaped backslash does not escape the next character.
            previous = if previous == '\\' && letter == '\\' { ' ' } else { letter };
            continue;
        }
        match letter {
            '"' | '\'' if formatted.ends_with([' ', '[', '{']) || open.is_empty() => {
                quote = Some(letter);
                formatted.push(letter);
            }
            '{' | '[' => {
                open.push(letter);
                formatted.push(letter);
                if letter == '{' {
                    formatted.push(' ');
                }
            }
            '}' | ']' => {
                open.pop();
                while formatted.ends_with(' ') {
                    formatted.pop();
                }
                if letter == '}' && !formatted.ends_with('{') {
                    formatted.push(' ');
                }
                formatted.push(letter);
            }
            ',' => {
                while formatted.ends_with(' ') {
                    formatted.pop();
                }
                formatted.push_str(", ");
            }
            ' ' if formatted.ends_with([' ', '[']) => {}
            letter => formatted.push(letter),
        }
        previous = letter;
    }
    formatted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_text(text: &str) -> String {
        let text = Text::new(text);
        apply_edits(&text, &format(&text))
    }

    #[test]
    fn each_rule_is_applied_and_stable() {
        for (text, expected) in [
            ("a:\n    b: 1\n    c:\n        d: 2\n", "a:\n  b: 1\n  c:\n    d: 2\n"),
            ("a:\n- b\n- c: 1\n  d: 2\n", "a:\n  - b\n  - c: 1\n    d: 2\n"),
            ("a:\n  -   b: 1\n      c: 2\n", "a:\n  - b: 1\n    c: 2\n"),
            ("a: {b: 1,c: [ x,y ]}   # why\n", "a: { b: 1, c: [x, y] }   # why\n"),
            ("a: {}\nb: [ ]\n", "a: {}\nb: []\n"),
            ("# top\na: 1   \n\n\n\n# about b\nb: 2\n\n\n", "# top\na: 1\n\n# about b\nb: 2\n"),
            ("a:\n    # about b\n    b: 1\n    # last\nc: 2", "a:\n  # about b\n  b: 1\n  # last\nc: 2\n"),
            (
                "a:\n    b: |\n        one\n          two\n\n        three\n    c: 1\n",
                "a:\n  b: |\n      one\n        two\n\n      three\n  c: 1\n",
            ),
            ("a: \"x ,  y\"\nb: {c: 'it''s, ok'}\n", "a: \"x ,  y\"\nb: { c: 'it''s, ok' }\n"),
            ("\u{feff}a: {b: 1}\r\nc: 2\r\n", "\u{feff}a: { b: 1 }\r\nc: 2\r\n"),
            ("a: [\n   b\n", "a: [\n   b\n"),
            ("", ""),
        ] {
            let once = format_text(text);
            assert_eq!(once, expected, "{text:?}");
            assert_eq!(format_text(&once), once, "twice: {text:?}");
        }
    }
}
