//! Tests that paths are relative to the file that contains them.

mod memory_files;

use manifest::model::VolumeSource;
use manifest::spec::{ROOT, Section, Shape};
use manifest::{Manifest, SetOverride, read};
use memory_files::{MemoryFiles, read_and_select};

const INCLUDED: &str = r#"
app: { name: x, docs: ./docs }
services:
  short: { build: ./web }
  long: { build: { context: ., dockerfile: ops/Dockerfile }, process: { command: [x], dir: sub, inputs: [src, "../*.lock"] } }
  default: { build: { target: t }, dir: work }
  upper: { build: .. }
  absolute: { image: a, dir: /app, volumes: { data: /data, src: { path: src/, target: /src }, out: { path: ../out, target: /out } } }
  watched: { image: a, watch: [{ path: ./src, action: rebuild, ignore: [tmp] }] }
jobs:
  seed: { service: short, command: [./seed], inputs: ["./seeds/**/*.sql"], build: ./jobs, +watch: [{ path: a, action: restart }] }
resources:
  own: ./modules/nats
  parent: { uses: ../modules/nats@1 }
  built-in: { uses: postgres@16 }
environments:
  local: { services: { short: { process: { command: [x], dir: overlay } }, absolute: { volumes: { src: { read_only: true } } } } }
"#;

fn read_with(include: &str, root: &str, sets: &[&str]) -> Manifest {
    let root = format!("pdev: 1\napp: x\ninclude: [{include}]\n{root}");
    let sets: Vec<SetOverride> = sets.iter().filter_map(|set| SetOverride::parse(set).ok()).collect();
    let files = MemoryFiles::new(&[("pdev.yaml", &root), (include, INCLUDED)]);
    let selected = read("pdev.yaml", &files).select(None, &sets);
    let messages: Vec<&str> = selected.diagnostics.iter().map(|found| found.message.as_str()).collect();
    assert!(messages.iter().all(|message| message.contains("answer") || message.contains("runs")), "{messages:?}");
    selected.manifest
}

/// Every path of `INCLUDED`, in the order of the file.
fn paths(manifest: &Manifest) -> Vec<String> {
    let mut found = vec![manifest.app.docs.as_ref().map(|docs| docs.value.clone()).unwrap_or_default()];
    let services = manifest.services.values().map(|entry| &entry.value);
    for service in services.chain(manifest.jobs.values().map(|entry| &entry.value.body)) {
        found.extend(service.build.iter().map(|build| build.context.value.clone()));
        found.extend(service.build.iter().filter_map(|build| Some(build.dockerfile.as_ref()?.value.clone())));
        found.extend(service.dir.iter().map(|dir| dir.value.clone()));
        if let Some(process) = &service.process {
            found.extend(process.dir.iter().chain(&process.inputs).map(|path| path.value.clone()));
        }
        for volume in service.volumes.values() {
            if let VolumeSource::Path(path) = &volume.value.source {
                found.push(path.value.clone());
            }
        }
        found.extend(service.watch.iter().map(|watch| watch.path.value.clone()));
        found.extend(service.watch.iter().flat_map(|watch| watch.ignore.iter().map(|path| path.value.clone())));
    }
    found.extend(manifest.jobs.values().flat_map(|job| job.value.inputs.iter().map(|path| path.value.clone())));
    found.extend(manifest.resources.values().map(|resource| resource.value.uses.value.clone()));
    found
}

#[test]
fn paths_of_an_included_file_are_relative_to_it() {
    #[rustfmt::skip]
    let cases = [
        ("beside.yaml", [
            "./docs", "./web", "overlay", ".", "ops/Dockerfile", "sub", "src", "../*.lock", ".", "work", "..", "/app",
            "src/", "../out", "./src", "tmp", "./jobs", "a", "./seeds/**/*.sql", "./modules/nats", "../modules/nats@1",
            "postgres@16",
        ]),
        ("a/b/base.yaml", [
            "a/b/docs", "a/b/web", "a/b/overlay", "a/b", "ops/Dockerfile", "a/b/sub", "a/b/src", "a/*.lock", "a/b",
            "a/b/work", "a", "/app", "a/b/src", "a/out", "a/b/src", "tmp", "a/b/jobs", "a/b/a", "a/b/seeds/**/*.sql",
            "./a/b/modules/nats", "./a/modules/nats@1", "postgres@16",
        ]),
        ("../shared/base.yaml", [
            "../shared/docs", "../shared/web", "../shared/overlay", "../shared", "ops/Dockerfile", "../shared/sub",
            "../shared/src", "../*.lock", "../shared", "../shared/work", "..", "/app", "../shared/src", "../out",
            "../shared/src", "tmp", "../shared/jobs", "../shared/a", "../shared/seeds/**/*.sql",
            "../shared/modules/nats", "../modules/nats@1", "postgres@16",
        ]),
    ];
    for (include, expected) in cases {
        assert_eq!(paths(&read_with(include, "", &[])), expected, "{include}");
    }
}

