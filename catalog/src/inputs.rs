//! Inputs of a module: a subset of JSON Schema, checked with the manifest's spans and manners.

use std::collections::BTreeMap;

use manifest::diagnostic::Edit;
use manifest::model::{Map, Node as Data, Tree};
use manifest::nearest::nearest;
use manifest::syntax::Node;
use manifest::template::Template;
use manifest::{Diagnostic, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::codes;
use crate::module::Module;

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
}

const KINDS: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];

pub(crate) fn declared(node: Option<&Node>, path: &str, found: &mut Vec<Diagnostic>) -> BTreeMap<String, Input> {
    let pairs = node.and_then(Node::as_map).unwrap_or_default();
    let mut inputs = BTreeMap::new();
    for pair in pairs {
        let schema = crate::module::json(&pair.value);
        let text = |key: &str| schema.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let kind = text("type");
        if !KINDS.contains(&kind.as_str()) {
            let words = format!("`{path}`: the input `{}` needs a `type`, one of {}", pair.key.value, KINDS.join(", "));
            found.push(
                Diagnostic::new(codes::BAD_MODULE, Severity::Error, Span::default(), words)
                    .help("The format is described in docs/modules.md."),
            );
        }
        let choices = schema
            .get("enum")
            .and_then(Json::as_array)
            .map(|all| all.iter().filter_map(Json::as_str).map(str::to_owned).collect());
        let input = Input {
            kind,
            description: text("description"),
            default: schema.get("default").cloned().unwrap_or(Json::Null),
            rationale: text("rationale"),
            level: if text("level").is_empty() { "basic".to_owned() } else { text("level") },
            choices: choices.unwrap_or_default(),
            minimum: schema.get("minimum").and_then(Json::as_i64),
            maximum: schema.get("maximum").and_then(Json::as_i64),
        };
        inputs.insert(pair.key.value.clone(), input);
    }
    inputs
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
                found.push(self.unknown(name, entry.key, &at));
                continue;
            };
            let mut unresolved = None;
            let value = plain(&entry.value, resolve, &mut unresolved);
            if let Some(span) = unresolved {
                let words = format!(
                    "the input `{name}` takes values that are known without a preview: `${{vars.NAME}}` at most"
                );
                found.push(
                    Diagnostic::new(codes::BAD_INPUT, Severity::Error, span, words)
                        .at(at)
                        .help("Write the value out, or put it into `vars`."),
                );
                continue;
            }
            if value.is_null() {
                continue;
            }
            match input.accepts(&value) {
                Ok(value) => drop(given.insert(name.clone(), value)),
                Err(wanted) => {
                    let words =
                        format!("the input `{name}` of `{}` must be {wanted}, found {}", self.name, describe(&value));
                    let finding = Diagnostic::new(codes::BAD_INPUT, Severity::Error, entry.span, words).at(at);
                    found.push(with_choice(finding, input, &value, entry.span).help(help(input)));
                }
            }
        }
        (given, found)
    }

    fn unknown(&self, name: &str, span: Span, path: &str) -> Diagnostic {
        let known: Vec<&str> = self.inputs.keys().map(String::as_str).collect();
        let near = nearest(name, known.iter().copied());
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let words = format!("the module `{}` has no input `{name}`{hint}", self.name);
        let finding = Diagnostic::new(codes::UNKNOWN_INPUT, Severity::Error, span, words)
            .at(path)
            .help(format!("It has: {}.", known.join(", ")));
        match near {
            Some(near) => {
                finding.fix(format!("change `{name}` to `{near}`"), true, vec![Edit { span, text: near.to_owned() }])
            }
            None => finding,
        }
    }
}

fn help(input: &Input) -> String {
    if input.description.is_empty() { "See `pdev module info`.".to_owned() } else { input.description.clone() }
}

fn with_choice(finding: Diagnostic, input: &Input, value: &Json, span: Span) -> Diagnostic {
    let near = value.as_str().and_then(|text| nearest(text, input.choices.iter().map(String::as_str)));
    match near {
        Some(near) => finding.fix(format!("change it to `{near}`"), true, vec![Edit { span, text: near.to_owned() }]),
        None => finding,
    }
}

impl Input {
    /// The value in the input's own kind, or what it should be.
    fn accepts(&self, value: &Json) -> Result<Json, String> {
        let fits = match self.kind.as_str() {
            "string" => return self.text(value),
            "integer" => value.is_i64() && self.in_range(value.as_i64()),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        };
        if fits { Ok(value.clone()) } else { Err(self.wanted()) }
    }

    /// YAML reads `16` as a number where `"16"` was meant; both are good texts.
    fn text(&self, value: &Json) -> Result<Json, String> {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            _ => return Err(self.wanted()),
        };
        if self.choices.is_empty() || self.choices.contains(&text) { Ok(json!(text)) } else { Err(self.wanted()) }
    }

    fn in_range(&self, value: Option<i64>) -> bool {
        value.is_some_and(|value| {
            self.minimum.is_none_or(|least| value >= least) && self.maximum.is_none_or(|most| value <= most)
        })
    }

    fn wanted(&self) -> String {
        if !self.choices.is_empty() {
            return format!("one of {}", self.choices.join(", "));
        }
        match (self.kind.as_str(), self.minimum, self.maximum) {
            ("integer", Some(least), Some(most)) => format!("a whole number between {least} and {most}"),
            ("integer", ..) => "a whole number".into(),
            ("string", ..) => "text".into(),
            ("boolean", ..) => "true or false".into(),
            ("array", ..) => "a list".into(),
            ("object", ..) => "a map".into(),
            (other, ..) => format!("a {other}"),
        }
    }
}

fn plain(tree: &Tree, resolve: &dyn Fn(&Template) -> Option<String>, unresolved: &mut Option<Span>) -> Json {
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
        Data::List(items) => items.iter().map(|item| plain(item, resolve, unresolved)).collect(),
        Data::Map(entries) => Json::Object(
            entries.iter().map(|(name, entry)| (name.clone(), plain(&entry.value, resolve, unresolved))).collect(),
        ),
    }
}

fn describe(value: &Json) -> String {
    match value {
        Json::Array(_) => "a list".into(),
        Json::Object(_) => "a map".into(),
        Json::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
