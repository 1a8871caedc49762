//! Formatting: two spaces per level, indented lists, even spaces in brackets, no trailing spaces or repeated empty
//! lines.
//!
//! Comments stay in place. A file with an error is not changed. The formatted text is parsed again and compared, so
//! that a bug of the formatter cannot change a manifest.

use std::ops::Range;

use manifest::syntax::{self, Comment, Kind, Node, ParsedFile};
use manifest::{FileId, Span};

use crate::text::Text;

/// The replacement of one line. To remove a line, the range includes its line ending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineEdit {
    pub range: Range<usize>,
    pub text: String,
}

const INDENT_WIDTH: usize = 2;
const EMPTY_LINES_MAX: usize = 1;
/// Clients need seconds for a hundred thousand separate edits.
const EDITS_MAX: usize = 10_000;

/// Why a text stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The text does not parse, which its diagnostics explain.
    HasErrors,
    /// The formatted text would have another meaning.
    ChangesMeaning,
}

/// The edits of the lines that change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Formatting {
    pub edits: Vec<LineEdit>,
    /// The indentation of a part stays, because the lines around the part depend on it.
    pub is_indentation_unchanged: bool,
}

/// The tree and the comments of a text without syntax errors.
#[derive(Clone, Copy, Debug)]
pub struct ValidTree<'a> {
    pub root: &'a Node,
    pub comments: &'a [Comment],
}

impl<'a> ValidTree<'a> {
    /// Returns `None` if the file has syntax errors.
    #[must_use]
    pub fn from_parsed(parsed: &'a ParsedFile) -> Option<Self> {
        let root = parsed.root.as_ref().filter(|_| parsed.diagnostics.is_empty())?;
        Some(Self { root, comments: &parsed.comments })
    }
}

/// Formats the text, or only the lines of `range`. Without a tree, the text has errors.
///
/// # Errors
/// The reason why nothing is edited.
pub fn format(text: &Text, tree: Option<ValidTree<'_>>, range: Option<Range<usize>>) -> Result<Formatting, Refusal> {
    let Some(tree) = tree else { return Err(Refusal::HasErrors) };
    let layout = LineLayout::from_tree(text, tree.root);
    let is_equivalent = |edits: &[LineEdit]| edits.is_empty() || is_equivalent(text, tree, edits);
    let Some(range) = range else {
        let edits = layout.edits();
        return if is_equivalent(&edits) {
            Ok(Formatting { edits, is_indentation_unchanged: false })
        } else {
            Err(Refusal::ChangesMeaning)
        };
    };
    // The indentation of a part depends on the lines around it, so try the most complete formatting first.
    // A selection up to the start of a line does not include that line.
    let last = range.end.saturating_sub(usize::from(range.end > range.start));
    let lines = text.line_at(range.start)..text.line_at(last) + 1;
    let relative = layout.relative_to_first_of(lines.clone());
    let unchanged = LineLayout { indents: vec![None; text.line_count()], ..layout.clone() };
    let candidates = [(&layout, false), (&relative, false), (&unchanged, true)];
    let formatting = candidates.into_iter().find_map(|(candidate, is_indentation_unchanged)| {
        let mut edits = candidate.edits();
        edits.retain(|edit| lines.contains(&text.line_at(edit.range.start)));
        is_equivalent(&edits).then_some(Formatting { edits, is_indentation_unchanged })
    });
    formatting.ok_or(Refusal::ChangesMeaning)
}

/// Whether the edits change only spaces and empty lines, and neither the tree nor a comment.
fn is_equivalent(text: &Text, tree: ValidTree<'_>, edits: &[LineEdit]) -> bool {
    let formatted = apply_edits(text.as_str(), edits);
    // The tree has no anchors and aliases, so compare the source text too.
    let visible = |text: &str| -> Vec<u8> { text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect() };
    if visible(text.as_str()) != visible(&formatted) {
        return false;
    }
    let again = syntax::parse(&formatted, FileId(0));
    let comments =
        |all: &[Comment]| -> Vec<String> { all.iter().map(|comment| comment.text.trim().to_owned()).collect() };
    again.diagnostics.is_empty()
        && again.root.as_ref().is_some_and(|again| is_same_tree(tree.root, again))
        && comments(&again.comments) == comments(tree.comments)
}

/// Merges neighbouring edits, with the text between them, until at most [`EDITS_MAX`] are left.
#[must_use]
pub fn limit_edits(text: &Text, edits: Vec<LineEdit>) -> Vec<LineEdit> {
    if edits.len() <= EDITS_MAX {
        return edits;
    }
    let merge = |part: &[LineEdit]| {
        let (start, end) = (part.first()?.range.start, part.last()?.range.end);
        let inner = part
            .iter()
            .map(|edit| LineEdit { range: edit.range.start - start..edit.range.end - start, ..edit.clone() });
        let replaced = text.as_str().get(start..end)?;
        Some(LineEdit { range: start..end, text: apply_edits(replaced, &inner.collect::<Vec<_>>()) })
    };
    edits.chunks(edits.len().div_ceil(EDITS_MAX)).filter_map(merge).collect()
}

