//! The structure of a file: symbols, folds and nested selection ranges.

use std::ops::Range;

use manifest::syntax::{Comment, Kind as NodeKind, Node, Pair};

use super::tree::{self, Step};
use crate::text::Text;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutlineKind {
    Section,
    Service,
    Job,
    Resource,
    Secret,
    Variable,
    Environment,
    Value,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Symbol {
    pub name: String,
    pub detail: String,
    pub kind: OutlineKind,
    pub range: Range<usize>,
    pub selection_range: Range<usize>,
    pub children: Vec<Symbol>,
}

#[must_use]
pub fn symbols(root: &Node) -> Vec<Symbol> {
    root.as_map().unwrap_or_default().iter().filter(|pair| !pair.key.value.is_empty()).map(section_symbol).collect()
}

fn section_symbol(pair: &Pair) -> Symbol {
    let kind = match pair.key.value.as_str() {
        "services" => OutlineKind::Service,
        "jobs" => OutlineKind::Job,
        "resources" => OutlineKind::Resource,
        "secrets" | "identities" => OutlineKind::Secret,
        "vars" => OutlineKind::Variable,
        "environments" => OutlineKind::Environment,
        _ => OutlineKind::Value,
    };
    let inner = pair.value.as_map().unwrap_or_default().iter().filter(|inner| !inner.key.value.is_empty());
    let children = match kind {
        OutlineKind::Environment => inner
            .map(|environment| Symbol { children: symbols(&environment.value), ..symbol(environment, kind) })
            .collect(),
        _ => inner.map(|entry| symbol(entry, kind)).collect(),
    };
    Symbol { children, ..symbol(pair, OutlineKind::Section) }
}

fn symbol(pair: &Pair, kind: OutlineKind) -> Symbol {
    let selection = pair.key.span.range();
    // The value of an alias or a merge is at another place, possibly before the key.
    let end = pair.value.span.range().end.max(selection.end);
    let start = selection.start;
    Symbol {
        name: pair.key.value.clone(),
        detail: detail(&pair.value),
        kind,
        range: start..end,
        selection_range: selection,
        children: Vec::new(),
    }
}

fn detail(value: &Node) -> String {
    const CHARACTERS_MAX: usize = 40;
    let text =
        |node: &Node| node.as_scalar().map(|scalar| scalar.text.chars().take(CHARACTERS_MAX).collect::<String>());
    if let Some(scalar_text) = text(value) {
        return scalar_text;
    }
    let child_text = |key: &str| value.get(key).and_then(|pair| text(&pair.value));
    let source = child_text("uses").or_else(|| child_text("image")).or_else(|| child_text("service"));
    let source = source.or_else(|| {
        value.get("build").map(|build| format!("built in {}", text(&build.value).unwrap_or_else(|| ".".to_owned())))
    });
    let port = child_text("port").map(|port| format!(":{port}"));
    [source, port].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The zero-based first and last line of a fold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fold {
    pub start: usize,
    pub end: usize,
    pub is_comment: bool,
}

#[must_use]
pub fn folds(root: Option<&Node>, comments: &[Comment], text: &Text) -> Vec<Fold> {
    let mut found = Vec::new();
    if let Some(root) = root {
        collect_folds(root, text, &mut found);
    }
    let mut run: Option<Fold> = None;
    for comment in comments {
        let line = text.line_at(comment.span.range().start);
        if !text.line(line).trim_start_matches('\u{feff}').trim_start().starts_with('#') {
            continue;
        }
        run = match run {
            Some(open) if open.end + 1 == line => Some(Fold { end: line, ..open }),
            open => {
                found.extend(open.filter(|open| open.end > open.start));
                Some(Fold { start: line, end: line, is_comment: true })
            }
        };
    }
    found.extend(run.filter(|open| open.end > open.start));
    found.sort();
    // Aliases repeat the same lines, and editors show only one fold per first line.
    found.dedup_by_key(|fold| fold.start);
    found
}

fn collect_folds(node: &Node, text: &Text, found: &mut Vec<Fold>) {
    let lines = |from: usize, node: &Node| {
        let span = node.span.range();
        Fold {
            start: text.line_at(from),
            end: text.line_at(span.end.saturating_sub(1).max(span.start)),
            is_comment: false,
        }
    };
    match &node.kind {
        NodeKind::Scalar(_) => {}
        NodeKind::List(items) => {
            for item in items {
                let fold = lines(item.span.range().start, item);
                found.extend((fold.end > fold.start).then_some(fold));
                collect_folds(item, text, found);
            }
        }
        NodeKind::Map(pairs) => {
            for pair in pairs {
                let fold = lines(pair.key.span.range().start, &pair.value);
                found.extend((fold.end > fold.start).then_some(fold));
                collect_folds(&pair.value, text, found);
            }
        }
    }
}

/// The nested ranges around an offset, from the innermost node to the whole file.
#[must_use]
pub fn selection_ranges(root: &Node, text: &Text, offset: usize) -> Vec<Range<usize>> {
    let node_path = tree::path_at(root, offset);
    let whole_text = 0..text.len();
    let mut ranges: Vec<Range<usize>> = Vec::from([whole_text]);
    let mut add_inner = |range: Range<usize>| {
        let is_nested = ranges.last().is_some_and(|outer| {
            outer.start <= range.start
                && range.end <= outer.end
                && *outer != range
                && range.contains(&offset) | (range.end == offset)
        });
        if is_nested {
            ranges.push(range);
        }
    };
    let last = node_path.steps.len().saturating_sub(1);
    for (index, step) in node_path.steps.iter().enumerate() {
        match step {
            Step::Key(pair) => {
                let key = pair.key.span.range();
                add_inner(key.start..pair.value.span.range().end.max(key.end));
                if index == last && node_path.is_on_key { add_inner(key) } else { add_inner(pair.value.span.range()) }
            }
            Step::Item(_, item) => add_inner(item.span.range()),
        }
    }
    ranges.reverse();
    ranges
}
