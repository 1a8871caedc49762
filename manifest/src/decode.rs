//! Decodes a tree to a [`Manifest`]. Skips malformed values without a diagnostic, because `validate` has reported them.

use std::time::Duration;

use crate::date;
use crate::model::*;
use crate::quantities;
use crate::syntax::{Kind, Node, Pair, Value};
use crate::template::{self, Template};
use crate::text::Spanned;

pub(crate) fn manifest(root: &Node) -> Manifest {
    Manifest {
        app: root.get("app").map(|pair| app(&pair.value)).unwrap_or_default(),
        vars: map(root, "vars", |_, node| template(node)),
        services: map(root, "services", |_, node| Some(service(node))),
        jobs: map(root, "jobs", |_, node| Some(job(node))),
        resources: map(root, "resources", |_, node| Some(resource(node))),
        secrets: map(root, "secrets", |_, node| Some(secret(node))),
        identities: map(root, "identities", |_, node| Some(identity(node))),
        environments: map(root, "environments", |_, _| Some(())),
        environment: Environment::default(),
        waivers: get(root, "guardrails")
            .and_then(|rails| get(rails, "waivers"))
            .map(|list| items(list).filter_map(waiver).collect())
            .unwrap_or_default(),
        patches: get(root, "patches").map(|list| items(list).filter_map(patch).collect()).unwrap_or_default(),
        names_strip: get(root, "names").map(|names| texts(names, "strip")).unwrap_or_default(),
    }
}

pub(crate) fn environment(name: &str, node: Option<&Node>) -> Environment {
    let Some(node) = node else { return Environment { name: name.to_owned(), ..Environment::default() } };
    Environment {
        name: name.to_owned(),
        runtime: runtime(node),
        context: text(node, "context"),
        ttl: duration(node, "ttl"),
    }
}

fn get<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    node.get(key).map(|pair| &pair.value).filter(|value| !value.is_null())
}

fn map<T>(node: &Node, key: &str, decode: impl Fn(&str, &Node) -> Option<T>) -> Map<T> {
    let Some(Kind::Map(pairs)) = get(node, key).map(|value| &value.kind) else { return Map::default() };
    entries(pairs, decode)
}

fn entries<T>(pairs: &[Pair], decode: impl Fn(&str, &Node) -> Option<T>) -> Map<T> {
    // A `Service` has about 2 KB. A map of thousands that grows step by step would touch several times as much memory.
    let mut map = Map::with_capacity_and_hasher(pairs.len(), Default::default());
    for pair in pairs.iter().filter(|pair| !pair.key.value.starts_with("x-")) {
        if let Some(value) = decode(&pair.key.value, &pair.value) {
            map.insert(pair.key.value.clone(), Entry { key: pair.key.span, span: pair.value.span, value });
        }
    }
    map
}

fn items(node: &Node) -> impl Iterator<Item = &Node> {
    match &node.kind {
        Kind::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    }
    .iter()
}

fn scalar_text(node: &Node) -> Option<Spanned<String>> {
    node.as_scalar().filter(|scalar| !scalar.is_null()).map(|scalar| Spanned::new(scalar.text.clone(), node.span))
}

fn text(node: &Node, key: &str) -> Option<Spanned<String>> {
    get(node, key).and_then(scalar_text)
}

fn texts(node: &Node, key: &str) -> Vec<Spanned<String>> {
    get(node, key).map(|list| items(list).filter_map(scalar_text).collect()).unwrap_or_default()
}

fn template(node: &Node) -> Option<Template> {
    let scalar = node.as_scalar().filter(|scalar| !scalar.is_null())?;
    Some(template::parse(&scalar.text, node.span, scalar.quoted).0)
}

fn spanned_template(node: &Node) -> Option<Spanned<Template>> {
    template(node).map(|value| Spanned::new(value, node.span))
}

fn integer<T: TryFrom<i64>>(node: &Node) -> Option<Spanned<T>> {
    match node.as_scalar()?.value {
        Value::Integer(number) => T::try_from(number).ok().map(|number| Spanned::new(number, node.span)),
        _ => None,
    }
}

fn boolean(node: &Node, key: &str) -> Option<Spanned<bool>> {
    let value = get(node, key)?;
    match value.as_scalar()?.value {
        Value::Bool(on) => Some(Spanned::new(on, value.span)),
        _ => None,
    }
}

fn is_true(node: &Node, key: &str) -> bool {
    boolean(node, key).is_some_and(|found| found.value)
}

