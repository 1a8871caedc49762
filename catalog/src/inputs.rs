//! Inputs of a module: a subset of JSON Schema, with diagnostics that have the manifest's spans.

use std::collections::BTreeMap;

use manifest::diagnostic::Edit;
use manifest::model::{Map, Node as Data, Tree};
use manifest::syntax::{Node, Pair};
use manifest::template::Template;
use manifest::{Diagnostic, Severity, Span};
use regex_lite::Regex;
use serde_json::{Map as JsonMap, Value as Json, json};
use strings::nearest;

use crate::codes;
use crate::module::{Module, module_error};

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
pub struct Pattern(Regex);

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
    let (node, schema) = (&pair.value, crate::module::to_json(&pair.value));
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

impl Module {
    /// The inputs that `with:` sets, and the diagnostics about them. Rendering adds the defaults, because they may
    /// depend on the preview. `resolve` returns the text of a placeholder that is known without a preview
    /// (`${vars.x}`).
    #[must_use]
    pub fn inputs_from(
        &self,
        with: &Map<Tree>,
        path: &str,
        resolve: &dyn Fn(&Template) -> Option<String>,
    ) -> (JsonMap<String, Json>, Vec<Diagnostic>) {
        let mut inputs = JsonMap::new();
        let mut diagnostics = Vec::new();
        for (name, entry) in with {
            let input_path = format!("{path}.with.{name}");
            let Some(input) = self.inputs.get(name) else {
                diagnostics.push(self.unknown_input(name, entry.key, &input_path));
                continue;
            };
            let mut unresolved = None;
            let value = tree_to_json(&entry.value, resolve, &mut unresolved);
            if let Some(span) = unresolved {
                let message = format!(
                    "the input `{name}` takes values that are known without a preview: `${{vars.NAME}}` at most"
                );
                diagnostics.push(
                    Diagnostic::new(codes::BAD_INPUT, Severity::Error, span, message)
                        .at_path(input_path)
                        .help("Write the value out, or put it into `vars`."),
                );
                continue;
            }
            // `null` leaves the default in place.
            if value.is_null() {
                continue;
            }
            match input.coerce(&value) {
                Ok(value) => drop(inputs.insert(name.clone(), value)),
                Err(expected) => {
                    let message = format!(
                        "the input `{name}` of `{}` must be {expected}, found {}",
                        self.name,
                        describe_value(&value)
                    );
                    let diagnostic =
                        Diagnostic::new(codes::BAD_INPUT, Severity::Error, entry.span, message).at_path(input_path);
                    diagnostics.push(suggest_choice(diagnostic, input, &value, entry.span).help(input_help(input)));
                }
            }
        }
        (inputs, diagnostics)
    }

    fn unknown_input(&self, name: &str, span: Span, path: &str) -> Diagnostic {
        let known: Vec<&str> = self.inputs.keys().map(String::as_str).collect();
        let near = nearest(name, known.iter().copied());
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let message = format!("the module `{}` has no input `{name}`{hint}", self.name);
        let diagnostic = Diagnostic::new(codes::UNKNOWN_INPUT, Severity::Error, span, message)
            .at_path(path)
            .help(format!("It has: {}.", known.join(", ")));
        match near {
            Some(near) => {
                diagnostic.fix(format!("change `{name}` to `{near}`"), true, vec![Edit { span, text: near.to_owned() }])
            }
            None => diagnostic,
        }
    }
}

fn input_help(input: &Input) -> String {
    if input.description.is_empty() { "See `pdev module info`.".to_owned() } else { input.description.clone() }
}

fn suggest_choice(diagnostic: Diagnostic, input: &Input, value: &Json, span: Span) -> Diagnostic {
    let near = value.as_str().and_then(|text| nearest(text, input.choices.iter().map(String::as_str)));
    match near {
        Some(near) => {
            diagnostic.fix(format!("change it to `{near}`"), true, vec![Edit { span, text: near.to_owned() }])
        }
        None => diagnostic,
    }
}

