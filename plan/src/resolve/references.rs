//! Placeholders: `${scope.name.field}` resolved for the consumer that reads it.
//!
//! Every value exists twice: the text the program gets, and a stable text for the hash, in which what pdev chose itself
//! (ports, passwords, the proxy's port, folders of this machine) is a token. Two checkouts have equal stable texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use manifest::template::{Part, Reference, Scope, Template};
use manifest::{Diagnostic, Severity};
use serde_json::Value as Json;

use super::draft::{Draft, Kind};
use super::{Context, given, modules, unit_ports};
use crate::application::{EnvValue, Role, RuntimeKind, UnitName, UnitPort};
use crate::codes;
use crate::load::Loaded;
use crate::naming;
use crate::nearest::nearest;

/// A resolved text in its two forms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) stable: String,
    pub(super) sensitive: bool,
}

impl Value {
    pub(super) fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { stable: text.clone(), text, sensitive: false }
    }

    /// Chosen by pdev: the hash sees `token` only.
    pub(super) fn chosen(text: impl Into<String>, token: impl Into<String>) -> Self {
        Self { text: text.into(), stable: token.into(), sensitive: false }
    }

    pub(super) fn push(&mut self, other: &Self) {
        self.text.push_str(&other.text);
        self.stable.push_str(&other.stable);
        self.sensitive |= other.sensitive;
    }

    /// For people.
    pub(super) fn shown(&self) -> Json {
        Json::String(if self.sensitive { "(sensitive)".to_owned() } else { self.text.clone() })
    }

    pub(super) fn into_env(self) -> EnvValue {
        EnvValue { value: self.text, sensitive: self.sensitive }
    }
}

/// A variable of the environment and its value.
pub(super) type Given = (String, Value);

/// What a unit turned out to use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct References {
    pub(super) secrets: BTreeSet<String>,
    pub(super) resources: BTreeSet<UnitName>,
    pub(super) services: BTreeSet<UnitName>,
}

/// What a resource gives to those who read it.
pub(super) type Outputs = BTreeMap<String, Value>;

/// What is known of a unit by all others.
pub(super) struct Known {
    pub(super) role: Role,
    pub(super) runtime: RuntimeKind,
    pub(super) ports: BTreeMap<String, UnitPort>,
}

/// How much is made of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    /// What diagnostics depend on: no hashes, no origins of defaults, nothing of what pdev gives to units by itself.
    Findings,
    /// The unit as it runs, with the origin of each field.
    Everything,
}

pub(super) struct World<'a> {
    pub(super) depth: Depth,
    pub(super) loaded: &'a Loaded,
    pub(super) context: &'a Context,
    pub(super) units: BTreeMap<&'a str, Known>,
    pub(super) drafts: BTreeMap<&'a str, &'a Draft<'a>>,
    /// The same for every unit of a runtime, so made once.
    told: [OnceLock<Option<Vec<Given>>>; 2],
    /// What each resource gives to consumers of a runtime, once somebody asked.
    outputs: Mutex<BTreeMap<(UnitName, RuntimeKind), Arc<Outputs>>>,
}

/// Who reads: addresses depend on it.
#[derive(Clone, Copy)]
pub(super) struct Consumer<'a> {
    pub(super) unit: &'a str,
    pub(super) runtime: RuntimeKind,
}

pub(super) struct Reader<'w, 'a> {
    pub(super) world: &'w World<'a>,
    pub(super) consumer: Consumer<'w>,
    pub(super) found: References,
    pub(super) diagnostics: &'w mut Vec<Diagnostic>,
    /// Variables that are being resolved, against cycles.
    vars: Vec<String>,
}

