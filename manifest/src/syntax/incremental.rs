//! Incremental parsing of a text that changed within one unit: parses the lines of that unit alone, and copies the rest
//! of the tree with shifted spans.
//!
//! A unit is an entry of a top-level section that has its own lines. If its lines could have another meaning alone than
//! in their context, or the reverse, the text is left to the full parser. So the result always equals that of a full
//! parse, and `None` says nothing about the text. This module knows nothing about manifests.

use std::sync::Arc;

use super::tree::{Comment, Kind, Node, Pair};
use super::tree_builder::{self, BuiltTree};
use crate::text::{FileId, Span};

/// The base for incremental parsing of a text's next version.
#[derive(Clone, Debug, Default)]
pub enum ReparseBase {
    /// The next version needs a full parse: the text is broken beyond repair, or parts of it refer to others (anchors,
    /// `<<`).
    #[default]
    Unavailable,
    /// The tree was parsed from the text itself.
    Text,
    /// The tree was parsed from this text, in which the broken parts are blanked out.
    Repaired(Arc<str>),
}

impl ReparseBase {
    /// `repaired` is the text that the tree was parsed from, if it differs from the file's text.
    pub(super) fn from_tree(built: &BuiltTree, repaired: Option<&str>) -> Self {
        let is_reusable = built.error.is_none() && built.diagnostics.is_empty() && built.is_self_contained;
        match (is_reusable && built.root.is_some(), repaired) {
            (false, _) => Self::Unavailable,
            (true, None) => Self::Text,
            (true, Some(text)) => Self::Repaired(text.into()),
        }
    }
}

/// An earlier version of a text, with its tree and comments.
#[derive(Clone, Copy, Debug)]
pub struct PreviousParse<'a> {
    text: &'a str,
    root: &'a Node,
    comments: &'a [Comment],
}

impl<'a> PreviousParse<'a> {
    /// `text` is the file's text; the other arguments are the results of parsing it.
    #[must_use]
    pub fn new(base: &'a ReparseBase, text: &'a str, root: &'a Node, comments: &'a [Comment]) -> Option<Self> {
        let text = match base {
            ReparseBase::Unavailable => return None,
            ReparseBase::Text => text,
            ReparseBase::Repaired(text) => text,
        };
        Some(Self { text, root, comments })
    }
}

/// The replaced byte range of the earlier text, and the shift of the text after it.
struct TextChange {
    start: usize,
    end: usize,
    delta: i32,
}

/// Position of the changed unit in the earlier text.
struct UnitLocation {
    section: usize,
    unit: usize,
    /// Start of the unit's first line.
    start: usize,
    /// Start of the line that follows the unit.
    end: usize,
    /// Column of the unit's key.
    column: usize,
    followed_by: FollowedBy,
}

/// The element after a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FollowedBy {
    Unit,
    Section,
    EndOfText,
}

/// The tree of `text`, without diagnostics; `None` if a full parse is necessary.
pub(super) fn reparse(text: &str, file: FileId, previous: PreviousParse<'_>) -> Option<BuiltTree> {
    let change = diff_texts(previous.text, text)?;
    let location = find_changed_unit(&previous, &change)?;
    let lines = text.get(location.start..location.end.checked_add_signed(isize::try_from(change.delta).ok()?)?)?;
    // Without the line feed, the unit's last line and the next key would be one line.
    if location.followed_by != FollowedBy::EndOfText && !lines.ends_with('\n') {
        return None;
    }
    let old_name = &pairs(&pairs(previous.root)?.get(location.section)?.value)?.get(location.unit)?.key.value;
    let (pair, unit_comments) = parse_unit(lines, file, &location, old_name)?;
    let root = replace_unit(text, previous.root, &location, change.delta, pair)?;
    let start = u32::try_from(location.start).ok()?;
    let end = u32::try_from(location.end).ok()?;
    let mut comments = Vec::with_capacity(previous.comments.len() + 1);
    comments.extend(previous.comments.iter().filter(|comment| comment.span.start < start).cloned());
    comments.extend(unit_comments);
    let comments_after = previous.comments.iter().filter(|comment| comment.span.start >= end);
    comments.extend(comments_after.map(|comment| shift_comment(comment, change.delta)));
    Some(BuiltTree { root: Some(root), comments, diagnostics: Vec::new(), is_self_contained: true, error: None })
}

