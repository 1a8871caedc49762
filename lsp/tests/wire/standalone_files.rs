//! Modules and their docs, lock files, stages of Dockerfiles, and YAML files of other tools.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::editor::{Editor, apply_edits, pull_capabilities, push_capabilities, split_cursor};

const MODULE: &str = "module: nats\nversion: 1.0.0\nowner: { team: t }\nsummary: a queue\ninputs:\n  size: { type: integer, default: 1, description: how much }\nrenders:\n  docker: { image: \"nats:{{ inputs.size }}\" }\n";

#[tokio::test]
async fn module_errors_are_reported_at_their_position() {
    let mut editor = Editor::start(push_capabilities()).await;
    editor.write("modules/nats/docs.md", "docs");
    editor.open("modules/nats/module.yaml", MODULE).await;
    assert_eq!(editor.published_diagnostics("modules/nats/module.yaml", 1).await, Vec::<Value>::new());
    let broken = MODULE.replace("summary:", "sumary:").replace("integer", "int");
    editor.replace("modules/nats/module.yaml", 2, &broken).await;
    let found = editor.published_diagnostics("modules/nats/module.yaml", 2).await;
    let positions: Vec<(u64, u64)> = found
        .iter()
        .map(|diagnostic| {
            let start = &diagnostic["range"]["start"];
            (start["line"].as_u64().unwrap(), start["character"].as_u64().unwrap())
        })
        .collect();
    // A missing key, a misspelt key, an unknown type.
    assert_eq!(positions, [(0, 0), (3, 0), (5, 16)], "{found:#?}");
    assert!(found.iter().all(|diagnostic| diagnostic["code"] == "PD0202"));
    let uri = editor.uri("modules/nats/module.yaml");
    let range = found[1]["range"].clone();
    let params = json!({ "textDocument": { "uri": uri }, "range": range, "context": { "diagnostics": [] } });
    let actions = editor.request("textDocument/codeAction", params).await;
    let changed = apply_edits(&broken, actions[0]["edit"]["changes"][&uri].as_array().unwrap());
    assert!(changed.contains("\nsummary: a queue"), "{changed}");
    editor.notify("textDocument/didClose", json!({ "textDocument": { "uri": uri } })).await;
    let closed = editor.next_message("textDocument/publishDiagnostics").await;
    assert_eq!(closed["diagnostics"], json!([]));
}

#[tokio::test]
async fn module_file_has_completion_hover_and_diagnostics() {
    let (text, position) = split_cursor(&MODULE.replace("inputs.size", "inputs.$0"));
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.write("docs.md", "docs");
    editor.open("module.yaml", &text).await;
    let document = json!({ "uri": editor.uri("module.yaml") });
    let params = json!({ "textDocument": document, "position": position, "context": { "triggerKind": 1 } });
    let items = editor.request("textDocument/completion", params).await["items"].clone();
    assert_eq!((items[0]["label"].as_str(), items[0]["detail"].as_str()), (Some("size"), Some("how much")));
    let params = json!({ "textDocument": document, "position": { "line": 5, "character": 12 } });
    let hover = editor.request("textDocument/hover", params).await;
    assert!(hover["contents"]["value"].as_str().unwrap().contains("string | integer"), "{hover}");
    let report = editor.pull_diagnostics("module.yaml").await;
    assert!(report["items"][0]["message"].as_str().unwrap().contains("cannot be rendered"), "{report}");
    // A new file belongs to pdev as soon as it has the key `module`.
    editor.open("other/module.yaml", "").await;
    assert_eq!(editor.pull_diagnostics("other/module.yaml").await["items"], json!([]));
    editor.replace("other/module.yaml", 2, "module: x\n").await;
    assert_ne!(editor.pull_diagnostics("other/module.yaml").await["items"], json!([]));
}

