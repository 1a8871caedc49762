//! The shape of a file: symbols, folds, and the selections that grow around a place.

use std::ops::Range;

use manifest::syntax::{Comment, Kind as NodeKind, Node, Pair};

use super::tree::{self, Step};
use crate::text::Text;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
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
    pub kind: Kind,
    pub range: Range<usize>,
    pub selection: Range<usize>,
    pub children: Vec<Symbol>,
}

#[must_use]
pub fn symbols(root: &Node) -> Vec<Symbol> {
    root.as_map().unwrap_or_default().iter().filter(|pair| !pair.key.value.is_empty()).map(section).collect()
}

fn section(pair: &Pair) -> Symbol {
    let kind = match pair.key.value.as_str() {
        "services" => Kind::Service,
        "jobs" => Kind::Job,
        "resources" => Kind::Resource,
        "secrets" | "identities" => Kind::Secret,
        "vars" => Kind::Variable,
        "environments" => Kind::Environment,
        _ => Kind::Value,
    };
    let inner = pair.value.as_map().unwrap_or_default().iter().filter(|inner| !inner.key.value.is_empty());
    let children = match kind {
        Kind::Environment => inner
            .map(|environment| Symbol { children: symbols(&environment.value), ..symbol(environment, kind) })
            .collect(),
        _ => inner.map(|entry| symbol(entry, kind)).collect(),
    };
    Symbol { children, ..symbol(pair, Kind::Section) }
}

fn symbol(pair: &Pair, kind: Kind) -> Symbol {
    let selection = pair.key.span.range();
    // A value that came through an alias or a merge stands elsewhere.
    let end = pair.value.span.range().end.max(selection.end);
    let start = selection.start;
    Symbol {
        name: pair.key.value.clone(),
        detail: detail(&pair.value),
        kind,
        range: start..end,
        selection,
        children: Vec::new(),
    }
}

fn detail(value: &Node) -> String {
    const CHARACTERS_MAX: usize = 40;
    let text =
        |node: &Node| node.as_scalar().map(|scalar| scalar.text.chars().take(CHARACTERS_MAX).collect::<String>());
    if let Some(own) = text(value) {
        return own;
    }
    let of = |key: &str| value.get(key).and_then(|pair| text(&pair.value));
    let source = of("uses").or_else(|| of("image")).or_else(|| of("service"));
    let source = source.or_else(|| {
        value.get("build").map(|build| format!("built in {}", text(&build.value).unwrap_or_else(|| ".".to_owned())))
    });
    let port = of("port").map(|port| format!(":{port}"));
    [source, port].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// First and last line, from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fold {
    pub start: usize,
    pub end: usize,
    pub comment: bool,
}

#[must_use]
pub fn folds(root: Option<&Node>, comments: &[Comment], text: &Text) -> Vec<Fold> {
    let mut found = Vec::new();
    if let Some(root) = root {
        fold_node(root, text, &mut found);
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
                Some(Fold { start: line, end: line, comment: true })
            }
        };
    }
    found.extend(run.filter(|open| open.end > open.start));
    found.sort();
    // Aliases show one place many times, and two folds that begin on one line are one to an editor.
    found.dedup_by_key(|fold| fold.start);
    found
}

fn fold_node(node: &Node, text: &Text, found: &mut Vec<Fold>) {
    let lines = |from: usize, node: &Node| {
        let span = node.span.range();
        Fold {
            start: text.line_at(from),
            end: text.line_at(span.end.saturating_sub(1).max(span.start)),
            comment: false,
        }
    };
    match &node.kind {
        NodeKind::Scalar(_) => {}
        NodeKind::List(items) => {
            for item in items {
                let fold = lines(item.span.range().start, item);
                found.extend((fold.end > fold.start).then_some(fold));
                fold_node(item, text, found);
            }
        }
        NodeKind::Map(pairs) => {
            for pair in pairs {
                let fold = lines(pair.key.span.range().start, &pair.value);
                found.extend((fold.end > fold.start).then_some(fold));
                fold_node(&pair.value, text, found);
            }
        }
    }
}

/// From the innermost to the whole file.
#[must_use]
pub fn selections(root: &Node, text: &Text, offset: usize) -> Vec<Range<usize>> {
    let way = tree::way(root, offset);
    let whole = 0..text.len();
    let mut ranges: Vec<Range<usize>> = Vec::from([whole]);
    let mut grow = |range: Range<usize>| {
        let fits = ranges.last().is_some_and(|outer| {
            outer.start <= range.start
                && range.end <= outer.end
                && *outer != range
                && range.contains(&offset) | (range.end == offset)
        });
        if fits {
            ranges.push(range);
        }
    };
    let last = way.steps.len().saturating_sub(1);
    for (index, step) in way.steps.iter().enumerate() {
        match step {
            Step::Key(pair) => {
                let key = pair.key.span.range();
                grow(key.start..pair.value.span.range().end.max(key.end));
                if index == last && way.on_key { grow(key) } else { grow(pair.value.span.range()) }
            }
            Step::Item(_, item) => grow(item.span.range()),
        }
    }
    ranges.reverse();
    ranges
}
