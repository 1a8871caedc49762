//! Finds the location of the cursor from the lines of the text, because text that the user is typing may not parse.
//!
//! Only indentation and brackets count, so a mistake in a half-typed file affects only its own block.

use std::ops::Range;

use crate::text::Text;

/// One level above the cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Level {
    Key(String),
    Item,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CursorKind {
    /// On a key, or where one may start. Also on the first word of a list item, which may become a key.
    Key,
    /// After the colon of a key.
    Value,
    /// Inside `${`.
    Placeholder,
    /// In a comment or a multi-line text.
    Text,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The keys and items from the root to the cursor. For a value the last one is its key.
    pub levels: Vec<Level>,
    pub kind: CursorKind,
    /// The word around the cursor, which an accepted completion replaces.
    pub word: Range<usize>,
    /// The start of the value or placeholder.
    pub value_start: usize,
    /// The column of the word. Dashes before it count like spaces.
    pub column: usize,
    /// The number of spaces at the start of the line.
    pub indent: usize,
    pub is_flow: bool,
    pub is_quoted: bool,
}

#[derive(Clone, PartialEq, Debug)]
enum Frame {
    Key(usize, String),
    Dash(usize),
}

impl Frame {
    fn column(&self) -> usize {
        match self {
            Self::Key(column, _) | Self::Dash(column) => *column,
        }
    }
}

/// An open bracket. For a map, the key whose value is being read.
#[derive(Clone, PartialEq, Debug)]
enum Bracket {
    Map(Option<String>),
    List,
}

#[derive(Clone, Debug, Default)]
struct LineScanner {
    frames: Vec<Frame>,
    brackets: Vec<Bracket>,
    /// Inside a multi-line text, which contains all lines deeper than this column.
    block_scalar_column: Option<usize>,
    /// A quote that is still open at the end of the line.
    open_quote: Option<char>,
    is_in_comment: bool,
    /// The start of the word or value at the end of the scanned text.
    value_start: usize,
    /// After a colon outside of brackets.
    is_after_colon: bool,
}

/// Finds the cursor at this offset.
#[must_use]
pub fn cursor_at(text: &Text, offset: usize) -> Cursor {
    let offset = text.floor_char_boundary(offset);
    let line = text.line_at(offset);
    let mut scanner = LineScanner::default();
    for number in top_level_line(text, line)..line {
        scanner.scan_line(text.line(number), text.line_start(number), false);
    }
    let range = text.line_range(line);
    let head = text.as_str().get(range.start..offset.min(range.end)).unwrap_or_default();
    let rest = text.as_str().get(offset.min(range.end)..range.end).unwrap_or_default();
    let is_in_block = scanner.is_in_block_scalar(head, rest);
    if !is_in_block {
        scanner.block_scalar_column = None;
        scanner.scan_line(head, range.start, true);
    }
    scanner.into_cursor(text, offset, head, rest, is_in_block)
}

/// The nearest line above that starts a top-level key. The lines before it belong to other keys and need no scan.
fn top_level_line(text: &Text, line: usize) -> usize {
    let starts_key = |number: &usize| {
        let first = text.line(*number).bytes().next();
        first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'"' || byte == b'_' || byte == b'+')
    };
    (0..line).rev().find(starts_key).unwrap_or(0)
}

fn leading_whitespace(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t', '\u{feff}']).len()
}

impl LineScanner {
    fn is_in_block_scalar(&self, head: &str, rest: &str) -> bool {
        let is_blank = head.trim().is_empty() && rest.trim().is_empty();
        self.block_scalar_column
            .is_some_and(|column| leading_whitespace(head) > column || (is_blank && head.len() > column))
    }