impl<'a> World<'a> {
    pub(super) fn new(loaded: &'a Loaded, context: &'a Context, drafts: &'a [Draft<'a>], depth: Depth) -> Self {
        let known = |draft: &'a Draft<'a>| {
            let known = Known { role: draft.role, runtime: draft.runtime, ports: unit_ports(draft, context) };
            (draft.name.as_str(), known)
        };
        let drafts_by_name = drafts.iter().map(|draft| (draft.name.as_str(), draft)).collect();
        let units = drafts.iter().map(known).collect();
        let (told, outputs) = (Default::default(), Mutex::default());
        Self { depth, loaded, context, units, drafts: drafts_by_name, told, outputs }
    }

    /// Made at the first question: hundreds of services read the same outputs, and templates are slow. Nothing is held
    /// while they are made; where two threads made the same, the first one's stay.
    pub(super) fn outputs(
        &self,
        resource: &str,
        consumer: RuntimeKind,
        make: impl FnOnce() -> Outputs,
    ) -> Arc<Outputs> {
        let known = || self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (resource.to_owned(), consumer);
        if let Some(made) = known().get(&key) {
            return Arc::clone(made);
        }
        let made = Arc::new(make());
        Arc::clone(known().entry(key).or_insert(made))
    }

    /// Variables with the URLs of all services, for units of this runtime; `None` where there are too many.
    pub(super) fn told(&self, runtime: RuntimeKind) -> Option<&[Given]> {
        let [docker, process] = &self.told;
        let cell = match runtime {
            RuntimeKind::Docker => docker,
            RuntimeKind::Process => process,
        };
        cell.get_or_init(|| given::everybody(self, runtime)).as_deref()
    }

    /// Host and port of a unit for this consumer: by name on the preview's network, else on the loopback.
    pub(super) fn address(&self, consumer: RuntimeKind, unit: &str, port: &str) -> Option<(Value, Value)> {
        let known = self.units.get(unit)?;
        let ports = known.ports.get(port)?;
        let chosen = || Value::chosen(ports.host.to_string(), format!("{{port:{unit}.{port}}}"));
        Some(match (consumer, known.runtime) {
            (RuntimeKind::Process, _) => (Value::same("127.0.0.1"), chosen()),
            (RuntimeKind::Docker, RuntimeKind::Docker) => (Value::same(unit), Value::same(ports.inside.to_string())),
            (RuntimeKind::Docker, RuntimeKind::Process) => (Value::same(unit), chosen()),
        })
    }

    /// The URL for browsers.
    pub(super) fn url(&self, service: &str) -> Value {
        let host = naming::service_host(&self.context.preview, service);
        let text = naming::url(&host, self.context.proxy_port);
        Value::chosen(text, format!("http://{host}:{{proxy}}"))
    }

    /// The port that stands for a unit: `main`, else its first as written.
    pub(super) fn main_port(&self, unit: &str) -> Option<&str> {
        let known = self.units.get(unit)?;
        if let Some((name, _)) = known.ports.get_key_value("main") {
            return Some(name);
        }
        let written = self.drafts.get(unit)?.service().and_then(|service| service.ports.keys().next());
        let written = written.map(String::as_str);
        written.or_else(|| known.ports.keys().next().map(String::as_str))
    }
}

impl<'w, 'a> Reader<'w, 'a> {
    pub(super) fn new(world: &'w World<'a>, consumer: Consumer<'w>, diagnostics: &'w mut Vec<Diagnostic>) -> Self {
        Self { world, consumer, found: References::default(), diagnostics, vars: Vec::new() }
    }

    /// `path` is where the text stands in the manifest, for diagnostics.
    pub(super) fn read(&mut self, template: &Template, path: &dyn Display) -> Value {
        let mut value = Value::default();
        for part in &template.parts {
            match part {
                Part::Text(text) => value.push(&Value::same(text)),
                Part::Reference(reference) => value.push(&self.reference(reference, path)),
            }
        }
        value
    }

    fn reference(&mut self, reference: &Reference, path: &dyn Display) -> Value {
        let parts: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        let found = match (reference.scope, parts.as_slice()) {
            (Scope::Resources, [name, field]) => self.resource(name, field),
            (Scope::Services, [name, field @ ..]) => self.service(name, field),
            (Scope::Secrets, [name, "path"]) => self.secret(name),
            (Scope::Identities, [name, "name"]) => self.identity(name),
            (Scope::Vars, [name]) => self.var(name, path),
            (Scope::Env, [name]) => self.environment(name, reference.default.is_some()),
            (Scope::App, [field]) => self.app(field),
            (Scope::Preview, [field]) => self.preview(field),
            (Scope::Git, [field]) => self.git(field),
            _ => Err(Unresolved::shape(reference)),
        };
        match (found, &reference.default) {
            (Ok(value), _) => value,
            (Err(_), Some(default)) => Value::same(default),
            (Err(problem), None) => {
                self.diagnostics.push(problem.diagnostic(reference).at(path.to_string()));
                Value::default()
            }
        }
    }

    fn resource(&mut self, name: &str, field: &str) -> Result<Value, Unresolved> {
        let world = self.world;
        let Some(Draft { kind: Kind::Resource(..), .. }) = world.drafts.get(name) else {
            // Declared, but its module is unknown: that was said where it is declared.
            if world.loaded.manifest.resources.contains_key(name) {
                return Ok(Value::default());
            }
            let known = world.loaded.manifest.resources.keys().map(String::as_str);
            return Err(Unresolved::unknown("resource", name, known));
        };
        self.found.resources.insert(name.to_owned());
        modules::output(world, self.consumer.runtime, name, field).map_err(|outputs| {
            let mut problem = Unresolved::unknown("output", field, outputs.iter().map(String::as_str));
            problem.code = codes::UNKNOWN_OUTPUT;
            problem.message = format!("{} of resource `{name}`", problem.message);
            problem
        })
    }

