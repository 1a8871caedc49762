//! Inlay hints about the manifest, and on-type formatting.

use serde_json::{Value, json};

use crate::editor::{Editor, apply_edits, pull_capabilities, split_cursor};

const TEXT: &str = "pdev: 1\napp: shop\nvars: { host: \"x.example\", base: \"https://${vars.host}\", db_password: abc }\n\
resources:\n  db: { uses: postgres@16, with: { database: orders } }\n  cache: redis\nservices:\n  api:\n    image: \"a:1\"\n    \
env:\n      BASE: ${vars.base}/v1\n      DB: ${resources.db.name}\n      DB_URL: ${resources.db.url}\n      \
HOST: ${resources.db.host}\n      PASS: ${vars.db_password}\n      API_TOKEN: ${vars.host}\n      \
HOME_OF: ${env.HOME}\n      LEVEL: ${env.PDEV_UNSET_VARIABLE:-info}\n      PLAIN: $${vars.host}\n      \
URL: ${services.api.url}\n      WHERE: ${preview.environment}\nenvironments:\n  other: { vars: { host: \"${app.name}\" } }\n";

async fn hint_labels(options: Value, lines: [u32; 2]) -> Vec<String> {
    let mut editor = Editor::start_with_options(pull_capabilities(), options).await;
    editor.write(
        "pdev.lock",
        "schema = 1\n\n[[module]]\nuses = \"redis\"\nversion = \"0.1.0\"\nsource = \"built-in\"\ntree = \"0\"\n",
    );
    editor.open("pdev.yaml", TEXT).await;
    let range = json!({ "start": { "line": lines[0], "character": 0 }, "end": { "line": lines[1], "character": 0 } });
    let params = json!({ "textDocument": { "uri": editor.uri("pdev.yaml") }, "range": range });
    let hints = editor.request("textDocument/inlayHint", params).await;
    let label = |hint: &Value| format!("{} {}", hint["position"]["line"], hint["label"].as_str().unwrap());
    hints.as_array().unwrap().iter().map(label).collect()
}

#[tokio::test]
async fn hints_show_only_stable_placeholder_values() {
    let found = hint_labels(Value::Null, [0, 40]).await;
    let [db, cache, rest @ ..] = &found[..] else { panic!("{found:?}") };
    assert!(db.starts_with("4 16.") && !db.contains("locked"), "{found:?}");
    assert!(cache.starts_with("5 ") && cache.ends_with(", locked 0.1.0"), "{found:?}");
    // No password, no environment variable, no value that depends on the host or port, no other environment.
    let expected = ["2 = https://x.example", "10 = https://x.example/v1", "11 = orders", "17 = info", "20 = local"];
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn hints_respect_range_and_settings() {
    assert_eq!(hint_labels(Value::Null, [11, 12]).await, ["11 = orders"]);
    let values = hint_labels(json!({ "inlayHints": { "values": false } }), [0, 40]).await;
    assert_eq!(values.len(), 2, "{values:?}");
    let versions = hint_labels(json!({ "inlayHints": { "versions": false } }), [0, 40]).await;
    assert_eq!(versions.len(), 5, "{versions:?}");
}

#[tokio::test]
async fn hints_refresh_after_lock_or_settings_change() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.open("pdev.yaml", TEXT).await;
    editor.next_message("workspace/inlayHint/refresh").await;
    let range = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 40, "character": 0 } });
    let params = json!({ "textDocument": { "uri": editor.uri("pdev.yaml") }, "range": range });
    let before = editor.request("textDocument/inlayHint", params.clone()).await;
    assert!(!before.to_string().contains("locked"), "{before}");
    editor.write(
        "pdev.lock",
        "schema = 1\n\n[[module]]\nuses = \"redis\"\nversion = \"0.1.0\"\nsource = \"built-in\"\ntree = \"0\"\n",
    );
    let change = json!({ "changes": [{ "uri": editor.uri("pdev.lock"), "type": 1 }] });
    editor.notify("workspace/didChangeWatchedFiles", change).await;
    editor.next_message("workspace/inlayHint/refresh").await;
    let after = editor.request("textDocument/inlayHint", params.clone()).await;
    assert!(after.to_string().contains("locked 0.1.0"), "{after}");
    let settings = json!({ "settings": { "pdev": { "inlayHints": { "values": false, "versions": false } } } });
    editor.notify("workspace/didChangeConfiguration", settings).await;
    editor.next_message("workspace/inlayHint/refresh").await;
    assert_eq!(editor.request("textDocument/inlayHint", params).await.as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn on_type_formatting_indents_new_lines_and_dashes() {
    for (fixture, typed, expected) in [
        ("pdev: 1\nservices:\n  web:\n$0\n", "\n", "pdev: 1\nservices:\n  web:\n    \n"),
        ("jobs:\n  seed:\n    env:\n      - a: 1\n        -$0", "-", "jobs:\n  seed:\n    env:\n      - a: 1\n      -"),
        ("app: shop\r\nvars:\r\n$0\r\n", "\n", "app: shop\r\nvars:\r\n  \r\n"),
        ("app: shop\nvars:\n  $0\n", "\n", "app: shop\nvars:\n  \n"),
    ] {
        let (text, position) = split_cursor(fixture);
        let mut editor = Editor::start(pull_capabilities()).await;
        assert_eq!(editor.capabilities["documentOnTypeFormattingProvider"]["firstTriggerCharacter"], "\n");
        editor.open("pdev.yaml", &text).await;
        let options = json!({ "tabSize": 2, "insertSpaces": true });
        let document = json!({ "uri": editor.uri("pdev.yaml") });
        let params = json!({ "textDocument": document, "position": position, "ch": typed, "options": options });
        let edits = editor.request("textDocument/onTypeFormatting", params).await;
        assert_eq!(apply_edits(&text, edits.as_array().unwrap()), expected, "{fixture:?}");
    }
}
