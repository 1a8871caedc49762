//! Resolves placeholders (`${scope.name.field}`) for the unit that reads them, the consumer.
//!
//! Every value has two forms: the text for the program, and a stable text for the hash. In the stable text, values that
//! pdev chooses (ports, passwords, the proxy's port, folders of this machine) are tokens, so it is the same in every
//! checkout.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use manifest::template::{Part, Reference, Scope, Template};
use manifest::{Diagnostic, Severity};
use serde_json::Value as Json;
use strings::nearest;

use super::draft::{Kind, UnitDraft};
use super::{ResolveInputs, injected_env, modules, unit_ports};
use crate::application::{EnvValue, Role, RuntimeKind, UnitName, UnitPort};
use crate::codes;
use crate::load::LoadedManifest;
use crate::naming;
use crate::runtime::{Route, SecretLocation};

/// A resolved text in both forms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ResolvedText {
    pub(super) text: String,
    pub(super) stable: String,
    pub(super) sensitive: bool,
}

impl ResolvedText {
    pub(super) fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { stable: text.clone(), text, sensitive: false }
    }

    /// A value that pdev chose. The hash contains only `token`.
    pub(super) fn with_token(text: impl Into<String>, token: impl Into<String>) -> Self {
        Self { text: text.into(), stable: token.into(), sensitive: false }
    }

    pub(super) fn push(&mut self, other: &Self) {
        self.text.push_str(&other.text);
        self.stable.push_str(&other.stable);
        self.sensitive |= other.sensitive;
    }

    /// The form to display: sensitive values are redacted.
    pub(super) fn to_redacted_json(&self) -> Json {
        Json::String(if self.sensitive { "(sensitive)".to_owned() } else { self.text.clone() })
    }

    pub(super) fn into_env(self) -> EnvValue {
        EnvValue { value: self.text, sensitive: self.sensitive }
    }
}

/// An environment variable and its value.
pub(super) type EnvVariable = (String, ResolvedText);

/// The secrets, resources and services that a unit refers to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct References {
    pub(super) secrets: BTreeSet<String>,
    pub(super) resources: BTreeSet<UnitName>,
    pub(super) services: BTreeSet<UnitName>,
}

/// The outputs of a resource for one kind of consumer, by name.
pub(super) type Outputs = BTreeMap<String, ResolvedText>;

/// The facts about a unit that other units can refer to.
pub(super) struct UnitSummary {
    pub(super) role: Role,
    pub(super) runtime: RuntimeKind,
    pub(super) ports: BTreeMap<String, UnitPort>,
}

/// How much of a unit to resolve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResolveDepth {
    /// Only what diagnostics need: no hashes, no origins of defaults, no injected environment variables.
    Diagnostics,
    /// The unit as it runs, with the origin of each field.
    Full,
}

pub(super) struct ResolveContext<'a> {
    pub(super) depth: ResolveDepth,
    pub(super) loaded: &'a LoadedManifest,
    pub(super) inputs: &'a ResolveInputs,
    pub(super) units: BTreeMap<&'a str, UnitSummary>,
    pub(super) drafts: BTreeMap<&'a str, &'a UnitDraft<'a>>,
    /// By runtime of the units. All units of a runtime share these variables, so they are computed once.
    url_variables: BTreeMap<RuntimeKind, OnceLock<Option<Vec<EnvVariable>>>>,
    /// Outputs by resource and consumer runtime, computed at the first use.
    outputs_cache: Mutex<BTreeMap<(UnitName, RuntimeKind), Arc<Outputs>>>,
}

/// The unit that reads a placeholder. Addresses depend on its runtime.
#[derive(Clone, Copy)]
pub(super) struct Consumer<'a> {
    pub(super) unit: &'a str,
    pub(super) runtime: RuntimeKind,
}

pub(super) struct ReferenceResolver<'w, 'a> {
    pub(super) context: &'w ResolveContext<'a>,
    pub(super) consumer: Consumer<'w>,
    pub(super) references: References,
    pub(super) diagnostics: &'w mut Vec<Diagnostic>,
    /// Variables that are being resolved, to detect cycles.
    vars_in_progress: Vec<String>,
    is_in_unused_default: bool,
}

