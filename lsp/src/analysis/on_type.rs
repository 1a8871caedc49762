//! Indentation while typing: of a new line, and of a dash that starts the next list item.
//!
//! Only an empty line, or a line with only the dash, is changed, and only if the editor's indentation would be wrong.

use std::ops::Range;

use super::cursor::{self, CursorKind};
use crate::text::Text;

/// Replaces the spaces at the start of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndentEdit {
    pub range: Range<usize>,
    pub spaces: usize,
}

const INDENT_WIDTH: usize = 2;

/// A typed text after which the client asks for edits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    LineBreak,
    Dash,
}

impl Trigger {
    /// The text in the protocol's `ch` and in the server's capabilities.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::LineBreak => "\n",
            Self::Dash => "-",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::LineBreak, Self::Dash].into_iter().find(|trigger| trigger.text() == text)
    }
}

/// The indentation after a line break. `line` is the new line.
#[must_use]
pub fn indent_after_line_break(text: &Text, line: usize) -> Option<IndentEdit> {
    let line_text = text.line(line);
    // If the break splits a line, only the author knows where the rest belongs.
    if !line_text.trim().is_empty() || line_text.contains('\t') {
        return None;
    }
    let before = line.checked_sub(1)?;
    let above = Line::parse(text, before)?;
    let current_indent = line_text.len();
    let expected = match above.next_indent(text) {
        NextIndent::Deeper { column } if current_indent > column => return None,
        NextIndent::Deeper { column } => column + indent_width(text),
        NextIndent::Aligned { column } => column,
        NextIndent::Unknown => return None,
    };
    indent_edit(text, line, current_indent, expected)
}

/// The indentation after a dash at the start of a line: that of the previous item.
#[must_use]
pub fn indent_after_dash(text: &Text, line: usize) -> Option<IndentEdit> {
    let line_text = text.line(line);
    if line_text.trim() != "-" || line_text.contains('\t') {
        return None;
    }
    let current_indent = line_text.len() - line_text.trim_start().len();
    let above = (0..line).rev().find(|number| !text.line(*number).trim().is_empty())?;
    let above = Line::parse(text, above)?;
    let key = above.key()?;
    // The list of an open `key:` may start in the same column, so the dash is already right.
    if key.is_open || key.column != current_indent || above.is_in_block_scalar(text) {
        return None;
    }
    let expected = dash_column(text, above.number, current_indent)?;
    indent_edit(text, line, current_indent, expected)
}

fn indent_edit(text: &Text, line: usize, current: usize, expected: usize) -> Option<IndentEdit> {
    let start = text.line_start(line);
    (current != expected).then(|| IndentEdit { range: start..start + current, spaces: expected })
}

/// The column of the dash whose map has its keys at `column`.
fn dash_column(text: &Text, from: usize, column: usize) -> Option<usize> {
    for number in (0..=from).rev() {
        let content = text.line(number);
        let indent = content.len() - content.trim_start().len();
        if content.trim().is_empty() || indent >= column {
            continue;
        }
        let line = Line::parse(text, number)?;
        return (line.column == column).then(|| line.dashes.last().copied()).flatten();
    }
    None
}

/// The indentation of the first indented line of the file.
fn indent_width(text: &Text) -> usize {
    const LINES_MAX: usize = 200;
    let indented = (0..text.line_count().min(LINES_MAX)).map(|number| text.line(number)).find_map(|line| {
        let content = line.trim_start_matches(' ');
        let is_indented =
            line.len() > content.len() && content.starts_with(|first: char| first.is_ascii_alphanumeric());
        is_indented.then(|| line.len() - content.len())
    });
    indented.filter(|columns| (1..=8).contains(columns)).unwrap_or(INDENT_WIDTH)
}

enum NextIndent {
    /// Deeper than this column.
    Deeper {
        column: usize,
    },
    /// In this column.
    Aligned {
        column: usize,
    },
    Unknown,
}

struct Key {
    column: usize,
    /// There is no value after its colon.
    is_open: bool,
}

/// A line with content: its dashes, and the text after them.
struct Line<'a> {
    number: usize,
    dashes: Vec<usize>,
    /// The column of the content after the dashes.
    column: usize,
    content: &'a str,
}

impl<'a> Line<'a> {
    fn parse(text: &'a Text, number: usize) -> Option<Self> {
        let line = text.line(number).trim_start_matches('\u{feff}');
        let mut content = line.trim_start_matches(' ');
        if content.trim().is_empty() || content.starts_with('\t') {
            return None;
        }
        let mut column = line.len() - content.len();
        let mut dashes = Vec::new();
        while content == "-" || content.starts_with("- ") {
            dashes.push(column);
            let rest = content[1..].trim_start_matches(' ');
            column += if rest.is_empty() { 2 } else { content.len() - rest.len() };
            content = rest;
        }
        Some(Self { number, dashes, column, content })
    }

    /// Whether the line is part of a multi-line text, in which a colon has no meaning.
    fn is_in_block_scalar(&self, text: &Text) -> bool {
        let start = text.line_start(self.number) + self.dashes.last().map_or(self.column, |_| self.column);
        cursor::cursor_at(text, start.min(text.line_range(self.number).end)).kind == CursorKind::Text
    }

