//! Tests of mounts whose paths contain colons, which separate the parts of the engine's short form.

mod files;

use files::{format_diagnostics, load_manifest, resolve_inputs};
use plan::application::{RuntimeKind, Unit, VolumeMount};
use plan::resolve;
use serde_json::{Value, json};

fn resolve_unit(volumes: &str) -> (Unit, Vec<String>) {
    let text = format!("pdev: 1\napp: shop\nservices: {{ web: {{ image: \"a:1\", volumes: {{ {volumes} }} }} }}\n");
    let loaded = load_manifest(&text);
    let resolved = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::DOCKER));
    let mut diagnostics = format_diagnostics(&loaded.diagnostics);
    diagnostics.extend(format_diagnostics(&resolved.diagnostics).into_iter().filter(|text| text.contains("PD003")));
    (resolved.application.units["web"].clone(), diagnostics)
}

fn host_config(unit: &Unit) -> &Value {
    &unit.body.as_container().expect("a container").create_body["HostConfig"]
}

#[test]
fn folders_and_targets_with_colons_are_structured_mounts() {
    let mount = |source: &str, target: &str, read_only: bool| {
        json!({
            "Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only,
            "BindOptions": { "CreateMountpoint": true },
        })
    };
    let (unit, diagnostics) = resolve_unit(
        "a: { path: \"a:b\", target: /a }, b: { path: ./b, target: \"/x:y\", read_only: true }, \
         c: { path: ./c, target: /c, read_only: true }, d: { path: \"../d:ro\", target: /d }",
    );
    assert_eq!(host_config(&unit)["Binds"], json!(["./c:/c:ro"]));
    let expected = json!([mount("./a:b", "/a", false), mount("./b", "/x:y", true), mount("../d:ro", "/d", false)]);
    assert_eq!(host_config(&unit)["Mounts"], expected);
    assert!(unit.body.has_project_mounts());
    assert_eq!(unit.body.mount_sources(), ["./c", "./a:b", "./b", "../d:ro"]);
    assert!(diagnostics.iter().any(|text| text.contains("../d:ro")), "guardrail PD003: {diagnostics:?}");
}

#[test]
fn read_only_is_not_part_of_a_volume_path() {
    let (unit, diagnostics) =
        resolve_unit("a: \"/x:ro\", b: { target: /y, read_only: true }, c: { target: \"/z:y\", read_only: true }");
    let volume = |volume: &str, target: &str, read_only| VolumeMount {
        volume: volume.to_owned(),
        target: target.to_owned(),
        read_only,
    };
    assert_eq!(unit.body.volumes(), [volume("a", "/x:ro", false), volume("b", "/y", true), volume("c", "/z:y", true)]);
    let expected = "PD0112 warning at services.web.volumes.a: `/x:ro` is a path that ends in `:ro`, not a mode of `/x`";
    assert_eq!(diagnostics, [expected]);
}

#[test]
fn mounts_that_differ_have_different_hashes() {
    let hash = |volumes: &str| resolve_unit(volumes).0.hash;
    assert_ne!(hash("a: \"/x:ro\""), hash("a: { target: /x, read_only: true }"));
    assert_ne!(hash("a: { path: \"a:b\", target: /c }"), hash("a: { path: a, target: \"/b:/c\" }"));
    assert_ne!(hash("a: { path: \"a:b\", target: /c }"), hash("a: { path: \"a:b\", target: /c, read_only: true }"));
}
