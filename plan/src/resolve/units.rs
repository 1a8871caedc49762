//! Builds one unit: its body for the chosen runtime, environment, health, limits and hash. Services and jobs share this
//! code; `modules.rs` builds resources.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use manifest::model::{Manifest, PortProtocol, Pull, Service};
use manifest::template::Template;
use manifest::{Diagnostic, Span};
use serde_json::{Value as Json, json};

use super::draft::{Kind, UnitDraft};
use super::references::{Consumer, ReferenceResolver, References, ResolveContext, ResolveDepth, ResolvedText};
use super::{containers, health, injected_env, modules, processes, service_origins};
use crate::application::{
    Argv, Body, EnvValue, Health, JobTiming, PullPolicy, ReadyCheck, RestartPolicy, Role, Stop, SupportLevel, Unit,
    UnitPort,
};
use crate::hash;
use crate::origin::{Origin, Origins};
use crate::render::UnitForm;

pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

pub(super) struct BuiltUnit {
    pub(super) unit: Unit,
    pub(super) references: References,
    /// Named volumes that the unit owns.
    pub(super) volumes: Vec<String>,
}

/// The body of a unit, from any of the builders.
pub(super) struct BuiltBody {
    pub(super) body: Body,
    pub(super) volumes: Vec<String>,
    pub(super) support: SupportLevel,
}

/// A command with its texts in both forms.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum ResolvedCommand {
    List(Vec<ResolvedText>),
    Shell(ResolvedText),
}

impl ResolvedCommand {
    pub(super) fn to_argv(&self) -> Argv {
        match self {
            Self::List(words) => Argv::List(words.iter().map(|word| word.text.clone()).collect()),
            Self::Shell(line) => Argv::Shell(line.text.clone()),
        }
    }

    pub(super) fn to_stable_argv(&self) -> Argv {
        match self {
            Self::List(words) => Argv::List(words.iter().map(|word| word.stable.clone()).collect()),
            Self::Shell(line) => Argv::Shell(line.stable.clone()),
        }
    }

    pub(super) fn stable_json(&self) -> Json {
        hash::command_json(&self.to_stable_argv())
    }

    /// The form to display: words with sensitive values are redacted.
    pub(super) fn to_redacted_json(&self) -> Json {
        match self {
            Self::List(words) => words.iter().map(ResolvedText::to_redacted_json).collect(),
            Self::Shell(line) => json!({ "shell": line.to_redacted_json() }),
        }
    }
}

pub(super) struct UnitBuilder<'w, 'a> {
    pub(super) context: &'w ResolveContext<'a>,
    pub(super) draft: &'w UnitDraft<'a>,
    pub(super) ports: BTreeMap<String, UnitPort>,
    pub(super) diagnostics: &'w mut Vec<Diagnostic>,
    pub(super) origins: &'w mut Origins,
    pub(super) references: References,
    /// The user's intent for the hash: manifest key -> stable text.
    pub(super) intent: BTreeMap<String, String>,
}

pub(super) fn build_unit<'w, 'a>(
    context: &'w ResolveContext<'a>,
    draft: &'w UnitDraft<'a>,
    origins: &'w mut Origins,
    diagnostics: &'w mut Vec<Diagnostic>,
) -> BuiltUnit {
    let ports = context.units.get(draft.name.as_str()).map(|unit| unit.ports.clone()).unwrap_or_default();
    let (references, intent) = (References::default(), BTreeMap::new());
    let builder = UnitBuilder { context, draft, ports, diagnostics, origins, references, intent };
    match &draft.kind {
        Kind::Service(service) => builder.build_service(service),
        Kind::Job(service, _) => builder.build_service(service),
        Kind::Resource(resource, module) => modules::build_resource(builder, resource, module),
    }
}