/// Finds the changed range. Matches the common suffix first, so that lines inserted before a unit belong to the unit
/// above.
fn diff_texts(before: &str, after: &str) -> Option<TextChange> {
    let (old, new) = (before.as_bytes(), after.as_bytes());
    let suffix = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let prefix_max = old.len().min(new.len()) - suffix;
    let start = old[..prefix_max].iter().zip(&new[..prefix_max]).take_while(|(old, new)| old == new).count();
    let delta = i64::try_from(new.len()).ok()? - i64::try_from(old.len()).ok()?;
    Some(TextChange { start, end: old.len() - suffix, delta: i32::try_from(delta).ok()? })
}

fn pairs(node: &Node) -> Option<&[Pair]> {
    node.as_map()
}

/// The unit that contains the complete change, if there is one.
fn find_changed_unit(previous: &PreviousParse<'_>, change: &TextChange) -> Option<UnitLocation> {
    let (text, sections) = (previous.text, block_pairs(previous.text, previous.root)?);
    let section_index = sections.partition_point(|pair| pair.key.span.range().start <= change.start).checked_sub(1)?;
    let section = sections.get(section_index)?;
    let section_end = match sections.get(section_index + 1) {
        Some(next) => (line_and_column(text, next).filter(|(_, column)| *column == 0)?.0, FollowedBy::Section),
        None => (text.len(), FollowedBy::EndOfText),
    };
    if line_and_column(text, section)?.1 != 0 {
        return None;
    }
    let units = block_pairs(text, &section.value)?;
    let starts_before = |pair: &Pair| line_and_column(text, pair).is_some_and(|(line, _)| line <= change.start);
    let unit = units.partition_point(starts_before).checked_sub(1)?;
    let (start, column) = line_and_column(text, units.get(unit)?).filter(|(_, column)| *column > 0)?;
    let (end, followed_by) = match units.get(unit + 1) {
        Some(next) => (line_and_column(text, next).filter(|(_, other)| *other == column)?.0, FollowedBy::Unit),
        None => section_end,
    };
    // The old lines must be a unit block too: a `?` on its own line before the next key would belong to that key.
    let is_inside = start <= change.start && change.end <= end && is_unit_block(text.get(start..end)?, column);
    is_inside.then_some(UnitLocation { section: section_index, unit, start, end, column, followed_by })
}

/// The pairs of a map in block style, not in flow style (braces).
fn block_pairs<'n>(text: &str, node: &'n Node) -> Option<&'n [Pair]> {
    let is_flow_style = text.get(node.span.range())?.starts_with('{');
    pairs(node).filter(|_| !is_flow_style)
}

/// The start of a key's line, and the key's column; `None` if other text precedes the key on its line.
fn line_and_column(text: &str, pair: &Pair) -> Option<(usize, usize)> {
    let key = pair.key.span.range().start;
    let before = text.get(..key)?.trim_end_matches(' ');
    let starts_line = before.is_empty() || before == "\u{feff}" || before.ends_with(['\n', '\r']);
    starts_line.then(|| (before.len(), key - before.len()))
}

/// Lines placed before and after a unit's lines when they are parsed alone. They are keys like those in the full text,
/// because the meaning of an empty value or a block scalar depends on the key that ends it.
const SECTION_LINE: &str = "s:\n";
const NEXT_KEY_LINE: &str = "z: 0\n";

