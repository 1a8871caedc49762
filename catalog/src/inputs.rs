//! Inputs of a module: a subset of JSON Schema, checked with the manifest's spans and manners.

use std::collections::BTreeMap;

use manifest::diagnostic::Edit;
use manifest::model::{Map, Node as Data, Tree};
use manifest::nearest::nearest;
use manifest::syntax::{Node, Pair};
use manifest::template::Template;
use manifest::{Diagnostic, Severity, Span};
use regex_lite::Regex;
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::codes;
use crate::module::{Module, module_error};

/// One input, as `module.yaml` declares it.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// `string`, `integer`, `number`, `boolean`, `array`, `object`.
    pub kind: String,
    pub description: String,
    pub default: Json,
    /// Why the default is what it is.
    pub rationale: String,
    /// `basic` or `advanced`.
    pub level: String,
    pub choices: Vec<String>,
    pub minimum: Option<i64>,
    pub maximum: Option<i64>,
    /// What a text has to match somewhere, as in JSON Schema: anchors are the module's.
    pub pattern: Option<Pattern>,
    /// Of an array: what each of its values is.
    pub items: Option<Box<Input>>,
    /// Of an object: its keys, and no others; anything when empty.
    pub properties: BTreeMap<String, Input>,
}

/// A compiled pattern, equal to another by its text.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

const KINDS: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];

/// The words of JSON Schema that an input may use, and ours. Another one would be ignored, so it is refused.
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

pub(crate) fn parse_inputs(node: Option<&Node>, found: &mut Vec<Diagnostic>) -> BTreeMap<String, Input> {
    let pairs = node.and_then(Node::as_map).unwrap_or_default();
    pairs.iter().map(|pair| (pair.key.value.clone(), parse_input(&pair.key.value, pair, found))).collect()
}