impl Input {
    /// The value converted to the input's type; otherwise a description of the expected value.
    fn coerce(&self, value: &Json) -> Result<Json, String> {
        let is_valid = match self.kind.as_str() {
            "string" => return self.coerce_text(value),
            "array" => return self.coerce_list(value),
            "object" => return self.coerce_map(value),
            "integer" => value.is_i64() && self.is_in_range(value.as_i64()),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => true,
        };
        if is_valid { Ok(value.clone()) } else { Err(self.describe_expected()) }
    }

    /// Also accepts a number, because YAML parses an unquoted `16` as one.
    fn coerce_text(&self, value: &Json) -> Result<Json, String> {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => return Err(self.describe_expected()),
        };
        let is_choice = self.choices.is_empty() || self.choices.contains(&text);
        let matches = self.pattern.as_ref().is_none_or(|pattern| pattern.0.is_match(&text));
        if is_choice && matches { Ok(json!(text)) } else { Err(self.describe_expected()) }
    }

    fn coerce_list(&self, value: &Json) -> Result<Json, String> {
        let values = value.as_array().ok_or_else(|| self.describe_expected())?;
        let Some(items) = &self.items else { return Ok(value.clone()) };
        let accepted = values.iter().enumerate().map(|(index, value)| {
            items.coerce(value).map_err(|expected| format!("a list whose value {} is {expected}", index + 1))
        });
        accepted.collect()
    }

    fn coerce_map(&self, value: &Json) -> Result<Json, String> {
        let values = value.as_object().ok_or_else(|| self.describe_expected())?;
        if self.properties.is_empty() {
            return Ok(value.clone());
        }
        let accepted = values.iter().map(|(key, value)| {
            let Some(property) = self.properties.get(key) else {
                let known: Vec<&str> = self.properties.keys().map(String::as_str).collect();
                return Err(format!("a map without the key `{key}` (known are {})", known.join(", ")));
            };
            let value = property.coerce(value).map_err(|expected| format!("a map whose `{key}` is {expected}"))?;
            Ok((key.clone(), value))
        });
        accepted.collect::<Result<JsonMap<_, _>, _>>().map(Json::Object)
    }

    fn is_in_range(&self, value: Option<i64>) -> bool {
        value.is_some_and(|value| {
            self.minimum.is_none_or(|minimum| value >= minimum) && self.maximum.is_none_or(|maximum| value <= maximum)
        })
    }

    fn describe_expected(&self) -> String {
        if !self.choices.is_empty() {
            return format!("one of {}", self.choices.join(", "));
        }
        match (self.kind.as_str(), self.minimum, self.maximum) {
            ("integer", Some(minimum), Some(maximum)) => format!("a whole number between {minimum} and {maximum}"),
            ("integer", ..) => "a whole number".into(),
            ("string", ..) => match &self.pattern {
                Some(pattern) => format!("text that matches `{}`", pattern.0),
                None => "text".into(),
            },
            ("boolean", ..) => "true or false".into(),
            ("array", ..) => "a list".into(),
            ("object", ..) => "a map".into(),
            (other, ..) => format!("a {other}"),
        }
    }
}

fn tree_to_json(tree: &Tree, resolve: &dyn Fn(&Template) -> Option<String>, unresolved: &mut Option<Span>) -> Json {
    match &tree.node {
        Data::Null => Json::Null,
        Data::Bool(on) => json!(on),
        Data::Integer(number) => json!(number),
        Data::Float(number) => json!(number),
        Data::Text(template) => match template.as_literal().or_else(|| resolve(template)) {
            Some(text) => json!(text),
            None => {
                *unresolved = Some(tree.span);
                Json::Null
            }
        },
        Data::List(items) => items.iter().map(|item| tree_to_json(item, resolve, unresolved)).collect(),
        Data::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|(name, entry)| (name.clone(), tree_to_json(&entry.value, resolve, unresolved)))
                .collect(),
        ),
    }
}

fn describe_value(value: &Json) -> String {
    match value {
        Json::Array(_) => "a list".into(),
        Json::Object(_) => "a map".into(),
        Json::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