#[test]
fn paths_of_higher_layers_are_relative_to_the_root() {
    let root = "services: { short: { build: ./here } }\nenvironments: { local: { services: { long: { process: { dir: there } } } } }\n";
    assert!(read_and_select("pdev: 1\napp: x\nservices: { web: { build: ./web } }\n").diagnostics.is_empty());
    let manifest = read_with("a/base.yaml", root, &["services.default.dir=set"]);
    let build = |name: &str| manifest.services[name].value.build.as_ref().map(|build| build.context.value.clone());
    assert_eq!(build("short").as_deref(), Some("./here"));
    assert_eq!(build("long").as_deref(), Some("a"));
    let process = manifest.services["long"].value.process.as_ref();
    assert_eq!(process.and_then(|process| process.dir.clone()).map(|dir| dir.value).as_deref(), Some("there"));
    assert_eq!(manifest.services["default"].value.dir.as_ref().map(|dir| dir.value.as_str()), Some("set"));
}

#[test]
fn include_in_an_included_file_is_relative_to_that_file() {
    let files = MemoryFiles::new(&[
        ("pdev.yaml", "pdev: 1\napp: x\ninclude: [a/one.yaml]\n"),
        ("a/one.yaml", "include: [b/two.yaml]\nservices: { one: { build: . } }\n"),
        ("a/b/two.yaml", "services: { two: { build: ./c }, one: { process: { command: [x], dir: d } } }\n"),
    ]);
    let manifest = read("pdev.yaml", &files).select(None, &[]).manifest;
    let context = |name: &str| manifest.services[name].value.build.as_ref().map(|build| build.context.value.clone());
    assert_eq!((context("one").as_deref(), context("two").as_deref()), (Some("a"), Some("a/b/c")));
    let process = manifest.services["one"].value.process.as_ref();
    assert_eq!(process.and_then(|process| process.dir.as_ref()).map(|dir| dir.value.as_str()), Some("a/b/d"));
}

/// A key that is documented as relative to a file has the shape that relocates it, so a new key cannot be forgotten.
#[test]
fn keys_documented_as_relative_have_the_shape_of_a_path() {
    fn has_path(shape: &Shape) -> bool {
        match shape {
            Shape::Path => true,
            Shape::List(inner) | Shape::Map(inner) => has_path(inner),
            Shape::Any(shapes) => shapes.iter().any(has_path),
            _ => false,
        }
    }
    fn visit(section: &'static Section, visited: &mut Vec<&'static str>, checked: &mut usize) {
        if visited.contains(&section.name) {
            return;
        }
        visited.push(section.name);
        for key in section.keys {
            if key.doc.contains("relative to this file") && key.name != "include" {
                assert!(has_path(&key.shape), "{}.{}", section.name, key.name);
                *checked += 1;
            }
            visit_shape(&key.shape, visited, checked);
        }
    }
    fn visit_shape(shape: &'static Shape, visited: &mut Vec<&'static str>, checked: &mut usize) {
        match shape {
            Shape::Section(section) => visit(section, visited, checked),
            Shape::List(inner) | Shape::Map(inner) => visit_shape(inner, visited, checked),
            Shape::Any(shapes) => shapes.iter().for_each(|shape| visit_shape(shape, visited, checked)),
            _ => {}
        }
    }
    let mut checked = 0;
    visit(&ROOT, &mut Vec::new(), &mut checked);
    assert!(checked >= 5, "only {checked} keys were checked");
}
