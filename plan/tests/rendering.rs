//! Pins the rendering of many manifests: the hash, body and origins of each unit, and the diagnostics of each manifest.
//!
//! A changed hash replaces running units of users, so no refactoring may change one. The golden file has digests instead
//! of texts, because the texts have more than ten thousand lines; a failure prints the texts that changed.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod files;
mod pages;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use files::{MemoryFiles, TODAY, format_diagnostics, load_manifest, load_manifest_for, resolve_inputs};
use pages::{code_pages, find_code_block};
use plan::application::{Body, RuntimeKind, Unit};
use plan::check::{CheckOptions, check};
use plan::hash::base32_digest;
use plan::load::{LoadOptions, load};
use plan::{LoadedManifest, ResolvedApplication, guardrails, resolve};
use serde_json::Value as Json;

/// Set this variable to write the golden file again.
const UPDATE_VARIABLE: &str = "UPDATE_GOLDEN";

#[test]
fn rendering_matches_golden_digests() {
    let texts = render_corpus();
    let golden_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rendering/golden.txt");
    let current: BTreeMap<&str, String> =
        texts.iter().map(|(name, text)| (name.as_str(), base32_digest(text.as_bytes(), 20))).collect();
    if let Some(dump) = std::env::var_os(UPDATE_VARIABLE) {
        let lines: String = current.iter().map(|(name, digest)| format!("{digest} {name}\n")).collect();
        std::fs::write(&golden_path, lines).unwrap();
        // A folder instead of `1` also receives the texts, to compare two versions.
        let dump = PathBuf::from(dump);
        if dump.is_dir() {
            let all: String = texts.iter().map(|(name, text)| format!("=== {name}\n{text}\n")).collect();
            std::fs::write(dump.join("rendering.txt"), all).unwrap();
        }
    }
    let golden = std::fs::read_to_string(&golden_path).unwrap_or_default();
    let golden: BTreeMap<&str, &str> =
        golden.lines().filter_map(|line| line.split_once(' ')).map(|(digest, name)| (name, digest)).collect();
    let changed: Vec<&str> =
        current.iter().filter(|(name, digest)| golden.get(*name) != Some(&digest.as_str())).map(|(n, _)| *n).collect();
    let removed: Vec<&str> = golden.keys().filter(|name| !current.contains_key(*name)).copied().collect();
    assert!(
        changed.is_empty() && removed.is_empty(),
        "the rendering changed. If that is intended, or if only the manifest changed, run with {UPDATE_VARIABLE}=1.\n\
         removed: {removed:#?}\nchanged: {changed:#?}\nthe first one is now:\n{}",
        changed.first().and_then(|name| texts.get(*name)).map_or("", String::as_str)
    );
}

#[test]
fn only_renderers_know_engine_fields() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folders = [source.join("resolve"), source.join("guardrails")];
    let nested =
        folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let single =
        ["resolve.rs", "guardrails.rs", "container_spec.rs", "container_facts.rs"].map(|name| source.join(name));
    let mut uses = Vec::new();
    for path in nested.chain(single) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let is_engine_field = |line: &&str| {
            ["HostConfig", "\"Cap", "\"Cmd", "\"SecurityOpt", "\"docker.", "create_body["]
                .iter()
                .any(|word| line.contains(word))
        };
        uses.extend(code.filter(is_engine_field).map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    assert!(uses.is_empty(), "{uses:#?}");
}

/// One text for each manifest, environment and default runtime, and one for the check of each manifest.
fn render_corpus() -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (code, page) in &code_pages() {
        for heading in ["Bad", "Good"] {
            if let Some(text) = find_code_block(page, heading, "yaml") {
                render_manifest(&format!("codes/{code}/{heading}"), text, &mut texts);
            }
        }
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in ["examples", "manifest/corpus"] {
        for path in yaml_files(&workspace.join(folder)) {
            let name = path.strip_prefix(&workspace).unwrap().display().to_string();
            render_manifest(&name, &std::fs::read_to_string(&path).unwrap(), &mut texts);
        }
    }
    render_manifest("containers", include_str!("rendering/containers.yaml"), &mut texts);
    render_manifest("security", &security_combinations(), &mut texts);
    render_resources(&mut texts);
    texts
}

/// The YAML files in a folder and in its direct subfolders.
fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let nested = |path: PathBuf| if path.is_dir() { entries(&path) } else { vec![path] };
    let files = entries(folder).into_iter().flat_map(nested);
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