impl<'w, 'a> UnitBuilder<'w, 'a> {
    fn build_service(mut self, service: &Service) -> BuiltUnit {
        let env = self.resolve_env(service);
        let built = match self.draft.runtime.form() {
            UnitForm::Container(renderer) => containers::build_container(&mut self, renderer, service),
            UnitForm::Process => processes::build_process(&mut self, service),
        };
        let health = match self.draft.role {
            Role::Job => Health { ready: ReadyCheck::Exit, live: None, start_limit: health::START_LIMIT },
            Role::Service | Role::Resource => health::resolve_health(&mut self, &service.health),
        };
        let stop = Stop {
            signal: service.stop.signal.as_ref().map_or_else(|| "SIGTERM".to_owned(), |signal| signal.value.clone()),
            grace: service.stop.grace.as_ref().map_or(STOP_GRACE, |grace| grace.value),
        };
        let job = self.draft.job();
        let restart = match (job, &service.restart) {
            (Some(_), _) => RestartPolicy::Never,
            (None, Some(restart)) => restart.value,
            (None, None) => RestartPolicy::OnFailure,
        };
        let unit = Unit {
            health,
            stop,
            restart,
            identity: service.identity.as_ref().map(|identity| identity.value.clone()),
            declares_identity: service.identity.is_some(),
            routes: service.routes.iter().map(|route| route.value.clone()).collect(),
            wildcard: service.wildcard,
            when: job.map_or(JobTiming::Before, |job| job.when),
            timeout: job.and_then(|job| job.timeout.as_ref()).map(|timeout| timeout.value),
            module: None,
            ..self.default_unit(built.body, env, built.support)
        };
        service_origins::record_service_origins(&mut self, service, &unit);
        self.finish(unit, built.volumes)
    }

    /// A unit with the defaults of its role; the caller sets the rest.
    pub(super) fn default_unit(&self, body: Body, env: BTreeMap<String, EnvValue>, support: SupportLevel) -> Unit {
        Unit {
            name: self.draft.name.clone(),
            role: self.draft.role,
            runtime: self.draft.runtime,
            body,
            ports: self.ports.clone(),
            routes: Vec::new(),
            wildcard: false,
            env,
            secrets: Vec::new(),
            identity: None,
            declares_identity: false,
            health: Health { ready: ReadyCheck::Started, live: None, start_limit: health::START_LIMIT },
            needs: BTreeMap::new(),
            stop: Stop { signal: "SIGTERM".to_owned(), grace: STOP_GRACE },
            restart: RestartPolicy::OnFailure,
            when: JobTiming::Before,
            timeout: None,
            module: None,
            hash: String::new(),
            support,
        }
    }

    pub(super) fn finish(mut self, mut unit: Unit, volumes: Vec<String>) -> BuiltUnit {
        if let Some(service) = self.draft.service() {
            self.references.secrets.extend(service.secrets.iter().map(|secret| secret.value.clone()));
        }
        unit.secrets = self.references.secrets.iter().cloned().collect();
        if self.is_full_depth() {
            self.record_common_intent(&unit);
            unit.hash = hash::hash_fields(&self.intent);
        }
        BuiltUnit { unit, references: self.references, volumes }
    }

    fn record_common_intent(&mut self, unit: &Unit) {
        self.record_intent("runtime", self.draft.runtime.definition().hash_name);
        if !unit.secrets.is_empty() {
            self.record_intent("secrets", &unit.secrets.join(" "));
        }
        let assigns_ports = self.draft.runtime.capabilities().addressing.assigns_ports();
        for (name, port) in &unit.ports {
            // A port that pdev chose is not the user's intent.
            let listen_port = if assigns_ports { String::new() } else { port.listen_port.to_string() };
            let protocol = if port.protocol == PortProtocol::Udp { "/udp" } else { "" };
            self.record_intent(&format!("ports.{name}"), &format!("{listen_port}{protocol}"));
        }
    }

    pub(super) fn is_full_depth(&self) -> bool {
        self.context.depth == ResolveDepth::Full
    }

    pub(super) fn record_intent(&mut self, field: &str, stable: &str) {
        if !self.is_full_depth() {
            return;
        }
        // The hash label separates fields by spaces and values by `=`.
        self.intent.insert(field.replace([' ', '='], "_"), stable.to_owned());
    }

    pub(super) fn origin(&self, span: Span) -> Origin {
        Origin::from_span(&self.context.loaded.manifest, &self.context.loaded.sources, span)
    }