    /// Scans one line. If `is_last`, it is the part of the cursor's line before the cursor.
    fn scan_line(&mut self, line: &str, offset: usize, is_last: bool) {
        let indent = leading_whitespace(line);
        if let Some(column) = self.block_scalar_column {
            if line.trim().is_empty() || indent > column {
                return;
            }
            self.block_scalar_column = None;
        }
        self.is_in_comment = false;
        self.is_after_colon = false;
        let mut rest = &line[indent..];
        let mut column = indent;
        self.value_start = offset + indent;
        if self.brackets.is_empty() && self.open_quote.is_none() {
            if rest.starts_with('#') {
                self.is_in_comment = true;
                return;
            }
            if rest.is_empty() {
                if is_last {
                    self.close_frames(indent, false);
                }
                return;
            }
            while rest == "-" || rest.starts_with("- ") {
                self.close_frames(column, true);
                self.frames.push(Frame::Dash(column));
                let inside = &rest[1..];
                let gap = leading_whitespace(inside);
                column += 1 + gap;
                rest = &inside[gap..];
            }
            self.value_start = offset + column;
            if rest.starts_with('#') {
                self.is_in_comment = true;
                return;
            }
            if let Some((name, value_start)) = parse_key(rest) {
                self.close_frames(column, false);
                self.frames.push(Frame::Key(column, name));
                let value = &rest[value_start..];
                let gap = leading_whitespace(value);
                column += value_start + gap;
                rest = &value[gap..];
                self.is_after_colon = true;
                self.value_start = offset + column;
                if rest.starts_with(['|', '>']) && !is_last {
                    self.block_scalar_column = self.frames.last().map(Frame::column);
                    return;
                }
            } else {
                self.close_frames(column, false);
            }
        }
        self.scan_flow(rest, offset + line.len() - rest.len());
    }

    /// Scans the value of a line for brackets, quotes and comments.
    fn scan_flow(&mut self, text: &str, offset: usize) {
        let is_flow_or_quoted = text.starts_with(['[', '{', '"', '\'']);
        let mut word_start = 0;
        let mut previous = ' ';
        for (at, letter) in text.char_indices() {
            let here = offset + at;
            if let Some(mark) = self.open_quote {
                if letter == mark && previous != '\\' {
                    self.open_quote = None;
                }
                previous = letter;
                continue;
            }
            let is_inside = !self.brackets.is_empty();
            match letter {
                '#' if previous == ' ' => {
                    self.is_in_comment = true;
                    return;
                }
                '"' | '\'' if (is_inside || is_flow_or_quoted) && text[word_start..at].trim().is_empty() => {
                    self.open_quote = Some(letter);
                    self.value_start = here;
                }
                '[' | '{' if (is_inside || at == 0) && text[word_start..at].trim().is_empty() => {
                    self.brackets.push(if letter == '[' { Bracket::List } else { Bracket::Map(None) });
                    word_start = at + 1;
                    self.value_start = here + 1;
                }
                ']' | '}' if is_inside => {
                    self.brackets.pop();
                    word_start = at + 1;
                    self.value_start = here + 1;
                }
                ',' if is_inside => {
                    if let Some(Bracket::Map(key)) = self.brackets.last_mut() {
                        *key = None;
                    }
                    word_start = at + 1;
                    self.value_start = here + 1;
                }
                ':' if is_inside && (text[at + 1..].starts_with([' ', '\n']) || at + 1 == text.len()) => {
                    if let Some(Bracket::Map(key)) = self.brackets.last_mut() {
                        *key = Some(text[word_start..at].trim().trim_matches(['"', '\'']).to_owned());
                        word_start = at + 1;
                        self.value_start = here + 1;
                    }
                }
                ' ' if is_inside && self.value_start == here => self.value_start = here + 1,
                _ => {}
            }
            previous = letter;
        }
    }

    /// Closes the frames at this column or deeper. A dash may have the same column as the key of its list.
    fn close_frames(&mut self, column: usize, for_dash: bool) {
        self.frames.retain(|frame| match frame {
            Frame::Key(key_column, _) if for_dash => *key_column <= column,
            frame => frame.column() < column,
        });
    }

