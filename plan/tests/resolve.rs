//! Resolves manifests to units: addresses for each consumer, environment, defaults, jobs, hashes, `raw` and patches.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod files;

use std::fmt::Write;

use files::{format_diagnostics, load_manifest, load_manifest_for, resolve_inputs};
use plan::application::{Application, Argv, Body, Check, Health, ReadyCheck, RuntimeKind, Unit, VolumeMount};
use plan::explain::{ExplainResult, describe_origin, explain};
use plan::{LoadedManifest, ResolvedApplication, resolve};
use serde_json::json;

const DOCKER: RuntimeKind = RuntimeKind::DOCKER;
const PROCESS: RuntimeKind = RuntimeKind::PROCESS;

const HELLO: &str = include_str!("../../examples/hello/pdev.yaml");

fn resolve_text(text: &str, runtime: RuntimeKind) -> ResolvedApplication {
    let loaded = load_manifest(text);
    resolve(&loaded, &resolve_inputs(&loaded, runtime))
}

/// The main properties of a unit as text, one line each.
fn describe_unit(unit: &Unit) -> String {
    let mut text = String::new();
    let _ = match &unit.body {
        Body::Container(container) => {
            writeln!(
                text,
                "container {:?} {}",
                container.image,
                container.create_body.get("Cmd").unwrap_or(&json!(null))
            )
        }
        Body::Process(process) => writeln!(text, "process {} in {:?}", format_argv(&process.argv), process.dir),
    };
    for (name, port) in &unit.ports {
        let _ = writeln!(text, "port {name} {} -> {}", port.host_port, port.listen_port);
    }
    for (name, value) in &unit.env {
        let _ = writeln!(text, "env {name}={}{}", value.value, if value.sensitive { " (sensitive)" } else { "" });
    }
    let _ = writeln!(text, "ready {}", format_ready_check(&unit.health));
    for (name, condition) in &unit.needs {
        let _ = writeln!(text, "needs {name} {condition:?}");
    }
    text
}

fn format_argv(argv: &Argv) -> String {
    match argv {
        Argv::List(list) => list.join(" "),
        Argv::Shell(line) => format!("sh: {line}"),
    }
}

fn format_ready_check(health: &Health) -> String {
    match &health.ready {
        ReadyCheck::Probe(probe) => match &probe.check {
            Check::Http { port, path, .. } => format!("http {port} {path}"),
            Check::Tcp { port } => format!("tcp {port}"),
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn assert_unit(application: &Application, unit: &str, expected: &str) {
    let lines =
        |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&describe_unit(&application.units[unit])), lines(expected));
}

fn resolve_usable(text: &str, runtime: RuntimeKind) -> ResolvedApplication {
    let resolved = resolve_text(text, runtime);
    assert!(resolved.is_usable(), "{:#?}", format_diagnostics(&resolved.diagnostics));
    resolved
}

#[test]
fn hello_resolves_to_container() {
    assert_unit(
        &resolve_usable(HELLO, DOCKER).application,
        "web",
        r#"container Build(BuildSpec { context: ".", dockerfile: "Dockerfile", target: None, args: {}, platform: None }) null
           port main 40000 -> 8080
           env BRANCH=main
           env NAME=world
           env PDEV_COOKIE_DOMAIN=main.hello.localhost
           env PDEV_INTERNAL_URL_WEB=http://web:8080
           env PDEV_PREVIEW=hello/main
           env PDEV_URL_WEB=http://web.main.hello.localhost:8642
           ready http main /healthz"#,
    );
}

#[test]
fn hello_resolves_to_process() {
    assert_unit(
        &resolve_usable(HELLO, PROCESS).application,
        "web",
        r#"process perl hello.pl in Project(".")
           port main 40000 -> 40000
           env BRANCH=main
           env HOST=127.0.0.1
           env NAME=world
           env PDEV_COOKIE_DOMAIN=main.hello.localhost
           env PDEV_INTERNAL_URL_WEB=http://127.0.0.1:40000
           env PDEV_PREVIEW=hello/main
           env PDEV_URL_WEB=http://web.main.hello.localhost:8642
           env PORT=40000
           env PORT_MAIN=40000
           ready http main /healthz"#,
    );
}

const MIXED: &str = r#"
pdev: 1
app: mixed
services:
  api:
    image: example/api:1
    port: 8080
    env: { WEB: "${services.web.internal_url}", ADDRESS: "${services.web.address}", TOWN: "${env.HOME_TOWN}", NONE: "${env.NOT_SET:-none}" }
  web:
    port: 3000
    command: ["npm", "run", "dev"]
    runtime: process
    env: { API: "${services.api.host}:${services.api.port}", SELF: "${services.web.url}" }
  worker: { image: "example/worker:1" }
"#;

fn env_value<'a>(resolved: &'a ResolvedApplication, unit: &str, name: &str) -> &'a str {
    &resolved.application.units[unit].env[name].value
}