#[tokio::test]
async fn lock_file_reports_changed_and_missing_modules() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.write("modules/nats/module.yaml", MODULE);
    editor.write("modules/nats/docs.md", "docs");
    let entry = |uses: &str| {
        format!(
            "[[module]]\nuses = \"{uses}\"\nversion = \"1.0.0\"\nsource = \"here\"\ntree = \"0123456789abcdef\"\n\n"
        )
    };
    let text = format!("schema = 1\n\n{}{}", entry("./modules/nats"), entry("./modules/gone"));
    editor.open("pdev.lock", &text).await;
    let items = editor.pull_diagnostics("pdev.lock").await["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 1, "{items:#}");
    assert_eq!((items[0]["code"].as_str(), items[0]["severity"].as_u64()), (Some("PD0208"), Some(3)));
    assert_eq!(items[0]["range"]["start"], json!({ "line": 6, "character": 7 }));
    for (line, words) in [(4, "do **not** match the pinned"), (9, "there is no `modules/gone/module.yaml`")] {
        let position = json!({ "line": line, "character": 2 });
        let params = json!({ "textDocument": { "uri": editor.uri("pdev.lock") }, "position": position });
        let hover = editor.request("textDocument/hover", params).await;
        assert!(hover["contents"]["value"].as_str().unwrap().contains(words), "{hover}");
    }
    for method in ["textDocument/formatting", "textDocument/documentSymbol", "textDocument/codeAction"] {
        let range = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 9, "character": 0 } });
        let params = json!({
            "textDocument": { "uri": editor.uri("pdev.lock") }, "options": { "tabSize": 2, "insertSpaces": true },
            "range": range, "context": { "diagnostics": [] },
        });
        assert!(editor.request(method, params).await.is_null(), "{method}");
    }
    editor.replace("pdev.lock", 2, "schema = 1\n<<<<<<< HEAD\n").await;
    let items = editor.pull_diagnostics("pdev.lock").await["items"].clone();
    assert_eq!((items[0]["code"].as_str(), items[0]["range"]["start"]["line"].as_u64()), (Some("PD0207"), Some(1)));
}

#[tokio::test]
async fn links_point_to_dockerfile_stages_and_module_docs() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.write("api/Dockerfile", "FROM a AS build\nRUN x\nfrom b as Final\n");
    let text = "pdev: 1\napp: shop\nservices:\n  api: { build: { context: api, target: final }, port: 80 }\n  \
        web: { build: { context: api, target: nothing }, port: 80 }\n";
    editor.open("pdev.yaml", text).await;
    let document = json!({ "uri": editor.uri("pdev.yaml") });
    let links = editor.request("textDocument/documentLink", json!({ "textDocument": document })).await;
    let targets: Vec<&str> = links.as_array().unwrap().iter().map(|link| link["target"].as_str().unwrap()).collect();
    let file = editor.uri("api/Dockerfile");
    assert_eq!(targets, [file.clone(), format!("{file}#L3"), file.clone()]);
    let column = text.lines().nth(3).unwrap().find("final").unwrap();
    let params = json!({ "textDocument": document, "position": { "line": 3, "character": column } });
    let target = editor.request("textDocument/definition", params).await;
    assert_eq!((target["uri"].as_str(), target["range"]["start"]["line"].as_u64()), (Some(file.as_str()), Some(2)));
    editor.write("m/docs.md", "docs");
    editor.open("m/module.yaml", &format!("{MODULE}docs: docs.md\n")).await;
    let document = json!({ "uri": editor.uri("m/module.yaml") });
    let links = editor.request("textDocument/documentLink", json!({ "textDocument": document })).await;
    assert_eq!(links[0]["target"], editor.uri("m/docs.md"));
}

#[tokio::test]
async fn foreign_yaml_is_answered_within_five_milliseconds() {
    let mut editor = Editor::start(pull_capabilities()).await;
    let text = "kind: Deployment\nspec:\n  - a: { b: [c, d] }\n".repeat(2_000);
    editor.open("deployment.yaml", &text).await;
    let document = json!({ "uri": editor.uri("deployment.yaml") });
    let params =
        json!({ "textDocument": document, "position": { "line": 3, "character": 2 }, "context": { "triggerKind": 1 } });
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let started = Instant::now();
        assert!(editor.request("textDocument/completion", params.clone()).await.is_null());
        assert!(editor.request("textDocument/hover", params.clone()).await.is_null());
        assert_eq!(editor.pull_diagnostics("deployment.yaml").await["items"], json!([]));
        fastest = fastest.min(started.elapsed() / 3);
    }
    // Less than 1 ms on an idle machine. The fastest of 20 rounds is close to that on any machine.
    assert!(fastest < Duration::from_millis(5), "{fastest:?}");
    eprintln!("request for a foreign file: {fastest:?}");
}