    fn levels(&self) -> Vec<Level> {
        let frames = self.frames.iter().map(|frame| match frame {
            Frame::Key(_, name) => Level::Key(name.clone()),
            Frame::Dash(_) => Level::Item,
        });
        let mut levels: Vec<Level> = frames.collect();
        for bracket in &self.brackets {
            match bracket {
                Bracket::Map(Some(key)) => levels.push(Level::Key(key.clone())),
                Bracket::Map(None) => {}
                Bracket::List => levels.push(Level::Item),
            }
        }
        levels
    }

    fn into_cursor(self, text: &Text, offset: usize, head: &str, rest: &str, is_in_block: bool) -> Cursor {
        let is_flow = !self.brackets.is_empty();
        let line_start = offset - head.len();
        let kind = if self.is_in_comment || is_in_block {
            CursorKind::Text
        } else {
            match self.brackets.last() {
                Some(Bracket::Map(None)) => CursorKind::Key,
                Some(Bracket::Map(Some(_))) => CursorKind::Value,
                Some(Bracket::List) => CursorKind::Key,
                None if self.is_after_colon => CursorKind::Value,
                None => CursorKind::Key,
            }
        };
        let start = if is_in_block { line_start + leading_whitespace(head) } else { self.value_start.min(offset) };
        let mut cursor = Cursor {
            levels: self.levels(),
            kind,
            word: start..offset,
            value_start: start,
            column: start - line_start,
            indent: leading_whitespace(head),
            is_flow,
            is_quoted: self.open_quote.is_some(),
        };
        cursor.widen_word(text, offset, rest, is_in_block);
        cursor
    }
}

impl Cursor {
    /// Extends `word` over the rest of the word after the cursor. In a placeholder the word is one part of it.
    fn widen_word(&mut self, text: &Text, offset: usize, rest: &str, is_in_block: bool) {
        let before = text.as_str().get(self.value_start..offset).unwrap_or_default();
        // `$$` escapes a placeholder.
        let open = before.rfind("${").filter(|at| !before[*at..].contains('}') && !before[..*at].ends_with('$'));
        // In a multi-line text, `#` starts no comment.
        if let Some(open) = open.filter(|_| self.kind != CursorKind::Text || is_in_block || !before.contains('#')) {
            self.kind = CursorKind::Placeholder;
            self.value_start += open + 2;
            let typed = text.as_str().get(self.value_start..offset).unwrap_or_default();
            let part = typed.rfind('.').map_or(0, |dot| dot + 1);
            self.word = self.value_start + part..offset + word_length(rest, "_-");
            return;
        }
        if self.is_quoted && before.starts_with(['"', '\'']) {
            self.value_start += 1;
        }
        let end = match self.kind {
            CursorKind::Key => word_length(rest, "_-+"),
            _ => word_length(rest, "_-+./@:"),
        };
        self.word = self.value_start.min(offset)..offset + end;
    }

    /// The names of `levels`, with `None` for list items.
    #[must_use]
    pub fn key_path(&self) -> Vec<Option<&str>> {
        let mut keys = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            keys.push(match level {
                Level::Key(name) => Some(name.as_str()),
                Level::Item => None,
            });
        }
        keys
    }
}

fn word_length(text: &str, extra: &str) -> usize {
    text.find(|letter: char| !letter.is_alphanumeric() && !extra.contains(letter)).unwrap_or(text.len())
}

/// Parses a key at the start of a line's content. Also returns the start of the text after its colon.
#[must_use]
pub fn parse_key(content: &str) -> Option<(String, usize)> {
    if content.starts_with(['[', '{', '#', '|', '>']) {
        return None;
    }
    if let Some(mark) = content.chars().next().filter(|first| "\"'".contains(*first)) {
        let close = content[1..].find(mark)? + 1;
        let behind = &content[close + 1..];
        let colon = behind.find(':').filter(|at| behind[..*at].trim().is_empty())?;
        return Some((content[1..close].to_owned(), close + 1 + colon + 1));
    }
    let mut from = 0;
    loop {
        let colon = from + content[from..].find(':')?;
        let behind = &content[colon + 1..];
        if behind.is_empty() || behind.starts_with([' ', '\t']) {
            let name = content[..colon].trim();
            return (!name.is_empty() && !name.contains(" #")).then(|| (name.to_owned(), colon + 1));
        }
        from = colon + 1;
    }
}