fn apply_edits(text: &str, edits: &[LineEdit]) -> String {
    let mut formatted = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        formatted.push_str(&text[at..edit.range.start]);
        formatted.push_str(&edit.text);
        at = edit.range.end;
    }
    formatted.push_str(&text[at..]);
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
#[derive(Clone)]
struct LineLayout<'a> {
    text: &'a Text,
    /// The indentation of each line that starts a key or an item.
    indents: Vec<Option<usize>>,
    /// Lines inside multi-line texts, whose spaces are content.
    verbatim: Vec<bool>,
    /// The brackets that open and close on one line, sorted by position.
    flows: Vec<Range<usize>>,
}

impl<'a> LineLayout<'a> {
    fn from_tree(text: &'a Text, root: &Node) -> Self {
        let count = text.line_count();
        let mut layout = Self { text, indents: vec![None; count], verbatim: vec![false; count], flows: Vec::new() };
        layout.layout_node(root, 0);
        layout.flows.sort_by_key(|range| range.start);
        layout
    }

    /// A layout in which the first key or item of these lines keeps its indentation, and the others follow it.
    fn relative_to_first_of(&self, mut lines: Range<usize>) -> Self {
        let first = lines.find_map(|line| Some((line, self.indents.get(line).copied()??)));
        let Some((line, wanted)) = first else { return self.clone() };
        let shift = to_isize(leading_spaces(self.text.line(line))) - to_isize(wanted);
        let shifted = |indent: usize| usize::try_from(to_isize(indent) + shift).unwrap_or_default();
        let indents = self.indents.iter().map(|indent| indent.map(shifted)).collect();
        Self { indents, ..self.clone() }
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.line_at(offset)
    }

    fn is_flow(&self, node: &Node) -> bool {
        self.text.as_str()[node.span.range()].starts_with(['{', '['])
    }

    fn starts_line(&self, offset: usize) -> bool {
        let line_start = self.text.line_start(self.line_at(offset));
        self.text.as_str()[line_start..offset].trim_start_matches('\u{feff}').trim().is_empty()
    }

    fn layout_node(&mut self, node: &Node, indent: usize) {
        let (first, last) = (self.line_at(node.span.range().start), self.line_at(node.span.range().end));
        if self.is_flow(node) {
            if first == last {
                self.flows.push(node.span.range());
            }
            return;
        }
        // The content of an alias is at its anchor, where it has its own depth.
        let is_inside = |inner: Span| node.span.start <= inner.start && inner.end <= node.span.end;
        match &node.kind {
            Kind::Scalar(_) => {
                self.verbatim[first.min(last)..=last].iter_mut().skip(1).for_each(|line| *line = true);
            }
            Kind::Map(pairs) => {
                let own = pairs.iter().filter(|pair| is_inside(pair.key.span));
                for pair in own {
                    let start = pair.key.span.range().start;
                    if self.starts_line(start) {
                        let line = self.line_at(start);
                        self.indents[line] = Some(indent);
                    }
                    if pair.value.span.start >= pair.key.span.end {
                        self.layout_node(&pair.value, indent + INDENT_WIDTH);
                    }
                }
                if !pairs.iter().all(|pair| is_inside(pair.key.span)) {
                    self.layout_lines_with("<<", node, indent);
                }
            }
            Kind::List(items) => {
                for item in items.iter().filter(|item| is_inside(item.span)) {
                    let line = self.line_at(item.span.range().start);
                    if self.text.line(line).trim_start().starts_with('-') {
                        self.indents[line] = Some(indent);
                    }
                    self.layout_node(item, indent + INDENT_WIDTH);
                }
                if !items.iter().all(|item| is_inside(item.span)) {
                    self.layout_lines_with("-", node, indent);
                }
            }
        }
    }

