//! Definition, references, rename, symbols, folds, selections, links, semantic tokens and formatting over the wire.

use serde_json::{Value, json};

use crate::editor::{Editor, apply_edits, push_capabilities, split_cursor};

const TEXT: &str = "\
pdev: 1
app: shop
include: [platform.yaml]
services:
  web:
    build: ./web
    port: 80
    needs: { db: healthy }
    env:
      A: \"😀 ${resources.db.url}\"
  api: { image: \"a:1\", port: 81, secrets: [stripe] }
resources:
  db: postgres@16
secrets: { stripe: key }
environments:
  preview: { services: { web: { needs: [db] } } }
";

const PLATFORM: &str = "services:\n  mail: { image: \"m:1\", env: { D: \"${resources.db.host}\" } }\n";

async fn open_editor() -> Editor {
    let mut editor = Editor::start(push_capabilities()).await;
    editor.write("platform.yaml", PLATFORM);
    editor.write("web/Dockerfile", "FROM scratch\n");
    editor.open("pdev.yaml", TEXT).await;
    editor.published_diagnostics("pdev.yaml", 1).await;
    editor
}

fn position_params(editor: &Editor, position: &Value) -> Value {
    json!({ "textDocument": { "uri": editor.uri("pdev.yaml") }, "position": position })
}

/// The position of the n-th occurrence of a word.
fn position_of(word: &str, number: usize) -> Value {
    let at = TEXT.match_indices(word).nth(number).unwrap().0 + 1;
    split_cursor(&format!("{}$0{}", &TEXT[..at], &TEXT[at..])).1
}

#[tokio::test]
async fn name_resolves_to_declaration_and_references() {
    let mut editor = open_editor().await;
    let manifest = editor.uri("pdev.yaml");
    for word in ["db: healthy", "db.url", "db] }"] {
        let answer = editor.request("textDocument/definition", position_params(&editor, &position_of(word, 0))).await;
        assert_eq!(
            (answer[0]["uri"].as_str(), answer[0]["range"]["start"]["line"].as_u64()),
            (Some(manifest.as_str()), Some(12)),
            "{word}"
        );
    }
    let mut params = position_params(&editor, &position_of("db: postgres", 0));
    params["context"] = json!({ "includeDeclaration": true });
    let all = editor.request("textDocument/references", params.clone()).await;
    assert_eq!(all.as_array().unwrap().len(), 5, "{all}");
    params["context"] = json!({ "includeDeclaration": false });
    assert_eq!(editor.request("textDocument/references", params).await.as_array().unwrap().len(), 4);
    let highlights = editor
        .request("textDocument/documentHighlight", position_params(&editor, &position_of("db: healthy", 0)))
        .await;
    assert_eq!(highlights.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn rename_edits_every_file_and_rejects_invalid_names() {
    let mut editor = open_editor().await;
    let prepared =
        editor.request("textDocument/prepareRename", position_params(&editor, &position_of("db.url", 0))).await;
    assert_eq!(prepared["placeholder"], "db");
    let mut params = position_params(&editor, &position_of("db.url", 0));
    params["newName"] = json!("store");
    let edit = editor.request("textDocument/rename", params.clone()).await;
    let manifest = apply_edits(TEXT, edit["changes"][editor.uri("pdev.yaml")].as_array().unwrap());
    let platform = apply_edits(PLATFORM, edit["changes"][editor.uri("platform.yaml")].as_array().unwrap());
    assert!(!manifest.contains("db") && manifest.matches("store").count() == 4, "{manifest}");
    assert!(platform.contains("${resources.store.host}"), "{platform}");
    params["newName"] = json!("Not A Name");
    assert_eq!(editor.request_raw("textDocument/rename", params.clone()).await["error"]["code"], -32602);
    params["newName"] = json!("api");
    assert_eq!(editor.request_raw("textDocument/rename", params).await["error"]["code"], -32602);
    let nothing =
        editor.request("textDocument/prepareRename", position_params(&editor, &position_of("port: 80", 0))).await;
    assert!(nothing.is_null());
}

#[tokio::test]
async fn document_and_workspace_symbols_list_units() {
    let mut editor = open_editor().await;
    let uri = editor.uri("pdev.yaml");
    let symbols = editor.request("textDocument/documentSymbol", json!({ "textDocument": { "uri": uri } })).await;
    let services = symbols.as_array().unwrap().iter().find(|symbol| symbol["name"] == "services").unwrap();
    let names: Vec<&str> =
        services["children"].as_array().unwrap().iter().map(|symbol| symbol["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "api"]);
    assert_eq!(services["children"][1]["detail"], "a:1 :81");
    for (query, expected) in [("mai", vec!["mail"]), ("WB", vec!["web", "web"]), ("nothing", vec![])] {
        let found = editor.request("workspace/symbol", json!({ "query": query })).await;
        let names: Vec<&str> =
            found.as_array().unwrap().iter().map(|symbol| symbol["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{query}");
    }
}

#[tokio::test]
async fn workspace_folder_can_be_added_and_removed() {
    let mut editor = open_editor().await;
    let other = tempfile::tempdir().unwrap();
    let text = "pdev: 1\napp: other\nservices:\n  moon: { image: \"m:1\", port: 81 }\n";
    std::fs::write(other.path().join("pdev.yaml"), text).unwrap();
    let folder = json!([{ "uri": crate::editor::file_uri(other.path()), "name": "other" }]);
    let mut found = Vec::new();
    for (added, removed) in [(json!([]), json!([])), (folder.clone(), json!([])), (json!([]), folder)] {
        let change = json!({ "event": { "added": added, "removed": removed } });
        editor.notify("workspace/didChangeWorkspaceFolders", change).await;
        let symbols = editor.request("workspace/symbol", json!({ "query": "moon" })).await;
        found.push(symbols.as_array().unwrap().len());
    }
    assert_eq!(found, [0, 1, 0]);
    // A command without `uri` applies to the only open manifest. If two are open, it is an error.
    assert!(editor.request("workspace/executeCommand", json!({ "command": "pdev.check" })).await.is_array());
    let uri = crate::editor::file_uri(&other.path().join("pdev.yaml"));
    let document = json!({ "uri": uri, "languageId": "pdev", "version": 1, "text": text });
    editor.notify("textDocument/didOpen", json!({ "textDocument": document })).await;
    let refused = editor.request_raw("workspace/executeCommand", json!({ "command": "pdev.check" })).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("name the manifest"), "{refused}");
}

#[tokio::test]
async fn folding_selection_and_link_ranges_match_structure() {
    let mut editor = open_editor().await;
    let document = json!({ "textDocument": { "uri": editor.uri("pdev.yaml") } });
    let folds = editor.request("textDocument/foldingRange", document.clone()).await;
    let lines: Vec<(u64, u64)> = folds
        .as_array()
        .unwrap()
        .iter()
        .map(|fold| (fold["startLine"].as_u64().unwrap(), fold["endLine"].as_u64().unwrap()))
        .collect();
    assert_eq!(lines, [(3, 10), (4, 9), (8, 9), (11, 12), (14, 15)]);
    let mut params = document.clone();
    params["positions"] = json!([position_of("80", 0)]);
    let selection = editor.request("textDocument/selectionRange", params).await;
    let mut sizes = Vec::new();
    let mut range = &selection[0];
    while !range.is_null() {
        sizes.push(range["range"]["start"]["line"].as_u64().unwrap());
        range = &range["parent"];
    }
    assert_eq!(sizes, [6, 6, 5, 4, 4, 3, 0]);
    let links = editor.request("textDocument/documentLink", document).await;
    let targets: Vec<&str> = links.as_array().unwrap().iter().map(|link| link["target"].as_str().unwrap()).collect();
    assert_eq!(targets, [editor.uri("platform.yaml"), editor.uri("web/Dockerfile")]);
    let file = editor.request("textDocument/definition", position_params(&editor, &position_of("./web", 0))).await;
    assert_eq!(file["uri"], editor.uri("web/Dockerfile"));
}

#[tokio::test]
async fn semantic_tokens_classify_words() {
    let mut editor = open_editor().await;
    let legend = editor.capabilities["semanticTokensProvider"]["legend"]["tokenTypes"].clone();
    let document = json!({ "textDocument": { "uri": editor.uri("pdev.yaml") } });
    let tokens = editor.request("textDocument/semanticTokens/full", document).await;
    let data: Vec<u64> = tokens["data"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
    let (mut line, mut column) = (0, 0);
    let mut words = Vec::new();
    for token in data.chunks(5) {
        line += token[0];
        column = if token[0] == 0 { column + token[1] } else { token[1] };
        let units: Vec<u16> = TEXT.lines().nth(usize::try_from(line).unwrap()).unwrap().encode_utf16().collect();
        let from = usize::try_from(column).unwrap();
        let word = String::from_utf16(&units[from..from + usize::try_from(token[2]).unwrap()]).unwrap();
        words.push((word, legend[usize::try_from(token[3]).unwrap()].as_str().unwrap().to_owned()));
    }
    for (word, token_type) in [
        ("services", "property"),
        ("web", "class"),
        ("80", "number"),
        ("healthy", "enumMember"),
        ("${resources.", "variable"),
        ("db", "class"),
        (".url}", "variable"),
        ("needs", "property"),
    ] {
        assert!(words.contains(&(word.to_owned(), token_type.to_owned())), "{word} {token_type}: {words:?}");
    }
}

#[tokio::test]
async fn formatting_edits_file_or_requested_range() {
    let text =
        "pdev:   1\napp: {name: shop}\nservices:\n    web:\n        image:   \"w:1\"\n    api: {image: \"a:1\"}\n";
    let mut editor = Editor::start(push_capabilities()).await;
    editor.open("pdev.yaml", text).await;
    let document = json!({ "textDocument": { "uri": editor.uri("pdev.yaml") }, "options": { "tabSize": 2, "insertSpaces": true } });
    let edits = editor.request("textDocument/formatting", document.clone()).await;
    let formatted = apply_edits(text, edits.as_array().unwrap());
    let expected =
        "pdev:   1\napp: { name: shop }\nservices:\n  web:\n    image:   \"w:1\"\n  api: { image: \"a:1\" }\n";
    assert_eq!(formatted, expected);
    let mut part = document;
    part["range"] = json!({ "start": { "line": 1, "character": 0 }, "end": { "line": 1, "character": 3 } });
    let edits = editor.request("textDocument/rangeFormatting", part).await;
    assert_eq!(edits.as_array().unwrap().len(), 1, "{edits}");
}