    fn service(&mut self, name: &str, field: &[&str]) -> Result<Value, Unresolved> {
        let world = self.world;
        let services = &world.loaded.manifest.services;
        if !services.contains_key(name) {
            return Err(Unresolved::unknown("service", name, services.keys().map(String::as_str)));
        }
        if name != self.consumer.unit {
            self.found.services.insert(name.to_owned());
        }
        if field == ["url"] {
            return Ok(world.url(name));
        }
        let no_port = || Unresolved::plain(format!("service `{name}` has no port"));
        let named = match field {
            ["ports", port] => *port,
            ["host" | "port" | "internal_url" | "address"] => world.main_port(name).ok_or_else(no_port)?,
            _ => {
                let known = ["url", "internal_url", "address", "host", "port", "ports"];
                return Err(Unresolved::unknown("field", &field.join("."), known));
            }
        };
        let (host, port) = world.address(self.consumer.runtime, name, named).ok_or_else(|| {
            let ports = world.units.get(name).map(|known| known.ports.keys().map(String::as_str).collect::<Vec<_>>());
            Unresolved::unknown("port", named, ports.unwrap_or_default())
        })?;
        Ok(match field {
            ["host"] => host,
            ["internal_url"] => join(&[&Value::same("http://"), &host, &Value::same(":"), &port]),
            ["address"] => join(&[&host, &Value::same(":"), &port]),
            _ => port,
        })
    }

    fn secret(&mut self, name: &str) -> Result<Value, Unresolved> {
        let declared = &self.world.loaded.manifest.secrets;
        if !declared.contains_key(name) {
            // The reader of the manifest told it, with the same nearest name.
            return Ok(Value::default());
        }
        self.found.secrets.insert(name.to_owned());
        Ok(match self.consumer.runtime {
            RuntimeKind::Docker => Value::same(format!("/run/secrets/{name}")),
            RuntimeKind::Process => {
                let path = format!("{}/{}/{name}", self.world.context.secrets_folder, self.consumer.unit);
                Value::chosen(path, format!("{{secret:{name}}}"))
            }
        })
    }

    fn identity(&mut self, name: &str) -> Result<Value, Unresolved> {
        let declared = &self.world.loaded.manifest.identities;
        if declared.contains_key(name) {
            return Ok(Value::same(name));
        }
        Err(Unresolved::unknown("identity", name, declared.keys().map(String::as_str)))
    }

    fn var(&mut self, name: &str, path: &dyn Display) -> Result<Value, Unresolved> {
        let world = self.world;
        let Some(var) = world.loaded.manifest.vars.get(name) else {
            let known = world.loaded.manifest.vars.keys().map(String::as_str);
            return Err(Unresolved::unknown("variable", name, known));
        };
        if self.vars.iter().any(|open| open == name) {
            return Err(Unresolved::plain(format!("variable `{name}` is defined by itself")));
        }
        self.vars.push(name.to_owned());
        let value = self.read(&var.value, path);
        self.vars.pop();
        Ok(value)
    }

    fn environment(&mut self, name: &str, has_default: bool) -> Result<Value, Unresolved> {
        if let Some(value) = self.world.context.environment.get(name).filter(|value| !(has_default && value.is_empty()))
        {
            return Ok(Value::same(value));
        }
        let mut problem = Unresolved::plain(format!("`{name}` is not set in your environment"));
        problem.code = codes::ENVIRONMENT_VARIABLE_MISSING;
        problem.help = Some(format!("Set it, or give a default: `${{env.{name}:-...}}`."));
        Err(problem)
    }

    fn app(&self, field: &str) -> Result<Value, Unresolved> {
        let app = &self.world.loaded.manifest.app;
        match field {
            "name" => Ok(Value::same(&app.name.value)),
            "owner" => Ok(Value::same(app.owner.as_ref().map(|owner| owner.value.clone()).unwrap_or_default())),
            _ => Err(Unresolved::unknown("field", field, ["name", "owner"])),
        }
    }