    /// Records the origin of a field by its path below the unit. Diagnostics need no origins of defaults.
    pub(super) fn record_origin(&mut self, field: &str, value: impl FnOnce() -> Json, origin: Origin) {
        if self.is_full_depth() || !matches!(origin, Origin::Default { .. }) {
            self.origins.set_unit_field(&self.draft.path, field, value(), origin);
        }
    }

    pub(super) fn resolve_template(&mut self, template: &Template, path: &dyn Display) -> ResolvedText {
        let consumer = Consumer { unit: &self.draft.name, runtime: self.draft.runtime };
        let mut resolver = ReferenceResolver::new(self.context, consumer, self.diagnostics);
        let value = resolver.resolve_template(template, path);
        let References { secrets, resources, services } = resolver.references;
        self.references.secrets.extend(secrets);
        self.references.resources.extend(resources);
        self.references.services.extend(services);
        value
    }

    pub(super) fn resolve_command(
        &mut self,
        command: &manifest::model::Command,
        path: &dyn Display,
    ) -> Option<ResolvedCommand> {
        Some(match command {
            manifest::model::Command::Arguments(words) if words.is_empty() => return None,
            manifest::model::Command::Arguments(words) => {
                ResolvedCommand::List(words.iter().map(|word| self.resolve_template(&word.value, path)).collect())
            }
            manifest::model::Command::Shell(line) => ResolvedCommand::Shell(self.resolve_template(&line.value, path)),
        })
    }

    /// The injected variables, overridden by the service's `env`, overridden by `process.env` for a process.
    fn resolve_env(&mut self, service: &Service) -> BTreeMap<String, EnvValue> {
        let injected = injected_env::unit_variables(self.context, self.draft);
        if let Some(domain) = injected.get("PDEV_COOKIE_DOMAIN") {
            self.record_intent("names", &domain.stable);
        }
        let mut env: BTreeMap<String, EnvValue> = BTreeMap::new();
        for (name, value) in injected {
            let reason = "set for every service, so that programs can find each other";
            self.record_origin(&format!("env.{name}"), || Json::String(value.text.clone()), Origin::Default { reason });
            env.insert(name, value.into_env());
        }
        let is_process = matches!(self.draft.runtime.form(), UnitForm::Process);
        let process = service.process.as_ref().filter(|_| is_process);
        let entries = service.env.iter().map(|entry| ("env", entry));
        let entries = entries
            .chain(process.into_iter().flat_map(|process| process.env.iter().map(|entry| ("process.env", entry))));
        for (section, (name, entry)) in entries {
            let unit = self.draft.path.as_str();
            let value = self.resolve_template(&entry.value.value, &format_args!("{unit}.{section}.{name}"));
            // Diagnostics need only the references that resolving the template records.
            if !self.is_full_depth() {
                continue;
            }
            self.record_intent(&format!("env.{name}"), &value.stable);
            let origin = self.origin(entry.span);
            self.record_origin(&format!("env.{name}"), || value.to_redacted_json(), origin);
            env.insert(name.clone(), value.into_env());
        }
        env
    }
}

/// The service behind `<branch>.<app>.localhost`: `app.default`, else the service with route `/`, else the first one
/// with an HTTP port, else the first one with a port.
pub(super) fn default_service(manifest: &Manifest) -> Option<String> {
    let configured = manifest.app.default_service.as_ref().map(|name| name.value.clone());
    let configured = configured.filter(|name| manifest.services.contains_key(name));
    let find_service = |matches: &dyn Fn(&Service) -> bool| {
        manifest.services.iter().find(|(_, entry)| matches(&entry.value)).map(|(name, _)| name.clone())
    };
    let speaks_http = |service: &Service| {
        let mut ports = service.ports.values();
        ports.any(|port| matches!(port.value.protocol, PortProtocol::Http | PortProtocol::H2c))
    };
    configured
        .or_else(|| find_service(&|service| service.routes.iter().any(|route| route.value == "/")))
        .or_else(|| find_service(&speaks_http))
        .or_else(|| find_service(&|service| !service.ports.is_empty()))
}

pub(super) fn pull_policy(pull: Option<Pull>) -> PullPolicy {
    match pull {
        None | Some(Pull::Missing) => PullPolicy::Missing,
        Some(Pull::Always) => PullPolicy::Always,
        Some(Pull::Never) => PullPolicy::Never,
    }
}
