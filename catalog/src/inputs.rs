//! The inputs that a module declares: a subset of JSON Schema.

use std::collections::BTreeMap;

use manifest::syntax::{Kind, Node, Pair, Value};
use manifest::{Diagnostic, Severity, Span};
use regex_lite::Regex;
use serde_json::Value as Json;
use strings::nearest;

use crate::codes;

/// An input that `module.yaml` declares.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// `string`, `integer`, `number`, `boolean`, `array`, `object`.
    pub kind: String,
    pub description: String,
    pub default: Json,
    /// The reason for the default.
    pub rationale: String,
    /// `basic` or `advanced`.
    pub level: String,
    pub choices: Vec<String>,
    pub minimum: Option<i64>,
    pub maximum: Option<i64>,
    /// A pattern that a text must match. As in JSON Schema, it is not anchored unless it contains anchors.
    pub pattern: Option<Pattern>,
    /// The schema of each item of an array.
    pub items: Option<Box<Input>>,
    /// The allowed keys of an object; any key is allowed if this is empty.
    pub properties: BTreeMap<String, Input>,
}

/// A compiled pattern. Equality compares the source text, because `Regex` has no equality.
#[derive(Clone, Debug)]
pub struct Pattern(pub(crate) Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

const KINDS: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];

/// The allowed keywords of an input: those of JSON Schema, and pdev's own. Any other would be ignored, so it is an
/// error.
const KEYWORDS: [&str; 11] = [
    "type",
    "description",
    "default",
    "rationale",
    "level",
    "enum",
    "minimum",
    "maximum",
    "pattern",
    "items",
    "properties",
];

pub(crate) fn parse_inputs(node: Option<&Node>, diagnostics: &mut Vec<Diagnostic>) -> BTreeMap<String, Input> {
    let pairs = node.and_then(Node::as_map).unwrap_or_default();
    pairs.iter().map(|pair| (pair.key.value.clone(), parse_input(&pair.key.value, pair, diagnostics))).collect()
}

/// `pair` contains the schema; diagnostics get positions inside it.
fn parse_input(name: &str, pair: &Pair, diagnostics: &mut Vec<Diagnostic>) -> Input {
    let (node, schema) = (&pair.value, to_json(&pair.value));
    let mut report = |span: Span, message: String| diagnostics.push(module_error(span, message));
    let value_span = |key: &str| node.get(key).map_or(pair.key.span, |pair| pair.value.span);
    let text = |key: &str| schema.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let kind = text("type");
    if !KINDS.contains(&kind.as_str()) {
        report(value_span("type"), format!("the input `{name}` needs a `type`, one of {}", KINDS.join(", ")));
    }
    let keys = node.as_map().unwrap_or_default().iter().map(|pair| &pair.key);
    for unknown in keys.filter(|key| !KEYWORDS.contains(&key.value.as_str()) && !key.value.is_empty()) {
        let suggestion =
            nearest(&unknown.value, KEYWORDS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        report(unknown.span, format!("the input `{name}` has an unknown key `{}`{suggestion}", unknown.value));
    }
    let pattern = Some(text("pattern")).filter(|pattern| !pattern.is_empty());
    let pattern = pattern.and_then(|pattern| match Regex::new(&pattern) {
        Ok(pattern) => Some(Pattern(pattern)),
        Err(error) => {
            let message = format!("the pattern of the input `{name}` is no regular expression: {error}");
            report(value_span("pattern"), message);
            None
        }
    });
    let choices = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
    let choices = choices.filter_map(Json::as_str).map(str::to_owned).collect();
    let items = node.get("items").map(|items| Box::new(parse_input(&format!("{name}[]"), items, diagnostics)));
    let properties = node.get("properties").and_then(|pair| pair.value.as_map()).unwrap_or_default().iter();
    let properties = properties
        .map(|pair| (pair.key.value.clone(), parse_input(&format!("{name}.{}", pair.key.value), pair, diagnostics)));
    let properties = properties.collect();
    Input {
        kind,
        description: text("description"),
        default: schema.get("default").cloned().unwrap_or(Json::Null),
        rationale: text("rationale"),
        level: if text("level").is_empty() { "basic".to_owned() } else { text("level") },
        choices,
        minimum: schema.get("minimum").and_then(Json::as_i64),
        maximum: schema.get("maximum").and_then(Json::as_i64),
        pattern,
        items,
        properties,
    }
}

pub(crate) fn module_error(span: Span, message: String) -> Diagnostic {
    Diagnostic::new(codes::BAD_MODULE, Severity::Error, span, message)
        .help("The format is described in docs/modules.md.")
}

/// A node as data without spans.
pub(crate) fn to_json(node: &Node) -> Json {
    match &node.kind {
        Kind::List(items) => items.iter().map(to_json).collect(),
        Kind::Map(pairs) => {
            Json::Object(pairs.iter().map(|pair| (pair.key.value.clone(), to_json(&pair.value))).collect())
        }
        Kind::Scalar(scalar) => match scalar.value {
            Value::Null => Json::Null,
            Value::Bool(on) => on.into(),
            Value::Integer(number) => number.into(),
            Value::Float(number) => number.into(),
            Value::Text => scalar.text.clone().into(),
        },
    }
}
