//! The inputs of a module from `with:` in a manifest, with diagnostics that have the manifest's spans.

use manifest::diagnostic::Edit;
use manifest::model::{Map, Node as Data, Tree};
use manifest::template::Template;
use manifest::{Diagnostic, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json, json};
use strings::nearest;

use crate::codes;
use crate::inputs::Input;
use crate::module::Module;

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
                diagnostics.push(self.unknown_input(name, entry.key, &input_path, with));
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

    fn unknown_input(&self, name: &str, span: Span, path: &str, with: &Map<Tree>) -> Diagnostic {
        let known: Vec<&str> = self.inputs.keys().map(String::as_str).collect();
        let near = nearest(name, known.iter().copied());
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let message = format!("the module `{}` has no input `{name}`{hint}", self.name);
        let diagnostic = Diagnostic::new(codes::UNKNOWN_INPUT, Severity::Error, span, message)
            .at_path(path)
            .help(format!("It has: {}.", known.join(", ")));
        // An input that is set already would be a duplicate key.
        match near.filter(|near| !with.contains_key(*near)) {
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