#[test]
fn addresses_depend_on_consumer_runtime() {
    let mixed = resolve_usable(MIXED, DOCKER);
    let cases = [
        ("api", "WEB", "http://web:40001"),
        ("api", "ADDRESS", "web:40001"),
        ("api", "TOWN", "Bern"),
        ("api", "NONE", "none"),
        ("web", "API", "127.0.0.1:40000"),
        ("web", "SELF", "http://web.main.mixed.localhost:8642"),
        ("worker", "PDEV_INTERNAL_URL_API", "http://api:8080"),
        ("worker", "PDEV_INTERNAL_URL_WEB", "http://web:40001"),
        ("web", "PDEV_INTERNAL_URL_API", "http://127.0.0.1:40000"),
    ];
    for (unit, name, value) in cases {
        assert_eq!(env_value(&mixed, unit, name), value, "{unit} {name}");
    }
    let Body::Container(api) = &mixed.application.units["api"].body else { panic!("a container") };
    assert_eq!(api.gateway_peers, ["web"]);
    assert_eq!(format_ready_check(&mixed.application.units["worker"].health), "StaysUp(300ms)");
    assert_eq!(format_ready_check(&mixed.application.units["api"].health), "tcp main");
}

#[test]
fn mutual_references_create_no_cycle() {
    let mixed = resolve_usable(MIXED, DOCKER);
    let needs = |unit: &str| mixed.application.units[unit].needs.keys().cloned().collect::<Vec<_>>();
    assert_eq!((needs("api"), needs("web")), (vec!["web".to_owned()], Vec::new()));
}

#[test]
fn containers_are_hardened() {
    let resolved = resolve_usable("pdev: 1\napp: a\nservices:\n  s: { image: \"e:1\", port: 80 }\n", DOCKER);
    let Body::Container(container) = &resolved.application.units["s"].body else { panic!("a container") };
    assert_eq!(
        container.create_body,
        json!({
            "HostConfig": {
                "CapDrop": ["ALL"],
                "CapAdd": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"],
                "SecurityOpt": ["no-new-privileges"],
                "Memory": 2_147_483_648u64,
                "PidsLimit": 2048
            },
            "ExposedPorts": { "80/tcp": {} }
        })
    );
}

const TUNED: &str = r#"
pdev: 1
app: tuned
services:
  s:
    image: example/s:1
    command: ./serve --fast
    user: x-ignored
    size: { cpu: 500m, memory: 256Mi }
    security: { capabilities: [IPC_LOCK], user: "1000", read_only: true }
    volumes: { code: { path: ./src, target: /app/src, read_only: true }, data: /data }
    raw: { docker: { HostConfig: { ShmSize: 1024, +CapAdd: [SYS_NICE] }, Hostname: box } }
patches:
  - { target: { runtime: docker, from: services.s }, json: [{ op: add, path: /HostConfig/DeviceRequests, value: [] }], why: test }
"#;

#[test]
fn manifest_settings_override_defaults() {
    let text = TUNED.replace("    user: x-ignored\n", "");
    let loaded = load_manifest(&text);
    let resolved = resolve(&loaded, &resolve_inputs(&loaded, DOCKER));
    assert!(
        resolved.is_usable(),
        "{:#?} {:#?}",
        format_diagnostics(&loaded.diagnostics),
        format_diagnostics(&resolved.diagnostics)
    );
    let Body::Container(container) = &resolved.application.units["s"].body else { panic!("a container") };
    let host = &container.create_body["HostConfig"];
    assert_eq!(host["Memory"], 268_435_456);
    assert_eq!(host["CpuShares"], 512);
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["Tmpfs"], json!({ "/tmp": "" }));
    assert_eq!(host["Binds"], json!(["./src:/app/src:ro"]));
    assert_eq!(host["ShmSize"], 1024);
    assert_eq!(host["DeviceRequests"], json!([]));
    let added: Vec<_> = host["CapAdd"].as_array().unwrap().iter().skip(7).collect();
    assert_eq!(added, [&json!("IPC_LOCK"), &json!("SYS_NICE")]);
    assert_eq!(container.create_body["Cmd"], json!(["/bin/sh", "-c", "./serve --fast"]));
    assert_eq!(container.create_body["Hostname"], "box");
    let volume = VolumeMount { volume: "data".to_owned(), target: "/data".to_owned(), read_only: false };
    assert_eq!(container.volumes, [volume]);
    assert!(resolved.application.volumes.contains_key("data"));
    assert_explanations(&loaded, &resolved);
}

