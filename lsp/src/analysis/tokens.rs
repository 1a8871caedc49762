//! Meaning of words, for colours: keys of the language, the user's names, references, words of a choice.

use std::ops::Range;

use manifest::spec::Shape;
use manifest::syntax::{Kind as NodeKind, Node, Value};
use manifest::template;

use super::language;
use super::references::{self, Occurrence};

/// In the order of the legend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Property,
    Class,
    Variable,
    EnumMember,
    Number,
    Keyword,
}

pub const LEGEND: [&str; 6] = ["property", "class", "variable", "enumMember", "number", "keyword"];

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
    pub declaration: bool,
}

/// Sorted, apart from one another, each on one line.
#[must_use]
pub fn tokens(root: &Node, text: &str) -> Vec<Token> {
    let mut painter = Painter { text, found: Vec::new(), path: Vec::new() };
    painter.node(root);
    let names = references::occurrences(root, text);
    let mut all: Vec<Token> = names.iter().map(of_name).collect();
    // A name says more than the key or the placeholder it is part of.
    for token in painter.found {
        let inside: Vec<&Occurrence> = names
            .iter()
            .filter(|name| token.start < name.span.range().end && name.span.range().start < token.end)
            .collect();
        match &inside[..] {
            [] => all.push(token),
            _ => all.extend(around(&token, &inside)),
        }
    }
    all.sort();
    all.dedup_by(|later, first| later.start < first.end);
    all.retain(|token| {
        token.start < token.end && !text.get(token.start..token.end).is_none_or(|cut| cut.contains('\n'))
    });
    all
}

fn of_name(name: &Occurrence) -> Token {
    let Range { start, end } = name.span.range();
    Token { start, end, kind: Kind::Class, declaration: name.definition || name.overlay }
}

/// What is left of a token around the names in it.
fn around(token: &Token, names: &[&Occurrence]) -> Vec<Token> {
    let mut rest = Vec::new();
    let mut start = token.start;
    for name in names {
        let range = name.span.range();
        rest.push(Token { start, end: range.start, ..token.clone() });
        start = range.end;
    }
    rest.push(Token { start, ..token.clone() });
    rest.retain(|token| token.start < token.end);
    rest
}

struct Painter<'a, 't> {
    text: &'t str,
    found: Vec<Token>,
    path: Vec<Option<&'a str>>,
}

impl<'a> Painter<'a, '_> {
    fn node(&mut self, node: &'a Node) {
        match &node.kind {
            NodeKind::Map(pairs) => {
                for pair in pairs {
                    self.path.push(Some(&pair.key.value));
                    let allowed = language::allowed(&self.path);
                    let known = allowed.key.is_some_and(|(_, key)| key.name == pair.key.value.trim_start_matches('+'));
                    if known {
                        self.add(pair.key.span.range(), Kind::Property);
                    }
                    self.node(&pair.value);
                    self.path.pop();
                }
            }
            NodeKind::List(items) => {
                for item in items {
                    self.path.push(None);
                    self.node(item);
                    self.path.pop();
                }
            }
            NodeKind::Scalar(scalar) => self.scalar(node, scalar),
        }
    }

    fn scalar(&mut self, node: &Node, scalar: &manifest::syntax::Scalar) {
        let range = node.span.range();
        if scalar.text.contains("${") {
            let raw = self.text.get(range).unwrap_or_default();
            let (template, _) = template::parse(raw, node.span, false);
            let spans: Vec<_> = template.references().map(|reference| reference.span.range()).collect();
            return spans.into_iter().for_each(|span| self.add(span, Kind::Variable));
        }
        match scalar.value {
            Value::Bool(_) => self.add(range, Kind::Keyword),
            Value::Integer(_) | Value::Float(_) => self.add(range, Kind::Number),
            _ => {
                let shapes = language::allowed(&self.path).shapes;
                let word = |shape: &&'static Shape| matches!(shape, Shape::Choice(words) if words.contains(&scalar.text.as_str()));
                if shapes.iter().any(word) {
                    self.add(range, Kind::EnumMember);
                }
            }
        }
    }

    fn add(&mut self, range: Range<usize>, kind: Kind) {
        self.found.push(Token { start: range.start, end: range.end, kind, declaration: false });
    }
}