/// The keys that the map around the cursor already has.
#[must_use]
pub fn sibling_keys(text: &Text, cursor: &Cursor, offset: usize) -> Vec<String> {
    if cursor.is_flow {
        flow_sibling_keys(text, offset)
    } else {
        block_sibling_keys(text, cursor, text.line_at(offset))
    }
}

fn block_sibling_keys(text: &Text, cursor: &Cursor, cursor_line: usize) -> Vec<String> {
    let column = cursor.column;
    let mut found = Vec::new();
    // Returns false at the first line that is outside of the map.
    let mut collect_key = |number: usize| {
        let line = text.line(number);
        let mut content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            return true;
        }
        let mut at = leading_whitespace(line);
        let mut is_first_key = false;
        while at < column && content.starts_with("- ") {
            let gap = 1 + leading_whitespace(&content[1..]);
            at += gap;
            content = &content[gap..];
            is_first_key = true;
        }
        if at == column && !content.starts_with("- ") {
            found.extend(parse_key(content).map(|(name, _)| name));
        }
        // A key after a dash is the first of its map, so the lines before it belong to another one.
        at >= column && !(is_first_key && at == column)
    };
    // A line with a dash starts the map, so the lines above belong to another one.
    let line_text = text.line(cursor_line);
    let starts_item = leading_whitespace(line_text) < column && line_text.trim_start().starts_with('-');
    if !starts_item {
        for number in (0..cursor_line).rev() {
            if !collect_key(number) {
                break;
            }
        }
    }
    for number in cursor_line + 1..text.line_count() {
        let line = text.line(number);
        let starts_another =
            leading_whitespace(line) < column && !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if starts_another || !collect_key(number) {
            break;
        }
    }
    found
}

/// The limit of the search for the bracket around the cursor, in each direction. The bracket may be unclosed.
const BRACKET_BYTES_MAX: usize = 4_000;

