//! Merges layers: include < base < environment < `--set`. Nodes keep the span of their layer, so every value of the
//! result leads back to its line.

use crate::syntax::{Kind, Node, Pair, Scalar};

/// What happens to an empty value (`null`) whose key is absent in the lower layer.
#[derive(Clone, Copy)]
enum NewNull {
    /// It declares an item without settings (`secrets: { token: }`), or its value is not typed yet.
    Insert,
    /// It removes a key that does not exist, so it has no effect.
    Ignore,
}

/// Merges a file over the files that it includes: maps merge, scalars and lists replace, `null` removes, `+key` appends
/// to a list.
#[must_use]
pub fn merge(base: Node, over: Node) -> Node {
    merge_nodes(base, over, NewNull::Insert)
}

/// Like [`merge`], for an environment or a `--set`: a `null` only removes, and never declares.
#[must_use]
pub fn merge_overlay(base: Node, over: Node) -> Node {
    merge_nodes(base, over, NewNull::Ignore)
}

fn merge_nodes(base: Node, over: Node, new_null: NewNull) -> Node {
    // An empty file or overlay changes nothing.
    if over.is_null() {
        return base;
    }
    match (base.kind, over.kind) {
        (Kind::Map(mut pairs), Kind::Map(others)) => {
            for pair in others {
                merge_pair(&mut pairs, pair, new_null);
            }
            Node { span: if over.span.end > over.span.start { over.span } else { base.span }, kind: Kind::Map(pairs) }
        }
        (_, kind) => Node { span: over.span, kind },
    }
}

fn merge_pair(pairs: &mut Vec<Pair>, mut over: Pair, new_null: NewNull) {
    if let Some(name) = over.key.value.strip_prefix('+').map(str::to_owned) {
        append_items(pairs, name, over);
        return;
    }
    // Below `raw`, `null` is a value: it removes a field that pdev renders.
    let new_null = if over.key.value == "raw" { NewNull::Insert } else { new_null };
    let at = pairs.iter().position(|pair| pair.key.value == over.key.value);
    match at {
        Some(at) if over.value.is_null() => drop(pairs.remove(at)),
        Some(at) => {
            let base = std::mem::replace(&mut pairs[at].value, Node::null(over.value.span));
            let base = expand_short_form(&over.key.value, base, &mut over.value);
            pairs[at].value = merge_nodes(base, over.value, new_null);
            pairs[at].key = over.key;
        }
        None if matches!(new_null, NewNull::Insert) => pairs.push(over),
        None if over.value.is_null() => {}
        None => {
            let empty = match over.value.kind {
                Kind::Map(_) => Kind::Map(Vec::new()),
                _ => Kind::Scalar(Scalar::null()),
            };
            let value = merge_nodes(Node { span: over.value.span, kind: empty }, over.value, new_null);
            pairs.push(Pair { key: over.key, value });
        }
    }
}

/// Expands a short form to its long form before the merge, so that the overlay changes one field instead of dropping
/// the others. Examples: `port: 80` under `port: { host: 1 }`, `app: x` under `app: { owner: y }`.
fn expand_short_form(key: &str, base: Node, over: &mut Node) -> Node {
    let long_key = match key {
        "needs" if over.as_map().is_some() => return list_to_needs(base),
        "app" => "name",
        "port" => "port",
        "build" => "context",
        "health" => "ready",
        "process" => "command",
        _ => return base,
    };
    let wrap = |node: Node| {
        let span = node.span;
        let start = crate::Span { end: span.start, ..span };
        let pair = Pair { key: crate::Spanned::new(long_key.to_owned(), start), value: node };
        Node { span, kind: Kind::Map(vec![pair]) }
    };
    let is_none = |node: &Node| node.as_scalar().is_some_and(|scalar| scalar.text == "none");
    match (&base.kind, &over.kind) {
        (Kind::Scalar(_) | Kind::List(_), Kind::Map(_)) if !is_none(&base) && !base.is_null() => wrap(base),
        (Kind::Map(_), Kind::Scalar(_)) if key == "app" => {
            let short = std::mem::replace(over, Node::null(over.span));
            *over = wrap(short);
            base
        }
        _ => base,
    }
}

/// `[db, cache]` as `{ db: , cache: }`, whose empty values mean the default condition.
fn list_to_needs(base: Node) -> Node {
    let Kind::List(items) = base.kind else { return base };
    let to_pair = |item: Node| {
        let name = item.as_scalar().filter(|name| !name.is_null())?.text.clone();
        Some(Pair { key: crate::Spanned::new(name, item.span), value: Node::null(item.span) })
    };
    Node { span: base.span, kind: Kind::Map(items.into_iter().filter_map(to_pair).collect()) }
}

fn append_items(pairs: &mut Vec<Pair>, name: String, over: Pair) {
    let items = match over.value.kind {
        Kind::List(items) => items,
        // An empty `+key` appends nothing.
        Kind::Scalar(scalar) if scalar.is_null() => return,
        kind => vec![Node { span: over.value.span, kind }],
    };
    match pairs.iter_mut().find(|pair| pair.key.value == name) {
        Some(Pair { value: Node { kind: Kind::List(existing), .. }, .. }) => existing.extend(items),
        Some(pair) => pair.value = Node { span: over.value.span, kind: Kind::List(items) },
        None => {
            let key = crate::Spanned::new(name, over.key.span);
            pairs.push(Pair { key, value: Node { span: over.value.span, kind: Kind::List(items) } });
        }
    }
}

/// Whether any key in the tree begins with `+`. Keys under `raw` do not count.
#[must_use]
pub fn has_append_keys(node: &Node) -> bool {
    let is_append =
        |pair: &Pair| pair.key.value.starts_with('+') || (pair.key.value != "raw" && has_append_keys(&pair.value));
    node.as_map().is_some_and(|pairs| pairs.iter().any(is_append))
}

/// Turns each remaining `+key` into `key`: after the last layer no lower list is left to append to.
#[must_use]
pub fn strip_append_prefixes(node: Node) -> Node {
    match node.kind {
        Kind::Map(pairs) => {
            let mut stripped = Vec::with_capacity(pairs.len());
            for pair in pairs {
                // `raw` is merged over the rendered objects later, and its `+key` appends to their lists.
                if pair.key.value == "raw" {
                    stripped.push(pair);
                    continue;
                }
                let value = strip_append_prefixes(pair.value);
                let name = pair.key.value.strip_prefix('+').unwrap_or(&pair.key.value).to_owned();
                stripped.push(Pair { key: crate::Spanned::new(name, pair.key.span), value });
            }
            Node { span: node.span, kind: Kind::Map(stripped) }
        }
        kind => Node { span: node.span, kind },
    }
}
