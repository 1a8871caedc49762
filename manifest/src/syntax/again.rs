//! The next version of a text that differs inside of one unit: the unit's lines are parsed by themselves, the rest of the
//! tree is copied and moved.
//!
//! A unit is what stands below a key of a top-level section, in lines of its own. Whatever could make its lines mean
//! something else by themselves than in their place, or the other way round, is left to the whole parse: this only ever
//! answers what that would, and `None` says nothing about the text. It does not know what a manifest is.

use std::sync::Arc;

use super::build::{self, Built};
use super::tree::{Comment, Kind, Node, Pair};
use crate::text::{FileId, Span};

/// What the next version of a text can be parsed from.
#[derive(Clone, Debug, Default)]
pub enum Basis {
    /// Only the whole: it is broken beyond repair, or parts of it stand for others (anchors, `<<`).
    #[default]
    Nothing,
    /// The tree is that of the text.
    Text,
    /// The tree is that of this text, in which what was broken is blanked out.
    Repaired(Arc<str>),
}

impl Basis {
    /// `repaired` is the text that was parsed in the end, where it is not the one of the file.
    pub(super) fn of(built: &Built, repaired: Option<&str>) -> Self {
        let whole = built.error.is_none() && built.diagnostics.is_empty() && built.plain;
        match (whole && built.root.is_some(), repaired) {
            (false, _) => Self::Nothing,
            (true, None) => Self::Text,
            (true, Some(text)) => Self::Repaired(text.into()),
        }
    }
}

/// An earlier version: its text and all that was parsed from it.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    text: &'a str,
    root: &'a Node,
    comments: &'a [Comment],
}

impl<'a> Earlier<'a> {
    /// `text` is the file's, and the others are what it gave.
    #[must_use]
    pub fn of(basis: &'a Basis, text: &'a str, root: &'a Node, comments: &'a [Comment]) -> Option<Self> {
        let text = match basis {
            Basis::Nothing => return None,
            Basis::Text => text,
            Basis::Repaired(text) => text,
        };
        Some(Self { text, root, comments })
    }
}

/// What was replaced: bytes of the earlier text, and by how much what follows them has moved.
struct Change {
    start: usize,
    end: usize,
    by: i32,
}

/// Where the one changed unit stood.
struct Place {
    section: usize,
    unit: usize,
    /// From the start of its line to the start of the line of whatever comes next.
    start: usize,
    end: usize,
    /// Of the unit's key.
    column: usize,
    follows: Follows,
}

/// What ends a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    Unit,
    Section,
    Nothing,
}

/// The tree of `text`, without findings; `None` where the whole has to be parsed.
pub(super) fn build(text: &str, file: FileId, earlier: Earlier<'_>) -> Option<Built> {
    let change = change(earlier.text, text)?;
    let place = find(&earlier, &change)?;
    let lines = text.get(place.start..place.end.checked_add_signed(isize::try_from(change.by).ok()?)?)?;
    if place.follows != Follows::Nothing && !lines.ends_with('\n') {
        return None;
    }
    let old = &pairs(&pairs(earlier.root)?.get(place.section)?.value)?.get(place.unit)?.key.value;
    let (pair, fresh) = alone(lines, file, &place, old)?;
    let root = with(text, earlier.root, &place, change.by, pair)?;
    let at = u32::try_from(place.start).ok()?;
    let behind = u32::try_from(place.end).ok()?;
    let mut comments = Vec::with_capacity(earlier.comments.len() + 1);
    comments.extend(earlier.comments.iter().filter(|comment| comment.span.start < at).cloned());
    comments.extend(fresh);
    comments.extend(earlier.comments.iter().filter(|one| one.span.start >= behind).map(|one| moved(one, change.by)));
    Some(Built { root: Some(root), comments, diagnostics: Vec::new(), plain: true, error: None })
}

/// The end that both have in common is taken first: what is inserted before a unit belongs to the one above it.
fn change(before: &str, after: &str) -> Option<Change> {
    let (old, new) = (before.as_bytes(), after.as_bytes());
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(one, other)| one == other).count();
    let most = old.len().min(new.len()) - tail;
    let start = old[..most].iter().zip(&new[..most]).take_while(|(one, other)| one == other).count();
    let by = i64::try_from(new.len()).ok()? - i64::try_from(old.len()).ok()?;
    Some(Change { start, end: old.len() - tail, by: i32::try_from(by).ok()? })
}

fn pairs(node: &Node) -> Option<&[Pair]> {
    node.as_map()
}

fn find(earlier: &Earlier<'_>, change: &Change) -> Option<Place> {
    let (text, sections) = (earlier.text, block(earlier.text, earlier.root)?);
    let section = sections.partition_point(|pair| pair.key.span.range().start <= change.start).checked_sub(1)?;
    let own = sections.get(section)?;
    let below = match sections.get(section + 1) {
        Some(next) => (line_of(text, next).filter(|(_, column)| *column == 0)?.0, Follows::Section),
        None => (text.len(), Follows::Nothing),
    };
    if line_of(text, own)?.1 != 0 {
        return None;
    }
    let units = block(text, &own.value)?;
    let starts_before = |pair: &Pair| line_of(text, pair).is_some_and(|(line, _)| line <= change.start);
    let unit = units.partition_point(starts_before).checked_sub(1)?;
    let (start, column) = line_of(text, units.get(unit)?).filter(|(_, column)| *column > 0)?;
    let (end, follows) = match units.get(unit + 1) {
        Some(next) => (line_of(text, next).filter(|(_, other)| *other == column)?.0, Follows::Unit),
        None => below,
    };
    // Where a `?` stands before the next key, that does not begin where its line does.
    let inside = start <= change.start && change.end <= end && is_unit(text.get(start..end)?, column);
    inside.then_some(Place { section, unit, start, end, column, follows })
}