    fn preview(&self, field: &str) -> Result<Value, Unresolved> {
        let preview = &self.world.context.preview;
        Ok(match field {
            "id" => Value::chosen(preview.id.0.clone(), "{preview}"),
            "name" => Value::same(preview.title()),
            "app" => Value::same(&preview.app),
            "branch" => Value::same(&preview.branch),
            "environment" => Value::same(&preview.environment),
            "domain" => Value::same(naming::preview_host(preview)),
            "url" => {
                let host = naming::preview_host(preview);
                Value::chosen(naming::url(&host, self.world.context.proxy_port), format!("http://{host}:{{proxy}}"))
            }
            _ => {
                let known = ["app", "branch", "domain", "environment", "id", "name", "url"];
                return Err(Unresolved::unknown("field", field, known));
            }
        })
    }

    fn git(&self, field: &str) -> Result<Value, Unresolved> {
        let git = &self.world.context.git;
        let value = match field {
            "branch" => &git.branch,
            "commit" => &git.commit,
            _ => return Err(Unresolved::unknown("field", field, ["branch", "commit"])),
        };
        let missing = || Unresolved::plain(format!("there is no git {field} here"));
        value.as_ref().map(Value::same).ok_or_else(missing)
    }
}

pub(super) fn join(parts: &[&Value]) -> Value {
    let mut whole = Value::default();
    for part in parts {
        whole.push(part);
    }
    whole
}

struct Unresolved {
    code: manifest::Code,
    message: String,
    help: Option<String>,
    nearest: Option<String>,
    wrong: String,
}

impl Unresolved {
    fn plain(message: String) -> Self {
        Self { code: codes::UNRESOLVED, message, help: None, nearest: None, wrong: String::new() }
    }

    fn shape(reference: &Reference) -> Self {
        let scope = match reference.scope {
            Scope::Resources => "`${resources.NAME.OUTPUT}`",
            Scope::Services => "`${services.NAME.url}`",
            Scope::Secrets => "`${secrets.NAME.path}`",
            Scope::Identities => "`${identities.NAME.name}`",
            Scope::Vars => "`${vars.NAME}`",
            Scope::Env => "`${env.NAME}`",
            Scope::App => "`${app.name}`",
            Scope::Preview => "`${preview.branch}`",
            Scope::Git => "`${git.commit}`",
        };
        Self::plain(format!("this placeholder leads nowhere; the form is {scope}"))
    }

    fn unknown<'n>(what: &str, name: &str, known: impl IntoIterator<Item = &'n str>) -> Self {
        /// More names than these are no help.
        const SHOWN_MAX: usize = 12;
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = nearest(name, known.iter().copied());
        let allowed = match (nearest, known.as_slice()) {
            (Some(nearest), _) => format!(" (nearest: `{nearest}`)"),
            (None, []) => String::new(),
            (None, known) if known.len() > SHOWN_MAX => {
                format!(" (there is `{}` and {} more)", known[..SHOWN_MAX].join("`, `"), known.len() - SHOWN_MAX)
            }
            (None, known) => format!(" (there is `{}`)", known.join("`, `")),
        };
        let mut problem = Self::plain(format!("unknown {what} `{name}`{allowed}"));
        problem.help = nearest.is_none().then(|| declared(what, name)).flatten();
        problem.nearest = nearest.map(str::to_owned);
        problem.wrong = name.to_owned();
        problem
    }

    fn diagnostic(self, reference: &Reference) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(self.code, Severity::Error, reference.span, self.message);
        diagnostic.help = self.help;
        if let Some(nearest) = &self.nearest {
            let path: Vec<&str> =
                reference.path.iter().map(|part| if *part == self.wrong { nearest.as_str() } else { part }).collect();
            let text = format!("${{{}.{}}}", scope_word(reference.scope), path.join("."));
            let edit = manifest::diagnostic::Edit { span: reference.span, text };
            diagnostic = diagnostic.fix(format!("change `{}` to `{nearest}`", self.wrong), true, vec![edit]);
        }
        diagnostic
    }
}

/// How something of this kind is declared, where a person can.
fn declared(what: &str, name: &str) -> Option<String> {
    Some(match what {
        "resource" => format!("Declare it, as in `resources: {{ {name}: {{ uses: postgres@16 }} }}`."),
        "service" => format!("Declare it below `services`, or remove what reads `{name}`."),
        "identity" => format!("Declare it: `identities: {{ {name}: {{}} }}`."),
        "variable" => {
            format!("Declare it: `vars: {{ {name}: VALUE }}`, or give it a default: `${{vars.{name}:-VALUE}}`.")
        }
        "port" => format!("Declare it below the service's `ports`: `{name}: NUMBER`."),
        _ => return None,
    })
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Resources => "resources",
        Scope::Services => "services",
        Scope::Secrets => "secrets",
        Scope::Identities => "identities",
        Scope::Vars => "vars",
        Scope::Env => "env",
        Scope::App => "app",
        Scope::Preview => "preview",
        Scope::Git => "git",
    }
}