fn assert_explanations(loaded: &LoadedManifest, resolved: &ResolvedApplication) {
    let cases = [
        ("services.s.docker.HostConfig.Memory", "pdev.yaml:8"),
        ("s.size.memory", "pdev.yaml:8"),
        ("services.s.docker.HostConfig.PidsLimit", "default: a fork bomb stops one unit, not the laptop"),
        ("services.s.docker.HostConfig.ShmSize", "pdev.yaml:11 (raw)"),
        ("services.s.docker.HostConfig.DeviceRequests", "pdev.yaml:13 (patch)"),
        ("services.s.stop.grace", "default: the same as Docker's default"),
    ];
    for (path, description) in cases {
        let ExplainResult::Field(explanation) = explain(resolved, path) else { panic!("{path} is one field") };
        assert_eq!(describe_origin(explanation.origins.last().unwrap(), &loaded.sources), description, "{path}");
    }
    assert!(matches!(explain(resolved, "services.s.size"), ExplainResult::Subtree(fields) if fields.len() == 3));
    let nearest = Some("services.s.size.memory".to_owned());
    assert_eq!(explain(resolved, "servces.s.size.memory"), ExplainResult::Unknown { nearest });
}

fn unit_hash(text: &str, unit: &str, modify: impl FnOnce(&mut plan::ResolveInputs)) -> String {
    let loaded = load_manifest(text);
    let mut inputs = resolve_inputs(&loaded, DOCKER);
    modify(&mut inputs);
    resolve(&loaded, &inputs).application.units[unit].hash.clone()
}

#[test]
fn hash_depends_only_on_user_intent() {
    let same = |modify: fn(&mut plan::ResolveInputs)| {
        for unit in ["api", "web", "worker"] {
            assert_eq!(unit_hash(MIXED, unit, modify), unit_hash(MIXED, unit, |_| ()), "{unit}");
        }
    };
    same(|inputs| inputs.ports.values_mut().for_each(|port| *port += 1000));
    same(|inputs| inputs.proxy_port = 9999);
    same(|inputs| inputs.secrets_folder = "/elsewhere".into());
    same(|inputs| inputs.password_seed = "other".into());
    same(|inputs| inputs.preview.id.0 = "ponmlkjihgfedcba".into());
    for (change, changed_text) in [
        ("a comment", MIXED.replace("pdev: 1", "# hello\npdev: 1")),
        ("another service", format!("{MIXED}  more: {{ image: \"e:1\", port: 81 }}\n")),
        ("a health check", MIXED.replace("port: 8080", "port: 8080\n    health: /ready")),
        ("needs", MIXED.replace("worker: {", "worker: { needs: { api: healthy },")),
    ] {
        for unit in ["api", "worker"] {
            assert_eq!(unit_hash(&changed_text, unit, |_| ()), unit_hash(MIXED, unit, |_| ()), "{change}: {unit}");
        }
    }
}

#[test]
fn changed_fields_name_each_difference() {
    let before = unit_hash(MIXED, "api", |_| ());
    let fields = |text: String| plan::hash::changed_fields(&before, &unit_hash(&text, "api", |_| ()));
    assert_eq!(fields(MIXED.replace("image: example/api:1", "image: example/api:2")), ["image"]);
    assert_eq!(fields(MIXED.replace("TOWN: \"${env.HOME_TOWN}\"", "TOWN: Basel")), ["env.TOWN"]);
    assert_eq!(fields(MIXED.replace("port: 8080", "port: 8081")), ["ports.main"]);
    assert_eq!(fields(MIXED.replace("port: 8080", "port: 8080\n    size: { memory: 1Gi }")), ["size.memory"]);
}