impl<'a> ResolveContext<'a> {
    pub(super) fn new(
        loaded: &'a LoadedManifest,
        inputs: &'a ResolveInputs,
        drafts: &'a [UnitDraft<'a>],
        depth: ResolveDepth,
    ) -> Self {
        let summarize = |draft: &'a UnitDraft<'a>| {
            let summary = UnitSummary { role: draft.role, runtime: draft.runtime, ports: unit_ports(draft, inputs) };
            (draft.name.as_str(), summary)
        };
        let drafts_by_name = drafts.iter().map(|draft| (draft.name.as_str(), draft)).collect();
        let units = drafts.iter().map(summarize).collect();
        let mut url_variables = BTreeMap::new();
        for draft in drafts {
            url_variables.entry(draft.runtime).or_insert_with(OnceLock::new);
        }
        Self { depth, loaded, inputs, units, drafts: drafts_by_name, url_variables, outputs_cache: Mutex::default() }
    }

    /// Returns the outputs of a resource, computed at the first use: hundreds of services read the same outputs, and
    /// templates are slow. The lock is not held while `compute` runs, so two threads may compute the same outputs; the
    /// first result is used.
    pub(super) fn cached_outputs(
        &self,
        resource: &str,
        consumer: RuntimeKind,
        compute: impl FnOnce() -> Outputs,
    ) -> Arc<Outputs> {
        // A poisoned lock is harmless: an entry is inserted complete or not at all.
        let cache = || self.outputs_cache.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (resource.to_owned(), consumer);
        if let Some(outputs) = cache().get(&key) {
            return Arc::clone(outputs);
        }
        let outputs = Arc::new(compute());
        Arc::clone(cache().entry(key).or_insert(outputs))
    }

    /// Variables with the URLs of all services, for units of this runtime. `None` if there are too many services.
    pub(super) fn url_variables(&self, runtime: RuntimeKind) -> Option<&[EnvVariable]> {
        let cell = self.url_variables.get(&runtime)?;
        cell.get_or_init(|| injected_env::all_url_variables(self, runtime)).as_deref()
    }

    /// Host and port at which a consumer of this runtime reaches a unit.
    pub(super) fn address(
        &self,
        consumer: RuntimeKind,
        unit: &str,
        port: &str,
    ) -> Option<(ResolvedText, ResolvedText)> {
        let target = self.units.get(unit)?;
        let ports = target.ports.get(port)?;
        let host_port = || ResolvedText::with_token(ports.host_port.to_string(), format!("{{port:{unit}.{port}}}"));
        Some(match consumer.route_to(target.runtime) {
            Route::Loopback => (ResolvedText::literal("127.0.0.1"), host_port()),
            Route::Network => (ResolvedText::literal(unit), ResolvedText::literal(ports.listen_port.to_string())),
            Route::Gateway => (ResolvedText::literal(unit), host_port()),
        })
    }

    /// The URL of a service through the proxy, for browsers.
    pub(super) fn service_url(&self, service: &str) -> ResolvedText {
        let host = naming::service_host(&self.inputs.preview, service);
        let text = naming::url(&host, self.inputs.proxy_port);
        ResolvedText::with_token(text, format!("http://{host}:{{proxy}}"))
    }

    /// The port that is used if none is named: `main`, else the first one in the manifest.
    pub(super) fn main_port(&self, unit: &str) -> Option<&str> {
        let summary = self.units.get(unit)?;
        if let Some((name, _)) = summary.ports.get_key_value("main") {
            return Some(name);
        }
        let first_in_manifest = self.drafts.get(unit)?.service().and_then(|service| service.ports.keys().next());
        let first_in_manifest = first_in_manifest.map(String::as_str);
        first_in_manifest.or_else(|| summary.ports.keys().next().map(String::as_str))
    }
}

