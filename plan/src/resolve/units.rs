//! One unit: its body for the chosen runtime, environment, health, limits, hash. The same way for services and jobs;
//! resources come from `modules.rs`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use manifest::model::{Manifest, PortProtocol, Pull, Service};
use manifest::template::Template;
use manifest::{Diagnostic, Span};
use serde_json::{Value as Json, json};

use super::draft::{Draft, Kind};
use super::references::{Consumer, Depth, Reader, References, Value, World};
use super::{containers, given, health, modules, notes, processes};
use crate::application::{
    Argv, Body, EnvValue, Health, PullPolicy, ReadyCheck, Restart, Role, RuntimeKind, Stop, Support, Unit, UnitPort,
    When,
};
use crate::hash;
use crate::origin::{Origin, Origins};

pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

pub(super) struct Built {
    pub(super) unit: Unit,
    pub(super) references: References,
    /// Named volumes that the unit owns.
    pub(super) volumes: Vec<String>,
}

/// What the body of a unit turned out to be, whatever made it.
pub(super) struct Made {
    pub(super) body: Body,
    pub(super) volumes: Vec<String>,
    pub(super) support: Support,
}

/// A command in both forms.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Command {
    List(Vec<Value>),
    Shell(Value),
}

impl Command {
    pub(super) fn text(&self) -> Argv {
        match self {
            Self::List(words) => Argv::List(words.iter().map(|word| word.text.clone()).collect()),
            Self::Shell(line) => Argv::Shell(line.text.clone()),
        }
    }

    pub(super) fn stable(&self) -> Json {
        match self {
            Self::List(words) => words.iter().map(|word| word.stable.clone()).collect(),
            Self::Shell(line) => json!({ "shell": line.stable }),
        }
    }

    /// As the engine wants it: a shell line runs through the image's `/bin/sh`.
    pub(super) fn engine(&self) -> Json {
        match self.text() {
            Argv::List(words) => words.into(),
            Argv::Shell(line) => json!(["/bin/sh", "-c", line]),
        }
    }
}

pub(super) struct Builder<'w, 'a> {
    pub(super) world: &'w World<'a>,
    pub(super) draft: &'w Draft<'a>,
    pub(super) ports: BTreeMap<String, UnitPort>,
    pub(super) diagnostics: &'w mut Vec<Diagnostic>,
    pub(super) origins: &'w mut Origins,
    pub(super) references: References,
    /// What the user asked for, by the manifest's words, in stable form.
    pub(super) intent: BTreeMap<String, String>,
}

pub(super) fn build<'w, 'a>(
    world: &'w World<'a>,
    draft: &'w Draft<'a>,
    origins: &'w mut Origins,
    diagnostics: &'w mut Vec<Diagnostic>,
) -> Built {
    let ports = world.units.get(draft.name.as_str()).map(|known| known.ports.clone()).unwrap_or_default();
    let (references, intent) = (References::default(), BTreeMap::new());
    let builder = Builder { world, draft, ports, diagnostics, origins, references, intent };
    match &draft.kind {
        Kind::Service(service) => builder.service(service),
        Kind::Job(service, _) => builder.service(service),
        Kind::Resource(resource, module) => modules::build(builder, resource, module),
    }
}

impl<'w, 'a> Builder<'w, 'a> {
    fn service(mut self, service: &Service) -> Built {
        let env = self.environment(service);
        let made = match self.draft.runtime {
            RuntimeKind::Docker => containers::of_service(&mut self, service),
            RuntimeKind::Process => processes::of_service(&mut self, service),
        };
        let health = match self.draft.role {
            Role::Job => Health { ready: ReadyCheck::Exit, live: None, start_limit: health::START_LIMIT },
            Role::Service | Role::Resource => health::of_service(&mut self, &service.health),
        };
        let stop = Stop {
            signal: service.stop.signal.as_ref().map_or_else(|| "SIGTERM".to_owned(), |signal| signal.value.clone()),
            grace: service.stop.grace.as_ref().map_or(STOP_GRACE, |grace| grace.value),
        };
        let job = self.draft.job();
        let restart = match (job, &service.restart) {
            (Some(_), _) => Restart::Never,
            (None, Some(restart)) => restart.value,
            (None, None) => Restart::OnFailure,
        };
        let unit = Unit {
            health,
            stop,
            restart,
            identity: service.identity.as_ref().map(|identity| identity.value.clone()),
            routes: service.routes.iter().map(|route| route.value.clone()).collect(),
            wildcard: service.wildcard,
            when: job.map_or(When::Before, |job| job.when),
            timeout: job.and_then(|job| job.timeout.as_ref()).map(|timeout| timeout.value),
            module: None,
            ..self.bare(made.body, env, made.support)
        };
        notes::of_service(&mut self, service, &unit);
        self.built(unit, made.volumes)
    }

    /// A unit with the defaults of its role; the caller sets the rest.
    pub(super) fn bare(&self, body: Body, env: BTreeMap<String, EnvValue>, support: Support) -> Unit {
        Unit {
            name: self.draft.name.clone(),
            role: self.draft.role,
            body,
            ports: self.ports.clone(),
            routes: Vec::new(),
            wildcard: false,
            env,
            secrets: Vec::new(),
            identity: None,
            health: Health { ready: ReadyCheck::Started, live: None, start_limit: health::START_LIMIT },
            needs: BTreeMap::new(),
            stop: Stop { signal: "SIGTERM".to_owned(), grace: STOP_GRACE },
            restart: Restart::OnFailure,
            when: When::Before,
            timeout: None,
            module: None,
            hash: String::new(),
            support,
        }
    }