const JOBS: &str = r#"
pdev: 1
app: jobs
services:
  api: { image: "example/api:1", port: 80, env: { A: "1" }, size: { memory: 64Mi } }
  twin: { image: "example/api:1", command: [twin] }
  other: { image: "example/other:1" }
jobs:
  migrate: { service: api, command: [migrate], env: { B: "2" } }
  smoke: { service: api, command: [smoke], when: before, needs: { api: healthy } }
  report: { service: api, command: [report], when: after }
"#;

#[test]
fn jobs_inherit_from_service_and_run_first() {
    let resolved = resolve_usable(JOBS, DOCKER);
    let application = &resolved.application;
    assert!(env_value(&resolved, "migrate", "A") == "1" && env_value(&resolved, "migrate", "B") == "2");
    assert!(application.units["migrate"].ports.is_empty());
    let needs = |unit: &str| application.units[unit].needs.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(needs("api"), "migrate");
    assert_eq!(needs("twin"), "migrate smoke");
    assert_eq!(needs("other"), "");
    assert_eq!(needs("smoke"), "api");
}

#[test]
fn invalid_manifests_are_reported() {
    let cases: &[(&str, &str)] = &[
        (
            "services:\n  s: { image: \"e:1\", needs: { t: completed } }\n  t: { image: \"e:1\" }\n",
            "PD0256 error at services.s.needs.t: service `t` never completes: only a job does",
        ),
        (
            "services:\n  s: { image: \"e:1\", runtime: process }\n",
            "PD0253 error at services.s.runtime: cannot run on runtime `process`: it has no `command` that could run outside a container",
        ),
        (
            "services:\n  s: { image: \"e:1\", env: { A: \"${env.MISSING}\" } }\n",
            "PD0252 error at services.s.env.A: `MISSING` is not set in your environment",
        ),
        (
            "services:\n  s: { image: \"e:1\", raw: { docker: { HostConfig: { Memroy: 1 } } } }\n",
            "PD0257 error at services.s.raw.docker: the Docker engine knows no field `HostConfig.Memroy` (nearest: `HostConfig.Memory`)",
        ),
        (
            "services:\n  s: { image: \"e:1\", raw: { docker: { shm_size: 1 } } }\n",
            "PD0257 error at services.s.raw.docker: the Docker engine knows no field `shm_size` (nearest: `HostConfig.ShmSize`)",
        ),
        (
            "services:\n  s: { image: \"e:1\" }\npatches:\n  - { target: { runtime: docker, from: services.t }, merge: {} }\n",
            "PD0258 error at patches.0: this patch matches nothing: there is no `services.t` (nearest: `services.s`)",
        ),
        (
            "services:\n  s: { image: \"e:1\" }\npatches:\n  - { target: { runtime: docker, from: services.s }, json: [{ op: remove, path: /Nope }] }\n",
            "PD0259 error at patches.0: there is nothing at `/Nope`",
        ),
    ];
    for (text, expected) in cases {
        let resolved = resolve_text(&format!("pdev: 1\napp: a\n{text}"), DOCKER);
        let lines = format_diagnostics(&resolved.diagnostics);
        assert!(lines.iter().any(|line| line == expected), "{expected}\n{lines:#?}");
    }
}

#[test]
fn unit_with_one_supported_runtime_uses_it() {
    let text = "pdev: 1\napp: a\nservices:\n  i: { image: \"e:1\" }\n  p: { process: { command: [p] } }\nenvironments: { local: {}, bare: { runtime: process } }\n";
    let kinds = |environment, runtime| {
        let loaded = load_manifest_for(text, environment);
        let resolved = resolve(&loaded, &resolve_inputs(&loaded, runtime));
        let kind = |unit: &str| resolved.application.units[unit].runtime;
        (kind("i"), kind("p"), resolved.is_usable())
    };
    assert_eq!(kinds(None, DOCKER), (DOCKER, PROCESS, true));
    assert_eq!(kinds(Some("bare"), DOCKER), (DOCKER, PROCESS, true));
    assert_eq!(kinds(None, PROCESS), (DOCKER, PROCESS, false), "no engine answers");
}

#[test]
fn resolving_is_deterministic() {
    let first = format!("{:?}", resolve_text(MIXED, DOCKER));
    for _ in 0..100 {
        assert_eq!(format!("{:?}", resolve_text(MIXED, DOCKER)), first);
    }
}
