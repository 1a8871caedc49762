//! Tests of defaults in placeholders: they nest, and mistakes in them are reported even if they are not used.

mod files;

use files::{format_diagnostics, load_manifest, resolve_inputs};
use manifest::Diagnostic;
use plan::application::RuntimeKind;
use plan::{ResolvedApplication, resolve};

/// A manifest with one variable `A` of a container, a process and a job with another image.
fn manifest_with(value: &str) -> String {
    format!(
        "pdev: 1\napp: shop\nvars: {{ set: \"${{git.branch}}\" }}\nresources: {{ db: {{ uses: redis, runtime: docker }} }}\n\
         services:\n  api: {{ image: \"example/api:1\", port: 80, runtime: docker, env: {{ A: \"{value}\" }} }}\n  \
         web: {{ process: {{ command: [x], env: {{ A: \"{value}\" }} }} }}\n\
         jobs: {{ seed: {{ image: \"example/seed:1\", runtime: docker, env: {{ A: \"{value}\" }} }} }}\n"
    )
}

fn resolve_value(value: &str) -> (ResolvedApplication, Vec<Diagnostic>, String) {
    let text = manifest_with(value);
    let loaded = load_manifest(&text);
    let mut resolved = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::DOCKER));
    let mut diagnostics = std::mem::take(&mut resolved.diagnostics);
    diagnostics.extend(loaded.diagnostics);
    diagnostics.retain(|diagnostic| diagnostic.code.0.len() > "PD001".len());
    (resolved, diagnostics, text)
}

#[test]
fn nested_defaults_are_resolved() {
    let cases = [
        ("${A:-${B:-localhost}}", "localhost"),
        ("${A:-${HOME_TOWN:-Rome}}", "Bern"),
        ("${HOME_TOWN:-${B:-Rome}}", "Bern"),
        ("${HOME_TOWN:-${B}}", "Bern"),
        ("${A:-$$5}", "$5"),
        ("${A:-$$$5}x", "$$5x"),
        ("${A:-5$}", "5$"),
        ("${A:-}", ""),
        ("${A:-x:-y}", "x:-y"),
        ("${A:-a${vars.set}b${git.branch}c}d", "amainbmaincd"),
        ("${vars.none:-${vars.set}}", "main"),
        ("${A:-{x}}", "{x}"),
        ("${HOME_TOWN:-${services.api.port}}", "Bern"),
        ("http://${A:-${B:-${C:-host}:${D:-80}}}/x", "http://host:80/x"),
    ];
    for (value, expected) in cases {
        let (resolved, diagnostics, _) = resolve_value(value);
        assert!(diagnostics.is_empty(), "{value}: {:#?}", format_diagnostics(&diagnostics));
        for unit in ["api", "web", "seed"] {
            assert_eq!(resolved.application.units[unit].env["A"].value, expected, "{value} in {unit}");
        }
    }
}

#[test]
fn mistakes_in_defaults_are_reported_at_their_position() {
    let cases = [
        ("${A:-${resources.nothing.url}}", "${resources.nothing.url}", "PD0250"),
        ("${HOME_TOWN:-${resources.nothing.url}}", "${resources.nothing.url}", "PD0250"),
        ("${HOME_TOWN:-x${B:-${services.nope.url}}}", "${services.nope.url}", "PD0250"),
        ("${HOME_TOWN:-${resources.db.uri}}", "${resources.db.uri}", "PD0251"),
        ("${HOME_TOWN:-${secrets.none.path}}", "${secrets.none.path}", "PD0130"),
        ("${HOME_TOWN:-${vars.nothing}}", "${vars.nothing}", "PD0250"),
        ("${HOME_TOWN:-${resorces.db.url}}", "${resorces.db.url}", "PD0116"),
        ("${HOME_TOWN:-${B", "${HOME_TOWN:-${B", "PD0116"),
        ("${A:-${B}}", "${B}", "PD0252"),
    ];
    for (value, at, code) in cases {
        let (_, diagnostics, text) = resolve_value(value);
        let found = diagnostics.iter().filter(|diagnostic| diagnostic.code.0 == code);
        let positions: Vec<&str> = found.map(|diagnostic| &text[diagnostic.span.range()]).collect();
        assert!(
            positions.len() >= 3 && positions.iter().all(|text| *text == at),
            "{value}: {positions:?} {:#?}",
            format_diagnostics(&diagnostics)
        );
    }
}

#[test]
fn unused_default_creates_no_need() {
    let needs = |value: &str| {
        let (resolved, diagnostics, _) = resolve_value(value);
        assert!(diagnostics.is_empty(), "{value}: {:#?}", format_diagnostics(&diagnostics));
        resolved.application.units["api"].needs.keys().cloned().collect::<Vec<_>>()
    };
    assert!(needs("${HOME_TOWN:-${resources.db.url}}").is_empty());
    assert_eq!(needs("${A:-${resources.db.url}}"), ["db"]);
    assert_eq!(needs("${resources.db.url:-${HOME_TOWN}}"), ["db"]);
}

#[test]
fn sensitive_default_stays_sensitive() {
    let text = manifest_with("${A:-${resources.db.password}}").replace("uses: redis", "uses: postgres");
    let loaded = load_manifest(&text);
    let resolved = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::DOCKER));
    assert!(resolved.application.units["api"].env["A"].sensitive, "{:#?}", resolved.diagnostics);
}

#[test]
fn module_input_uses_the_default_of_a_variable() {
    let load = |value: &str| {
        load_manifest(&format!(
            "pdev: 1\napp: shop\nvars: {{ one: pgcrypto }}\nresources: {{ db: {{ uses: postgres, with: {{ extensions: [\"{value}\"] }} }} }}\n"
        ))
    };
    for value in ["${vars.none:-pgcrypto}", "${vars.none:-${vars.one}}", "${vars.one:-${vars.none:-x}}"] {
        assert!(load(value).is_usable(), "{value}: {:#?}", load(value).diagnostics);
    }
    for value in ["${vars.one:-${vars.none}}", "${vars.none:-${resources.x.y}}"] {
        assert!(!load(value).is_usable(), "{value}");
    }
}