fn flow_sibling_keys(text: &Text, offset: usize) -> Vec<String> {
    let all = text.as_str();
    let from = text.floor_char_boundary(offset.saturating_sub(BRACKET_BYTES_MAX));
    let mut depth = 0;
    let mut start = from;
    for (at, letter) in all[from..offset].char_indices().rev() {
        match letter {
            '}' | ']' => depth += 1,
            '{' | '[' if depth == 0 => {
                start = from + at + 1;
                break;
            }
            '{' | '[' => depth -= 1,
            _ => {}
        }
    }
    let until = text.floor_char_boundary(offset + BRACKET_BYTES_MAX);
    let mut found = Vec::new();
    let mut word = start;
    let mut depth = 0;
    for (at, letter) in all[start..until].char_indices() {
        let here = start + at;
        match letter {
            '{' | '[' => depth += 1,
            '}' | ']' if depth == 0 => break,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => word = here + 1,
            ':' if depth == 0 && all[here + 1..].starts_with([' ', '\n']) => {
                let name = all[word..here].trim().trim_matches(['"', '\'']);
                // Skip the key at the cursor.
                if !(word..=here).contains(&offset) && !name.contains(':') {
                    found.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns path, kind, word and column.
    fn locate_cursor(fixture: &str) -> (String, CursorKind, String, usize) {
        let offset = fixture.find("$0").expect("a cursor");
        let text = Text::new(fixture.replacen("$0", "", 1));
        let cursor = cursor_at(&text, offset);
        let path: Vec<&str> = cursor.key_path().into_iter().map(|key| key.unwrap_or("-")).collect();
        let word = text.as_str()[cursor.word.clone()].to_owned();
        (path.join("/"), cursor.kind, word, cursor.column)
    }

    #[test]
    fn cursor_at_finds_path_kind_and_word() {
        let cases = [
            ("$0", "", CursorKind::Key, "", 0),
            ("pdev: 1\nser$0", "", CursorKind::Key, "ser", 0),
            ("a:\n  $0", "a", CursorKind::Key, "", 2),
            ("a:\n  b:\n    c: 1\n  d$0: 2", "a", CursorKind::Key, "d", 2),
            ("a:\n  b: 1\n$0", "", CursorKind::Key, "", 0),
            ("a:\n  b: va$0l # no", "a/b", CursorKind::Value, "val", 5),
            ("a:\n  b: \"va$0l\"", "a/b", CursorKind::Value, "val", 5),
            ("a:\n  b: $0", "a/b", CursorKind::Value, "", 5),
            ("a:\n  - $0", "a/-", CursorKind::Key, "", 4),
            ("a:\n- x$0", "a/-", CursorKind::Key, "x", 2),
            ("a:\n  - b: 1\n    c$0", "a/-", CursorKind::Key, "c", 4),
            ("a:\n  - b: 1\n    c: $0", "a/-/c", CursorKind::Value, "", 7),
            ("a:\n- b: 1\n  c$0", "a/-", CursorKind::Key, "c", 2),
            ("a:\n- b: 1\nc$0", "", CursorKind::Key, "c", 0),
            ("a: { b: 1, c$0 }", "a", CursorKind::Key, "c", 11),
            ("a: { b: { d: 1 }, c: x$0 }", "a/c", CursorKind::Value, "x", 21),
            ("a: { b: [x, y$0] }", "a/b/-", CursorKind::Key, "y", 12),
            ("a: {\n  b: 1,\n  c$0", "a", CursorKind::Key, "c", 2),
            ("a:\n  b: [\n    x,\n    $0", "a/b/-", CursorKind::Key, "", 4),
            ("a:\n  b: |\n    text $0\n  c: 1", "a/b", CursorKind::Text, "text ", 4),
            ("a:\n  b: |\n    text\n  c$0", "a", CursorKind::Key, "c", 2),
            ("a: 1 # com$0", "a", CursorKind::Text, "1 # com", 3),
            ("a:\n  b: x${resources.d$0b.url}", "a/b", CursorKind::Placeholder, "db", 5),
            ("a:\n  b: \"${$0\"", "a/b", CursorKind::Placeholder, "", 5),
            ("a: { b: \"p:${vars.$0}\" }", "a/b", CursorKind::Placeholder, "", 8),
            ("a: http://x$0", "a", CursorKind::Value, "http://x", 3),
            ("a:\n  b: {x: 1}\n  $0", "a", CursorKind::Key, "", 2),
            ("a: { \"b\": $0", "a/b", CursorKind::Value, "", 10),
        ];
        for (fixture, path, kind, word, column) in cases {
            assert_eq!(locate_cursor(fixture), (path.to_owned(), kind, word.to_owned(), column), "{fixture:?}");
        }
    }

    #[test]
    fn sibling_keys_lists_keys_of_same_map() {
        for (fixture, expected) in [
            ("a:\n  b: 1\n  $0\n  c:\n    d: 1\ne: 1", "b c"),
            ("a:\n  - b: 1\n    c: 2\n  - d: 1\n    $0\n    e: 1\n  - f: 1", "d e"),
            ("a: { b: 1, $0, c: { d: 1 } }", "b c"),
            ("x: 1\n$0\ny:\n  z: 1\n", "x y"),
            ("a:\n  - $0\n    b: 1\n  - c: 1", "b"),
        ] {
            let offset = fixture.find("$0").expect("a cursor");
            let text = Text::new(fixture.replacen("$0", "", 1));
            let cursor = cursor_at(&text, offset);
            let mut found = sibling_keys(&text, &cursor, offset);
            found.sort();
            assert_eq!(found.join(" "), expected, "{fixture:?}");
        }
    }
}
