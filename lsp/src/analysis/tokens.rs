//! Semantic tokens: keys of the language, names that the user chose, references, and words of a choice.

use std::ops::Range;

use manifest::spec::Shape;
use manifest::syntax::{Kind as NodeKind, Node, Value};
use manifest::template;

use super::language;
use super::references::{self, Occurrence};

/// The order is that of [`LEGEND`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TokenKind {
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
    pub kind: TokenKind,
    pub is_declaration: bool,
}

/// The tokens in the order of the text. They do not overlap, and each is on one line.
#[must_use]
pub fn tokens(root: &Node, text: &str) -> Vec<Token> {
    let mut collector = TokenCollector { text, tokens: Vec::new(), path: Vec::new() };
    collector.visit_node(root);
    let names = references::occurrences(root, text);
    let mut all: Vec<Token> = names.iter().map(name_token).collect();
    // The token of a name replaces that part of the key or placeholder around it.
    for token in collector.tokens {
        let inner_names: Vec<&Occurrence> = names
            .iter()
            .filter(|name| token.start < name.span.range().end && name.span.range().start < token.end)
            .collect();
        match &inner_names[..] {
            [] => all.push(token),
            _ => all.extend(split_around(&token, &inner_names)),
        }
    }
    all.sort();
    all.dedup_by(|later, first| later.start < first.end);
    all.retain(|token| {
        token.start < token.end && !text.get(token.start..token.end).is_none_or(|text| text.contains('\n'))
    });
    all
}

fn name_token(name: &Occurrence) -> Token {
    let Range { start, end } = name.span.range();
    Token { start, end, kind: TokenKind::Class, is_declaration: name.is_definition || name.is_overlay }
}

/// The parts of a token before, between and after the names in it.
fn split_around(token: &Token, names: &[&Occurrence]) -> Vec<Token> {
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

struct TokenCollector<'a, 't> {
    text: &'t str,
    tokens: Vec<Token>,
    path: Vec<Option<&'a str>>,
}

impl<'a> TokenCollector<'a, '_> {
    fn visit_node(&mut self, node: &'a Node) {
        match &node.kind {
            NodeKind::Map(pairs) => {
                for pair in pairs {
                    self.path.push(Some(&pair.key.value));
                    let allowed = language::allowed_at(&self.path);
                    let is_spec_key =
                        allowed.key.is_some_and(|(_, key)| key.name == pair.key.value.trim_start_matches('+'));
                    if is_spec_key {
                        self.add(pair.key.span.range(), TokenKind::Property);
                    }
                    self.visit_node(&pair.value);
                    self.path.pop();
                }
            }
            NodeKind::List(items) => {
                for item in items {
                    self.path.push(None);
                    self.visit_node(item);
                    self.path.pop();
                }
            }
            NodeKind::Scalar(scalar) => self.visit_scalar(node, scalar),
        }
    }

    fn visit_scalar(&mut self, node: &Node, scalar: &manifest::syntax::Scalar) {
        let range = node.span.range();
        if scalar.text.contains("${") {
            let raw = self.text.get(range).unwrap_or_default();
            let (template, _) = template::parse(raw, node.span, false);
            let spans: Vec<_> = template.outer_references().map(|reference| reference.span.range()).collect();
            return spans.into_iter().for_each(|span| self.add(span, TokenKind::Variable));
        }
        match scalar.value {
            Value::Bool(_) => self.add(range, TokenKind::Keyword),
            Value::Integer(_) | Value::Float(_) => self.add(range, TokenKind::Number),
            _ => {
                let shapes = language::allowed_at(&self.path).shapes;
                let word = |shape: &&'static Shape| matches!(shape, Shape::Choice(words) if words.contains(&scalar.text.as_str()));
                if shapes.iter().any(word) {
                    self.add(range, TokenKind::EnumMember);
                }
            }
        }
    }

    fn add(&mut self, range: Range<usize>, kind: TokenKind) {
        self.tokens.push(Token { start: range.start, end: range.end, kind, is_declaration: false });
    }
}