fn parse_scalar<T>(node: &Node, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Spanned<T>> {
    let found = text(node, key)?;
    parse(&found.value).ok().map(|value| Spanned::new(value, found.span))
}

fn duration(node: &Node, key: &str) -> Option<Spanned<Duration>> {
    parse_scalar(node, key, quantities::parse_duration)
}

fn choice<T: Copy>(node: &Node, key: &str, choices: &[(&str, T)]) -> Option<Spanned<T>> {
    let found = text(node, key)?;
    choices.iter().find(|(name, _)| *name == found.value).map(|(_, value)| Spanned::new(*value, found.span))
}

fn runtime(node: &Node) -> Option<Spanned<Runtime>> {
    choice(
        node,
        "runtime",
        &[("docker", Runtime::Docker), ("process", Runtime::Process), ("kubernetes", Runtime::Kubernetes)],
    )
}

fn app(node: &Node) -> App {
    match &node.kind {
        Kind::Map(_) => App {
            name: text(node, "name").unwrap_or_default(),
            owner: text(node, "owner"),
            docs: text(node, "docs"),
            default_service: text(node, "default"),
        },
        _ => App { name: scalar_text(node).unwrap_or_default(), ..App::default() },
    }
}

fn command(node: &Node) -> Option<Command> {
    match &node.kind {
        Kind::List(list) => Some(Command::Arguments(list.iter().filter_map(spanned_template).collect())),
        Kind::Scalar(scalar) if !scalar.is_null() => spanned_template(node).map(Command::Shell),
        _ => None,
    }
}

fn env_map(node: &Node, key: &str) -> Map<Spanned<Template>> {
    map(node, key, |_, value| spanned_template(value))
}

fn service(node: &Node) -> Service {
    Service {
        build: get(node, "build").map(build).map(Box::new),
        image: get(node, "image").and_then(spanned_template),
        command: get(node, "command").and_then(command),
        entrypoint: get(node, "entrypoint").and_then(command),
        dir: text(node, "dir"),
        process: get(node, "process").map(process).map(Box::new),
        runtime: runtime(node),
        ports: ports(node),
        routes: texts(node, "routes"),
        wildcard: is_true(node, "wildcard"),
        health: get(node, "health").map(health).unwrap_or_default(),
        env: env_map(node, "env"),
        volumes: map(node, "volumes", |_, value| volume(value)),
        size: get(node, "size").map(size).unwrap_or_default(),
        needs: needs(node),
        identity: text(node, "identity"),
        secrets: texts(node, "secrets"),
        security: get(node, "security").map(security).unwrap_or_default(),
        watch: get(node, "watch").map(|list| items(list).filter_map(watch).collect()).unwrap_or_default(),
        stop: get(node, "stop").map(stop).unwrap_or_default(),
        restart: choice(
            node,
            "restart",
            &[
                ("on-failure", RestartPolicy::OnFailure),
                ("always", RestartPolicy::Always),
                ("never", RestartPolicy::Never),
            ],
        ),
        replicas: get(node, "replicas").and_then(integer),
        pull: choice(node, "pull", &[("missing", Pull::Missing), ("always", Pull::Always), ("never", Pull::Never)]),
        raw: raw(node),
    }
}

fn process(node: &Node) -> Process {
    match &node.kind {
        Kind::Map(_) => Process {
            command: get(node, "command").and_then(command),
            dir: text(node, "dir"),
            build: get(node, "build").and_then(command),
            inputs: texts(node, "inputs"),
            env: env_map(node, "env"),
            user: text(node, "user"),
        },
        _ => Process { command: command(node), ..Process::default() },
    }
}

fn build(node: &Node) -> Build {
    // Replaced by the folder of the file, which only the caller knows.
    let default_context = Spanned::new(String::new(), node.span);
    match &node.kind {
        Kind::Map(_) => Build {
            span: node.span,
            context: text(node, "context").unwrap_or(default_context),
            dockerfile: text(node, "dockerfile"),
            target: text(node, "target"),
            args: env_map(node, "args"),
            platform: text(node, "platform"),
        },
        _ => Build {
            span: node.span,
            context: scalar_text(node).unwrap_or(default_context),
            dockerfile: None,
            target: None,
            args: Map::default(),
            platform: None,
        },
    }
}

fn ports(node: &Node) -> Map<Port> {
    let mut found = map(node, "ports", |_, value| port(value));
    if let Some(pair) = node.get("port")
        && let Some(value) = port(&pair.value)
    {
        found.insert("main".to_owned(), Entry { key: pair.key.span, span: pair.value.span, value });
    }
    found
}

fn port(node: &Node) -> Option<Port> {
    if let Kind::Map(_) = node.kind {
        let protocols = [
            ("http", PortProtocol::Http),
            ("h2c", PortProtocol::H2c),
            ("grpc", PortProtocol::H2c),
            ("tcp", PortProtocol::Tcp),
            ("udp", PortProtocol::Udp),
        ];
        return Some(Port {
            number: get(node, "port").and_then(integer)?,
            protocol: choice(node, "protocol", &protocols).map(|found| found.value).unwrap_or_default(),
            host: get(node, "host").and_then(integer),
        });
    }
    Some(Port { number: integer(node)?, protocol: PortProtocol::Http, host: None })
}

fn health(node: &Node) -> Health {
    match &node.kind {
        Kind::Map(_) => Health {
            ready: get(node, "ready").and_then(probe).map(Box::new),
            live: get(node, "live").and_then(probe).map(Box::new),
            is_disabled: false,
            start_limit: duration(node, "start_limit"),
        },
        _ if scalar_text(node).is_some_and(|text| text.value == "none") => {
            Health { is_disabled: true, ..Health::default() }
        }
        _ => Health { ready: probe(node).map(Box::new), ..Health::default() },
    }
}

fn probe(node: &Node) -> Option<Probe> {
    let check = match &node.kind {
        Kind::Map(_) => check(node)?,
        _ => Check::Http { path: scalar_text(node)?, port: None, host: None, headers: Vec::new(), status: None },
    };
    let seconds =
        |key: &str, default: u64| duration(node, key).map_or(Duration::from_secs(default), |found| found.value);
    let count = |key: &str, default: u32| get(node, key).and_then(integer).map_or(default, |found| found.value);
    // The same defaults as in Kubernetes.
    Some(Probe {
        span: node.span,
        check,
        interval: seconds("interval", 10),
        timeout: seconds("timeout", 1),
        failures: count("failures", 3),
        successes: count("successes", 1),
        allows_any_listener: text(node, "listener").map(|word| Spanned::new(word.value == "any", word.span)),
    })
}

fn check(node: &Node) -> Option<Check> {
    let port = text(node, "port");
    if let Some(http) = get(node, "http") {
        return Some(match &http.kind {
            Kind::Map(_) => Check::Http {
                path: text(http, "path").unwrap_or_else(|| Spanned::new("/".into(), http.span)),
                port: text(http, "port").or(port),
                host: text(http, "host").map(|host| host.value),
                headers: map(http, "headers", |_, value| scalar_text(value))
                    .into_iter()
                    .map(|(name, entry)| (name, entry.value.value))
                    .collect(),
                status: get(http, "status")
                    .map(|list| items(list).filter_map(integer).map(|code: Spanned<u16>| code.value).collect()),
            },
            _ => Check::Http { path: scalar_text(http)?, port, host: None, headers: Vec::new(), status: None },
        });
    }
    if let Some(tcp) = text(node, "tcp") {
        return Some(Check::Tcp { port: Some(tcp) });
    }
    if let Some(grpc) = text(node, "grpc") {
        return Some(Check::Grpc { port: Some(grpc), service: text(node, "service").map(|service| service.value) });
    }
    get(node, "exec").and_then(command).map(|command| Check::Exec { command })
}

fn volume(node: &Node) -> Option<Volume> {
    if !matches!(node.kind, Kind::Map(_)) {
        return Some(Volume { target: scalar_text(node)?, source: VolumeSource::Named, read_only: false });
    }
    let source = if let Some(path) = text(node, "path") {
        VolumeSource::Path(path)
    } else if let Some(size) = get(node, "tmpfs") {
        VolumeSource::Tmpfs { size: scalar_text(size).and_then(|size| quantities::parse_bytes(&size.value).ok()) }
    } else {
        VolumeSource::Named
    };
    Some(Volume { target: text(node, "target")?, source, read_only: is_true(node, "read_only") })
}

fn size(node: &Node) -> Size {
    Size {
        cpu_milli: parse_scalar(node, "cpu", quantities::parse_cpu_milli),
        memory: parse_scalar(node, "memory", quantities::parse_bytes),
        pids: get(node, "pids").and_then(integer),
    }
}

/// Every condition is `healthy` by default; the planner turns it into `completed` for jobs.
fn needs(node: &Node) -> Map<Need> {
    let Some(found) = get(node, "needs") else { return Map::default() };
    match &found.kind {
        Kind::Map(pairs) => entries(pairs, |_, value| {
            let condition = match value.as_scalar().map(|scalar| scalar.text.as_str()) {
                Some("started") => Condition::Started,
                Some("completed") => Condition::Completed,
                _ => Condition::Healthy,
            };
            Some(Need { condition })
        }),
        _ => items(found)
            .filter_map(scalar_text)
            .map(|name| {
                (name.value, Entry { key: name.span, span: name.span, value: Need { condition: Condition::Healthy } })
            })
            .collect(),
    }
}

fn security(node: &Node) -> Security {
    Security {
        capabilities: texts(node, "capabilities"),
        drop: texts(node, "drop"),
        privileged: boolean(node, "privileged"),
        read_only: boolean(node, "read_only"),
        user: text(node, "user"),
        no_new_privileges: boolean(node, "no_new_privileges"),
    }
}

fn watch(node: &Node) -> Option<Watch> {
    let actions = [
        ("rebuild", WatchAction::Rebuild),
        ("sync", WatchAction::Sync),
        ("restart", WatchAction::Restart),
        ("sync+restart", WatchAction::SyncRestart),
        ("sync+exec", WatchAction::SyncExec),
    ];
    Some(Watch {
        span: node.span,
        path: text(node, "path")?,
        action: choice(node, "action", &actions)?,
        target: text(node, "target"),
        ignore: texts(node, "ignore"),
        initial_sync: is_true(node, "initial_sync"),
        exec: get(node, "exec").and_then(command),
    })
}

fn stop(node: &Node) -> Stop {
    Stop { signal: text(node, "signal"), grace: duration(node, "grace") }
}

fn raw(node: &Node) -> Raw {
    let Some(found) = get(node, "raw") else { return Raw::default() };
    Raw { docker: get(found, "docker").map(tree), kubernetes: get(found, "kubernetes").map(tree) }
}

fn tree(node: &Node) -> Tree {
    let inner = match &node.kind {
        Kind::List(items) => crate::model::Node::List(items.iter().map(tree).collect()),
        Kind::Map(pairs) => crate::model::Node::Map(entries(pairs, |_, value| Some(tree(value)))),
        Kind::Scalar(scalar) => match scalar.value {
            Value::Null => crate::model::Node::Null,
            Value::Bool(on) => crate::model::Node::Bool(on),
            Value::Integer(number) => crate::model::Node::Integer(number),
            Value::Float(number) => crate::model::Node::Float(number),
            Value::Text => crate::model::Node::Text(template::parse(&scalar.text, node.span, scalar.quoted).0),
        },
    };
    Tree { span: node.span, node: inner }
}

fn job(node: &Node) -> Job {
    let when = [("before", JobTiming::Before), ("after", JobTiming::After), ("manual", JobTiming::Manual)];
    Job {
        service: text(node, "service"),
        body: service(node),
        when: choice(node, "when", &when).map(|found| found.value).unwrap_or_default(),
        inputs: texts(node, "inputs"),
        timeout: duration(node, "timeout"),
    }
}

fn resource(node: &Node) -> Resource {
    if !matches!(node.kind, Kind::Map(_)) {
        return Resource { uses: scalar_text(node).unwrap_or_default(), ..Resource::default() };
    }
    Resource {
        uses: text(node, "uses").unwrap_or_default(),
        with: map(node, "with", |_, value| Some(tree(value))),
        runtime: runtime(node),
        needs: needs(node),
        raw: raw(node),
    }
}

fn secret(node: &Node) -> SecretDeclaration {
    match &node.kind {
        Kind::Map(_) => {
            let on_change = choice(node, "on_change", &[("restart", true), ("none", false)]);
            SecretDeclaration {
                description: text(node, "description"),
                optional: is_true(node, "optional"),
                restarts_units: on_change.is_none_or(|choice| choice.value),
            }
        }
        _ => SecretDeclaration { description: scalar_text(node), optional: false, restarts_units: true },
    }
}

fn identity(node: &Node) -> IdentityDeclaration {
    match &node.kind {
        Kind::Map(_) => IdentityDeclaration {
            provider: text(node, "provider"),
            settings: map(node, "settings", |_, value| Some(tree(value))),
        },
        _ => IdentityDeclaration { provider: scalar_text(node), settings: Map::default() },
    }
}

fn waiver(node: &Node) -> Option<Waiver> {
    Some(Waiver {
        span: node.span,
        rule: text(node, "rule")?,
        scope: text(node, "scope")?,
        reason: text(node, "reason")?,
        owner: text(node, "owner")?,
        expires: parse_scalar(node, "expires", date::parse_date)?,
        link: text(node, "link"),
    })
}

fn patch(node: &Node) -> Option<Patch> {
    let target = get(node, "target")?;
    let change = match (get(node, "merge"), get(node, "json")) {
        (Some(merge), _) => PatchChange::Merge(tree(merge)),
        (None, Some(json)) => PatchChange::Json(tree(json)),
        (None, None) => return None,
    };
    Some(Patch {
        span: node.span,
        runtime: runtime(target)?,
        kind: text(target, "kind"),
        from: text(target, "from"),
        change,
        why: text(node, "why"),
    })
}