    fn key(&self) -> Option<Key> {
        let (name, value_start) = cursor::parse_key(self.content)?;
        let value = self.content[value_start..].trim();
        let is_open = !name.is_empty() && (value.is_empty() || value.starts_with('#'));
        Some(Key { column: self.column, is_open })
    }

    fn next_indent(&self, text: &Text) -> NextIndent {
        if self.content.starts_with('#') || self.is_in_block_scalar(text) {
            return NextIndent::Aligned { column: self.column };
        }
        let end = cursor::cursor_at(text, text.line_range(self.number).end);
        if end.is_quoted {
            return NextIndent::Unknown;
        }
        if end.is_flow {
            let opens_bracket = self.content.trim_end().ends_with(['{', '[']);
            return if opens_bracket { NextIndent::Deeper { column: self.column } } else { NextIndent::Unknown };
        }
        // The line ends with the indicator of a block scalar, such as `|` or `>-`.
        let starts_block = || {
            let last = self.content.split(" #").next().unwrap_or_default().trim_end();
            last.rsplit([' ', ':']).next().is_some_and(|word| {
                word.starts_with(['|', '>']) && word[1..].chars().all(|letter| "+-123456789".contains(letter))
            })
        };
        match self.key() {
            Some(key) if key.is_open || starts_block() => NextIndent::Deeper { column: self.column },
            Some(_) => NextIndent::Aligned { column: self.column },
            // After `- |` and `-` the next line is deeper than the dash. After `- word` it is the next item.
            None if self.content.is_empty() || starts_block() => {
                NextIndent::Deeper { column: self.dashes.last().copied().unwrap_or(self.column) }
            }
            None => NextIndent::Aligned { column: self.dashes.last().copied().unwrap_or(self.column) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text after the edit, or `-` if there is none.
    fn apply_indent(fixture: &str, change: fn(&Text, usize) -> Option<IndentEdit>) -> String {
        let offset = fixture.find("$0").expect("a cursor");
        let text = Text::new(fixture.replacen("$0", "", 1));
        let edit = change(&text, text.line_at(offset));
        edit.map_or_else(
            || "-".to_owned(),
            |edit| {
                let (range, spaces) = (edit.range, " ".repeat(edit.spaces));
                text.with_replaced(range, &spaces).as_str().to_owned()
            },
        )
    }

    #[test]
    fn line_break_indents_like_context() {
        for (fixture, expected) in [
            ("a:\n$0", "a:\n  "),
            ("a:\n  $0", "-"),
            ("a:\n    $0", "-"),
            ("a: # why\n$0", "a: # why\n  "),
            ("a:\r\n$0\r\nb: 1\r\n", "a:\r\n  \r\nb: 1\r\n"),
            ("x:\n    y: 1\na:\n$0", "x:\n    y: 1\na:\n    "),
            ("a:\n  b: 1\n$0", "a:\n  b: 1\n  "),
            ("a:\n  b: 1\n  $0", "-"),
            ("a:\n  b:\n    c: 1\n\n$0", "-"),
            ("a:\n  - b: 1\n  $0", "a:\n  - b: 1\n    "),
            ("a:\n  - b: 1\n    $0", "-"),
            ("a:\n  - b:\n    $0", "a:\n  - b:\n      "),
            ("a:\n  - b\n$0", "a:\n  - b\n  "),
            ("a:\n- b\n$0", "-"),
            ("a:\n  -\n  $0", "a:\n  -\n    "),
            ("a:\n  # about\n$0", "a:\n  # about\n  "),
            ("a: |\n$0", "a: |\n  "),
            ("a:\n  b: >-\n  $0", "a:\n  b: >-\n    "),
            ("a:\n  b: |\n    if x:\n    $0", "-"),
            ("a:\n  b: |\n    if x:\n$0", "a:\n  b: |\n    if x:\n    "),
            ("a: {\n$0", "a: {\n  "),
            ("a: [\n  b,\n$0", "-"),
            ("a: \"open\n$0", "-"),
            ("a: { b: 1 }\n$0", "-"),
            ("a:\n$0b: 1", "-"),
            ("a:\n\t$0", "-"),
            ("$0", "-"),
            ("image: nginx:1.27\n  $0", "image: nginx:1.27\n"),
            ("a:\n  - \"b: c\"\n  $0", "-"),
        ] {
            assert_eq!(apply_indent(fixture, indent_after_line_break), expected, "{fixture:?}");
        }
    }

    #[test]
    fn dash_aligns_with_previous_item() {
        for (fixture, expected) in [
            ("a:\n  - b: 1\n    -$0", "a:\n  - b: 1\n  -"),
            ("a:\n  - b: 1\n    c: 2\n    -$0\nd: 1", "a:\n  - b: 1\n    c: 2\n  -\nd: 1"),
            ("a:\n  - b: 1\r\n    -$0\r\n", "a:\n  - b: 1\r\n  -\r\n"),
            ("a:\n  - b:\n    -$0", "-"),
            ("a:\n  b: 1\n  -$0", "-"),
            ("a:\n  - b\n  -$0", "-"),
            ("a:\n  -$0", "-"),
            ("a: |\n  b: 1\n  -$0", "-"),
            ("a:\n  - b: 1\n    # c\n    -$0", "-"),
            ("-$0", "-"),
        ] {
            assert_eq!(apply_indent(fixture, indent_after_dash), expected, "{fixture:?}");
        }
    }
}
