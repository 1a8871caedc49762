//! The next version of a text that differs inside of one unit: the unit's lines are parsed by themselves, the rest of the
//! tree is copied and moved.
//!
//! A unit is what stands below a key of a top-level section, in lines of its own. Whatever could make its lines mean
//! something else by themselves than in their place, or the other way round, is left to the whole parse: this only ever
//! answers what that would, and `None` says nothing about the text. It does not know what a manifest is.

use std::sync::Arc;

use super::tree::{Comment, Kind, Node, Pair};
use super::tree_builder::{self, BuiltTree};
use crate::text::{FileId, Span};

/// What the next version of a text can be parsed from.
#[derive(Clone, Debug, Default)]
pub enum ReparseBase {
    /// Only the whole: it is broken beyond repair, or parts of it stand for others (anchors, `<<`).
    #[default]
    Unavailable,
    /// The tree is that of the text.
    Text,
    /// The tree is that of this text, in which what was broken is blanked out.
    Repaired(Arc<str>),
}

impl ReparseBase {
    /// `repaired` is the text that was parsed in the end, where it is not the one of the file.
    pub(super) fn from_tree(built: &BuiltTree, repaired: Option<&str>) -> Self {
        let whole = built.error.is_none() && built.diagnostics.is_empty() && built.is_self_contained;
        match (whole && built.root.is_some(), repaired) {
            (false, _) => Self::Unavailable,
            (true, None) => Self::Text,
            (true, Some(text)) => Self::Repaired(text.into()),
        }
    }
}

/// An earlier version: its text and all that was parsed from it.
#[derive(Clone, Copy, Debug)]
pub struct PreviousParse<'a> {
    text: &'a str,
    root: &'a Node,
    comments: &'a [Comment],
}

impl<'a> PreviousParse<'a> {
    /// `text` is the file's, and the others are what it gave.
    #[must_use]
    pub fn new(basis: &'a ReparseBase, text: &'a str, root: &'a Node, comments: &'a [Comment]) -> Option<Self> {
        let text = match basis {
            ReparseBase::Unavailable => return None,
            ReparseBase::Text => text,
            ReparseBase::Repaired(text) => text,
        };
        Some(Self { text, root, comments })
    }
}

/// What was replaced: bytes of the earlier text, and by how much what follows them has moved.
struct TextChange {
    start: usize,
    end: usize,
    delta: i32,
}

/// Where the one changed unit stood.
struct UnitLocation {
    section: usize,
    unit: usize,
    /// From the start of its line to the start of the line of whatever comes next.
    start: usize,
    end: usize,
    /// Of the unit's key.
    column: usize,
    followed_by: FollowedBy,
}

/// What ends a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FollowedBy {
    Unit,
    Section,
    EndOfText,
}

/// The tree of `text`, without findings; `None` where the whole has to be parsed.
pub(super) fn reparse(text: &str, file: FileId, earlier: PreviousParse<'_>) -> Option<BuiltTree> {
    let change = diff_texts(earlier.text, text)?;
    let place = find_changed_unit(&earlier, &change)?;
    let lines = text.get(place.start..place.end.checked_add_signed(isize::try_from(change.delta).ok()?)?)?;
    if place.followed_by != FollowedBy::EndOfText && !lines.ends_with('\n') {
        return None;
    }
    let old = &pairs(&pairs(earlier.root)?.get(place.section)?.value)?.get(place.unit)?.key.value;
    let (pair, fresh) = parse_unit(lines, file, &place, old)?;
    let root = replace_unit(text, earlier.root, &place, change.delta, pair)?;
    let at = u32::try_from(place.start).ok()?;
    let behind = u32::try_from(place.end).ok()?;
    let mut comments = Vec::with_capacity(earlier.comments.len() + 1);
    comments.extend(earlier.comments.iter().filter(|comment| comment.span.start < at).cloned());
    comments.extend(fresh);
    comments.extend(
        earlier.comments.iter().filter(|one| one.span.start >= behind).map(|one| shift_comment(one, change.delta)),
    );
    Some(BuiltTree { root: Some(root), comments, diagnostics: Vec::new(), is_self_contained: true, error: None })
}