impl<'w, 'a> ReferenceResolver<'w, 'a> {
    pub(super) fn new(
        context: &'w ResolveContext<'a>,
        consumer: Consumer<'w>,
        diagnostics: &'w mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            context,
            consumer,
            references: References::default(),
            diagnostics,
            vars_in_progress: Vec::new(),
            is_in_unused_default: false,
        }
    }

    /// `path` is the path of the text in the manifest, for diagnostics.
    pub(super) fn resolve_template(&mut self, template: &Template, path: &dyn Display) -> ResolvedText {
        let mut value = ResolvedText::default();
        for part in &template.parts {
            match part {
                Part::Text(text) => value.push(&ResolvedText::literal(text)),
                Part::Reference(reference) => value.push(&self.resolve_reference(reference, path)),
            }
        }
        value
    }

    fn resolve_reference(&mut self, reference: &Reference, path: &dyn Display) -> ResolvedText {
        let parts: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        let result = match (reference.scope, parts.as_slice()) {
            (Scope::Resources, [name, field]) => self.resolve_resource(name, field),
            (Scope::Services, [name, field @ ..]) => self.resolve_service(name, field),
            (Scope::Secrets, [name, "path"]) => self.resolve_secret(name),
            (Scope::Identities, [name, "name"]) => self.resolve_identity(name),
            (Scope::Vars, [name]) => self.resolve_var(name, path),
            (Scope::Env, [name]) => self.resolve_env(name, reference.default.is_some()),
            (Scope::App, [field]) => self.resolve_app(field),
            (Scope::Preview, [field]) => self.resolve_preview(field),
            (Scope::Git, [field]) => self.resolve_git(field),
            _ => Err(ReferenceError::invalid_form(reference)),
        };
        match (result, &reference.default) {
            (Ok(value), None) => value,
            (Ok(value), Some(default)) => {
                self.check_unused_default(default, path);
                value
            }
            (Err(_), Some(default)) => self.resolve_template(default, path),
            (Err(problem), None) if self.is_in_unused_default && problem.is_about_machine => ResolvedText::default(),
            (Err(problem), None) => {
                self.diagnostics.push(problem.into_diagnostic(reference).at_path(path.to_string()));
                ResolvedText::default()
            }
        }
    }

    /// Reports mistakes in a default that is not used now. Its references create no needs, and what only this machine
    /// lacks (a variable, a commit) is no mistake.
    fn check_unused_default(&mut self, default: &Template, path: &dyn Display) {
        if default.outer_references().next().is_none() {
            return;
        }
        let references = self.references.clone();
        let was_unused = std::mem::replace(&mut self.is_in_unused_default, true);
        self.resolve_template(default, path);
        self.is_in_unused_default = was_unused;
        self.references = references;
    }

    fn resolve_resource(&mut self, name: &str, field: &str) -> Result<ResolvedText, ReferenceError> {
        let context = self.context;
        let Some(UnitDraft { kind: Kind::Resource(..), .. }) = context.drafts.get(name) else {
            // The resource is declared, but its module is unknown. The declaration already has a diagnostic.
            if context.loaded.manifest.resources.contains_key(name) {
                return Ok(ResolvedText::default());
            }
            let known = context.loaded.manifest.resources.keys().map(String::as_str);
            return Err(ReferenceError::unknown("resource", name, known));
        };
        self.references.resources.insert(name.to_owned());
        modules::resource_output(context, self.consumer.runtime, name, field).map_err(|outputs| {
            let mut problem = ReferenceError::unknown("output", field, outputs.iter().map(String::as_str));
            problem.code = codes::UNKNOWN_OUTPUT;
            problem.message = format!("{} of resource `{name}`", problem.message);
            problem
        })
    }

    fn resolve_service(&mut self, name: &str, field: &[&str]) -> Result<ResolvedText, ReferenceError> {
        let context = self.context;
        let services = &context.loaded.manifest.services;
        if !services.contains_key(name) {
            return Err(ReferenceError::unknown("service", name, services.keys().map(String::as_str)));
        }
        if name != self.consumer.unit {
            self.references.services.insert(name.to_owned());
        }
        if field == ["url"] {
            return Ok(context.service_url(name));
        }
        let no_port = || ReferenceError::new(format!("service `{name}` has no port"));
        let port_name = match field {
            ["ports", port] => *port,
            ["host" | "port" | "internal_url" | "address"] => context.main_port(name).ok_or_else(no_port)?,
            _ => {
                let known = ["url", "internal_url", "address", "host", "port", "ports"];
                return Err(ReferenceError::unknown("field", &field.join("."), known));
            }
        };
        let (host, port) = context.address(self.consumer.runtime, name, port_name).ok_or_else(|| {
            let ports = context.units.get(name).map(|unit| unit.ports.keys().map(String::as_str).collect::<Vec<_>>());
            ReferenceError::unknown("port", port_name, ports.unwrap_or_default())
        })?;
        Ok(match field {
            ["host"] => host,
            ["internal_url"] => concat(&[&ResolvedText::literal("http://"), &host, &ResolvedText::literal(":"), &port]),
            ["address"] => concat(&[&host, &ResolvedText::literal(":"), &port]),
            _ => port,
        })
    }

    fn resolve_secret(&mut self, name: &str) -> Result<ResolvedText, ReferenceError> {
        let declared = &self.context.loaded.manifest.secrets;
        if !declared.contains_key(name) {
            // The manifest reader already reported it, with the same suggestion.
            return Ok(ResolvedText::default());
        }
        self.references.secrets.insert(name.to_owned());
        Ok(match self.consumer.runtime.capabilities().secrets {
            SecretLocation::Mounted { folder } => ResolvedText::literal(format!("{folder}/{name}")),
            SecretLocation::HostFolder => {
                let path = format!("{}/{}/{name}", self.context.inputs.secrets_folder, self.consumer.unit);
                ResolvedText::with_token(path, format!("{{secret:{name}}}"))
            }
        })
    }

    fn resolve_identity(&mut self, name: &str) -> Result<ResolvedText, ReferenceError> {
        let declared = &self.context.loaded.manifest.identities;
        if declared.contains_key(name) {
            return Ok(ResolvedText::literal(name));
        }
        Err(ReferenceError::unknown("identity", name, declared.keys().map(String::as_str)))
    }

    fn resolve_var(&mut self, name: &str, path: &dyn Display) -> Result<ResolvedText, ReferenceError> {
        let context = self.context;
        let Some(var) = context.loaded.manifest.vars.get(name) else {
            let known = context.loaded.manifest.vars.keys().map(String::as_str);
            return Err(ReferenceError::unknown("variable", name, known));
        };
        if self.vars_in_progress.iter().any(|open| open == name) {
            return Err(ReferenceError::new(format!("variable `{name}` is defined by itself")));
        }
        self.vars_in_progress.push(name.to_owned());
        let value = self.resolve_template(&var.value, path);
        self.vars_in_progress.pop();
        Ok(value)
    }

    fn resolve_env(&mut self, name: &str, has_default: bool) -> Result<ResolvedText, ReferenceError> {
        if let Some(value) =
            self.context.inputs.environment.get(name).filter(|value| !(has_default && value.is_empty()))
        {
            return Ok(ResolvedText::literal(value));
        }
        let mut problem = ReferenceError::about_machine(format!("`{name}` is not set in your environment"));
        problem.code = codes::ENVIRONMENT_VARIABLE_MISSING;
        problem.help = Some(format!("Set it, or give a default: `${{env.{name}:-...}}`."));
        Err(problem)
    }

    fn resolve_app(&self, field: &str) -> Result<ResolvedText, ReferenceError> {
        let app = &self.context.loaded.manifest.app;
        match field {
            "name" => Ok(ResolvedText::literal(&app.name.value)),
            "owner" => {
                Ok(ResolvedText::literal(app.owner.as_ref().map(|owner| owner.value.clone()).unwrap_or_default()))
            }
            _ => Err(ReferenceError::unknown("field", field, ["name", "owner"])),
        }
    }

    fn resolve_preview(&self, field: &str) -> Result<ResolvedText, ReferenceError> {
        let preview = &self.context.inputs.preview;
        Ok(match field {
            "id" => ResolvedText::with_token(preview.id.0.clone(), "{preview}"),
            "name" => ResolvedText::literal(preview.title()),
            "app" => ResolvedText::literal(&preview.app),
            "branch" => ResolvedText::literal(&preview.branch),
            "environment" => ResolvedText::literal(&preview.environment),
            "domain" => ResolvedText::literal(naming::preview_host(preview)),
            "url" => {
                let host = naming::preview_host(preview);
                ResolvedText::with_token(
                    naming::url(&host, self.context.inputs.proxy_port),
                    format!("http://{host}:{{proxy}}"),
                )
            }
            _ => {
                let known = ["app", "branch", "domain", "environment", "id", "name", "url"];
                return Err(ReferenceError::unknown("field", field, known));
            }
        })
    }

    fn resolve_git(&self, field: &str) -> Result<ResolvedText, ReferenceError> {
        let git = &self.context.inputs.git;
        let value = match field {
            "branch" => &git.branch,
            "commit" => &git.commit,
            _ => return Err(ReferenceError::unknown("field", field, ["branch", "commit"])),
        };
        let missing = || ReferenceError::about_machine(format!("there is no git {field} here"));
        value.as_ref().map(ResolvedText::literal).ok_or_else(missing)
    }
}

