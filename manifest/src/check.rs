//! Checks of the decoded manifest beyond the types of its values: references between its parts, names, ports, paths.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;

use indexmap::IndexMap;
use strings::nearest;

use crate::codes;
use crate::diagnostic::{Code, Diagnostic, Edit, Severity};
use crate::model::{Check, Command, Health, Manifest, Map, Need, Port, Probe, Runtime, Service};
use crate::template::{Reference, Scope, Template};
use crate::text::{Span, Spanned};
use crate::validate::join_path;

/// Ports that browsers refuse to open (Fetch standard, section 2.9, "bad port").
const BLOCKED_PORTS: [u16; 82] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
    6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

pub(crate) struct Checker<'a> {
    pub manifest: &'a Manifest,
    pub diagnostics: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    fn report(
        &mut self,
        code: Code,
        span: Span,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let severity =
            codes::ALL.iter().find(|entry| entry.code == code).map_or(Severity::Error, |entry| entry.severity);
        self.diagnostics.push(Diagnostic::new(code, severity, span, message).at_path(path));
        let last = self.diagnostics.len() - 1;
        &mut self.diagnostics[last]
    }

    pub fn run(&mut self) {
        self.check_names();
        self.check_units();
        self.check_needs();
        self.check_cycles();
        self.check_routes();
        self.check_host_ports();
    }

    /// Names become labels of host names (RFC 1123), so they must also be short enough for a combined host name.
    fn check_names(&mut self) {
        let app = &self.manifest.app.name;
        if !app.value.is_empty() {
            self.check_name(&app.value, app.span, &"app", 20);
        }
        let groups = [
            ("services", key_spans(&self.manifest.services)),
            ("jobs", key_spans(&self.manifest.jobs)),
            ("resources", key_spans(&self.manifest.resources)),
        ];
        let mut first_spans: HashMap<&str, Span> = HashMap::new();
        for (group, names) in groups {
            for (name, span) in names {
                let path = format_args!("{group}.{name}");
                self.check_name(name, span, &path, 30);
                if let Some(first) = first_spans.get(name) {
                    let first = *first;
                    let message =
                        format!("`{name}` names two units; services, jobs and resources share one space of names");
                    let found = self.report(codes::SAME_NAME, span, path.to_string(), message);
                    *found = found.clone().related(first, "the first one").help("Rename one of them.");
                }
                first_spans.entry(name).or_insert(span);
            }
        }
    }

    fn check_name(&mut self, name: &str, span: Span, path: &dyn Display, length_max: usize) {
        let is_label = name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.ends_with('-');
        if is_label && name.len() <= length_max {
            return;
        }
        let message = if is_label {
            format!("`{name}` has {} characters; at most {length_max} fit into a host name", name.len())
        } else {
            format!("`{name}` cannot be part of a host name")
        };
        let found = self.report(codes::BAD_NAME, span, path.to_string(), message);
        found.help =
            Some(format!("Use lower-case letters, digits and dashes, beginning with a letter, at most {length_max}."));
    }

    fn check_units(&mut self) {
        for (name, entry) in &self.manifest.services {
            let path = join_path("services", name);
            let service = &entry.value;
            self.check_service(service, entry.key, &path, false);
            if let Some(replicas) = service.replicas.as_ref().filter(|count| count.value > 1)
                && self.runtime_of(service) != Some(Runtime::Kubernetes)
            {
                let message = format!("`replicas: {}` works on Kubernetes only; here one copy runs", replicas.value);
                let found = self.report(codes::BAD_VALUE, replicas.span, join_path(&path, "replicas"), message);
                found.severity = Severity::Warning;
                found.help = Some("Move it into an environment with `runtime: kubernetes`.".into());
            }
        }
        for (name, entry) in &self.manifest.jobs {
            let path = join_path("jobs", name);
            let job = &entry.value;
            self.check_service(&job.body, entry.key, &path, job.service.is_some());
            if let Some(service) =
                job.service.as_ref().filter(|service| !self.manifest.services.contains_key(&service.value))
            {
                let known = self.manifest.services.keys().map(String::as_str);
                self.report_unknown(
                    codes::UNKNOWN_JOB_SERVICE,
                    service,
                    &join_path(&path, "service"),
                    "service",
                    known,
                );
            }
        }
        for (name, entry) in &self.manifest.resources {
            if entry.value.uses.value.is_empty() {
                let found = self.report(
                    codes::MISSING_KEY,
                    entry.key,
                    join_path("resources", name),
                    format!("the resource `{name}` does not say what it `uses`"),
                );
                found.help = Some(format!("Write for example `{name}: {{ uses: postgres@16 }}`."));
            }
        }
        for (name, entry) in &self.manifest.vars {
            self.check_references(&entry.value, &format_args!("vars.{name}"));
        }
    }

    fn runtime_of(&self, service: &Service) -> Option<Runtime> {
        service.runtime.as_ref().or(self.manifest.environment.runtime.as_ref()).map(|runtime| runtime.value)
    }

    /// `inherits`: a job whose `service` provides the image or build.
    fn check_service(&mut self, service: &Service, key: Span, path: &str, inherits: bool) {
        let has_process_command = service.process.as_ref().is_some_and(|process| process.command.is_some());
        let has_program =
            service.image.is_some() || service.build.is_some() || service.command.is_some() || has_process_command;
        if !has_program && !inherits {
            let name = path.rsplit('.').next().unwrap_or_default();
            let found = self.report(codes::NOTHING_TO_RUN, key, path, format!("nothing says what `{name}` runs"));
            found.help = Some("Give it a `build`, an `image`, or a `process` with a command.".into());
        }
        self.check_health(&service.health, &service.ports, inherits, path);
        for (name, port) in &service.ports {
            if BLOCKED_PORTS.contains(&port.value.number.value)
                && matches!(port.value.protocol, crate::model::PortProtocol::Http)
                && port.value.host.is_some()
            {
                self.report(
                    codes::BLOCKED_PORT,
                    port.value.number.span,
                    format!("{path}.ports.{name}"),
                    format!("browsers refuse to open port {}", port.value.number.value),
                );
            }
        }
        self.check_paths(service, path);
        self.check_volume_targets(service, path);
        self.check_identities_and_secrets(service, path);
        for (name, entry) in &service.env {
            self.check_references(&entry.value.value, &format_args!("{path}.env.{name}"));
            self.check_secret_literal(name, &entry.value, &format_args!("{path}.env.{name}"));
        }
        if let Some(process) = &service.process {
            for (name, entry) in &process.env {
                self.check_references(&entry.value.value, &format_args!("{path}.process.env.{name}"));
            }
            process
                .command
                .iter()
                .for_each(|command| self.check_command(command, &format_args!("{path}.process.command")));
        }
        service.command.iter().for_each(|command| self.check_command(command, &format_args!("{path}.command")));
        service.entrypoint.iter().for_each(|command| self.check_command(command, &format_args!("{path}.entrypoint")));
        service.image.iter().for_each(|image| self.check_references(&image.value, &format_args!("{path}.image")));
    }

    fn check_command(&mut self, command: &Command, path: &dyn Display) {
        match command {
            Command::Arguments(arguments) => {
                arguments.iter().for_each(|argument| self.check_references(&argument.value, path));
            }
            Command::Shell(line) => self.check_references(&line.value, path),
        }
    }

    fn check_health(&mut self, health: &Health, ports: &Map<Port>, inherits: bool, path: &str) {
        for (name, probe) in [("ready", &health.ready), ("live", &health.live)] {
            if let Some(probe) = probe {
                self.check_probe(probe, ports, inherits, &format!("{path}.health.{name}"));
            }
        }
    }

    fn check_probe(&mut self, probe: &Probe, ports: &Map<Port>, inherits: bool, path: &str) {
        let probe_port = match &probe.check {
            Check::Http { path: target, port, .. } => {
                if !target.value.starts_with('/') {
                    let found = self.report(
                        codes::BAD_VALUE,
                        target.span,
                        path,
                        format!("a health path begins with `/`, found `{}`", target.value),
                    );
                    let edit = Edit { span: Span { end: target.span.start, ..target.span }, text: "/".into() };
                    *found = found.clone().fix(format!("write `/{}`", target.value), true, vec![edit]);
                }
                port
            }
            Check::Tcp { port } | Check::Grpc { port, .. } => port,
            Check::Exec { .. } => return,
        };
        let is_declared = |port: &Spanned<String>| {
            ports.contains_key(&port.value)
                || port
                    .value
                    .parse()
                    .is_ok_and(|number: u16| ports.values().any(|entry| entry.value.number.value == number))
        };
        match probe_port {
            Some(port) if is_declared(port) => {}
            Some(port) => {
                let names = ports.keys().map(String::as_str);
                self.report_unknown(codes::UNKNOWN_PORT, port, path, "port", names);
            }
            None if ports.is_empty() && !inherits => {
                let found = self.report(codes::UNKNOWN_PORT, probe.span, path, "this probe has no port to ask");
                found.help = Some("Say where it listens: `port: 8080`.".into());
            }
            None if ports.len() > 1 && !ports.contains_key("main") => {
                let names = ports.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let found = self.report(
                    codes::UNKNOWN_PORT,
                    probe.span,
                    path,
                    format!("which port does this probe ask? There are {names}"),
                );
                found.help = Some("Write `{ http: { path: /healthz, port: NAME } }`.".into());
            }
            None => {}
        }
    }

    fn check_paths(&mut self, service: &Service, path: &str) {
        let mut relative: Vec<(&Spanned<String>, &str)> = Vec::new();
        if let Some(build) = &service.build {
            relative.push((&build.context, "build"));
            relative.extend(build.dockerfile.as_ref().map(|file| (file, "build.dockerfile")));
        }
        relative
            .extend(service.process.as_ref().and_then(|process| process.dir.as_ref()).map(|dir| (dir, "process.dir")));
        for (at, name) in relative {
            if at.value.starts_with('/') || at.value.starts_with('~') {
                let message = format!(
                    "`{}` is a path of this machine; paths are relative to the manifest, so that they hold for everybody",
                    at.value
                );
                self.report(codes::ESCAPING_PATH, at.span, join_path(path, name), message);
            }
        }
    }

    /// Compose reads `/data:ro` as a mode. Here it is a path, because paths may contain colons.
    fn check_volume_targets(&mut self, service: &Service, path: &str) {
        for (name, entry) in &service.volumes {
            let target = &entry.value.target;
            let Some((folder, mode)) = target.value.rsplit_once(':').filter(|(_, mode)| ["ro", "rw"].contains(mode))
            else {
                continue;
            };
            let message = format!("`{}` is a path that ends in `:{mode}`, not a mode of `{folder}`", target.value);
            let found = self.report(codes::BAD_VALUE, target.span, format!("{path}.volumes.{name}"), message);
            found.severity = Severity::Warning;
            let read_only = if mode == "ro" { ", read_only: true" } else { "" };
            found.help = Some(format!("Write `{name}: {{ target: {folder}{read_only} }}`."));
        }
    }

    fn check_identities_and_secrets(&mut self, service: &Service, path: &str) {
        if let Some(identity) = service
            .identity
            .as_ref()
            .filter(|name| !self.manifest.identities.is_empty() && !self.manifest.identities.contains_key(&name.value))
        {
            let known = self.manifest.identities.keys().map(String::as_str);
            self.report_unknown(codes::UNDECLARED, identity, &join_path(path, "identity"), "identity", known);
        }
        for secret in service.secrets.iter().filter(|secret| !self.manifest.secrets.contains_key(&secret.value)) {
            let known = self.manifest.secrets.keys().map(String::as_str);
            self.report_unknown(codes::UNDECLARED, secret, &join_path(path, "secrets"), "secret", known);
        }
    }

    /// Checks references to secrets. The planner resolves all others, because it knows the modules.
    fn check_references(&mut self, template: &Template, path: &dyn Display) {
        let undeclared: Vec<Reference> = template
            .references()
            .filter(|reference| match reference.scope {
                Scope::Secrets => !self.manifest.secrets.contains_key(&reference.path[0]),
                _ => false,
            })
            .cloned()
            .collect();
        for reference in undeclared {
            let name = Spanned::new(reference.path[0].clone(), reference.span);
            let known = self.manifest.secrets.keys().map(String::as_str);
            self.report_unknown(codes::UNDECLARED, &name, &path.to_string(), "secret", known);
        }
    }

    fn report_unknown<'k>(
        &mut self,
        code: Code,
        name: &Spanned<String>,
        path: &str,
        kind: &str,
        known: impl Iterator<Item = &'k str>,
    ) {
        let known: Vec<String> = known.map(str::to_owned).collect();
        let near = nearest(&name.value, known.iter().map(String::as_str)).map(str::to_owned);
        let hint = near.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        // The span of a reference covers the complete `${...}`, which the fix must not replace by the name alone.
        let spans_name_only = name.span.end.saturating_sub(name.span.start) as usize == name.value.len();
        let found = self.report(code, name.span, path, format!("there is no {kind} `{}`{hint}", name.value));
        found.help = Some(if known.is_empty() {
            format!("Declare it, or remove this {kind}.")
        } else {
            format!("Known: {}.", known.join(", "))
        });
        if let Some(near) = near.filter(|_| spans_name_only) {
            *found =
                found.clone().fix(format!("change it to `{near}`"), true, vec![Edit { span: name.span, text: near }]);
        }
    }

    /// Reports a value that looks like a key or a password. The message never contains the value.
    fn check_secret_literal(&mut self, name: &str, value: &Spanned<Template>, path: &dyn Display) {
        let Some(text) = value.value.as_literal() else { return };
        let prefixes = ["sk_live_", "sk_test_", "ghp_", "github_pat_", "xoxb-", "AKIA", "-----BEGIN", "glpat-"];
        let upper = name.to_ascii_uppercase();
        let has_secret_name =
            ["PASSWORD", "SECRET", "TOKEN", "API_KEY", "PRIVATE_KEY"].iter().any(|suffix| upper.ends_with(suffix));
        // Paths, sentences and host names are not secrets.
        let looks_random =
            text.len() >= 16 && !text.contains(['/', ' ', '.']) && text.bytes().any(|byte| byte.is_ascii_digit());
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) || (has_secret_name && looks_random) {
            let found = self.report(
                codes::SECRET_LITERAL,
                value.span,
                path.to_string(),
                format!("the value of `{name}` looks like a secret; everybody who reads the repository reads it"),
            );
            let secret = name.to_ascii_lowercase().replace('_', "-");
            found.help = Some(format!(
                "Declare `secrets: {{ {secret}: {{}} }}`, write `${{secrets.{secret}.path}}` here, and give the value with `--secret {secret}=@FILE`."
            ));
        }
    }

    /// The section and the needs of each unit, by name.
    fn needs_by_unit(&self) -> IndexMap<&'a str, (&'static str, &'a Map<Need>)> {
        let manifest = self.manifest;
        let services = manifest.services.iter().map(|(name, entry)| (name, ("services", &entry.value.needs)));
        let jobs = manifest.jobs.iter().map(|(name, entry)| (name, ("jobs", &entry.value.body.needs)));
        let resources = manifest.resources.iter().map(|(name, entry)| (name, ("resources", &entry.value.needs)));
        let all = services.chain(jobs).chain(resources);
        let mut all: IndexMap<_, _> = all.map(|(name, needs)| (name.as_str(), needs)).collect();
        all.sort_unstable_keys();
        all
    }

    fn check_needs(&mut self) {
        let all = self.needs_by_unit();
        for (unit, (section, needs)) in &all {
            for (name, entry) in needs.iter().filter(|(name, _)| !all.contains_key(name.as_str())) {
                let (name, path) = (Spanned::new(name.clone(), entry.key), format!("{section}.{unit}.needs"));
                // Do not suggest a name that would cause another error: a cycle, or a second entry.
                let others = all.keys().copied().filter(|other| other != unit && !needs.contains_key(*other));
                let cyclic = nearest(&name.value, others.clone()).filter(|near| can_reach(&all, near, unit));
                let possible = others.filter(|other| Some(*other) != cyclic);
                self.report_unknown(codes::UNKNOWN_NEED, &name, &path, "unit", possible);
            }
        }
    }

    /// Reports each cycle once, with its complete path, at the edge that closes it.
    ///
    /// The depth-first search is iterative, so a long chain of needs cannot overflow the stack.
    fn check_cycles(&mut self) {
        let all = self.needs_by_unit();
        let mut done: HashSet<&str> = HashSet::new();
        let mut cycles: Vec<(Span, String, String)> = Vec::new();
        for start in all.keys() {
            // The path from `start`, each unit with the index of its next need.
            let mut path: Vec<(&str, usize)> = vec![(start, 0)];
            while let Some((name, next)) = path.last_mut().map(|(name, next)| (*name, next)) {
                let edge = all.get(name).filter(|_| !done.contains(name)).and_then(|(_, needs)| needs.get_index(*next));
                let Some((target, entry)) = edge else {
                    done.insert(name);
                    path.pop();
                    continue;
                };
                *next += 1;
                if let Some(from) = path.iter().position(|(name, _)| name == target) {
                    let cycle: Vec<&str> =
                        path[from..].iter().map(|(name, _)| *name).chain([target.as_str()]).collect();
                    let last = path[path.len() - 1].0;
                    let section = all.get(last).map(|(section, _)| *section).unwrap_or_default();
                    let manifest_path = format!("{section}.{last}.needs");
                    cycles.push((entry.key, manifest_path, cycle.join(" -> ")));
                } else if !done.contains(target.as_str()) {
                    path.push((target, 0));
                }
            }
        }
        for (span, path, cycle) in cycles {
            let found = self.report(codes::NEEDS_CYCLE, span, path, format!("these wait for one another: {cycle}"));
            found.help = Some("Remove one of these needs.".into());
        }
    }

    fn check_routes(&mut self) {
        let mut routes: BTreeMap<String, (String, Span)> = BTreeMap::new();
        let mut clashes = Vec::new();
        for (name, entry) in &self.manifest.services {
            for route in &entry.value.routes {
                let plain = format!("/{}", route.value.trim_matches('/'));
                match routes.get(&plain) {
                    Some((other, first)) if other != name => {
                        clashes.push((route.span, *first, name.clone(), other.clone(), plain));
                    }
                    _ => drop(routes.insert(plain, (name.clone(), route.span))),
                }
            }
        }
        for (span, first, name, other, route) in clashes {
            let message = format!("`{name}` and `{other}` both answer `{route}`");
            let found = self.report(codes::SAME_ROUTE, span, format!("services.{name}.routes"), message);
            *found = found.clone().related(first, "the other one").help("Give one of them a longer path.");
        }
    }

    fn check_host_ports(&mut self) {
        let mut host_ports: BTreeMap<u16, (String, Span)> = BTreeMap::new();
        let mut clashes = Vec::new();
        for (name, entry) in &self.manifest.services {
            for port in entry.value.ports.values().filter_map(|port| port.value.host.as_ref()) {
                match host_ports.get(&port.value) {
                    Some((other, first)) => clashes.push((port.span, *first, name.clone(), other.clone(), port.value)),
                    None => drop(host_ports.insert(port.value, (name.clone(), port.span))),
                }
            }
        }
        for (span, first, name, other, port) in clashes {
            let message = format!("`{name}` and `{other}` both want port {port} of this machine");
            let found = self.report(codes::SAME_HOST_PORT, span, format!("services.{name}.ports"), message);
            *found = found
                .clone()
                .related(first, "the other one")
                .help("Leave `host` out: pdev chooses a free port and remembers it.");
        }
    }
}

/// Whether `from` is `target`, or needs it directly or indirectly.
fn can_reach(all: &IndexMap<&str, (&'static str, &Map<Need>)>, from: &str, target: &str) -> bool {
    let mut visited: HashSet<&str> = HashSet::new();
    let mut pending = vec![from];
    while let Some(name) = pending.pop() {
        if name == target {
            return true;
        }
        if let Some((key, (_, needs))) = all.get_key_value(name)
            && visited.insert(key)
        {
            pending.extend(needs.keys().filter_map(|need| all.get_key_value(need.as_str())).map(|(need, _)| *need));
        }
    }
    false
}

fn key_spans<T>(map: &Map<T>) -> Vec<(&str, Span)> {
    map.iter().map(|(name, entry)| (name.as_str(), entry.key)).collect()
}