/// The pairs of a map that is written in lines, not in braces.
fn block<'n>(text: &str, node: &'n Node) -> Option<&'n [Pair]> {
    let braces = text.get(node.span.range())?.starts_with('{');
    pairs(node).filter(|_| !braces)
}

/// Where the line of a key begins, and the key's column; `None` where something else stands before it.
fn line_of(text: &str, pair: &Pair) -> Option<(usize, usize)> {
    let key = pair.key.span.range().start;
    let line = text.get(..key)?.trim_end_matches(' ');
    let starts = line.is_empty() || line == "\u{feff}" || line.ends_with(['\n', '\r']);
    starts.then(|| (line.len(), key - line.len()))
}

/// Stand before and behind a unit's lines when they are parsed by themselves: keys like the ones that do in the whole,
/// because what an empty value or a block of text is depends on what ends it.
const SECTION: &str = "s:\n";
const NEXT: &str = "z: 0\n";

/// A unit's lines in a text of their own: one key at the same column, everything else further in.
fn alone(lines: &str, file: FileId, place: &Place, name: &str) -> Option<(Pair, Vec<Comment>)> {
    let column = place.column;
    if !is_unit(lines, column) {
        return None;
    }
    let spaces = " ".repeat(if place.follows == Follows::Unit { column } else { 0 });
    let text = match place.follows {
        Follows::Unit | Follows::Section => format!("{SECTION}{lines}{spaces}{NEXT}"),
        Follows::Nothing => format!("{SECTION}{lines}"),
    };
    let built = build::build(&text, file);
    if built.error.is_some() || !built.diagnostics.is_empty() || !built.plain {
        return None;
    }
    let mut root = own(built.root?)?;
    let mut units = match place.follows {
        Follows::Section if root.len() != 2 => return None,
        Follows::Section => own(root.swap_remove(0).value)?,
        Follows::Unit | Follows::Nothing if root.len() != 1 => return None,
        Follows::Unit | Follows::Nothing => own(root.pop()?.value)?,
    };
    if units.len() != if place.follows == Follows::Unit { 2 } else { 1 } {
        return None;
    }
    let by = i32::try_from(place.start).ok()? - i32::try_from(SECTION.len()).ok()?;
    let pair = units.swap_remove(0);
    let same = pair.key.value == name && pair.key.span.range().start == SECTION.len() + column;
    same.then(|| (pair.moved(by), built.comments.iter().map(|comment| moved(comment, by)).collect()))
}

fn own(node: Node) -> Option<Vec<Pair>> {
    match node.kind {
        Kind::Map(pairs) => Some(pairs),
        _ => None,
    }
}

/// A key's line at this column, and only lines that are further in or hold nothing that counts.
fn is_unit(lines: &str, column: usize) -> bool {
    let mut each = lines.split(['\n', '\r']);
    let first = each.next().is_some_and(|line| indent(line) == column);
    first && each.all(|line| fits(line, column)) && !lines.contains('\u{feff}')
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Further in than the unit's key, or nothing that counts.
fn fits(line: &str, column: usize) -> bool {
    let content = line.trim_start_matches(' ');
    content.is_empty() || content.starts_with('#') || (indent(line) > column && !content.starts_with('\t'))
}

/// The earlier tree with this pair in the place of the unit.
fn with(text: &str, root: &Node, place: &Place, by: i32, pair: Pair) -> Option<Node> {
    let sections = pairs(root)?;
    let own = sections.get(place.section)?;
    let units = pairs(&own.value)?;
    let value = Node {
        span: around(text, own.value.span, place.unit + 1 == units.len(), place.end, by),
        kind: Kind::Map(replaced(units, place.unit, pair, by)),
    };
    let section = Pair { key: own.key.clone(), value };
    let span =
        around(text, root.span, place.section + 1 == sections.len() && place.unit + 1 == units.len(), place.end, by);
    Some(Node { span, kind: Kind::Map(replaced(sections, place.section, section, by)) })
}

fn replaced(all: &[Pair], at: usize, by_this: Pair, by: i32) -> Vec<Pair> {
    let mut kept = Vec::with_capacity(all.len());
    kept.extend(all[..at].iter().cloned());
    kept.push(by_this);
    kept.extend(all[at + 1..].iter().map(|pair| pair.moved(by)));
    kept
}

/// The span of what the unit stands in. It ends with its last character, which may be a comment behind its last unit.
fn around(text: &str, span: Span, unit_is_last: bool, end: usize, by: i32) -> Span {
    let moved = Span { end: span.moved(by).end, ..span };
    if !unit_is_last {
        return moved;
    }
    let end = end.saturating_add_signed(isize::try_from(by).unwrap_or_default());
    let kept = text.get(span.range().start..end).unwrap_or_default().trim_end();
    Span::new(span.file, span.range().start, span.range().start + kept.len())
}

fn moved(comment: &Comment, by: i32) -> Comment {
    Comment { span: comment.span.moved(by), text: comment.text.clone() }
}

#[cfg(test)]
mod tests;