    pub(super) fn built(mut self, mut unit: Unit, volumes: Vec<String>) -> Built {
        if let Some(service) = self.draft.service() {
            self.references.secrets.extend(service.secrets.iter().map(|secret| secret.value.clone()));
        }
        unit.secrets = self.references.secrets.iter().cloned().collect();
        if self.wants_everything() {
            self.finish_intent(&unit);
            unit.hash = hash::of_fields(&self.intent);
        }
        Built { unit, references: self.references, volumes }
    }

    fn finish_intent(&mut self, unit: &Unit) {
        self.intend("runtime", &format!("{:?}", self.draft.runtime));
        if !unit.secrets.is_empty() {
            self.intend("secrets", &unit.secrets.join(" "));
        }
        for (name, port) in &unit.ports {
            // A process listens where pdev says; only a container's own port is the user's word.
            let inside =
                if self.draft.runtime == RuntimeKind::Docker { port.inside.to_string() } else { String::new() };
            let protocol = if port.protocol == PortProtocol::Udp { "/udp" } else { "" };
            self.intend(&format!("ports.{name}"), &format!("{inside}{protocol}"));
        }
    }

    pub(super) fn wants_everything(&self) -> bool {
        self.world.depth == Depth::Everything
    }

    pub(super) fn intend(&mut self, field: &str, stable: &str) {
        if !self.wants_everything() {
            return;
        }
        self.intent.insert(field.replace([' ', '='], "_"), stable.to_owned());
    }

    pub(super) fn origin(&self, span: Span) -> Origin {
        Origin::written(&self.world.loaded.manifest, &self.world.loaded.sources, span)
    }

    /// Notes a field that the manifest and not a runtime object has a word for.
    pub(super) fn note(&mut self, field: &str, value: impl FnOnce() -> Json, origin: Origin) {
        if self.wants_everything() || !matches!(origin, Origin::Default { .. }) {
            self.origins.set_in(&self.draft.path, field, value(), origin);
        }
    }

    pub(super) fn read(&mut self, template: &Template, path: &dyn Display) -> Value {
        let consumer = Consumer { unit: &self.draft.name, runtime: self.draft.runtime };
        let mut reader = Reader::new(self.world, consumer, self.diagnostics);
        let value = reader.read(template, path);
        let References { secrets, resources, services } = reader.found;
        self.references.secrets.extend(secrets);
        self.references.resources.extend(resources);
        self.references.services.extend(services);
        value
    }

    pub(super) fn command(&mut self, command: &manifest::model::Command, path: &dyn Display) -> Option<Command> {
        Some(match command {
            manifest::model::Command::Arguments(words) if words.is_empty() => return None,
            manifest::model::Command::Arguments(words) => {
                Command::List(words.iter().map(|word| self.read(&word.value, path)).collect())
            }
            manifest::model::Command::Shell(line) => Command::Shell(self.read(&line.value, path)),
        })
    }

    /// What pdev gives, then what the service says, then what it says for processes.
    fn environment(&mut self, service: &Service) -> BTreeMap<String, EnvValue> {
        let given = given::environment(self.world, self.draft);
        if let Some(domain) = given.get("PDEV_COOKIE_DOMAIN") {
            self.intend("names", &domain.stable);
        }
        let mut env: BTreeMap<String, EnvValue> = BTreeMap::new();
        for (name, value) in given {
            let reason = "given to every service, so that programs find each other";
            self.note(&format!("env.{name}"), || Json::String(value.text.clone()), Origin::Default { reason });
            env.insert(name, value.into_env());
        }
        let process = service.process.as_ref().filter(|_| self.draft.runtime == RuntimeKind::Process);
        let own = service.env.iter().map(|entry| ("env", entry));
        let own =
            own.chain(process.into_iter().flat_map(|process| process.env.iter().map(|entry| ("process.env", entry))));
        for (section, (name, entry)) in own {
            let unit = self.draft.path.as_str();
            let value = self.read(&entry.value.value, &format_args!("{unit}.{section}.{name}"));
            if !self.wants_everything() {
                continue;
            }
            self.intend(&format!("env.{name}"), &value.stable);
            let origin = self.origin(entry.span);
            self.note(&format!("env.{name}"), || value.shown(), origin);
            env.insert(name.clone(), value.into_env());
        }
        env
    }
}

/// The service behind `<branch>.<app>.localhost`: named, else the one with route `/`, else the first with a port.
pub(super) fn default_service(manifest: &Manifest) -> Option<String> {
    let named = manifest.app.default_service.as_ref().map(|name| name.value.clone());
    let named = named.filter(|name| manifest.services.contains_key(name));
    let find = |wanted: &dyn Fn(&Service) -> bool| {
        manifest.services.iter().find(|(_, entry)| wanted(&entry.value)).map(|(name, _)| name.clone())
    };
    let speaks_http = |service: &Service| {
        let mut ports = service.ports.values();
        ports.any(|port| matches!(port.value.protocol, PortProtocol::Http | PortProtocol::H2c))
    };
    named
        .or_else(|| find(&|service| service.routes.iter().any(|route| route.value == "/")))
        .or_else(|| find(&speaks_http))
        .or_else(|| find(&|service| !service.ports.is_empty()))
}

pub(super) fn pull_policy(pull: Option<Pull>) -> PullPolicy {
    match pull {
        None | Some(Pull::Missing) => PullPolicy::Missing,
        Some(Pull::Always) => PullPolicy::Always,
        Some(Pull::Never) => PullPolicy::Never,
    }
}