    /// Lays out the lines of this node that begin with `prefix`: `<<` and `- *alias` have no position in the tree.
    fn layout_lines_with(&mut self, prefix: &str, node: &Node, indent: usize) {
        let (first, last) = (self.line_at(node.span.range().start), self.line_at(node.span.range().end));
        let column = node.span.range().start - self.text.line_start(first);
        for line in first..=last {
            let source = self.text.line(line);
            let is_own = leading_spaces(source) == column && source.trim_start().starts_with(prefix);
            if is_own && !self.verbatim[line] {
                self.indents[line] = Some(indent);
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
        let mut flows = self.flows.as_slice();
        for (line, next_indent) in self.next_indents().into_iter().enumerate() {
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
            let later = flows.partition_point(|flow| flow.start < range.end);
            let (own, rest) = flows.split_at(later);
            flows = rest;
            let new = self.format_line(line, old, moved, next_indent, own);
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

    /// For each line, the old and the new indentation of the next line that starts a key or an item.
    fn next_indents(&self) -> Vec<Option<(usize, usize)>> {
        let mut all = vec![None; self.text.line_count()];
        let mut next = None;
        for line in (0..all.len()).rev() {
            all[line] = next;
            if let Some(indent) = self.indents[line] {
                next = Some((leading_spaces(self.text.line(line)), indent));
            }
        }
        all
    }

    fn format_line(
        &self,
        line: usize,
        old: &str,
        moved: isize,
        next_indent: Option<(usize, usize)>,
        flows: &[Range<usize>],
    ) -> String {
        let (mark, body) = match old.strip_prefix('\u{feff}') {
            Some(rest) => ("\u{feff}", rest),
            None => ("", old),
        };
        let content = body.trim_start_matches(' ');
        let indent = match self.indents[line] {
            Some(indent) => indent,
            None => {
                let is_comment = content.starts_with('#') && !self.verbatim[line];
                let old_indent = leading_spaces(body);
                // A comment that has the indentation of the next key or item moves with it.
                let with_next = next_indent.filter(|(old_next, _)| is_comment && *old_next == old_indent);
                let with_previous = usize::try_from(to_isize(old_indent) + moved).unwrap_or_default();
                with_next.map_or(with_previous, |(_, indent)| indent)
            }
        };
        if self.verbatim[line] {
            let trimmed = if content.is_empty() { "" } else { body.trim_start_matches(' ') };
            return if trimmed.is_empty() { body.to_owned() } else { format!("{mark}{}{trimmed}", " ".repeat(indent)) };
        }
        let start = self.text.line_start(line) + old.len() - content.len();
        let content = format_flows(flows, start, content);
        let content = single_space_after_dash(&content, self.indents[line].is_some());
        format!("{mark}{}{}", " ".repeat(indent), content.trim_end())
    }
}

/// Formats `{a: 1,b: [ x ]}` as `{ a: 1, b: [x] }`. `start` is the offset of `content`.
fn format_flows(flows: &[Range<usize>], start: usize, content: &str) -> String {
    let mut formatted = String::with_capacity(content.len() + 8);
    let mut at = start;
    for flow in flows.iter().filter(|flow| flow.end <= start + content.len()) {
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
        format_part(text, None).unwrap_or_else(|_| text.to_owned())
    }

    fn format_part(text: &str, range: Option<Range<usize>>) -> Result<String, Refusal> {
        let parsed = syntax::parse(text, FileId(0));
        let text = Text::new(text);
        format(&text, ValidTree::from_parsed(&parsed), range)
            .map(|formatting| apply_edits(text.as_str(), &formatting.edits))
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

    #[test]
    fn merged_anchors_keep_their_own_depth() {
        let text = "x: &a\n   b: 1\n   c:\n      d: 2\ns:\n     w:\n          <<: *a\n          e: *a\n     v:\n          f: [*a]\n          <<: *a\n          g:\n             - *a\n";
        let expected = "x: &a\n  b: 1\n  c:\n    d: 2\ns:\n  w:\n    <<: *a\n    e: *a\n  v:\n    f: [*a]\n    <<: *a\n    g:\n      - *a\n";
        assert_eq!(format_text(text), expected);
        assert_eq!(format_text(expected), expected);
    }

    #[test]
    fn each_part_of_valid_text_formats_to_same_tree() {
        let text = "a: 1\ns:\n     w:   # here\n          i: {x: 1,y: 2}\n          e:\n               K: v   \n\n\n     v:\n          <<: &m\n             p: q\n          l:\n          -   one\n          -   t: 2\n              u: 3\n          t: |\n            text\n          # last\n     z: *m\n";
        let root = syntax::parse(text, FileId(0)).root.expect("it parses");
        let lines: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        for (index, start) in lines.iter().enumerate() {
            for end in &lines[index..] {
                let formatted = format_part(text, Some(*start..*end)).expect("spaces inside of lines can be formatted");
                let again = syntax::parse(&formatted, FileId(0));
                assert!(again.diagnostics.is_empty(), "{start}..{end}: {formatted}");
                assert!(is_same_tree(&root, &again.root.expect("it parses")), "{start}..{end}: {formatted}");
                // Lines outside of the range stay.
                assert!(formatted.starts_with(&text[..start.saturating_sub(1)]), "{start}..{end}: {formatted}");
            }
        }
        // One complete entry keeps its place, and its content follows it.
        let service = text.find("w:").expect("it exists")..text.find("\n\n").expect("it exists");
        let formatted = format_part(text, Some(service)).expect("it can be formatted");
        assert!(
            formatted.contains("     w:   # here\n       i: { x: 1, y: 2 }\n       e:\n         K: v\n"),
            "{formatted}"
        );
    }

    #[test]
    fn many_edits_are_merged_to_same_result() {
        let text = format!("a:\n{}", "   - b:   \n     # c\n".repeat(EDITS_MAX));
        let formatted = format_text(&text);
        let parsed = syntax::parse(&text, FileId(0));
        let text = Text::new(text);
        let edits = format(&text, ValidTree::from_parsed(&parsed), None).expect("it parses").edits;
        assert!(edits.len() > EDITS_MAX, "{}", edits.len());
        let limited = limit_edits(&text, edits);
        assert!(limited.len() <= EDITS_MAX, "{}", limited.len());
        assert!(apply_edits(text.as_str(), &limited) == formatted);
    }

    #[test]
    fn text_with_error_is_refused() {
        assert_eq!(format_part("a: [\n", None), Err(Refusal::HasErrors));
    }
}
