//! Resolves manifests that are built from values instead of text, independent of the manifest reader.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::sync::Arc;

use manifest::model::{
    Check, Command, Entry, Job, Manifest, Map, Port, PortProtocol, Probe, Process, Resource, Service, Size,
};
use manifest::template::{Part, Reference, Scope, Template};
use manifest::{Span, Spanned};
use plan::application::{Body, PreviewId, PreviewName, ReadyCheck, RuntimeKind, Unit, VolumeMount};
use plan::module::{Address, ContainerRendering, Module, ProcessRendering, Program, RenderInputs, Renderer, Rendering};
use plan::{Git, LoadedManifest, ResolveInputs, ResolvedApplication, compare, required_ports, resolve};
use serde_json::json;

const DOCKER: RuntimeKind = RuntimeKind::DOCKER;
const PROCESS: RuntimeKind = RuntimeKind::PROCESS;

fn entry<T>(value: T) -> Entry<T> {
    Entry { key: Span::default(), span: Span::default(), value }
}

fn map<T>(pairs: impl IntoIterator<Item = (&'static str, T)>) -> Map<T> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), entry(value))).collect()
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Span::default())
}

fn literal(value: &str) -> Spanned<Template> {
    spanned(Template::literal(value))
}

fn placeholder(scope: Scope, path: &[&str], default: Option<&str>) -> Spanned<Template> {
    let path = path.iter().map(|part| (*part).to_owned()).collect();
    let part =
        Part::Reference(Reference { scope, path, default: default.map(Template::literal), span: Span::default() });
    spanned(Template { parts: vec![part] })
}

fn command_arguments(words: &[&str]) -> Command {
    Command::Arguments(words.iter().map(|word| literal(word)).collect())
}

fn main_port(number: u16) -> Map<Port> {
    map([("main", Port { number: spanned(number), protocol: PortProtocol::Http, host: None })])
}

fn service_with_image(name: &str) -> Service {
    Service { image: Some(literal(name)), ..Service::default() }
}

fn loaded_manifest(services: Map<Service>, jobs: Map<Job>) -> LoadedManifest {
    let mut manifest = Manifest { services, jobs, ..Manifest::default() };
    manifest.app.name = spanned("shop".to_owned());
    manifest.environment.name = "local".to_owned();
    LoadedManifest { manifest, ..LoadedManifest::default() }
}

fn resolve_with(
    loaded: &LoadedManifest,
    runtime: RuntimeKind,
    modify: impl FnOnce(&mut ResolveInputs),
) -> ResolvedApplication {
    let requests = required_ports(loaded, runtime).into_iter().zip(40_000..);
    let mut inputs = ResolveInputs {
        preview: PreviewName {
            id: PreviewId("abcdefghijklmnop".into()),
            app: "shop".into(),
            branch: "main".into(),
            environment: "local".into(),
        },
        default_runtime: runtime,
        ports: requests.map(|(request, free)| ((request.unit, request.port), free)).collect(),
        proxy_port: 8642,
        environment: BTreeMap::from([("TOWN".to_owned(), "Bern".to_owned())]),
        git: Git::default(),
        secrets_folder: "/secrets".into(),
        password_seed: "seed".into(),
        today: manifest::date::Date { year: 2026, month: 11, day: 23 },
    };
    modify(&mut inputs);
    resolve(loaded, &inputs)
}

fn shop() -> LoadedManifest {
    let api = Service {
        ports: main_port(8080),
        env: map([
            ("WEB", placeholder(Scope::Services, &["web", "internal_url"], None)),
            ("TOWN", placeholder(Scope::Env, &["TOWN"], None)),
            ("NONE", placeholder(Scope::Env, &["NOT_SET"], Some("none"))),
        ]),
        size: Size { memory: Some(spanned(1 << 28)), ..Size::default() },
        ..service_with_image("example/api:1")
    };
    let web = Service {
        ports: main_port(3000),
        process: Some(Box::new(Process { command: Some(command_arguments(&["npm", "start"])), ..Process::default() })),
        env: map([("API", placeholder(Scope::Services, &["api", "address"], None))]),
        ..Service::default()
    };
    let migrate = Job {
        service: Some(spanned("api".to_owned())),
        body: Service { command: Some(command_arguments(&["migrate"])), ..Service::default() },
        ..Job::default()
    };
    loaded_manifest(map([("api", api), ("web", web)]), map([("migrate", migrate)]))
}