/// Parses a unit's lines alone: one key at the same column, and all other lines with a deeper indent.
fn parse_unit(lines: &str, file: FileId, location: &UnitLocation, name: &str) -> Option<(Pair, Vec<Comment>)> {
    let column = location.column;
    if !is_unit_block(lines, column) {
        return None;
    }
    let spaces = " ".repeat(if location.followed_by == FollowedBy::Unit { column } else { 0 });
    let text = match location.followed_by {
        FollowedBy::Unit | FollowedBy::Section => format!("{SECTION_LINE}{lines}{spaces}{NEXT_KEY_LINE}"),
        FollowedBy::EndOfText => format!("{SECTION_LINE}{lines}"),
    };
    let built = tree_builder::build_tree(&text, file);
    if built.error.is_some() || !built.diagnostics.is_empty() || !built.is_self_contained {
        return None;
    }
    let mut root = into_pairs(built.root?)?;
    // Any other number of pairs means that the lines changed the structure around them.
    let mut units = match location.followed_by {
        FollowedBy::Section if root.len() != 2 => return None,
        FollowedBy::Section => into_pairs(root.swap_remove(0).value)?,
        FollowedBy::Unit | FollowedBy::EndOfText if root.len() != 1 => return None,
        FollowedBy::Unit | FollowedBy::EndOfText => into_pairs(root.pop()?.value)?,
    };
    if units.len() != if location.followed_by == FollowedBy::Unit { 2 } else { 1 } {
        return None;
    }
    let delta = i32::try_from(location.start).ok()? - i32::try_from(SECTION_LINE.len()).ok()?;
    let pair = units.swap_remove(0);
    // A renamed unit may become a duplicate of another, so only the full parser handles it.
    let has_same_key = pair.key.value == name && pair.key.span.range().start == SECTION_LINE.len() + column;
    has_same_key
        .then(|| (pair.shifted(delta), built.comments.iter().map(|comment| shift_comment(comment, delta)).collect()))
}

fn into_pairs(node: Node) -> Option<Vec<Pair>> {
    match node.kind {
        Kind::Map(pairs) => Some(pairs),
        _ => None,
    }
}

/// Whether the first line begins at this column, and all others have a deeper indent, are blank or are comments.
fn is_unit_block(lines: &str, column: usize) -> bool {
    let mut lines_iter = lines.split(['\n', '\r']);
    let starts_at_column = lines_iter.next().is_some_and(|line| indent(line) == column);
    starts_at_column && lines_iter.all(|line| belongs_to_unit(line, column)) && !lines.contains('\u{feff}')
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Whether a line has a deeper indent than the unit's key, is blank or is a comment.
fn belongs_to_unit(line: &str, column: usize) -> bool {
    let content = line.trim_start_matches(' ');
    content.is_empty() || content.starts_with('#') || (indent(line) > column && !content.starts_with('\t'))
}

/// The earlier tree with `pair` in place of the unit, and all later spans shifted by `delta`.
fn replace_unit(text: &str, root: &Node, location: &UnitLocation, delta: i32, pair: Pair) -> Option<Node> {
    let sections = pairs(root)?;
    let section = sections.get(location.section)?;
    let units = pairs(&section.value)?;
    let is_last_unit = location.unit + 1 == units.len();
    let value = Node {
        span: parent_span(text, section.value.span, is_last_unit, location.end, delta),
        kind: Kind::Map(replace_pair(units, location.unit, pair, delta)),
    };
    let new_section = Pair { key: section.key.clone(), value };
    let is_last_of_text = is_last_unit && location.section + 1 == sections.len();
    let span = parent_span(text, root.span, is_last_of_text, location.end, delta);
    Some(Node { span, kind: Kind::Map(replace_pair(sections, location.section, new_section, delta)) })
}

fn replace_pair(pairs: &[Pair], index: usize, replacement: Pair, delta: i32) -> Vec<Pair> {
    let mut result = Vec::with_capacity(pairs.len());
    result.extend(pairs[..index].iter().cloned());
    result.push(replacement);
    result.extend(pairs[index + 1..].iter().map(|pair| pair.shifted(delta)));
    result
}

/// The new span of the map that contains the unit. It ends with its last non-blank character, which may belong to a
/// comment after its last unit.
fn parent_span(text: &str, span: Span, unit_is_last: bool, end: usize, delta: i32) -> Span {
    let shifted = Span { end: span.shifted(delta).end, ..span };
    if !unit_is_last {
        return shifted;
    }
    let end = end.saturating_add_signed(isize::try_from(delta).unwrap_or_default());
    let content = text.get(span.range().start..end).unwrap_or_default().trim_end();
    Span::new(span.file, span.range().start, span.range().start + content.len())
}

fn shift_comment(comment: &Comment, delta: i32) -> Comment {
    Comment { span: comment.span.shifted(delta), text: comment.text.clone() }
}

#[cfg(test)]
mod tests;
