//! Builds the tree from the events of the YAML parser. Only this file uses that parser, so that it can be replaced.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError};

use super::scalar::Scalar;
use super::tree::{Comment, Kind, Node, Pair};
use crate::codes;
use crate::diagnostic::{Diagnostic, Edit, Severity};
use crate::text::{FileId, Span, Spanned};

/// Limit of the nodes that aliases add: a file of a few lines must not expand to gigabytes.
const ALIAS_NODES_MAX: usize = 50_000;
/// Every 64 bytes of text count as one more node, so that many aliases of one long text reach the limit too.
const BYTES_PER_NODE: usize = 64;
/// Limit of the nesting: no manifest is deeper, and recursive code could overflow its stack.
const DEPTH_MAX: usize = 64;

pub(super) struct BuiltTree {
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
    pub diagnostics: Vec<Diagnostic>,
    /// True without anchors, aliases and `<<`: then each part of the tree depends on its own lines only.
    pub is_self_contained: bool,
    /// Position and cause of the error that stopped the parser.
    pub error: Option<ParseError>,
}

pub(super) struct ParseError {
    pub offset: usize,
    pub message: String,
}

pub(super) fn build_tree(text: &str, file: FileId) -> BuiltTree {
    let mut builder = Builder {
        text,
        file,
        open_collections: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        anchor_names: Vec::new(),
        alias_nodes: 0,
        comments: Vec::new(),
        diagnostics: Vec::new(),
        document_count: 0,
        is_self_contained: true,
    };
    let mut error = None;
    // By default, the parser stops at an unknown anchor, with an error that names neither it nor its position.
    let options = granit_parser::options! { emit_unresolved_aliases: true, emit_anchor_events: true };
    let mut parser = Parser::new_from_str_with_options(text, options);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                if builder.handle_event(event, builder.span(&span)).is_break() {
                    break;
                }
            }
            Err(scan_error) => {
                error = Some(to_parse_error(&scan_error, text));
                break;
            }
        }
    }
    // After an error, the nodes so far still form a tree.
    builder.close_all_collections();
    let Builder { root, comments, diagnostics, is_self_contained, .. } = builder;
    BuiltTree { root, comments, diagnostics, is_self_contained, error }
}

fn to_parse_error(error: &ScanError, text: &str) -> ParseError {
    let marker = error.marker();
    let at = marker
        .byte_offset()
        .unwrap_or_else(|| text.char_indices().nth(marker.index()).map_or(text.len(), |(at, _)| at));
    ParseError { offset: at.min(text.len()), message: error.info().to_string() }
}

enum OpenCollection {
    List { start: Span, items: Vec<Node>, anchor: usize },
    Map { start: Span, pairs: Vec<Pair>, key: Option<Spanned<String>>, anchor: usize },
}

struct Builder<'a> {
    text: &'a str,
    file: FileId,
    open_collections: Vec<OpenCollection>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    anchor_names: Vec<String>,
    alias_nodes: usize,
    comments: Vec<Comment>,
    diagnostics: Vec<Diagnostic>,
    document_count: usize,
    is_self_contained: bool,
}

