//! Tests of `null`: without effect where nothing is below, a removal in a higher layer, an error in a list.

mod memory_files;

use std::collections::BTreeSet;

use manifest::spec::{ROOT, Section, Shape};
use manifest::{EffectiveManifest, SetOverride, read};
use memory_files::{MemoryFiles, read_and_select};

/// Maps whose names are declared by an empty value.
const DECLARING_KEYS: [&str; 7] = ["services", "jobs", "resources", "secrets", "identities", "environments", "needs"];

/// A place in a manifest: the text before and after a flow map, and the shape of its keys.
struct Place {
    before: String,
    after: String,
    keys: Keys,
}

enum Keys {
    OfSection(&'static Section),
    /// A map whose names the user chooses.
    Chosen,
}

/// Every map of the language, each with a way to write it. The overlay of `local` counts as a place of its own.
fn all_places() -> Vec<Place> {
    let mut places = Vec::new();
    let mut visited = BTreeSet::new();
    collect_section("{ pdev: 1, app: x, ", "}", &ROOT, &mut visited, &mut places);
    places
}

fn collect_section(
    before: &str,
    after: &str,
    section: &'static Section,
    visited: &mut BTreeSet<(bool, &'static str)>,
    places: &mut Vec<Place>,
) {
    if !visited.insert((before.contains("environments"), section.name)) {
        return;
    }
    places.push(Place { before: before.to_owned(), after: after.to_owned(), keys: Keys::OfSection(section) });
    for key in section.keys {
        let opened = format!("{before}{}: ", key.name);
        collect_shape(&opened, after, &key.shape, DECLARING_KEYS.contains(&key.name), visited, places);
    }
}

fn collect_shape(
    before: &str,
    after: &str,
    shape: &'static Shape,
    declares: bool,
    visited: &mut BTreeSet<(bool, &'static str)>,
    places: &mut Vec<Place>,
) {
    match shape {
        Shape::Section(section) => {
            collect_section(&format!("{before}{{ "), &format!("}}{after}"), section, visited, places);
        }
        Shape::List(inner) => {
            collect_shape(&format!("{before}[ "), &format!("]{after}"), inner, false, visited, places);
        }
        Shape::Any(shapes) => {
            shapes.iter().for_each(|shape| collect_shape(before, after, shape, declares, visited, places));
        }
        Shape::Map(inner) => {
            if !declares || before.contains("environments: {") {
                places.push(Place { before: format!("{before}{{ "), after: format!("}}{after}"), keys: Keys::Chosen });
            }
            collect_shape(&format!("{before}{{ local: "), &format!("}}{after}"), inner, false, visited, places);
        }
        _ => {}
    }
}

fn messages(selected: &EffectiveManifest) -> Vec<String> {
    selected.diagnostics.iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

#[test]
fn empty_value_of_any_key_acts_as_if_unwritten() {
    let mut compared = 0;
    for place in all_places() {
        let names: Vec<&str> = match place.keys {
            Keys::OfSection(section) => section.keys.iter().map(|key| key.name).collect(),
            Keys::Chosen => vec!["chosen"],
        };
        // The root has values for these, which an overlay would remove.
        let is_set = |name: &&str| ["pdev", "app"].contains(name) || place.before.ends_with("app: { ");
        for name in names.into_iter().filter(|name| !is_set(name)) {
            for null in ["", "~", "null"] {
                let pair = format!("{name}: {null}");
                // Spaces instead of the pair, so that all other positions are equal.
                let without = format!("{}{}{}", place.before, " ".repeat(pair.len()), place.after);
                let with = format!("{}{pair}{}", place.before, place.after);
                let (with, without) = (read_and_select(&with), read_and_select(&without));
                let context = format!("{}{pair}{}", place.before, place.after);
                assert_eq!(with.manifest, without.manifest, "{context}");
                assert_eq!(messages(&with), messages(&without), "{context}");
                compared += 1;
            }
        }
    }
    assert!(compared > 600, "only {compared} cases were compared");
}

#[test]
fn null_in_a_higher_layer_removes_the_key() {
    let base = "services: { web: { image: a, dir: /x, env: { A: 1 }, build: { context: c, args: { B: 2 } }, \
                process: { command: [p], env: { C: 3 } }, needs: [db, cache], ports: { m: 80 }, routes: [/] } }\n\
                resources: { db: postgres@16, cache: redis }\nvars: { V: 4 }\nsecrets: { s: token }\n";
    let removals = "services: { web: { image: ~, dir: , env: { A: null }, build: { args: { B: } }, \
                    process: { env: { C: ~ } }, needs: { db: null }, ports: { m: ~ }, routes: ~ } }, vars: { V: }, \
                    secrets: { s: ~ }";
    let head = "pdev: 1\napp: x\n";
    let overlay = format!("{head}{base}environments: {{ local: {{ {removals} }} }}\n");
    let including = format!(
        "{head}include: [base.yaml]\n{}\n",
        removals.replace("}, vars", "}\nvars").replace(", secrets", "\nsecrets")
    );
    let files = [("pdev.yaml", including.as_str()), ("base.yaml", base)];
    let sets = [
        "services.web.image=null",
        "services.web.dir=~",
        "services.web.env.A=~",
        "services.web.build.args.B=~",
        "services.web.process.env.C=~",
        "services.web.needs.db=~",
        "services.web.ports.m=~",
        "services.web.routes=~",
        "vars.V=~",
        "secrets.s=~",
    ]
    .map(|set| SetOverride::parse(set).unwrap());
    let layered = [
        ("overlay", read_and_select(&overlay)),
        ("include", read("pdev.yaml", &MemoryFiles::new(&files)).select(None, &[])),
        ("--set", read("pdev.yaml", &MemoryFiles::new(&[("pdev.yaml", &format!("{head}{base}"))])).select(None, &sets)),
    ];
    for (layer, selected) in layered {
        let web = &selected.manifest.services["web"].value;
        assert!(web.image.is_none() && web.dir.is_none() && web.env.is_empty(), "{layer}");
        let build = web.build.as_ref().unwrap();
        assert!(build.args.is_empty() && build.context.value == "c", "{layer}");
        let process = web.process.as_ref().unwrap();
        assert!(process.env.is_empty() && process.command.is_some(), "{layer}");
        assert_eq!(web.needs.keys().collect::<Vec<_>>(), ["cache"], "{layer}");
        assert!(web.ports.is_empty() && web.routes.is_empty(), "{layer}");
        assert!(selected.manifest.vars.is_empty() && selected.manifest.secrets.is_empty(), "{layer}");
    }
}

#[test]
fn null_that_removes_nothing_adds_nothing() {
    let selected = read_and_select(
        "pdev: 1\napp: x\nservices: { web: { image: a } }\nenvironments:\n  local:\n    secrets: { s: }\n    \
         services: { gone: ~, web: { needs: { db: ~ }, +routes: ~, raw: { docker: { Env: ~ } } } }\n",
    );
    assert_eq!(messages(&selected), Vec::<String>::new());
    let web = &selected.manifest.services["web"].value;
    assert!(selected.manifest.secrets.is_empty() && web.needs.is_empty() && web.routes.is_empty());
    let raw = format!("{:?}", web.raw.docker.as_ref().unwrap().node);
    assert!(raw.contains("\"Env\"") && raw.contains("Null"), "a null below `raw` removes a rendered field: {raw}");
}

#[test]
fn empty_file_changes_nothing() {
    for empty in ["~\n", "null", "", "# nothing\n", "---\n"] {
        let root = "pdev: 1\napp: x\ninclude: [a.yaml, empty.yaml]\n";
        let files = [("pdev.yaml", root), ("a.yaml", "services: { web: { image: a } }\n"), ("empty.yaml", empty)];
        let selected = read("pdev.yaml", &MemoryFiles::new(&files)).select(None, &[]);
        assert!(selected.manifest.services.contains_key("web"), "{empty:?}");
    }
}

#[test]
fn empty_name_in_a_declaring_map_declares() {
    let selected = read_and_select(
        "pdev: 1\napp: x\nservices: { web: { image: a, secrets: [s], needs: { db: } } }\nresources: { db: redis }\n\
         secrets: { s: }\nidentities: { i: ~ }\nenvironments: { local: }\n",
    );
    assert_eq!(messages(&selected), Vec::<String>::new());
    let found = selected.manifest;
    assert!(found.secrets.contains_key("s") && found.identities.contains_key("i"));
    assert!(found.services["web"].value.needs.contains_key("db") && found.environments.contains_key("local"));
}

#[test]
fn empty_list_item_is_an_error() {
    let service = |pair: &str| format!("pdev: 1\napp: x\nservices: {{ web: {{ image: a, port: 80, {pair} }} }}\n");
    let cases = [
        ("command: [a, ~]", "`command[1]` must be text"),
        ("entrypoint: [null]", "`entrypoint[0]` must be text"),
        ("process: { command: [a, ] , inputs: [~] }", "`inputs[0]` must be text"),
        ("process: { build: [~] }", "`build[0]` must be text"),
        ("process: [a, ~]", "`process[1]` must be text"),
        ("routes: [~]", "`routes[0]` must be text"),
        ("+routes: [~]", "`+routes[0]` must be text"),
        ("needs: [~]", "`needs[0]` must be text"),
        ("secrets: [~]", "`secrets[0]` must be text"),
        ("watch: [~]", "`watch[0]` must be a map"),
        ("security: { capabilities: [~], drop: [CHOWN] }", "`capabilities[0]` must be text"),
        ("health: { ready: { exec: [a, ~] } }", "`exec[1]` must be text"),
        ("health: { ready: { http: { status: [~] } } }", "`status[0]` must be a whole number"),
    ];
    for (pair, expected) in cases {
        let selected = read_and_select(&service(pair));
        assert!(
            messages(&selected).iter().any(|message| message.starts_with(expected)),
            "{pair}: {:?}",
            messages(&selected)
        );
        let overlay = format!("pdev: 1\napp: x\nenvironments: {{ local: {{ services: {{ web: {{ {pair} }} }} }} }}\n");
        let found = messages(&read_and_select(&overlay));
        assert!(found.iter().any(|message| message.starts_with(expected)), "{pair} in an overlay: {found:?}");
    }
    for (text, expected) in [
        ("include: [~]", "`include[0]` must be text"),
        ("patches: [~]", "`patches[0]` must be a map"),
        ("names: { strip: [~] }", "`strip[0]` must be text"),
        ("guardrails: { waivers: [~] }", "`waivers[0]` must be a map"),
    ] {
        let found = messages(&read_and_select(&format!("pdev: 1\napp: x\n{text}\n")));
        assert!(found.iter().any(|message| message.starts_with(expected)), "{text}: {found:?}");
    }
}
