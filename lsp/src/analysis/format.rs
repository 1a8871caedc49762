//! Formatting: two spaces a level, lists below their key, even spaces in brackets, no stray spaces or piles of empty lines.
//!
//! Comments stay where they are. What has an error is left alone, and so is everything whose meaning would change: the
//! formatted text is read again and compared, so that a mistake of the formatter changes no manifest.

use std::ops::Range;

use manifest::FileId;
use manifest::syntax::{self, Kind, Node};

use crate::text::Text;

/// One line replaced by another, or by nothing together with its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineEdit {
    pub range: Range<usize>,
    pub text: String,
}

const UNIT: usize = 2;
const EMPTY_LINES_MAX: usize = 1;

/// The lines that change; none when the text cannot be read, or is fine.
#[must_use]
pub fn format(text: &Text) -> Vec<LineEdit> {
    let parsed = syntax::parse(text.as_str(), FileId(0));
    let (Some(root), true) = (&parsed.root, parsed.diagnostics.is_empty()) else { return Vec::new() };
    let lines = Lines::read(text, root);
    let edits = lines.edits();
    let formatted = apply(text, &edits);
    let again = syntax::parse(&formatted, FileId(0));
    let kept = again.diagnostics.is_empty()
        && again.root.as_ref().is_some_and(|again| same(root, again))
        && again
            .comments
            .iter()
            .map(|comment| comment.text.trim())
            .eq(parsed.comments.iter().map(|comment| comment.text.trim()));
    if kept { edits } else { Vec::new() }
}

fn apply(text: &Text, edits: &[LineEdit]) -> String {
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

/// Equal in everything but places.
pub(super) fn same(one: &Node, other: &Node) -> bool {
    match (&one.kind, &other.kind) {
        (Kind::Scalar(one), Kind::Scalar(other)) => one == other,
        (Kind::List(one), Kind::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Kind::Map(one), Kind::Map(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| one.key.value == other.key.value && same(&one.value, &other.value))
        }
        _ => false,
    }
}

/// What is to become of each line.
struct Lines<'a> {
    text: &'a Text,
    /// Where lines that begin a key or an item have to begin.
    indents: Vec<Option<usize>>,
    /// Inside of texts of several lines: spaces belong to them.
    verbatim: Vec<bool>,
    /// Brackets that open and close on one line.
    flows: Vec<Vec<Range<usize>>>,
}

impl<'a> Lines<'a> {
    fn read(text: &'a Text, root: &Node) -> Self {
        let count = text.lines_count();
        let mut lines =
            Self { text, indents: vec![None; count], verbatim: vec![false; count], flows: vec![Vec::new(); count] };
        lines.block(root, 0);
        lines
    }

    fn line(&self, offset: usize) -> usize {
        self.text.line_at(offset)
    }

    fn is_flow(&self, node: &Node) -> bool {
        self.text.as_str()[node.span.range()].starts_with(['{', '['])
    }

    fn block(&mut self, node: &Node, indent: usize) {
        if self.is_flow(node) {
            let (first, last) = (self.line(node.span.range().start), self.line(node.span.range().end));
            if first == last {
                self.flows[first].push(node.span.range());
            }
            return;
        }
        match &node.kind {
            Kind::Scalar(_) => {
                let (first, last) = (self.line(node.span.range().start), self.line(node.span.range().end));
                self.verbatim[first.min(last)..=last].iter_mut().skip(1).for_each(|line| *line = true);
            }
            Kind::Map(pairs) => {
                for pair in pairs {
                    let start = pair.key.span.range().start;
                    let line = self.line(start);
                    if self.text.as_str()[self.text.line_start(line)..start]
                        .trim_start_matches('\u{feff}')
                        .trim()
                        .is_empty()
                    {
                        self.indents[line] = Some(indent);
                    }
                    self.block(&pair.value, indent + UNIT);
                }
            }
            Kind::List(items) => {
                for item in items {
                    let line = self.line(item.span.range().start);
                    if self.text.line(line).trim_start().starts_with('-') {
                        self.indents[line] = Some(indent);
                    }
                    self.block(item, indent + UNIT);
                }
            }
        }
    }

