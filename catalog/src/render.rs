//! Renders a module: applies minijinja to YAML *values*. A leaf that is one expression keeps its type. A rendered text
//! is never parsed as YAML again, so a value cannot change the structure.

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::{Map as JsonMap, Value as Json};

use crate::module::{Module, Output};

/// The runtime to render for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenderTarget {
    Docker,
    Process,
}

impl RenderTarget {
    pub const ALL: [Self; 2] = [Self::Docker, Self::Process];
}

/// The values that a rendering may depend on. Ports are text, because the planner also renders with tokens instead of
/// port numbers.
#[derive(Clone, PartialEq, Debug)]
pub struct RenderContext {
    /// The resource's name in the manifest.
    pub resource: String,
    pub app: String,
    pub ports: BTreeMap<String, String>,
    pub password: String,
    /// The version requested in `uses`.
    pub constraint: String,
    /// Whether `uses` names a version.
    pub is_pinned: bool,
    pub inputs: JsonMap<String, Json>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvValue {
    pub value: String,
    pub sensitive: bool,
}

/// A module rendered for one target; fields of other targets are empty.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RenderedModule {
    pub image: Option<String>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub env: BTreeMap<String, EnvValue>,
    /// Volume name and path in the container.
    pub volumes: Vec<(String, String)>,
    pub host_config: BTreeMap<String, Json>,
    pub user: Option<String>,
    pub init: Vec<Vec<String>>,
    pub after_ready: Vec<Vec<String>>,
    pub files: BTreeMap<String, String>,
    pub search_paths: Vec<String>,
    pub install_hint: Option<String>,
    pub version: Option<ProgramVersion>,
}

/// How to find the version of the installed program, and which versions are accepted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProgramVersion {
    /// The name of the software in messages.
    pub software: String,
    /// A command that prints the version.
    pub command: Vec<String>,
    /// The accepted major versions; all from `minimum` on if empty.
    pub accept: Vec<String>,
    pub minimum: u64,
    /// The package to install for an accepted version.
    pub package: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenderProblem {
    /// The failed field, such as `renders.docker.command`.
    pub field: String,
    pub message: String,
}

impl Module {
    #[must_use]
    pub fn can_render(&self, target: RenderTarget) -> bool {
        self.rendering_template(target).is_some()
    }

    fn rendering_template(&self, target: RenderTarget) -> Option<&Json> {
        match target {
            RenderTarget::Docker => self.docker.as_ref(),
            RenderTarget::Process => self.process.as_ref(),
        }
    }

    /// # Errors
    /// The field whose template fails: a mistake in the module.
    pub fn render(&self, target: RenderTarget, context: &RenderContext) -> Result<RenderedModule, RenderProblem> {
        let engine = Engine::new(self, context)?;
        let target_name = if target == RenderTarget::Docker { "docker" } else { "process" };
        let Some(body) = self.rendering_template(target) else {
            return Err(RenderProblem {
                field: format!("renders.{target_name}"),
                message: format!("the module `{}` has no rendering for it", self.name),
            });
        };
        let value = engine.render_value(body, &format!("renders.{target_name}"))?;
        Ok(to_rendered_module(&value))
    }

