//! Merging: include < base < environment < `--set`. Nodes keep the span of the layer that wrote them, so every value of
//! the result leads back to its line.

use crate::syntax::{Kind, Node, Pair};

/// Lays `over` on top of `base`: maps merge, scalars and lists replace, `null` removes, `+key` appends to a list.
#[must_use]
pub fn merge(base: Node, over: Node) -> Node {
    match (base.kind, over.kind) {
        (Kind::Map(mut pairs), Kind::Map(others)) => {
            for pair in others {
                merge_pair(&mut pairs, pair);
            }
            Node { span: if over.span.end > over.span.start { over.span } else { base.span }, kind: Kind::Map(pairs) }
        }
        (_, kind) => Node { span: over.span, kind },
    }
}

fn merge_pair(pairs: &mut Vec<Pair>, mut over: Pair) {
    if let Some(name) = over.key.value.strip_prefix('+').map(str::to_owned) {
        append_items(pairs, name, over);
        return;
    }
    let at = pairs.iter().position(|pair| pair.key.value == over.key.value);
    match at {
        Some(at) if over.value.is_null() => drop(pairs.remove(at)),
        Some(at) => {
            let base = std::mem::replace(&mut pairs[at].value, Node::null(over.value.span));
            let base = expand_short_form(&over.key.value, base, &mut over.value);
            pairs[at].value = merge(base, over.value);
            pairs[at].key = over.key;
        }
        // An empty value of a new key stays: it is what half-typed files look like.
        None => pairs.push(over),
    }
}

/// `port: 80` below `port: { host: 1 }`, `app: x` below `app: { owner: y }`: the short form is made long, so that the
/// overlay changes one field instead of dropping the others.
fn expand_short_form(key: &str, base: Node, over: &mut Node) -> Node {
    let long = match key {
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
        let pair = Pair { key: crate::Spanned::new(long.to_owned(), start), value: node };
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

fn append_items(pairs: &mut Vec<Pair>, name: String, over: Pair) {
    let items = match over.value.kind {
        Kind::List(items) => items,
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

/// Whether a key of it or below it begins with `+`.
#[must_use]
pub fn has_append_keys(node: &Node) -> bool {
    let below =
        |pair: &Pair| pair.key.value.starts_with('+') || (pair.key.value != "raw" && has_append_keys(&pair.value));
    node.as_map().is_some_and(|pairs| pairs.iter().any(below))
}

/// After the last layer there is nothing left to append to: `+key` is `key`.
#[must_use]
pub fn strip_append_prefixes(node: Node) -> Node {
    match node.kind {
        Kind::Map(pairs) => {
            let mut kept = Vec::with_capacity(pairs.len());
            for pair in pairs {
                // What stands under `raw` is merged over rendered objects later, and appends to their lists.
                if pair.key.value == "raw" {
                    kept.push(pair);
                    continue;
                }
                let value = strip_append_prefixes(pair.value);
                let name = pair.key.value.strip_prefix('+').unwrap_or(&pair.key.value).to_owned();
                kept.push(Pair { key: crate::Spanned::new(name, pair.key.span), value });
            }
            Node { span: node.span, kind: Kind::Map(kept) }
        }
        kind => Node { span: node.span, kind },
    }
}
