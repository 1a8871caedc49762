//! Where the cursor is, told from the lines alone: what is being typed cannot be parsed yet.
//!
//! Indentation and brackets decide; no line of a half-typed file can throw it off for longer than its own block.

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
    /// Where a key is, or may be; also the first word of an item of a list.
    Key,
    /// Behind a key's colon, or in brackets.
    Value,
    /// Inside `${`: the parts so far.
    Placeholder,
    /// Comments, and texts of several lines.
    Text,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// From the root to what holds the cursor; a value's own key is the last.
    pub levels: Vec<Level>,
    pub kind: CursorKind,
    /// What an accepted completion replaces: the word around the cursor.
    pub word: Range<usize>,
    /// Where the text of the value (or of the placeholder) begins.
    pub value_start: usize,
    /// Spaces before the word, dashes counted.
    pub column: usize,
    /// Spaces before the line's first letter.
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

/// An open bracket; a map's key behind whose colon we are.
#[derive(Clone, PartialEq, Debug)]
enum Bracket {
    Map(Option<String>),
    List,
}

#[derive(Clone, Debug, Default)]
struct LineScanner {
    frames: Vec<Frame>,
    brackets: Vec<Bracket>,
    /// Lines deeper than this belong to a text of several lines.
    block_scalar_column: Option<usize>,
    /// A quote that is still open at the end of the line.
    open_quote: Option<char>,
    /// In a comment.
    is_in_comment: bool,
    /// Where the word or value at the end of the scanned text begins.
    value_start: usize,
    /// Behind a colon, outside of brackets.
    is_after_colon: bool,
}

/// Where this offset is.
#[must_use]
pub fn cursor_at(text: &Text, offset: usize) -> Cursor {
    let offset = text.floor_char_boundary(offset);
    let line = text.line_at(offset);
    let mut scan = LineScanner::default();
    for number in top_level_line(text, line)..line {
        scan.scan_line(text.line(number), text.line_start(number), false);
    }
    let range = text.line_range(line);
    let head = text.as_str().get(range.start..offset.min(range.end)).unwrap_or_default();
    let rest = text.as_str().get(offset.min(range.end)..range.end).unwrap_or_default();
    let in_block = scan.is_in_block_scalar(head, rest);
    if !in_block {
        scan.block_scalar_column = None;
        scan.scan_line(head, range.start, true);
    }
    scan.into_cursor(text, offset, head, rest, in_block)
}

/// The nearest line above that begins at the margin: everything before it is of another key.
fn top_level_line(text: &Text, line: usize) -> usize {
    let begins = |number: &usize| {
        let first = text.line(*number).bytes().next();
        first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'"' || byte == b'_' || byte == b'+')
    };
    (0..line).rev().find(begins).unwrap_or(0)
}

fn leading_whitespace(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t', '\u{feff}']).len()
}

impl LineScanner {
    fn is_in_block_scalar(&self, head: &str, rest: &str) -> bool {
        let empty = head.trim().is_empty() && rest.trim().is_empty();
        self.block_scalar_column
            .is_some_and(|column| leading_whitespace(head) > column || (empty && head.len() > column))
    }

    /// Reads one line, or its part before the cursor.
    fn scan_line(&mut self, line: &str, offset: usize, last: bool) {
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
                if last {
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
            if let Some((name, behind)) = parse_key(rest) {
                self.close_frames(column, false);
                self.frames.push(Frame::Key(column, name));
                let value = &rest[behind..];
                let gap = leading_whitespace(value);
                column += behind + gap;
                rest = &value[gap..];
                self.is_after_colon = true;
                self.value_start = offset + column;
                if rest.starts_with(['|', '>']) && !last {
                    self.block_scalar_column = self.frames.last().map(Frame::column);
                    return;
                }
            } else {
                self.close_frames(column, false);
            }
        }
        self.scan_flow(rest, offset + line.len() - rest.len());
    }

