//! Resolves the shop of `examples/` with fake modules: in containers, as processes, and mixed.

mod files;

use std::collections::BTreeMap;
use std::sync::Arc;

use files::{format_diagnostics, load_manifest, load_manifest_for, resolve_inputs};
use plan::application::RuntimeKind;
use plan::module::{Address, ContainerRendering, Module, ProcessRendering, Program, RenderInputs, Renderer, Rendering};
use plan::observed::{Images, Observed};
use plan::{CompareOptions, ResolvedApplication, compare, resolve, text};

const SHOP: &str = include_str!("../../examples/shop/pdev.yaml");

#[derive(Debug)]
struct ServerRenderer(&'static str, u16);

impl Renderer for ServerRenderer {
    fn can_render(&self, _: RuntimeKind) -> bool {
        true
    }
    fn ports(&self, _: RuntimeKind) -> BTreeMap<String, u16> {
        BTreeMap::from([("main".to_owned(), self.1)])
    }
    fn render(&self, inputs: &RenderInputs) -> Rendering {
        if inputs.runtime == RuntimeKind::DOCKER {
            let image = format!("{}:1", self.0);
            return Rendering::Container(ContainerRendering { image, ..ContainerRendering::default() });
        }
        let command = vec![self.0.to_owned(), inputs.ports["main"].clone()];
        let program = Program { command, ..Program::default() };
        Rendering::Process(ProcessRendering { program, ..ProcessRendering::default() })
    }
    fn outputs(&self, _: &RenderInputs, address: &Address) -> BTreeMap<String, (String, bool)> {
        let (host, port) = (&address.host, &address.ports["main"]);
        BTreeMap::from([
            ("url".to_owned(), (format!("{}://{host}:{port}", self.0), true)),
            ("host".to_owned(), (host.clone(), false)),
            ("port".to_owned(), (port.clone(), false)),
        ])
    }
}

fn resolve_shop(environment: &str) -> ResolvedApplication {
    let mut loaded = load_manifest_for(SHOP, Some(environment));
    for (resource, server) in [("db", ServerRenderer("postgres", 5432)), ("cache", ServerRenderer("redis", 6379))] {
        let module = Module {
            name: server.0.to_owned(),
            version: "1.0.0".to_owned(),
            source: "test".to_owned(),
            renderer: Arc::new(server),
        };
        loaded.modules.insert(resource.to_owned(), module);
    }
    let resolved = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::DOCKER));
    assert!(resolved.is_usable(), "{:#?}", format_diagnostics(&resolved.diagnostics));
    resolved
}

#[test]
fn references_resolve_to_address_for_runtime() {
    // The fixture assigns ports in the order of names: api 40000, cache 40001, db 40002, web 40003.
    let cases = [
        ("local", "api", "REDIS_URL", "redis://cache:6379"),
        ("local", "worker", "DATABASE_URL", "postgres://db:5432"),
        ("local", "api", "PAYMENT_KEY_FILE", "/run/secrets/payment-key"),
        ("local", "migrate", "DATABASE_URL", "postgres://db:5432"),
        ("bare", "api", "REDIS_URL", "redis://127.0.0.1:40001"),
        ("bare", "api", "PAYMENT_KEY_FILE", "/run/user/1000/pdev/secrets/api/payment-key"),
        ("bare", "web", "PORT", "40003"),
        ("mixed", "web", "PDEV_INTERNAL_URL_API", "http://127.0.0.1:40000"),
        ("mixed", "api", "PDEV_INTERNAL_URL_WEB", "http://web:40003"),
        ("mixed", "api", "DATABASE_URL", "postgres://db:5432"),
    ];
    for (environment, unit, name, value) in cases {
        let resolved = resolve_shop(environment);
        assert_eq!(resolved.application.units[unit].env[name].value, value, "{environment} {unit} {name}");
    }
}

#[test]
fn first_up_starts_units_in_dependency_order() {
    let resolved = resolve_shop("local");
    assert_eq!(resolved.application.default_service.as_deref(), Some("web"));
    let plan = compare(&resolved.application, &Observed::default(), &Images::default(), &CompareOptions::default());
    let starts: Vec<String> =
        text::graph(&plan).lines().filter(|line| line.contains(" start ")).map(str::to_owned).collect();
    assert_eq!(
        starts,
        [
            " 2 start cache: follows <- 1",
            " 5 start db: follows <- 4",
            " 8 start migrate: follows <- 3 6 7",
            "11 start api: follows <- 3 6 9 10",
            "14 start web: follows <- 12 13",
            "17 start worker: follows <- 3 6 9 16",
        ]
    );
}

#[test]
fn shop_manifest_has_no_diagnostics() {
    let diagnostics = format_diagnostics(&load_manifest(SHOP).diagnostics);
    assert!(diagnostics.is_empty(), "{diagnostics:#?}");
}