impl Builder<'_> {
    fn span(&self, span: &granit_parser::Span) -> Span {
        let range = span.byte_range().unwrap_or(0..0);
        Span::new(self.file, range.start, range.end.max(range.start))
    }

    fn handle_event(&mut self, event: Event<'_>, span: Span) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        match event {
            Event::DocumentStart(..) => {
                self.document_count += 1;
                if self.document_count > 1 {
                    let message = "a manifest is one document; this begins another";
                    self.report(
                        codes::MULTIPLE_DOCUMENTS,
                        span,
                        message,
                        "Put it into a file of its own and `include` it.",
                    );
                    return Break(());
                }
            }
            Event::Comment(text, _) => self.comments.push(Comment { span, text: text.into_owned() }),
            Event::Scalar(text, style, anchor, _) => {
                let is_plain = matches!(style, ScalarStyle::Plain);
                let scalar = if is_plain { Scalar::plain(&text) } else { Scalar::quoted(&text) };
                self.insert_node(Node { span: self.trim_span(span), kind: Kind::Scalar(scalar) }, anchor);
            }
            Event::Alias(id) => self.expand_alias(id, span)?,
            Event::Anchor(_, name) => self.anchor_names.push(name.into_owned()),
            Event::UnresolvedAlias(name) => self.report_unknown_anchor(&name, span),
            Event::SequenceStart(_, anchor, _) => {
                self.open_collection(OpenCollection::List { start: span, items: Vec::new(), anchor }, span)?;
            }
            Event::MappingStart(_, anchor, _) => {
                self.open_collection(OpenCollection::Map { start: span, pairs: Vec::new(), key: None, anchor }, span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close_collection(span),
            _ => {}
        }
        Continue(())
    }

    fn open_collection(&mut self, open: OpenCollection, span: Span) -> std::ops::ControlFlow<()> {
        if self.open_collections.len() >= DEPTH_MAX {
            self.report(
                codes::TOO_BIG,
                span,
                &format!("more than {DEPTH_MAX} levels of nesting"),
                "A manifest needs fewer than ten.",
            );
            return std::ops::ControlFlow::Break(());
        }
        self.open_collections.push(open);
        std::ops::ControlFlow::Continue(())
    }

    fn expand_alias(&mut self, id: usize, span: Span) -> std::ops::ControlFlow<()> {
        self.is_self_contained = false;
        let Some(node) = self.anchors.get(&id) else {
            let message = "this alias is inside the value that it repeats";
            self.report(codes::SYNTAX, span, message, "Write the value out.");
            self.insert_missing_value(span);
            return std::ops::ControlFlow::Continue(());
        };
        // Counted before the copy is made.
        self.alias_nodes += count_nodes(node, ALIAS_NODES_MAX);
        if self.alias_nodes > ALIAS_NODES_MAX {
            let message = format!("aliases unfold to more than {ALIAS_NODES_MAX} values");
            self.report(codes::TOO_BIG, span, &message, "Write the values out, or move them into an environment.");
            return std::ops::ControlFlow::Break(());
        }
        let node = node.clone();
        self.insert_node(node, 0);
        std::ops::ControlFlow::Continue(())
    }

    fn report_unknown_anchor(&mut self, name: &str, span: Span) {
        self.is_self_contained = false;
        let near = strings::nearest(name, self.anchor_names.iter().map(String::as_str));
        let hint = near.map(|near| format!("; did you mean `*{near}`?")).unwrap_or_default();
        let message = format!("there is no anchor `&{name}` above this alias{hint}");
        let is_pattern = name.contains(['*', '/', '.']);
        let help = if is_pattern {
            format!("If it is a pattern, quote it: `\"*{name}\"`.")
        } else {
            format!("Define it above with `&{name}`. An alias cannot refer to another file.")
        };
        let mut found = Diagnostic::new(codes::SYNTAX, Severity::Error, span, message).help(help);
        if is_pattern && near.is_none() {
            let edit = Edit { span, text: format!("\"*{name}\"") };
            found = found.fix("quote it", true, vec![edit]);
        }
        self.diagnostics.push(found);
        self.insert_missing_value(span);
    }

    /// Inserts a value without an effect, so that the missing one is not reported a second time.
    fn insert_missing_value(&mut self, span: Span) {
        let is_item = matches!(self.open_collections.last(), Some(OpenCollection::List { .. }));
        let scalar = if is_item { Scalar::quoted("") } else { Scalar::null() };
        self.insert_node(Node { span, kind: Kind::Scalar(scalar) }, 0);
    }

    /// Trims trailing whitespace from a span. For the parser, a block collection ends where the next token starts; for
    /// the user it ends at its last character.
    fn trim_span(&self, span: Span) -> Span {
        let text = self.text.get(span.range()).unwrap_or_default();
        Span { end: span.start + u32::try_from(text.trim_end().len()).unwrap_or_default(), ..span }
    }

    fn close_collection(&mut self, end: Span) {
        let Some(open) = self.open_collections.pop() else { return };
        let (start, kind, anchor) = match open {
            OpenCollection::List { start, items, anchor } => (start, Kind::List(items), anchor),
            OpenCollection::Map { start, mut pairs, key, anchor } => {
                if let Some(key) = key {
                    let span = Span { start: key.span.end, ..key.span };
                    pairs.push(Pair { key, value: Node::null(span) });
                }
                (start, Kind::Map(self.resolve_merge_keys(pairs)), anchor)
            }
        };
        let span = self.trim_span(Span { end: end.end.max(start.end), ..start });
        self.insert_node(Node { span, kind }, anchor);
    }

    fn close_all_collections(&mut self) {
        let end = Span::new(self.file, self.text.len(), self.text.len());
        while !self.open_collections.is_empty() {
            self.close_collection(end);
        }
    }

    fn insert_node(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            self.is_self_contained = false;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open_collections.last_mut() {
            None => {
                if self.root.is_none() {
                    self.root = Some(node);
                }
            }
            Some(OpenCollection::List { items, .. }) => items.push(node),
            Some(OpenCollection::Map { key, pairs, .. }) => match key.take() {
                Some(name) => pairs.push(Pair { key: name, value: node }),
                None => *key = Some(key_of(&node)),
            },
        }
    }

    /// Expands `<<` and reports duplicate keys. The last duplicate wins, as in most parsers.
    fn resolve_merge_keys(&mut self, pairs: Vec<Pair>) -> Vec<Pair> {
        if has_distinct_keys(&pairs) {
            return pairs;
        }
        let mut unique: Vec<Pair> = Vec::with_capacity(pairs.len());
        let mut positions: HashMap<String, usize> = HashMap::with_capacity(pairs.len());
        self.is_self_contained &= pairs.iter().all(|pair| pair.key.value != "<<");
        let (merges, explicit): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|pair| pair.key.value == "<<");
        for pair in explicit {
            if let Some(&first) = positions.get(&pair.key.value) {
                let message = format!("`{}` is defined twice here", pair.key.value);
                let first_span = unique[first].key.span;
                let duplicate = Diagnostic::new(codes::DUPLICATE_KEY, Severity::Error, pair.key.span, message);
                self.diagnostics.push(duplicate.related(first_span, "the first one").help("Keep one of them."));
                unique[first] = pair;
            } else {
                positions.insert(pair.key.value.clone(), unique.len());
                unique.push(pair);
            }
        }
        // Explicit keys take precedence over merged ones, and an earlier source over a later one (YAML merge key).
        for merge in merges {
            let sources = match merge.value.kind {
                Kind::List(items) => items,
                kind => vec![Node { span: merge.value.span, kind }],
            };
            for pair in sources
                .into_iter()
                .filter_map(|source| match source.kind {
                    Kind::Map(pairs) => Some(pairs),
                    _ => None,
                })
                .flatten()
            {
                if !positions.contains_key(&pair.key.value) {
                    positions.insert(pair.key.value.clone(), unique.len());
                    unique.push(pair);
                }
            }
        }
        unique
    }

    fn report(&mut self, code: crate::Code, span: Span, message: &str, help: &str) {
        self.diagnostics.push(Diagnostic::new(code, Severity::Error, span, message).help(help));
    }
}