fn env_value<'a>(resolved: &'a ResolvedApplication, unit: &str, name: &str) -> &'a str {
    &resolved.application.units[unit].env.get(name).unwrap().value
}

fn format_needs(unit: &Unit) -> String {
    unit.needs.iter().map(|(name, condition)| format!("{name}:{condition:?}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn containers_and_processes_reach_each_other() {
    let resolved = resolve_with(&shop(), DOCKER, |_| ());
    assert!(resolved.is_usable(), "{:#?}", resolved.diagnostics);
    let cases = [
        ("api", "WEB", "http://web:40001"),
        ("api", "TOWN", "Bern"),
        ("api", "NONE", "none"),
        ("web", "API", "127.0.0.1:40000"),
        ("web", "PORT", "40001"),
        ("web", "PDEV_URL_API", "http://api.main.shop.localhost:8642"),
        ("web", "PDEV_INTERNAL_URL_API", "http://127.0.0.1:40000"),
        ("api", "PDEV_INTERNAL_URL_API", "http://api:8080"),
        ("api", "PDEV_COOKIE_DOMAIN", "main.shop.localhost"),
        ("api", "PDEV_PREVIEW", "shop/main"),
        ("migrate", "TOWN", "Bern"),
    ];
    for (unit, name, value) in cases {
        assert_eq!(env_value(&resolved, unit, name), value, "{unit} {name}");
    }
    let units = &resolved.application.units;
    assert_eq!(format_needs(&units["api"]), "migrate:Completed web:Started");
    assert_eq!(format_needs(&units["web"]), "", "of two mutual references, the second one implies no need");
    assert!(units["migrate"].ports.is_empty());
    assert_eq!(units["migrate"].health.ready, ReadyCheck::Exit);
    let Body::Container(api) = &units["api"].body else { panic!("a container") };
    assert_eq!(api.gateway_peers, ["web"]);
    assert_eq!(
        api.create_body,
        json!({
            "HostConfig": {
                "CapDrop": ["ALL"],
                "CapAdd": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"],
                "SecurityOpt": ["no-new-privileges"],
                "Memory": 268_435_456,
                "PidsLimit": 2048
            },
            "ExposedPorts": { "8080/tcp": {} }
        })
    );
}

#[test]
fn hash_depends_only_on_user_intent() {
    let hashes = |loaded: &LoadedManifest, modify: fn(&mut ResolveInputs)| {
        let application = resolve_with(loaded, DOCKER, modify).application;
        application.units.into_values().map(|unit| (unit.name, unit.hash)).collect::<BTreeMap<_, _>>()
    };
    let first = hashes(&shop(), |_| ());
    let modifications: [fn(&mut ResolveInputs); 5] = [
        |inputs| inputs.ports.values_mut().for_each(|port| *port += 1000),
        |inputs| inputs.proxy_port = 9999,
        |inputs| inputs.secrets_folder = "/elsewhere".into(),
        |inputs| inputs.password_seed = "other".into(),
        |inputs| inputs.preview.id.0 = "ponmlkjihgfedcba".into(),
    ];
    for modify in modifications {
        assert_eq!(hashes(&shop(), modify), first);
    }
    let mut bigger = shop();
    bigger
        .manifest
        .services
        .insert("more".into(), entry(Service { ports: main_port(81), ..service_with_image("e:1") }));
    let mut bigger = hashes(&bigger, |_| ());
    bigger.remove("more");
    assert_eq!(bigger, first, "another service replaces no unit");
    let mut probed = shop();
    probed.manifest.services["api"].value.health.is_disabled = true;
    probed.manifest.services["api"].value.routes.push(spanned("/api".to_owned()));
    assert_eq!(hashes(&probed, |_| ()), first, "health and routes do not affect the program");

    let mut changed = shop();
    changed.manifest.services["api"].value.env.insert("TOWN".into(), entry(literal("Basel")));
    changed.manifest.services["api"].value.size.memory = Some(spanned(1 << 29));
    let changed = hashes(&changed, |_| ());
    assert_eq!(plan::hash::changed_fields(&first["api"], &changed["api"]), ["env.TOWN", "size.memory"]);
    assert_eq!(first["web"], changed["web"]);
}

#[test]
fn probe_port_is_found_by_name_or_number() {
    let mut shop = shop();
    let probe = |port: Option<&str>| Probe {
        allows_any_listener: None,
        span: Span::default(),
        check: Check::Http {
            path: spanned("/z".into()),
            port: port.map(|port| spanned(port.to_owned())),
            host: None,
            headers: Vec::new(),
            status: None,
        },
        interval: std::time::Duration::from_secs(1),
        timeout: std::time::Duration::from_secs(1),
        failures: 3,
        successes: 1,
    };
    let tcp = ReadyCheck::Probe(plan::application::Probe {
        allows_any_listener: false,
        check: plan::application::Check::Tcp { port: "main".into() },
        interval: std::time::Duration::from_secs(10),
        timeout: std::time::Duration::from_secs(1),
        failures: 3,
        successes: 1,
    });
    for (port, is_found) in [(None, true), (Some("main"), true), (Some("8080"), true), (Some("mian"), false)] {
        shop.manifest.services["api"].value.health.ready = Some(Box::new(probe(port)));
        let resolved = resolve_with(&shop, DOCKER, |_| ());
        assert_eq!(resolved.application.units["api"].health.ready != tcp, is_found, "{port:?}");
    }
}

#[test]
fn unit_falls_back_to_supported_runtime() {
    let kinds = |runtime| {
        let resolved = resolve_with(&shop(), runtime, |_| ());
        let kinds = resolved.application.units.values().map(|unit| unit.runtime).collect::<Vec<_>>();
        (kinds, resolved.is_usable(), resolved.notes.len())
    };
    assert_eq!(kinds(DOCKER), (vec![DOCKER, DOCKER, PROCESS], true, 0));
    // `migrate` has its own command, so only `api` needs an engine.
    assert_eq!(kinds(PROCESS), (vec![DOCKER, PROCESS, PROCESS], false, 1));
}

#[test]
fn resolving_and_comparing_are_deterministic() {
    let once = || {
        let resolved = resolve_with(&shop(), DOCKER, |_| ());
        let plan = compare(
            &resolved.application,
            &plan::Observed::default(),
            &plan::observed::Images::default(),
            &plan::CompareOptions::default(),
        );
        format!("{:?}{}", resolved, plan::text::graph(&plan))
    };
    let first = once();
    assert!((0..100).all(|_| once() == first));
}

/// A fake database module that renders a container and a process.
#[derive(Debug)]
struct DatabaseRenderer;

impl Renderer for DatabaseRenderer {
    fn can_render(&self, _: RuntimeKind) -> bool {
        true
    }
    fn ports(&self, _: RuntimeKind) -> BTreeMap<String, u16> {
        BTreeMap::from([("main".to_owned(), 5432)])
    }
    fn render(&self, inputs: &RenderInputs) -> Rendering {
        let env = BTreeMap::from([("PASSWORD".to_owned(), (inputs.password.clone(), true))]);
        if inputs.runtime == DOCKER {
            return Rendering::Container(ContainerRendering {
                program: Program { env, stop_signal: Some("SIGINT".into()), ..Program::default() },
                image: "database:16".into(),
                volumes: vec![("data".into(), "/var/lib/database".into())],
                docker_host_config: BTreeMap::from([("ShmSize".to_owned(), json!(1 << 26))]),
                ..ContainerRendering::default()
            });
        }
        let command = vec!["database".into(), "-p".into(), inputs.ports["main"].clone()];
        let program = Program { command, env, ..Program::default() };
        Rendering::Process(ProcessRendering { program, ..ProcessRendering::default() })
    }
    fn outputs(&self, inputs: &RenderInputs, address: &Address) -> BTreeMap<String, (String, bool)> {
        let url = format!("database://app:{}@{}:{}/app", inputs.password, address.host, address.ports["main"]);
        BTreeMap::from([("url".to_owned(), (url, true)), ("host".to_owned(), (address.host.clone(), false))])
    }
}

fn shop_with_database() -> LoadedManifest {
    let mut loaded = shop();
    let module = Module {
        name: "database".into(),
        version: "16.2.0".into(),
        source: "built-in".into(),
        renderer: Arc::new(DatabaseRenderer),
    };
    loaded.modules.insert("db".to_owned(), module);
    loaded.manifest.resources =
        map([("db", Resource { uses: spanned("database@16".to_owned()), ..Resource::default() })]);
    for name in ["api", "web"] {
        let service = &mut loaded.manifest.services[name].value;
        service.env.insert("DB".into(), entry(placeholder(Scope::Resources, &["db", "url"], None)));
    }
    loaded
}

#[test]
fn resource_becomes_unit_rendered_by_its_module() {
    let resolved = resolve_with(&shop_with_database(), DOCKER, |_| ());
    assert!(resolved.is_usable(), "{:#?}", resolved.diagnostics);
    let units = &resolved.application.units;
    let password = env_value(&resolved, "db", "PASSWORD").to_owned();
    assert_eq!(password.len(), 26);
    assert_eq!(env_value(&resolved, "api", "DB"), format!("database://app:{password}@db:5432/app"));
    assert_eq!(env_value(&resolved, "web", "DB"), format!("database://app:{password}@127.0.0.1:40001/app"));
    assert!(units["api"].env["DB"].sensitive && units["db"].env["PASSWORD"].sensitive);
    assert!(
        format_needs(&units["api"]).starts_with("db:Healthy")
            && format_needs(&units["migrate"]).starts_with("db:Healthy")
    );
    assert_eq!(units["db"].module.as_deref(), Some("database 16.2.0 (built-in)"));
    let Body::Container(db) = &units["db"].body else { panic!("a container") };
    let volume = VolumeMount { volume: "db-data".to_owned(), target: "/var/lib/database".to_owned(), read_only: false };
    assert_eq!(db.volumes, [volume]);
    assert_eq!(
        (&db.create_body["StopSignal"], &db.create_body["HostConfig"]["ShmSize"]),
        (&json!("SIGINT"), &json!(1 << 26))
    );
    let process = resolve_with(&shop_with_database(), PROCESS, |_| ());
    let Body::Process(db) = &process.application.units["db"].body else { panic!("a process") };
    assert_eq!(db.argv, plan::application::Argv::List(vec!["database".into(), "-p".into(), "40001".into()]));
}

#[test]
fn new_password_or_port_keeps_hash() {
    let hashes = |runtime, modify: fn(&mut ResolveInputs)| {
        let application = resolve_with(&shop_with_database(), runtime, modify).application;
        application.units.into_values().map(|unit| (unit.name, unit.hash)).collect::<BTreeMap<_, _>>()
    };
    for runtime in [DOCKER, PROCESS] {
        let first = hashes(runtime, |_| ());
        assert_eq!(hashes(runtime, |inputs| inputs.password_seed = "other".into()), first);
        assert_eq!(hashes(runtime, |inputs| inputs.ports.values_mut().for_each(|port| *port += 1)), first);
    }
}

#[test]
fn unknown_output_suggests_nearest_name() {
    let mut loaded = shop_with_database();
    let env = &mut loaded.manifest.services["api"].value.env;
    env.insert("BAD".into(), entry(placeholder(Scope::Resources, &["db", "ulr"], None)));
    let resolved = resolve_with(&loaded, DOCKER, |_| ());
    let messages: Vec<_> = resolved
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.code.0 == "PD0251")
        .map(|diagnostic| &diagnostic.message)
        .collect();
    assert_eq!(messages, ["unknown output `ulr` (nearest: `url`) of resource `db`"]);
}

#[test]
fn origins_never_contain_password() {
    let mut loaded = shop_with_database();
    let password = env_value(&resolve_with(&loaded, DOCKER, |_| ()), "db", "PASSWORD").to_owned();
    let url = placeholder(Scope::Resources, &["db", "url"], None);
    loaded.manifest.services["api"].value.command = Some(Command::Arguments(vec![literal("serve"), url]));
    let resolved = resolve_with(&loaded, DOCKER, |_| ());
    let Body::Container(api) = &resolved.application.units["api"].body else { panic!("a container") };
    assert!(api.create_body["Cmd"].to_string().contains(&password), "the program receives the password");
    let shown = resolved.origins.get("services.api.docker.Cmd").unwrap().value.to_string();
    assert!(!format!("{:?}", resolved.origins).contains(&password) && shown.contains("{password}"), "{shown}");
}
