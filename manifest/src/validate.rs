//! Validates a tree against the table of the language: unknown keys, wrong types, values out of range. Reports all of
//! them in one run.

use std::fmt::Write;

use strings::nearest;

use crate::codes;
use crate::date;
use crate::diagnostic::{Code, Diagnostic, Edit, Severity};
use crate::spec::{SYNONYMS, Section, Shape, find_key};
use crate::syntax::{Kind, Node, Pair, Scalar, Value};
use crate::text::Span;
use crate::{quantities, template};

pub(crate) struct Validator<'a> {
    diagnostics: &'a mut Vec<Diagnostic>,
    /// Path of the current node. One reused string, because a long manifest has tens of thousands of nodes.
    path: String,
}

impl<'a> Validator<'a> {
    pub fn new(diagnostics: &'a mut Vec<Diagnostic>) -> Self {
        Self { diagnostics, path: String::new() }
    }

    /// Calls `validate` with `name` appended to the path.
    fn with_key(&mut self, name: &str, validate: impl FnOnce(&mut Self)) {
        let end = self.path.len();
        if end > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        validate(self);
        self.path.truncate(end);
    }

    /// Calls `validate` for each item, with its index appended to the path.
    fn with_each_item(&mut self, items: &[Node], validate: impl Fn(&mut Self, &Node)) {
        let end = self.path.len();
        for (index, item) in items.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(self.path, "[{index}]");
            validate(self, item);
            self.path.truncate(end);
        }
    }

    fn current_key<'s>(&'s self, default: &'s str) -> &'s str {
        last_path_part(&self.path, default)
    }

    fn report(&mut self, code: Code, span: Span, message: String) -> &mut Diagnostic {
        self.diagnostics.push(Diagnostic::new(code, severity_of(code), span, message).at_path(self.path.as_str()));
        let last = self.diagnostics.len() - 1;
        &mut self.diagnostics[last]
    }

    pub fn validate_section(&mut self, node: &Node, section: &'static Section) {
        let Kind::Map(pairs) = &node.kind else {
            // An empty value is not an error: the user may still be typing it.
            if !node.is_null() {
                let message = format!("`{}` must be a map, found {}", self.current_key(section.name), node.describe());
                self.report(codes::WRONG_TYPE, node.span, message);
            }
            return;
        };
        for pair in pairs {
            let name = pair.key.value.as_str();
            if !name.starts_with("x-") {
                self.with_key(name, |validator| validator.validate_pair(pair, section, pairs));
            }
        }
    }

    fn validate_pair(&mut self, pair: &Pair, section: &'static Section, siblings: &[Pair]) {
        let name = pair.key.value.as_str();
        let (known, appends) = match name.strip_prefix('+') {
            Some(rest) => (find_key(section, rest), true),
            None => (find_key(section, name), false),
        };
        match known {
            Some(key) if appends && !accepts_list(&key.shape) => {
                let message = format!("`{name}` appends to a list, but `{}` is none", key.name);
                self.report(codes::UNKNOWN_KEY, pair.key.span, message);
            }
            // `null` removes the value of a lower layer.
            Some(_) if pair.value.is_null() => {}
            Some(key) => self.validate_shape(&pair.value, &key.shape),
            None => self.report_unknown_key(pair, section, siblings),
        }
    }

    fn report_unknown_key(&mut self, pair: &Pair, section: &'static Section, siblings: &[Pair]) {
        let name = pair.key.value.as_str();
        let is_unused = |candidate: &&str| !siblings.iter().any(|other| other.key.value == **candidate);
        let keys: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        let synonym = SYNONYMS.iter().find(|(from, to)| *from == name && keys.contains(to)).map(|(_, to)| *to);
        let near = synonym.or_else(|| nearest(name, keys.iter().copied()));
        let span = pair.key.span;
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let found = self.report(
            codes::UNKNOWN_KEY,
            span,
            format!("unknown key `{name}` in {}{hint}", section_with_article(section.name)),
        );
        if let Some(near) = near.filter(is_unused) {
            // A synonym from another tool may have a different shape, so only a corrected spelling is a safe fix.
            let edit = Edit { span, text: near.to_owned() };
            *found = found.clone().fix(format!("change `{name}` to `{near}`"), synonym.is_none(), vec![edit]);
        }
        // A long list of keys would hide the message.
        let known = if keys.len() <= 14 { format!("Known here: {}.", keys.join(", ")) } else { String::new() };
        let extension = "Keys of your own begin with `x-`.";
        found.help = Some(if known.is_empty() { extension.to_owned() } else { format!("{known} {extension}") });
    }

    fn validate_shape(&mut self, node: &Node, shape: &'static Shape) {
        match shape {
            Shape::Any(shapes) => self.validate_any(node, shapes),
            Shape::Section(section) => self.validate_section(node, section),
            Shape::List(inner) => match &node.kind {
                Kind::List(items) => {
                    self.with_each_item(items, |validator, item| validator.validate_item(item, inner));
                }
                _ => self.report_wrong_type(node, "a list"),
            },
            Shape::Map(inner) => match &node.kind {
                Kind::Map(pairs) => {
                    for pair in pairs.iter().filter(|pair| !pair.value.is_null() && !pair.key.value.starts_with("x-")) {
                        self.with_key(pair.key.value.trim_start_matches('+'), |validator| {
                            validator.validate_shape(&pair.value, inner);
                        });
                    }
                }
                _ => self.report_wrong_type(node, "a map"),
            },
            Shape::Free => self.validate_nested_templates(node),
            leaf => self.validate_scalar(node, leaf),
        }
    }

    /// An empty item would shift the items after it, so it is an error, unlike an empty value of a key.
    fn validate_item(&mut self, item: &Node, shape: &'static Shape) {
        if item.is_null() {
            let message = format!("`{}` must be {}, found nothing", self.current_key("this"), expected_shape(shape));
            let found = self.report(codes::WRONG_TYPE, item.span, message);
            found.help = Some("Write a value, or remove the item.".into());
        } else {
            self.validate_shape(item, shape);
        }
    }

    fn validate_any(&mut self, node: &Node, shapes: &'static [Shape]) {
        if let Some(matching) = shapes.iter().find(|shape| matches_shape(node, shape)) {
            return self.validate_shape(node, matching);
        }
        if !node.is_null() {
            let expected = shapes.iter().map(expected_shape).collect::<Vec<_>>().join(" or ");
            self.report_wrong_type(node, &expected);
        }
    }

    fn report_wrong_type(&mut self, node: &Node, expected: &str) {
        if !node.is_null() {
            let message = format!("`{}` must be {expected}, found {}", self.current_key("this"), node.describe());
            self.report(codes::WRONG_TYPE, node.span, message);
        }
    }

    fn validate_scalar(&mut self, node: &Node, shape: &'static Shape) {
        let Some(scalar) = node.as_scalar() else { return self.report_wrong_type(node, &expected_shape(shape)) };
        if scalar.is_null() {
            return;
        }
        self.check_foreign_braces(node, scalar);
        let name = self.current_key("this");
        let bad_value = |message: String| Some((codes::BAD_VALUE, message));
        let problem = match shape {
            Shape::Bool => match scalar.value {
                Value::Bool(_) => None,
                _ if scalar.is_yaml_1_1_boolean() => Some((
                    codes::OLD_BOOLEAN,
                    format!("`{name}` must be true or false; `{}` is text in YAML 1.2", scalar.text),
                )),
                _ => Some((codes::WRONG_TYPE, format!("`{name}` must be true or false, found {}", node.describe()))),
            },
            Shape::Integer { min, max } => match scalar.value {
                Value::Integer(number) if (*min..=*max).contains(&number) => None,
                Value::Integer(number) => {
                    bad_value(format!("`{name}` must be between {min} and {max}, found `{number}`"))
                }
                _ => Some((codes::WRONG_TYPE, format!("`{name}` must be a whole number, found {}", node.describe()))),
            },
            Shape::Choice(choices) if !choices.contains(&scalar.text.as_str()) => {
                return self.report_invalid_choice(node, scalar, choices);
            }
            Shape::Duration => quantities::parse_duration(&scalar.text)
                .err()
                .and_then(|problem| bad_value(format!("`{name}`: {problem}"))),
            Shape::Bytes => quantities::parse_bytes(&scalar.text)
                .err()
                .and_then(|problem| bad_value(format!("`{name}`: {problem}"))),
            Shape::Cpu => quantities::parse_cpu_milli(&scalar.text)
                .err()
                .and_then(|problem| bad_value(format!("`{name}`: {problem}"))),
            Shape::Date => {
                date::parse_date(&scalar.text).err().and_then(|problem| bad_value(format!("`{name}`: {problem}")))
            }
            Shape::Template => {
                self.validate_template(node, scalar);
                None
            }
            _ => None,
        };
        if let Some((code, message)) = problem {
            let found = self.report(code, node.span, message);
            if code == codes::OLD_BOOLEAN {
                let boolean = ["yes", "on", "y"].contains(&scalar.text.to_ascii_lowercase().as_str());
                *found = found.clone().fix(
                    format!("write `{boolean}`"),
                    true,
                    vec![Edit { span: node.span, text: boolean.to_string() }],
                );
                found.severity = Severity::Error;
            }
        }
    }

    fn report_invalid_choice(&mut self, node: &Node, scalar: &Scalar, choices: &'static [&'static str]) {
        let near = nearest(&scalar.text, choices.iter().copied());
        let message =
            format!("`{}` must be one of {}, found {}", self.current_key("this"), choices.join(", "), node.describe());
        let found = self.report(codes::BAD_VALUE, node.span, message);
        if let Some(near) = near {
            *found = found.clone().fix(
                format!("change it to `{near}`"),
                true,
                vec![Edit { span: node.span, text: near.to_owned() }],
            );
        }
    }

    fn validate_template(&mut self, node: &Node, scalar: &Scalar) {
        if !scalar.text.contains('$') {
            return;
        }
        for problem in template::parse(&scalar.text, node.span, scalar.quoted).1 {
            let found = self.report(codes::BAD_TEMPLATE, problem.span, problem.message);
            found.help = Some("A placeholder is `${scope.name.field}`; write `$$` for a dollar sign.".into());
        }
    }

    /// Unquoted, `{{ x }}` is a map in YAML. In text it usually comes from another tool's template language.
    fn check_foreign_braces(&mut self, node: &Node, scalar: &Scalar) {
        if scalar.text.contains("{{") && !self.path.starts_with("patches") {
            let message = "`{{ }}` belongs to another tool; pdev would pass it on as it is".to_owned();
            let found = self.report(codes::TEMPLATE_BRACES, node.span, message);
            found.severity = Severity::Warning;
            found.help = Some("pdev's placeholders are `${scope.name.field}`.".into());
        }
    }

    fn validate_nested_templates(&mut self, node: &Node) {
        match &node.kind {
            Kind::Scalar(scalar) if scalar.value == Value::Text => self.validate_template(node, scalar),
            Kind::Scalar(_) => {}
            Kind::List(items) => self.with_each_item(items, Self::validate_nested_templates),
            Kind::Map(pairs) => {
                for pair in pairs {
                    self.with_key(&pair.key.value, |validator| validator.validate_nested_templates(&pair.value));
                }
            }
        }
    }
}