/// `pair` is where the schema stands; findings are told inside it.
fn parse_input(name: &str, pair: &Pair, found: &mut Vec<Diagnostic>) -> Input {
    let (node, schema) = (&pair.value, crate::module::to_json(&pair.value));
    let mut wrong = |span: Span, words: String| found.push(module_error(span, words));
    let value_of = |key: &str| node.get(key).map_or(pair.key.span, |pair| pair.value.span);
    let text = |key: &str| schema.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let kind = text("type");
    if !KINDS.contains(&kind.as_str()) {
        wrong(value_of("type"), format!("the input `{name}` needs a `type`, one of {}", KINDS.join(", ")));
    }
    let keys = node.as_map().unwrap_or_default().iter().map(|pair| &pair.key);
    for unknown in keys.filter(|key| !KEYWORDS.contains(&key.value.as_str()) && !key.value.is_empty()) {
        let near =
            nearest(&unknown.value, KEYWORDS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        wrong(unknown.span, format!("the input `{name}` has an unknown key `{}`{near}", unknown.value));
    }
    let pattern = Some(text("pattern")).filter(|pattern| !pattern.is_empty());
    let pattern = pattern.and_then(|pattern| match Regex::new(&pattern) {
        Ok(pattern) => Some(Pattern(pattern)),
        Err(error) => {
            let words = format!("the pattern of the input `{name}` is no regular expression: {error}");
            wrong(value_of("pattern"), words);
            None
        }
    });
    let choices = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
    let choices = choices.filter_map(Json::as_str).map(str::to_owned).collect();
    let items = node.get("items").map(|items| Box::new(parse_input(&format!("{name}[]"), items, found)));
    let properties = node.get("properties").and_then(|pair| pair.value.as_map()).unwrap_or_default().iter();
    let properties = properties
        .map(|pair| (pair.key.value.clone(), parse_input(&format!("{name}.{}", pair.key.value), pair, found)));
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
    /// What `with:` says, with everything that is wrong with it. Defaults are filled in when rendering, because they
    /// may depend on the preview. `resolve` gives the text of a placeholder that is known without one (`${vars.x}`).
    #[must_use]
    pub fn inputs_from(
        &self,
        with: &Map<Tree>,
        path: &str,
        resolve: &dyn Fn(&Template) -> Option<String>,
    ) -> (JsonMap<String, Json>, Vec<Diagnostic>) {
        let mut given = JsonMap::new();
        let mut found = Vec::new();
        for (name, entry) in with {
            let at = format!("{path}.with.{name}");
            let Some(input) = self.inputs.get(name) else {
                found.push(self.unknown_input(name, entry.key, &at));
                continue;
            };
            let mut unresolved = None;
            let value = tree_to_json(&entry.value, resolve, &mut unresolved);
            if let Some(span) = unresolved {
                let words = format!(
                    "the input `{name}` takes values that are known without a preview: `${{vars.NAME}}` at most"
                );
                found.push(
                    Diagnostic::new(codes::BAD_INPUT, Severity::Error, span, words)
                        .at_path(at)
                        .help("Write the value out, or put it into `vars`."),
                );
                continue;
            }
            if value.is_null() {
                continue;
            }
            match input.coerce(&value) {
                Ok(value) => drop(given.insert(name.clone(), value)),
                Err(wanted) => {
                    let words = format!(
                        "the input `{name}` of `{}` must be {wanted}, found {}",
                        self.name,
                        describe_value(&value)
                    );
                    let finding = Diagnostic::new(codes::BAD_INPUT, Severity::Error, entry.span, words).at_path(at);
                    found.push(suggest_choice(finding, input, &value, entry.span).help(input_help(input)));
                }
            }
        }
        (given, found)
    }

    fn unknown_input(&self, name: &str, span: Span, path: &str) -> Diagnostic {
        let known: Vec<&str> = self.inputs.keys().map(String::as_str).collect();
        let near = nearest(name, known.iter().copied());
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let words = format!("the module `{}` has no input `{name}`{hint}", self.name);
        let finding = Diagnostic::new(codes::UNKNOWN_INPUT, Severity::Error, span, words)
            .at_path(path)
            .help(format!("It has: {}.", known.join(", ")));
        match near {
            Some(near) => {
                finding.fix(format!("change `{name}` to `{near}`"), true, vec![Edit { span, text: near.to_owned() }])
            }
            None => finding,
        }
    }
}

fn input_help(input: &Input) -> String {
    if input.description.is_empty() { "See `pdev module info`.".to_owned() } else { input.description.clone() }
}

fn suggest_choice(finding: Diagnostic, input: &Input, value: &Json, span: Span) -> Diagnostic {
    let near = value.as_str().and_then(|text| nearest(text, input.choices.iter().map(String::as_str)));
    match near {
        Some(near) => finding.fix(format!("change it to `{near}`"), true, vec![Edit { span, text: near.to_owned() }]),
        None => finding,
    }
}

impl Input {
    /// The value in the input's own kind, or what it should be.
    fn coerce(&self, value: &Json) -> Result<Json, String> {
        let fits = match self.kind.as_str() {
            "string" => return self.coerce_text(value),
            "array" => return self.coerce_list(value),
            "object" => return self.coerce_map(value),
            "integer" => value.is_i64() && self.is_in_range(value.as_i64()),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => true,
        };
        if fits { Ok(value.clone()) } else { Err(self.describe_expected()) }
    }

    /// YAML reads `16` as a number where `"16"` was meant; both are good texts.
    fn coerce_text(&self, value: &Json) -> Result<Json, String> {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => return Err(self.describe_expected()),
        };
        let chosen = self.choices.is_empty() || self.choices.contains(&text);
        let matches = self.pattern.as_ref().is_none_or(|pattern| pattern.0.is_match(&text));
        if chosen && matches { Ok(json!(text)) } else { Err(self.describe_expected()) }
    }

    fn coerce_list(&self, value: &Json) -> Result<Json, String> {
        let values = value.as_array().ok_or_else(|| self.describe_expected())?;
        let Some(items) = &self.items else { return Ok(value.clone()) };
        let accepted = values.iter().enumerate().map(|(index, value)| {
            items.coerce(value).map_err(|wanted| format!("a list whose value {} is {wanted}", index + 1))
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
            let value = property.coerce(value).map_err(|wanted| format!("a map whose `{key}` is {wanted}"))?;
            Ok((key.clone(), value))
        });
        accepted.collect::<Result<JsonMap<_, _>, _>>().map(Json::Object)
    }

    fn is_in_range(&self, value: Option<i64>) -> bool {
        value.is_some_and(|value| {
            self.minimum.is_none_or(|least| value >= least) && self.maximum.is_none_or(|most| value <= most)
        })
    }

    fn describe_expected(&self) -> String {
        if !self.choices.is_empty() {
            return format!("one of {}", self.choices.join(", "));
        }
        match (self.kind.as_str(), self.minimum, self.maximum) {
            ("integer", Some(least), Some(most)) => format!("a whole number between {least} and {most}"),
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
