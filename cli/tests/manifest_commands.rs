//! `check`, `explain`, `module` and `schema` through the binary: they neither call nor start an agent.
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
        .env("PDEV_SOCKET_DIR", folder.join("never-created"))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(!folder.join("never-created").exists(), "the command connected to an agent");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

#[test]
fn valid_manifest_passes_check() {
    let folder = manifest_folder(VALID_MANIFEST);
    let output = run(folder.path(), &["check"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
    assert!(output.stdout.contains("ok pdev.yaml: 1 service"), "{}", output.stdout);
    assert_eq!(run(folder.path(), &["check", "--json"]).code, Some(0));
}

#[test]
fn misspelt_key_is_reported_and_fixed() {
    let folder = manifest_folder(INVALID_MANIFEST);
    let output = run(folder.path(), &["check"]);
    assert_eq!(output.code, Some(2), "{}", output.stdout);
    for part in ["error[PD", "`prot`", "pdev.yaml:6:5", "6 |     prot: 8080", "1 error", "pdev check --fix"] {
        assert!(output.stdout.contains(part), "no `{part}` in\n{}", output.stdout);
    }
    let found = run(folder.path(), &["check", "--json"]).json();
    assert_eq!((found[0]["line"].as_u64(), found[0]["column"].as_u64()), (Some(6), Some(5)));
    assert_eq!(found[0]["fixes"][0]["edits"][0]["text"], "port");
    let output = run(folder.path(), &["check", "--fix"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let fixed = std::fs::read_to_string(folder.path().join("pdev.yaml")).unwrap();
    assert_eq!(fixed, INVALID_MANIFEST.replace("prot", "port"));
}

#[test]
fn sarif_has_same_position() {
    let folder = manifest_folder(INVALID_MANIFEST);
    let output = run(folder.path(), &["check", "--sarif"]);
    let log = output.json();
    assert_eq!((output.code, log["version"].as_str()), (Some(2), Some("2.1.0")));
    let result = &log["runs"][0]["results"][0];
    let location = &result["locations"][0]["physicalLocation"];
    assert_eq!(location["artifactLocation"]["uri"], "pdev.yaml");
    assert_eq!(location["region"]["startLine"], 6);
    assert_eq!(log["runs"][0]["tool"]["driver"]["rules"][0]["id"], result["ruleId"]);
}

#[test]
fn up_rejects_invalid_manifest_without_agent() {
    let folder = manifest_folder(INVALID_MANIFEST);
    let output = run(folder.path(), &["up"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""));
    assert!(
        output.stderr.contains("pdev.yaml:6:5")
            && output.stderr.contains("`pdev.yaml` has 1 error; nothing was changed"),
        "{}",
        output.stderr
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
    assert!(
        found
            .as_array()
            .unwrap()
            .iter()
            .any(|diagnostic| { diagnostic["file"] == "inner/pdev.yaml" && diagnostic["severity"] == "error" })
    );
}

#[test]
fn explain_shows_codes_and_fields() {
    let folder = manifest_folder(VALID_MANIFEST);
    let invalid = manifest_folder(INVALID_MANIFEST);
    let code = run(invalid.path(), &["check", "--json"]).json()[0]["code"].as_str().unwrap().to_owned();
    let output = run(folder.path(), &["explain", &code.to_lowercase()]);
    assert!(output.code == Some(0) && output.stdout.contains(&code), "{}", output.stdout);
    let output = run(folder.path(), &["explain", "services.web.image"]);
    assert!(
        output.code == Some(0) && output.stdout.contains("shop-web") && output.stdout.contains("pdev.yaml:4"),
        "{}{}",
        output.stdout,
        output.stderr
    );
    assert_eq!(run(folder.path(), &["explain", "PD999999"]).code, Some(4));
    assert_eq!(run(folder.path(), &["explain", "nothing.like.this"]).code, Some(4));
}

#[test]
fn explain_shows_no_value_that_only_up_chooses() {
    let folder = manifest_folder(
        "pdev: 1\napp: shop\nservices:\n  web:\n    port: 80\n    process: { command: [serve, \"${services.web.port}\", \
         \"${services.fixed.port}\"] }\n    env: { API: \"${services.web.internal_url}/x\" }\n  fixed: { port: { port: 80, \
         host: 20100 }, process: [x] }\nresources: { cache: redis }\n",
    );
    let value = |field: &str| {
        let output = run(folder.path(), &["explain", field, "--runtime", "process", "--json"]).json();
        output["here"][0]["value"].clone()
    };
    assert_eq!(value("services.web.ports.main.host"), "chosen at up");
    assert_eq!(value("services.web.env.PORT"), "chosen at up");
    assert_eq!(value("services.web.env.API"), "http://127.0.0.1:(chosen at up)/x");
    assert_eq!(value("services.web.process.argv"), serde_json::json!(["serve", "chosen at up", "20100"]));
    assert_eq!(value("services.fixed.ports.main.host"), 20_100);
    let arguments = value("resources.cache.process.argv").to_string();
    assert!(arguments.contains("chosen at up") && !arguments.contains("{port"), "{arguments}");
}

#[test]
fn missing_manifest_is_not_mistaken_for_a_service() {
    let folder = manifest_folder(VALID_MANIFEST);
    let output = run(folder.path(), &["check", "nope.yaml"]);
    assert_eq!(output.code, Some(4), "{}", output.stderr);
    assert!(output.stderr.contains("Pass the folder") && !output.stderr.contains("--service"), "{}", output.stderr);
    let output = run(folder.path(), &["check", "pdev.yml"]);
    assert!(output.stderr.contains("Did you mean `pdev.yaml`?"), "{}", output.stderr);
}

#[test]
fn module_list_and_info_show_modules() {
    let folder = manifest_folder(VALID_MANIFEST);
    let output = run(folder.path(), &["module", "list"]);
    assert!(output.code == Some(0) && output.stdout.contains("\npostgres "), "{}", output.stdout);
    let output = run(folder.path(), &["module", "info", "postgres@16"]);
    assert!(output.code == Some(0) && output.stdout.contains("${resources.NAME.url}"), "{}", output.stdout);
    assert!(run(folder.path(), &["module", "info", "redis", "--json"]).json()["inputs"].is_object());
    let output = run(folder.path(), &["module", "info", "postgers"]);
    assert!(output.code == Some(4) && output.stderr.contains("`postgres`"), "{}", output.stderr);
}

#[test]
fn schema_command_prints_json_schema() {
    let folder = manifest_folder(VALID_MANIFEST);
    let schema = run(folder.path(), &["schema"]).json();
    assert!(schema["properties"]["services"].is_object());
}