fn severity_of(code: Code) -> Severity {
    codes::ALL.iter().find(|entry| entry.code == code).map_or(Severity::Error, |entry| entry.severity)
}

fn accepts_list(shape: &Shape) -> bool {
    match shape {
        Shape::List(_) | Shape::Free => true,
        Shape::Any(shapes) => shapes.iter().any(accepts_list),
        _ => false,
    }
}

/// Whether a node has the outer form of a shape. `validate_shape` checks the contents afterwards.
pub(crate) fn matches_shape(node: &Node, shape: &Shape) -> bool {
    match shape {
        Shape::Section(_) | Shape::Map(_) => matches!(node.kind, Kind::Map(_)),
        Shape::List(_) => matches!(node.kind, Kind::List(_)),
        Shape::Any(shapes) => shapes.iter().any(|shape| matches_shape(node, shape)),
        Shape::Free => true,
        Shape::Integer { .. } => node.as_scalar().is_some_and(|scalar| matches!(scalar.value, Value::Integer(_))),
        Shape::Bool => node.as_scalar().is_some_and(|scalar| matches!(scalar.value, Value::Bool(_))),
        _ => node.as_scalar().is_some_and(|scalar| !scalar.is_null()),
    }
}

fn expected_shape(shape: &Shape) -> String {
    match shape {
        Shape::Text | Shape::Template | Shape::Path | Shape::Module => "text".into(),
        Shape::Bool => "true or false".into(),
        Shape::Integer { min, max } if *min == i64::MIN || *max == i64::MAX => "a whole number".into(),
        Shape::Integer { min, max } => format!("a whole number between {min} and {max}"),
        Shape::Duration => "a duration such as `10s`".into(),
        Shape::Bytes => "a size such as `256Mi`".into(),
        Shape::Cpu => "a number of cores such as `250m` or `0.5`".into(),
        Shape::Date => "a day such as `2027-03-31`".into(),
        Shape::Choice(choices) => format!("one of {}", choices.join(", ")),
        Shape::List(_) => "a list".into(),
        Shape::Map(_) | Shape::Section(_) => "a map".into(),
        Shape::Any(shapes) => shapes.iter().map(expected_shape).collect::<Vec<_>>().join(" or "),
        Shape::Free => "anything".into(),
    }
}

fn section_with_article(name: &str) -> String {
    match name {
        "manifest" => "the manifest".to_owned(),
        "app" | "health" | "security" | "size" | "stop" | "raw" | "names" | "guardrails" => format!("`{name}`"),
        _ if name.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {name}"),
        _ => format!("a {name}"),
    }
}

pub(crate) fn join_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn last_path_part<'a>(path: &'a str, default: &'a str) -> &'a str {
    path.rsplit('.').next().filter(|name| !name.is_empty()).unwrap_or(default)
}
