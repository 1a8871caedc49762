//! The syntax tree: owned nodes, each with its byte span.

use super::scalar::Scalar;
use crate::text::{Span, Spanned};

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub span: Span,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Pair>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub key: Spanned<String>,
    pub value: Node,
}

/// A comment including its `#`, for editors and for `# pdev: allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    pub span: Span,
    pub text: String,
}

impl Pair {
    #[must_use]
    pub fn shifted(&self, by: i32) -> Self {
        let key = Spanned::new(self.key.value.clone(), self.key.span.shifted(by));
        Self { key, value: self.value.shifted(by) }
    }
}

impl Node {
    #[must_use]
    pub fn null(span: Span) -> Self {
        Self { span, kind: Kind::Scalar(Scalar::null()) }
    }

    /// A copy with all spans shifted by `by` bytes.
    #[must_use]
    pub fn shifted(&self, by: i32) -> Self {
        let kind = match &self.kind {
            Kind::Scalar(scalar) => Kind::Scalar(scalar.clone()),
            Kind::List(items) => Kind::List(items.iter().map(|item| item.shifted(by)).collect()),
            Kind::Map(pairs) => Kind::Map(pairs.iter().map(|pair| pair.shifted(by)).collect()),
        };
        Self { span: self.span.shifted(by), kind }
    }

    #[must_use]
    pub fn as_scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_scalar().is_some_and(Scalar::is_null)
    }

    #[must_use]
    pub fn as_map(&self) -> Option<&[Pair]> {
        match &self.kind {
            Kind::Map(pairs) => Some(pairs),
            _ => None,
        }
    }

    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Pair> {
        self.as_map()?.iter().find(|pair| pair.key.value == key)
    }

    /// A description for "found ..." in messages: `a list`, `a map`, `` `text` ``.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Kind::Scalar(scalar) => {
                let text = scalar.text.lines().next().unwrap_or_default();
                let short: String = text.chars().take(40).collect();
                let ellipsis = if short.len() < scalar.text.len() { "..." } else { "" };
                format!("`{short}{ellipsis}`")
            }
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
        }
    }
}