/// Services with every combination of the security settings.
fn security_combinations() -> String {
    let mut text = "pdev: 1\napp: security\nservices:\n".to_owned();
    let mut number = 0;
    for privileged in ["", "privileged: true, ", "privileged: false, "] {
        for capabilities in ["", "capabilities: [ipc_lock, CAP_CHOWN], ", "capabilities: [ALL], "] {
            for drop in ["", "drop: [KILL, cap_setuid], ", "drop: [ALL], "] {
                for escalation in ["", "no_new_privileges: false, ", "no_new_privileges: true, "] {
                    for root in ["", "read_only: true, ", "read_only: false, user: \"0:0\", ", "user: \"1000\", "] {
                        let security = format!("{privileged}{capabilities}{drop}{escalation}{root}");
                        writeln!(text, "  s{number}: {{ image: \"e:1\", security: {{ {security} }} }}").unwrap();
                        number += 1;
                    }
                }
            }
        }
    }
    text
}

/// Resources of the built-in modules, and of a module in the project that uses every field of a rendering.
fn render_resources(texts: &mut BTreeMap<String, String>) {
    let files = MemoryFiles(BTreeMap::from([
        ("pdev.yaml".to_owned(), include_str!("rendering/resources.yaml").to_owned()),
        ("modules/full/module.yaml".to_owned(), include_str!("rendering/module.yaml").to_owned()),
        ("modules/full/docs.md".to_owned(), "# Full\n".to_owned()),
    ]));
    let loaded = load("pdev.yaml", &files, &LoadOptions::default());
    assert!(loaded.is_usable(), "{:#?}", format_diagnostics(&loaded.diagnostics));
    render_loaded("resources", &loaded, texts);
}

fn render_manifest(name: &str, text: &str, texts: &mut BTreeMap<String, String>) {
    let base = load_manifest(text);
    let environments: Vec<String> = base.manifest.environments.keys().cloned().collect();
    render_loaded(name, &base, texts);
    for environment in environments {
        render_loaded(&format!("{name}@{environment}"), &load_manifest_for(text, Some(&environment)), texts);
    }
    let files = MemoryFiles(BTreeMap::from([("pdev.yaml".to_owned(), text.to_owned())]));
    let checked = check("pdev.yaml", &files, &CheckOptions { today: TODAY, ..CheckOptions::default() });
    texts.insert(format!("{name} check"), format!("{:#?}", checked.diagnostics));
}

fn render_loaded(name: &str, loaded: &LoadedManifest, texts: &mut BTreeMap<String, String>) {
    for runtime in [RuntimeKind::DOCKER, RuntimeKind::PROCESS] {
        let name = format!("{name} {runtime:?}");
        let resolved = resolve(loaded, &resolve_inputs(loaded, runtime));
        let findings = guardrails::check(loaded, &resolved.application, &resolved.origins, TODAY);
        let mut text = format!("{:#?}\n{findings:#?}\n", resolved.diagnostics);
        for unit in resolved.application.units.values() {
            writeln!(text, "{}\n{}", unit.name, format_unit(&resolved, unit)).unwrap();
        }
        texts.insert(name, text);
    }
}

fn format_unit(resolved: &ResolvedApplication, unit: &Unit) -> String {
    let mut text = format!("hash {}\nsupport {:?}\nenv {:?}\n", unit.hash, unit.support, unit.env);
    match &unit.body {
        Body::Container(container) => {
            let body = sort_keys(container.create_body.clone());
            writeln!(text, "image {:?}\nvolumes {:?}\nbody {body}", container.image, container.volumes).unwrap();
        }
        Body::Process(process) => writeln!(text, "{process:#?}").unwrap(),
    }
    writeln!(text, "stop {:?} health {:?}", unit.stop, unit.health).unwrap();
    for (path, field) in resolved.origins.iter() {
        if path.split('.').nth(1) == Some(unit.name.as_str()) {
            writeln!(text, "{path} = {} <- {:?}", field.value, field.origins).unwrap();
        }
    }
    text
}

/// The order of a body's keys has no meaning to the engine.
fn sort_keys(value: Json) -> Json {
    match value {
        Json::Object(object) => {
            let sorted: BTreeMap<String, Json> =
                object.into_iter().map(|(key, value)| (key, sort_keys(value))).collect();
            Json::Object(sorted.into_iter().collect())
        }
        Json::Array(items) => items.into_iter().map(sort_keys).collect(),
        other => other,
    }
}
