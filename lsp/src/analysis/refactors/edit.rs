//! Edits of block and flow maps that leave the surrounding text unchanged.

use std::ops::Range;

use manifest::diagnostic::Edit;
use manifest::syntax::{Node, Pair};
use manifest::{FileId, Span};

use crate::text::Text;

/// One file's text.
#[derive(Clone, Copy)]
pub struct SourceEditor<'a> {
    pub text: &'a Text,
    pub file: FileId,
}

impl SourceEditor<'_> {
    pub fn edit(&self, range: Range<usize>, text: impl Into<String>) -> Edit {
        Edit { span: Span::new(self.file, range.start, range.end), text: text.into() }
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.as_str().get(range).unwrap_or_default()
    }

    pub fn is_flow(&self, node: &Node) -> bool {
        self.slice(node.span.range()).starts_with(['{', '['])
    }

    fn column(&self, offset: usize) -> usize {
        offset - self.text.line_start(self.text.line_at(offset))
    }

    /// Adds an entry at the end of a map. In a block map it gets the indentation of the first key. The lines of `entry`
    /// are indented relative to the map.
    pub fn add_entry(&self, map: &Node, entry: &str) -> Option<Edit> {
        // Merged pairs (`<<`) are at other places, which other maps may share.
        let own = map.span.range();
        let is_own = |pair: &&Pair| own.contains(&pair.key.span.range().start) && pair.key.span.file == self.file;
        let mut pairs: Vec<&Pair> = map.as_map()?.iter().filter(is_own).collect();
        pairs.sort_by_key(|pair| pair.key.span.start);
        let Some((first, last)) = pairs.first().zip(pairs.last()) else {
            let range = map.span.range();
            return (self.slice(range.clone()) == "{}").then(|| self.edit(range, format!("{{ {entry} }}")));
        };
        let end = last.value.span.range().end.max(last.key.span.range().end);
        if self.is_flow(map) {
            return (!entry.contains('\n')).then(|| self.edit(end..end, format!(", {entry}")));
        }
        let column = self.column(first.key.span.range().start);
        let line = self.text.line_range(self.text.line_at(end));
        let indent = " ".repeat(column);
        let entry = entry.replace('\n', &format!("\n{indent}"));
        Some(self.edit(line.end..line.end, format!("\n{indent}{entry}")))
    }

    /// Adds an entry at the end of a section, and creates the section if it does not exist.
    pub fn add_to_section(&self, root: &Node, section: &str, entry: &str) -> Option<Edit> {
        match root.get(section) {
            Some(pair) => self.add_entry(&pair.value, entry),
            None if self.is_flow(root) => self.add_entry(root, &format!("{section}: {{ {entry} }}")),
            None => {
                let end = self.text.len();
                let newline = if self.text.as_str().ends_with('\n') { "" } else { "\n" };
                let entry = entry.replace('\n', "\n  ");
                Some(self.edit(end..end, format!("{newline}{section}:\n  {entry}\n")))
            }
        }
    }

    /// Removes a pair with its lines or its comma. Returns `None` for the only pair, because the map would become
    /// empty.
    pub fn remove_pair(&self, map: &Node, name: &str) -> Option<Edit> {
        let pairs = map.as_map()?;
        let at = pairs.iter().position(|pair| pair.key.value == name)?;
        let pair = &pairs[at];
        let range = self.pair_range(pair);
        if self.is_flow(map) {
            return match (pairs.get(at + 1), at.checked_sub(1).map(|before| &pairs[before])) {
                (Some(next), _) => Some(self.edit(range.start..next.key.span.range().start, "")),
                (None, Some(before)) => Some(self.edit(self.pair_range(before).end..range.end, "")),
                (None, None) => None,
            };
        }
        let (first, last) = (self.text.line_at(range.start), self.text.line_at(range.end));
        // A pair after a dash, or with other content on its lines, cannot be removed with its lines.
        let starts_line = self.slice(self.text.line_start(first)..range.start).trim().is_empty();
        let rest = self.slice(range.end..self.text.line_range(last).end).trim();
        let ends_line = rest.is_empty() || rest.starts_with('#');
        (pairs.len() > 1 && starts_line && ends_line)
            .then(|| self.edit(self.text.line_start(first)..self.text.line_start(last + 1), ""))
    }

    fn pair_range(&self, pair: &Pair) -> Range<usize> {
        let end = pair.value.span.range().end.max(pair.key.span.range().end);
        // The span of a multi-line text includes its final line break.
        let source_text = self.slice(pair.key.span.range().start..end).trim_end();
        pair.key.span.range().start..pair.key.span.range().start + source_text.len()
    }

    /// The source text of a pair of `map`, without the indentation of its lines. In a block map it includes the comment
    /// after the pair, which [`Self::remove_pair`] removes with the line.
    pub fn pair_text(&self, map: &Node, pair: &Pair) -> Option<String> {
        let mut range = self.pair_range(pair);
        // The text of an alias or a merge is at another place.
        if pair.value.span.file != self.file || pair.value.span.range().start < range.start {
            return None;
        }
        let line_end = self.text.line_range(self.text.line_at(range.end)).end;
        if !self.is_flow(map) && self.slice(range.end..line_end).trim_start().starts_with('#') {
            range.end = line_end;
        }
        let indent = " ".repeat(self.column(range.start));
        let text = self.slice(range).replace("\r\n", "\n");
        let mut lines = text.split('\n');
        let first = lines.next()?.to_owned();
        let deeper: Option<Vec<&str>> =
            lines.map(|line| if line.trim().is_empty() { Some("") } else { line.strip_prefix(&indent) }).collect();
        Some(deeper?.into_iter().fold(first, |text, line| text + "\n" + line))
    }
}
