//! Tests of the working directory of local processes.

mod files;

use files::{format_diagnostics, load_manifest, resolve_inputs};
use manifest::{FileProblem, Files};
use plan::application::{Body, ProcessDir, RuntimeKind, Unit};
use plan::load::{LoadOptions, load};
use plan::resolve;

fn resolve_unit(name: &str, text: &str) -> Unit {
    let loaded = load_manifest(&format!("pdev: 1\napp: shop\n{text}\n"));
    let resolved = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::PROCESS));
    assert!(loaded.is_usable(), "{:?}", format_diagnostics(&loaded.diagnostics));
    resolved.application.units[name].clone()
}

fn folder_of(unit: &Unit) -> &str {
    match &unit.body {
        Body::Process(process) => match &process.dir {
            ProcessDir::Project(folder) => folder,
            other => panic!("{other:?}"),
        },
        Body::Container(_) => panic!("a container"),
    }
}

#[test]
fn process_runs_in_the_folder_of_its_build() {
    let cases = [
        ("build: ./api, process: [x]", "./api"),
        ("build: { context: api, target: t }, process: { command: [x] }", "api"),
        ("build: { target: t }, process: { command: [x] }", "."),
        ("build: ., process: { command: [x] }", "."),
        ("build: ./api, process: { command: [x], dir: web }", "web"),
        ("build: ./api, dir: web, process: { command: [x] }", "web"),
        ("build: ./api, process: { command: [x], dir: . }", "."),
        ("process: { command: [x] }", "."),
        ("command: [x]", "."),
    ];
    for (service, expected) in cases {
        let unit = resolve_unit("web", &format!("services: {{ web: {{ runtime: process, {service} }} }}"));
        assert_eq!(folder_of(&unit), expected, "{service}");
    }
}

#[test]
fn job_runs_in_the_folder_of_its_service() {
    let jobs = "jobs: { seed: { service: web, command: [y] }, own: { service: web, command: [y], build: ./own } }";
    let text = format!("services: {{ web: {{ build: ./api, process: [x] }} }}\n{jobs}");
    for (job, expected) in [("seed", "./api"), ("own", "./own")] {
        let unit = resolve_unit(job, &text);
        let body = format!("{:?}", unit.body);
        assert!(matches!(unit.body, Body::Process(_)), "{body}");
        assert_eq!(folder_of(&unit), expected, "{job}");
    }
}

#[test]
fn default_folder_is_in_the_hash_only_if_it_is_not_the_manifest_folder() {
    let hash = |service: &str| resolve_unit("web", &format!("services: {{ web: {{ {service} }} }}")).hash;
    assert_ne!(hash("build: ./api, process: [x]"), hash("build: ./web, process: [x]"));
    assert_eq!(hash("build: ./api, process: [x]"), hash("process: { command: [x], dir: ./api }"));
    assert_eq!(hash("build: ., process: [x]"), hash("process: [x]"), "units of `build: .` keep their hash");
}

/// A root that includes `ops/base.yaml`.
struct WithInclude;

impl Files for WithInclude {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        let text = match path {
            "pdev.yaml" => "pdev: 1\napp: shop\ninclude: [ops/base.yaml]\nservices: { root: { command: [./run] } }\n",
            "ops/base.yaml" => {
                "services: { own: { command: [./run] }, short: { process: ./run }, root: { port: 80 } }\n"
            }
            _ => return Err(FileProblem::Missing),
        };
        Ok(text.as_bytes().to_vec())
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

#[test]
fn process_without_build_runs_in_the_folder_of_the_file_with_its_command() {
    let loaded = load("pdev.yaml", &WithInclude, &LoadOptions::default());
    let resolved = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::PROCESS));
    for (unit, expected) in [("own", "ops"), ("short", "ops"), ("root", ".")] {
        assert_eq!(folder_of(&resolved.application.units[unit]), expected, "{unit}");
    }
}
