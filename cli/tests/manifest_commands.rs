//! `check`, `explain` and `schema` through the binary: no agent is asked, and none is started.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const VALID_MANIFEST: &str = "pdev: 1\napp: shop\nservices:\n  web: { image: \"shop-web:1\", port: 8080 }\n";
const INVALID_MANIFEST: &str = "pdev: 1\napp: shop\nservices:\n  web:\n    image: \"shop-web:1\"\n    prot: 8080\n";

struct CommandOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl CommandOutput {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn manifest_folder(manifest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pdev.yaml"), manifest).unwrap();
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> CommandOutput {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pdev"))
        .args(arguments)
        .env_clear()
        .env("PDEV_SOCKET_DIR", folder.join("never-made"))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(!folder.join("never-made").exists(), "an agent was asked");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

#[test]
fn valid_manifest_passes_check() {
    let folder = manifest_folder(VALID_MANIFEST);
    let ran = run(folder.path(), &["check"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    assert!(ran.stdout.contains("ok pdev.yaml: 1 service"), "{}", ran.stdout);
    assert_eq!(run(folder.path(), &["check", "--json"]).code, Some(0));
}

#[test]
fn misspelt_key_is_reported_and_fixed() {
    let folder = manifest_folder(INVALID_MANIFEST);
    let ran = run(folder.path(), &["check"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stdout);
    for part in ["error[PD", "`prot`", "pdev.yaml:6:5", "6 |     prot: 8080", "1 error", "pdev check --fix"] {
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
    let found = run(folder.path(), &["check", "--json"]).json();
    assert_eq!((found[0]["line"].as_u64(), found[0]["column"].as_u64()), (Some(6), Some(5)));
    assert_eq!(found[0]["fixes"][0]["edits"][0]["text"], "port");
    let ran = run(folder.path(), &["check", "--fix"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let fixed = std::fs::read_to_string(folder.path().join("pdev.yaml")).unwrap();
    assert_eq!(fixed, INVALID_MANIFEST.replace("prot", "port"));
}

#[test]
fn sarif_has_same_position() {
    let folder = manifest_folder(INVALID_MANIFEST);
    let ran = run(folder.path(), &["check", "--sarif"]);
    let log = ran.json();
    assert_eq!((ran.code, log["version"].as_str()), (Some(2), Some("2.1.0")));
    let result = &log["runs"][0]["results"][0];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "pdev.yaml");
    assert_eq!(place["region"]["startLine"], 6);
    assert_eq!(log["runs"][0]["tool"]["driver"]["rules"][0]["id"], result["ruleId"]);
}

#[test]
fn up_rejects_invalid_manifest_without_agent() {
    let folder = manifest_folder(INVALID_MANIFEST);
    let ran = run(folder.path(), &["up"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(
        ran.stderr.contains("pdev.yaml:6:5") && ran.stderr.contains("`pdev.yaml` has 1 error; nothing was changed"),
        "{}",
        ran.stderr
    );
    let problem = run(folder.path(), &["up", "--json"]).json();
    assert_eq!((problem["code"].as_str(), problem["diagnostics"][0]["line"].as_u64()), (Some("manifest"), Some(6)));
}

#[test]
fn diagnostics_name_their_manifest() {
    let folder = manifest_folder(VALID_MANIFEST);
    std::fs::create_dir(folder.path().join("inner")).unwrap();
    std::fs::write(folder.path().join("inner/pdev.yaml"), INVALID_MANIFEST).unwrap();
    let found = run(folder.path(), &["check", ".", "inner", "--json"]).json();
    assert!(found.as_array().unwrap().iter().any(|one| one["file"] == "inner/pdev.yaml" && one["severity"] == "error"));
}

#[test]
fn explain_shows_codes_and_fields() {
    let folder = manifest_folder(VALID_MANIFEST);
    let bad = manifest_folder(INVALID_MANIFEST);
    let code = run(bad.path(), &["check", "--json"]).json()[0]["code"].as_str().unwrap().to_owned();
    let ran = run(folder.path(), &["explain", &code.to_lowercase()]);
    assert!(ran.code == Some(0) && ran.stdout.contains(&code), "{}", ran.stdout);
    let ran = run(folder.path(), &["explain", "services.web.image"]);
    assert!(
        ran.code == Some(0) && ran.stdout.contains("shop-web") && ran.stdout.contains("pdev.yaml:4"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert_eq!(run(folder.path(), &["explain", "PD999999"]).code, Some(4));
    assert_eq!(run(folder.path(), &["explain", "nothing.like.this"]).code, Some(4));
}

#[test]
fn module_list_and_info_show_modules() {
    let folder = manifest_folder(VALID_MANIFEST);
    let ran = run(folder.path(), &["module", "list"]);
    assert!(ran.code == Some(0) && ran.stdout.contains("\npostgres "), "{}", ran.stdout);
    let ran = run(folder.path(), &["module", "info", "postgres@16"]);
    assert!(ran.code == Some(0) && ran.stdout.contains("${resources.NAME.url}"), "{}", ran.stdout);
    assert!(run(folder.path(), &["module", "info", "redis", "--json"]).json()["inputs"].is_object());
    let ran = run(folder.path(), &["module", "info", "postgers"]);
    assert!(ran.code == Some(4) && ran.stderr.contains("`postgres`"), "{}", ran.stderr);
}

#[test]
fn schema_command_prints_json_schema() {
    let folder = manifest_folder(VALID_MANIFEST);
    let schema = run(folder.path(), &["schema"]).json();
    assert!(schema["properties"]["services"].is_object());
}