/// The end that both have in common is taken first: what is inserted before a unit belongs to the one above it.
fn diff_texts(before: &str, after: &str) -> Option<TextChange> {
    let (old, new) = (before.as_bytes(), after.as_bytes());
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(one, other)| one == other).count();
    let most = old.len().min(new.len()) - tail;
    let start = old[..most].iter().zip(&new[..most]).take_while(|(one, other)| one == other).count();
    let by = i64::try_from(new.len()).ok()? - i64::try_from(old.len()).ok()?;
    Some(TextChange { start, end: old.len() - tail, delta: i32::try_from(by).ok()? })
}

fn pairs(node: &Node) -> Option<&[Pair]> {
    node.as_map()
}

fn find_changed_unit(earlier: &PreviousParse<'_>, change: &TextChange) -> Option<UnitLocation> {
    let (text, sections) = (earlier.text, block_pairs(earlier.text, earlier.root)?);
    let section = sections.partition_point(|pair| pair.key.span.range().start <= change.start).checked_sub(1)?;
    let own = sections.get(section)?;
    let below = match sections.get(section + 1) {
        Some(next) => (line_and_column(text, next).filter(|(_, column)| *column == 0)?.0, FollowedBy::Section),
        None => (text.len(), FollowedBy::EndOfText),
    };
    if line_and_column(text, own)?.1 != 0 {
        return None;
    }
    let units = block_pairs(text, &own.value)?;
    let starts_before = |pair: &Pair| line_and_column(text, pair).is_some_and(|(line, _)| line <= change.start);
    let unit = units.partition_point(starts_before).checked_sub(1)?;
    let (start, column) = line_and_column(text, units.get(unit)?).filter(|(_, column)| *column > 0)?;
    let (end, follows) = match units.get(unit + 1) {
        Some(next) => (line_and_column(text, next).filter(|(_, other)| *other == column)?.0, FollowedBy::Unit),
        None => below,
    };
    // Where a `?` stands before the next key, that does not begin where its line does.
    let inside = start <= change.start && change.end <= end && is_unit_block(text.get(start..end)?, column);
    inside.then_some(UnitLocation { section, unit, start, end, column, followed_by: follows })
}

/// The pairs of a map that is written in lines, not in braces.
fn block_pairs<'n>(text: &str, node: &'n Node) -> Option<&'n [Pair]> {
    let braces = text.get(node.span.range())?.starts_with('{');
    pairs(node).filter(|_| !braces)
}

/// Where the line of a key begins, and the key's column; `None` where something else stands before it.
fn line_and_column(text: &str, pair: &Pair) -> Option<(usize, usize)> {
    let key = pair.key.span.range().start;
    let line = text.get(..key)?.trim_end_matches(' ');
    let starts = line.is_empty() || line == "\u{feff}" || line.ends_with(['\n', '\r']);
    starts.then(|| (line.len(), key - line.len()))
}

/// Stand before and behind a unit's lines when they are parsed by themselves: keys like the ones that do in the whole,
/// because what an empty value or a block of text is depends on what ends it.
const SECTION_LINE: &str = "s:\n";
const NEXT_KEY_LINE: &str = "z: 0\n";