    /// The outputs for a consumer that connects to this host and these ports: name -> (value, sensitive).
    ///
    /// # Errors
    /// The first output whose template fails.
    pub fn outputs_at(
        &self,
        context: &RenderContext,
        host: &str,
        ports: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, (String, bool)>, RenderProblem> {
        let mut engine = Engine::new(self, context)?;
        let main = ports.get("main").or_else(|| ports.values().next()).cloned().unwrap_or_default();
        engine.scope.insert("host".to_owned(), Json::String(host.to_owned()));
        engine.scope.insert("port".to_owned(), Json::String(main));
        engine.scope.insert("ports".to_owned(), serde_json::to_value(ports).unwrap_or_default());
        let output = |(name, output): (&String, &Output)| {
            let value = engine.render_text(&output.value, &format!("outputs.{name}"))?;
            Ok((name.clone(), (value, output.sensitive)))
        };
        self.outputs.iter().map(output).collect()
    }
}

struct Engine {
    environment: Environment<'static>,
    scope: JsonMap<String, Json>,
}

impl Engine {
    fn new(module: &Module, context: &RenderContext) -> Result<Self, RenderProblem> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Templates of untrusted modules must terminate.
        environment.set_fuel(Some(100_000));
        // HTML escaping would corrupt values; templates escape with the filters below.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_filter("quote", quote);
        environment.add_filter("bytes", bytes);
        environment.add_filter("sql_name", sql_name);
        environment.add_filter("sql_text", sql_text);
        environment.add_filter("flags", flags);
        environment.add_filter("urlencode", urlencode);
        let mut scope = JsonMap::new();
        scope.insert("resource".into(), context.resource.clone().into());
        scope.insert("app".into(), context.app.clone().into());
        scope.insert("password".into(), context.password.clone().into());
        scope.insert("constraint".into(), context.constraint.clone().into());
        scope.insert("pinned".into(), context.is_pinned.into());
        scope.insert("ports".into(), serde_json::to_value(&context.ports).unwrap_or_default());
        let mut engine = Self { environment, scope };
        // Defaults are templates over the context above, not over other inputs, so their order does not matter.
        let mut inputs = JsonMap::new();
        for (name, input) in &module.inputs {
            let value = match context.inputs.get(name) {
                Some(value) => value.clone(),
                None => engine.render_value(&input.default, &format!("inputs.{name}.default"))?,
            };
            inputs.insert(name.clone(), value);
        }
        engine.scope.insert("inputs".into(), Json::Object(inputs));
        for (name, template) in &module.let_bindings {
            let value = engine.render_value(&Json::String(template.clone()), &format!("let.{name}"))?;
            engine.scope.insert(name.clone(), value);
        }
        Ok(engine)
    }

    fn render_value(&self, template: &Json, field: &str) -> Result<Json, RenderProblem> {
        match template {
            Json::String(text) => self.render_scalar(text, field),
            Json::Array(items) => items.iter().map(|item| self.render_value(item, field)).collect(),
            Json::Object(members) => {
                let mut rendered = JsonMap::new();
                for (name, member) in members {
                    let value = self.render_value(member, &format!("{field}.{name}"))?;
                    // A template drops a key with `null`.
                    if !value.is_null() {
                        rendered.insert(name.clone(), value);
                    }
                }
                Ok(Json::Object(rendered))
            }
            other => Ok(other.clone()),
        }
    }

    /// A text that is exactly one expression keeps the type of its value; any other text renders to text.
    fn render_scalar(&self, text: &str, field: &str) -> Result<Json, RenderProblem> {
        let inner = text
            .trim()
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"))
            .filter(|inner| !inner.contains("}}"));
        let Some(expression) = inner else { return self.render_text(text, field).map(Json::String) };
        let problem = |error: &minijinja::Error| RenderProblem { field: field.to_owned(), message: error.to_string() };
        let compiled = self.environment.compile_expression(expression.trim()).map_err(|error| problem(&error))?;
        let value = compiled.eval(self.template_variables()).map_err(|error| problem(&error))?;
        serde_json::to_value(value)
            .map_err(|error| RenderProblem { field: field.to_owned(), message: error.to_string() })
    }

    fn template_variables(&self) -> Value {
        Value::from_pairs(self.scope.iter().map(|(name, value)| (name.clone(), to_engine_value(value))))
    }

    fn render_text(&self, text: &str, field: &str) -> Result<String, RenderProblem> {
        self.environment
            .render_str(text, self.template_variables())
            .map_err(|error| RenderProblem { field: field.to_owned(), message: error.to_string() })
    }
}