    fn edits(&self) -> Vec<LineEdit> {
        let mut edits = Vec::new();
        // How far the last key or item moved: what hangs below it moves along.
        let mut moved = 0_isize;
        let mut empty = 0;
        let ends_empty =
            (0..self.text.lines_count()).rev().take_while(|line| self.text.line(*line).trim().is_empty()).count();
        let last = self.text.lines_count() - ends_empty;
        for line in 0..self.text.lines_count() {
            let range = self.text.line_range(line);
            let old = self.text.line(line);
            if let Some(indent) = self.indents[line] {
                moved = signed(indent) - signed(spaces(old));
            }
            if old.trim().is_empty() && !self.verbatim[line] {
                empty += 1;
                let next = self.text.line_start(line + 1);
                // The last line has no end to be removed with it.
                if (empty > EMPTY_LINES_MAX || line >= last) && next > range.start {
                    edits.push(LineEdit { range: range.start..next, text: String::new() });
                } else if !old.is_empty() {
                    edits.push(LineEdit { range, text: String::new() });
                }
                continue;
            }
            empty = 0;
            let new = self.formatted(line, old, moved);
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

    fn formatted(&self, line: usize, old: &str, moved: isize) -> String {
        let (mark, body) = match old.strip_prefix('\u{feff}') {
            Some(rest) => ("\u{feff}", rest),
            None => ("", old),
        };
        let content = body.trim_start_matches(' ');
        let indent = match self.indents[line] {
            Some(indent) => indent,
            None if content.starts_with('#') && !self.verbatim[line] => self.comment(line, spaces(body), moved),
            None => usize::try_from(signed(spaces(body)) + moved).unwrap_or_default(),
        };
        if self.verbatim[line] {
            let trimmed = if content.is_empty() { "" } else { body.trim_start_matches(' ') };
            return if trimmed.is_empty() { body.to_owned() } else { format!("{mark}{}{trimmed}", " ".repeat(indent)) };
        }
        let start = self.text.line_start(line) + old.len() - content.len();
        let content = self.even(line, start, content);
        let content = one_space_behind_dash(&content, self.indents[line].is_some());
        format!("{mark}{}{}", " ".repeat(indent), content.trim_end())
    }

    /// A comment goes with the next line that begins something, if it stood where that one did.
    fn comment(&self, line: usize, own: usize, moved: isize) -> usize {
        let next = (line + 1..self.text.lines_count()).find(|next| self.indents[*next].is_some());
        let with_next = next.filter(|next| spaces(self.text.line(*next)) == own).and_then(|next| self.indents[next]);
        with_next.unwrap_or_else(|| usize::try_from(signed(own) + moved).unwrap_or_default())
    }

    /// `{a: 1,b: [ x ]}` as `{ a: 1, b: [x] }`.
    fn even(&self, line: usize, start: usize, content: &str) -> String {
        let mut even = String::with_capacity(content.len() + 8);
        let mut at = start;
        let mut flows = self.flows[line].clone();
        flows.sort_by_key(|range| range.start);
        for flow in flows.into_iter().filter(|flow| flow.end <= start + content.len()) {
            if flow.start < at {
                continue;
            }
            even.push_str(&content[at - start..flow.start - start]);
            even.push_str(&even_brackets(&content[flow.start - start..flow.end - start]));
            at = flow.end;
        }
        even.push_str(&content[at - start..]);
        even
    }
}

fn spaces(line: &str) -> usize {
    let line = line.trim_start_matches('\u{feff}');
    line.len() - line.trim_start_matches(' ').len()
}

fn signed(count: usize) -> isize {
    isize::try_from(count).unwrap_or_default()
}

fn one_space_behind_dash(content: &str, structural: bool) -> String {
    let rest = content.strip_prefix('-').filter(|rest| structural && rest.starts_with("  ") && !rest.trim().is_empty());
    rest.map_or_else(|| content.to_owned(), |rest| format!("- {}", rest.trim_start()))
}

fn even_brackets(flow: &str) -> String {
    let mut even = String::with_capacity(flow.len() + 8);
    let mut quote: Option<char> = None;
    let mut before = ' ';
    let mut open: Vec<char> = Vec::new();
    for letter in flow.chars() {
        if let Some(mark) = quote {
            even.push(letter);
            if letter == mark && (before != '\\' || mark == '\'') {
                quote = None;
            }
            before = if before == '\\' && letter == '\\' { ' ' } else { letter };
            continue;
        }
        match letter {
            '"' | '\'' if even.ends_with([' ', '[', '{']) || open.is_empty() => {
                quote = Some(letter);
                even.push(letter);
            }
            '{' | '[' => {
                open.push(letter);
                even.push(letter);
                if letter == '{' {
                    even.push(' ');
                }
            }
            '}' | ']' => {
                open.pop();
                while even.ends_with(' ') {
                    even.pop();
                }
                if letter == '}' && !even.ends_with('{') {
                    even.push(' ');
                }
                even.push(letter);
            }
            ',' => {
                while even.ends_with(' ') {
                    even.pop();
                }
                even.push_str(", ");
            }
            ' ' if even.ends_with([' ', '[']) => {}
            letter => even.push(letter),
        }
        before = letter;
    }
    even
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> String {
        let text = Text::new(text);
        apply(&text, &format(&text))
    }

    #[test]
    fn each_rule() {
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
            let once = formatted(text);
            assert_eq!(once, expected, "{text:?}");
            assert_eq!(formatted(&once), once, "twice: {text:?}");
        }
    }
}