/// A unit's lines in a text of their own: one key at the same column, everything else further in.
fn parse_unit(lines: &str, file: FileId, place: &UnitLocation, name: &str) -> Option<(Pair, Vec<Comment>)> {
    let column = place.column;
    if !is_unit_block(lines, column) {
        return None;
    }
    let spaces = " ".repeat(if place.followed_by == FollowedBy::Unit { column } else { 0 });
    let text = match place.followed_by {
        FollowedBy::Unit | FollowedBy::Section => format!("{SECTION_LINE}{lines}{spaces}{NEXT_KEY_LINE}"),
        FollowedBy::EndOfText => format!("{SECTION_LINE}{lines}"),
    };
    let built = tree_builder::build_tree(&text, file);
    if built.error.is_some() || !built.diagnostics.is_empty() || !built.is_self_contained {
        return None;
    }
    let mut root = into_pairs(built.root?)?;
    let mut units = match place.followed_by {
        FollowedBy::Section if root.len() != 2 => return None,
        FollowedBy::Section => into_pairs(root.swap_remove(0).value)?,
        FollowedBy::Unit | FollowedBy::EndOfText if root.len() != 1 => return None,
        FollowedBy::Unit | FollowedBy::EndOfText => into_pairs(root.pop()?.value)?,
    };
    if units.len() != if place.followed_by == FollowedBy::Unit { 2 } else { 1 } {
        return None;
    }
    let by = i32::try_from(place.start).ok()? - i32::try_from(SECTION_LINE.len()).ok()?;
    let pair = units.swap_remove(0);
    let same = pair.key.value == name && pair.key.span.range().start == SECTION_LINE.len() + column;
    same.then(|| (pair.shifted(by), built.comments.iter().map(|comment| shift_comment(comment, by)).collect()))
}

fn into_pairs(node: Node) -> Option<Vec<Pair>> {
    match node.kind {
        Kind::Map(pairs) => Some(pairs),
        _ => None,
    }
}

/// A key's line at this column, and only lines that are further in or hold nothing that counts.
fn is_unit_block(lines: &str, column: usize) -> bool {
    let mut each = lines.split(['\n', '\r']);
    let first = each.next().is_some_and(|line| indent(line) == column);
    first && each.all(|line| belongs_to_unit(line, column)) && !lines.contains('\u{feff}')
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Further in than the unit's key, or nothing that counts.
fn belongs_to_unit(line: &str, column: usize) -> bool {
    let content = line.trim_start_matches(' ');
    content.is_empty() || content.starts_with('#') || (indent(line) > column && !content.starts_with('\t'))
}

/// The earlier tree with this pair in the place of the unit.
fn replace_unit(text: &str, root: &Node, place: &UnitLocation, by: i32, pair: Pair) -> Option<Node> {
    let sections = pairs(root)?;
    let own = sections.get(place.section)?;
    let units = pairs(&own.value)?;
    let value = Node {
        span: parent_span(text, own.value.span, place.unit + 1 == units.len(), place.end, by),
        kind: Kind::Map(replace_pair(units, place.unit, pair, by)),
    };
    let section = Pair { key: own.key.clone(), value };
    let span = parent_span(
        text,
        root.span,
        place.section + 1 == sections.len() && place.unit + 1 == units.len(),
        place.end,
        by,
    );
    Some(Node { span, kind: Kind::Map(replace_pair(sections, place.section, section, by)) })
}

fn replace_pair(all: &[Pair], at: usize, by_this: Pair, by: i32) -> Vec<Pair> {
    let mut kept = Vec::with_capacity(all.len());
    kept.extend(all[..at].iter().cloned());
    kept.push(by_this);
    kept.extend(all[at + 1..].iter().map(|pair| pair.shifted(by)));
    kept
}

/// The span of what the unit stands in. It ends with its last character, which may be a comment behind its last unit.
fn parent_span(text: &str, span: Span, unit_is_last: bool, end: usize, by: i32) -> Span {
    let moved = Span { end: span.shifted(by).end, ..span };
    if !unit_is_last {
        return moved;
    }
    let end = end.saturating_add_signed(isize::try_from(by).unwrap_or_default());
    let kept = text.get(span.range().start..end).unwrap_or_default().trim_end();
    Span::new(span.file, span.range().start, span.range().start + kept.len())
}

fn shift_comment(comment: &Comment, by: i32) -> Comment {
    Comment { span: comment.span.shifted(by), text: comment.text.clone() }
}

#[cfg(test)]
mod tests;