pub(super) fn concat(parts: &[&ResolvedText]) -> ResolvedText {
    let mut joined = ResolvedText::default();
    for part in parts {
        joined.push(part);
    }
    joined
}

struct ReferenceError {
    code: manifest::Code,
    message: String,
    help: Option<String>,
    nearest: Option<String>,
    unknown_part: String,
    /// The manifest is right, but this machine lacks the value.
    is_about_machine: bool,
}

impl ReferenceError {
    fn new(message: String) -> Self {
        Self {
            code: codes::UNRESOLVED,
            message,
            help: None,
            nearest: None,
            unknown_part: String::new(),
            is_about_machine: false,
        }
    }

    fn about_machine(message: String) -> Self {
        Self { is_about_machine: true, ..Self::new(message) }
    }

    fn invalid_form(reference: &Reference) -> Self {
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
        Self::new(format!("this placeholder leads nowhere; the form is {scope}"))
    }

    fn unknown<'n>(kind: &str, name: &str, known: impl IntoIterator<Item = &'n str>) -> Self {
        /// A longer list does not help the user.
        const LISTED_NAMES_MAX: usize = 12;
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = nearest(name, known.iter().copied());
        let allowed = match (nearest, known.as_slice()) {
            (Some(nearest), _) => format!(" (nearest: `{nearest}`)"),
            (None, []) => String::new(),
            (None, known) if known.len() > LISTED_NAMES_MAX => {
                format!(
                    " (there is `{}` and {} more)",
                    known[..LISTED_NAMES_MAX].join("`, `"),
                    known.len() - LISTED_NAMES_MAX
                )
            }
            (None, known) => format!(" (there is `{}`)", known.join("`, `")),
        };
        let mut problem = Self::new(format!("unknown {kind} `{name}`{allowed}"));
        problem.help = nearest.is_none().then(|| declaration_help(kind, name)).flatten();
        problem.nearest = nearest.map(str::to_owned);
        problem.unknown_part = name.to_owned();
        problem
    }

    fn into_diagnostic(self, reference: &Reference) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(self.code, Severity::Error, reference.span, self.message);
        diagnostic.help = self.help;
        if let Some(nearest) = &self.nearest {
            let path: Vec<&str> = reference
                .path
                .iter()
                .map(|part| if *part == self.unknown_part { nearest.as_str() } else { part })
                .collect();
            let text = format!("${{{}.{}}}", reference.scope.name(), path.join("."));
            let edit = manifest::diagnostic::Edit { span: reference.span, text };
            diagnostic = diagnostic.fix(format!("change `{}` to `{nearest}`", self.unknown_part), true, vec![edit]);
        }
        diagnostic
    }
}

/// How to declare an item of this kind, if the user can declare it.
fn declaration_help(kind: &str, name: &str) -> Option<String> {
    Some(match kind {
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