    /// Brackets, quotes and comments; a plain word is only passed.
    fn scan_flow(&mut self, text: &str, offset: usize) {
        let opens = text.starts_with(['[', '{', '"', '\'']);
        let mut word = 0;
        let mut before = ' ';
        for (at, letter) in text.char_indices() {
            let here = offset + at;
            if let Some(mark) = self.open_quote {
                if letter == mark && before != '\\' {
                    self.open_quote = None;
                }
                before = letter;
                continue;
            }
            let inside = !self.brackets.is_empty();
            match letter {
                '#' if before == ' ' => {
                    self.is_in_comment = true;
                    return;
                }
                '"' | '\'' if (inside || opens) && text[word..at].trim().is_empty() => {
                    self.open_quote = Some(letter);
                    self.value_start = here;
                }
                '[' | '{' if (inside || at == 0) && text[word..at].trim().is_empty() => {
                    self.brackets.push(if letter == '[' { Bracket::List } else { Bracket::Map(None) });
                    word = at + 1;
                    self.value_start = here + 1;
                }
                ']' | '}' if inside => {
                    self.brackets.pop();
                    word = at + 1;
                    self.value_start = here + 1;
                }
                ',' if inside => {
                    if let Some(Bracket::Map(key)) = self.brackets.last_mut() {
                        *key = None;
                    }
                    word = at + 1;
                    self.value_start = here + 1;
                }
                ':' if inside && (text[at + 1..].starts_with([' ', '\n']) || at + 1 == text.len()) => {
                    if let Some(Bracket::Map(key)) = self.brackets.last_mut() {
                        *key = Some(text[word..at].trim().trim_matches(['"', '\'']).to_owned());
                        word = at + 1;
                        self.value_start = here + 1;
                    }
                }
                ' ' if inside && self.value_start == here => self.value_start = here + 1,
                _ => {}
            }
            before = letter;
        }
    }

    /// Ends what lies at this column or deeper; a dash may stand below a key of its own column.
    fn close_frames(&mut self, column: usize, for_dash: bool) {
        self.frames.retain(|frame| match frame {
            Frame::Key(own, _) if for_dash => *own <= column,
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

    fn into_cursor(self, text: &Text, offset: usize, head: &str, rest: &str, in_block: bool) -> Cursor {
        let flow = !self.brackets.is_empty();
        let line_start = offset - head.len();
        let at = if self.is_in_comment || in_block {
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
        let start = if in_block { line_start + leading_whitespace(head) } else { self.value_start.min(offset) };
        let mut cursor = Cursor {
            levels: self.levels(),
            kind: at,
            word: start..offset,
            value_start: start,
            column: start - line_start,
            indent: leading_whitespace(head),
            is_flow: flow,
            is_quoted: self.open_quote.is_some(),
        };
        cursor.widen_word(text, offset, rest);
        cursor
    }
}

impl Cursor {
    /// To the whole word around the cursor, or the part of a placeholder.
    fn widen_word(&mut self, text: &Text, offset: usize, rest: &str) {
        let before = text.as_str().get(self.value_start..offset).unwrap_or_default();
        let open = before.rfind("${").filter(|at| !before[*at..].contains('}') && !before[..*at].ends_with('$'));
        if let Some(open) = open.filter(|_| self.kind != CursorKind::Text || !before.contains('#')) {
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

    /// The names on the way, items as `None`.
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

fn word_length(text: &str, more: &str) -> usize {
    text.find(|letter: char| !letter.is_alphanumeric() && !more.contains(letter)).unwrap_or(text.len())
}

/// A key at the start of a line's content, and where the text behind its colon begins.
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

/// The keys that stand beside the cursor already, in the same map.
#[must_use]
pub fn sibling_keys(text: &Text, cursor: &Cursor, offset: usize) -> Vec<String> {
    if cursor.is_flow {
        flow_sibling_keys(text, offset)
    } else {
        block_sibling_keys(text, cursor, text.line_at(offset))
    }
}

fn block_sibling_keys(text: &Text, cursor: &Cursor, own: usize) -> Vec<String> {
    let column = cursor.column;
    let mut found = Vec::new();
    let mut look = |number: usize| {
        let line = text.line(number);
        let mut content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            return true;
        }
        let mut at = leading_whitespace(line);
        let mut first = false;
        while at < column && content.starts_with("- ") {
            let gap = 1 + leading_whitespace(&content[1..]);
            at += gap;
            content = &content[gap..];
            first = true;
        }
        if at == column && !content.starts_with("- ") {
            found.extend(parse_key(content).map(|(name, _)| name));
        }
        // The first key behind a dash is the map's first: nothing before it belongs here.
        at >= column && !(first && at == column)
    };
    // A line that begins with a dash begins the map; so what is above belongs to another.
    let own_line = text.line(own);
    let dashed = leading_whitespace(own_line) < column && own_line.trim_start().starts_with('-');
    if !dashed {
        for number in (0..own).rev() {
            if !look(number) {
                break;
            }
        }
    }
    for number in own + 1..text.line_count() {
        let line = text.line(number);
        let begins_another =
            leading_whitespace(line) < column && !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if begins_another || !look(number) {
            break;
        }
    }
    found
}

/// Within the bracket around the cursor; at most so far, because it may never close.
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
                // The word being typed is no sibling of itself.
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
        for (fixture, path, at, word, column) in cases {
            assert_eq!(locate_cursor(fixture), (path.to_owned(), at, word.to_owned(), column), "{fixture:?}");
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