/// Whether a map has neither `<<` nor duplicate keys. True for nearly every map, so this is the fast path.
fn has_distinct_keys(pairs: &[Pair]) -> bool {
    /// For fewer keys, comparing all of them is faster than hashing.
    const LINEAR_SCAN_MAX: usize = 12;
    let keys = || pairs.iter().map(|pair| pair.key.value.as_str());
    if keys().any(|key| key == "<<") {
        return false;
    }
    if pairs.len() <= LINEAR_SCAN_MAX {
        return keys().enumerate().all(|(index, key)| keys().take(index).all(|earlier| earlier != key));
    }
    let mut visited = HashSet::with_capacity_and_hasher(pairs.len(), foldhash::fast::FixedState::default());
    keys().all(|key| visited.insert(key))
}

fn key_of(node: &Node) -> Spanned<String> {
    match &node.kind {
        Kind::Scalar(scalar) => Spanned::new(scalar.text.clone(), node.span),
        // The language has no key that is a collection, so it becomes an empty key, which is reported as unknown.
        _ => Spanned::new(String::new(), node.span),
    }
}

fn count_nodes(node: &Node, limit: usize) -> usize {
    let mut total = 0;
    let mut pending = vec![node];
    while let Some(next) = pending.pop() {
        total += 1;
        if total > limit {
            return total;
        }
        match &next.kind {
            Kind::Scalar(scalar) => total += scalar.text.len() / BYTES_PER_NODE,
            Kind::List(items) => pending.extend(items),
            Kind::Map(pairs) => pending.extend(pairs.iter().map(|pair| &pair.value)),
        }
    }
    total
}