/// Quotes any text for `sh -c`, with single quotes.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn bytes(text: &str) -> Result<u64, minijinja::Error> {
    manifest::quantities::parse_bytes(text)
        .map_err(|message| minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Quotes any text as an SQL identifier.
fn sql_name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Quotes any text as an SQL string literal.
fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Percent-encodes all bytes except the unreserved characters of RFC 3986, so the result fits any part of a URL.
fn urlencode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn to_engine_value(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(on) => Value::from(*on),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(float)) => Value::from(float),
            (None, None) => Value::from(number.to_string()),
        },
        Json::String(text) => Value::from(text.clone()),
        Json::Array(items) => Value::from(items.iter().map(to_engine_value).collect::<Vec<_>>()),
        Json::Object(members) => {
            Value::from_pairs(members.iter().map(|(name, value)| (name.clone(), to_engine_value(value))))
        }
    }
}

/// Turns `{a: 1}` into `-c a=1`, or into `--a 1` for the style `--`.
fn flags(settings: &Value, style: &str) -> Result<Vec<String>, minijinja::Error> {
    let settings: JsonMap<String, Json> = serde_json::to_value(settings)
        .ok()
        .and_then(|value| value.as_object().cloned())
        .ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, "`flags` takes a map"))?;
    // redis.conf uses `yes` and `no`, postgresql.conf `on` and `off`.
    let (yes, no) = if style == "--" { ("yes", "no") } else { ("on", "off") };
    let text = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Bool(on) => (if *on { yes } else { no }).to_owned(),
        other => other.to_string(),
    };
    let flags = settings.iter().flat_map(|(name, value)| match style {
        "--" => vec![format!("--{name}"), text(value)],
        _ => vec![style.to_owned(), format!("{name}={}", text(value))],
    });
    Ok(flags.collect())
}

fn to_rendered_module(value: &Json) -> RenderedModule {
    let list = |key: &str| strings(value.get(key));
    let text = |key: &str| value.get(key).and_then(Json::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let lists = |key: &str| {
        value
            .get(key)
            .and_then(Json::as_array)
            .map(|items| items.iter().map(|item| strings(Some(item))).collect())
            .unwrap_or_default()
    };
    let pairs = |key: &str| value.get(key).and_then(Json::as_object).into_iter().flatten();
    RenderedModule {
        image: text("image"),
        entrypoint: list("entrypoint"),
        command: list("command"),
        env: pairs("env").map(|(name, value)| (name.clone(), to_env_value(value))).collect(),
        volumes: pairs("volumes").map(|(name, path)| (name.clone(), scalar_text(path))).collect(),
        host_config: pairs("host_config").map(|(name, value)| (name.clone(), value.clone())).collect(),
        user: text("user"),
        init: lists("init"),
        after_ready: lists("after_ready"),
        files: pairs("files").map(|(name, value)| (name.clone(), scalar_text(value))).collect(),
        search_paths: list("search"),
        install_hint: text("install"),
        version: value.get("version").filter(|version| version.is_object()).map(to_program_version),
    }
}

fn to_program_version(value: &Json) -> ProgramVersion {
    let text = |key: &str| value.get(key).map(scalar_text).filter(|text| !text.is_empty());
    ProgramVersion {
        software: text("software").unwrap_or_default(),
        command: strings(value.get("command")),
        accept: strings(value.get("accept")),
        minimum: text("minimum").and_then(|text| text.parse().ok()).unwrap_or_default(),
        package: text("package"),
    }
}

fn strings(value: Option<&Json>) -> Vec<String> {
    value.and_then(Json::as_array).map(|items| items.iter().map(scalar_text).collect()).unwrap_or_default()
}

fn scalar_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn to_env_value(value: &Json) -> EnvValue {
    match value.as_object() {
        Some(members) => EnvValue {
            value: members.get("value").map(scalar_text).unwrap_or_default(),
            sensitive: members.get("sensitive").and_then(Json::as_bool).unwrap_or_default(),
        },
        None => EnvValue { value: scalar_text(value), sensitive: false },
    }
}
