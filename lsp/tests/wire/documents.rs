//! Documents and findings over the wire: sync, versions, push, pull, the disk, files of others.

use crate::editor::{Editor, codes, loud, pulling, pushed};
use serde_json::{Value, json};

const GOOD: &str = "pdev: 1\napp: shop\nservices:\n  web: { image: \"shop-web:1\", port: 8080 }\n";
const BAD: &str = "pdev: 1\napp: shop\nservices:\n  web:\n    image: \"shop-web:1\"\n    prot: 8080\n";

#[tokio::test]
async fn findings_are_pushed_with_their_version_and_go_when_mended() {
    lsp::pages_in("/pages".into());
    let mut editor = Editor::start(pushed()).await;
    assert!(editor.capabilities["diagnosticProvider"].is_null());
    editor.open("pdev.yaml", BAD).await;
    let found = editor.published("pdev.yaml", 1).await;
    let one = found.iter().find(|one| one["code"] == "PD0110").unwrap();
    assert_eq!(one["range"], json!({ "start": { "line": 5, "character": 4 }, "end": { "line": 5, "character": 8 } }));
    assert_eq!((one["severity"].as_u64(), one["source"].as_str()), (Some(1), Some("pdev")));
    assert!(one["message"].as_str().unwrap().contains("fix: change `prot` to `port`"), "{one}");
    assert_eq!(one["codeDescription"]["href"], "file:///pages/PD0110.md");
    assert_eq!(one["data"]["fixes"][0]["edits"][0]["newText"], "port");
    let fix = json!([{ "range": one["range"], "text": "port" }]);
    editor.change("pdev.yaml", 2, fix).await;
    assert_eq!(loud(&editor.published("pdev.yaml", 2).await), Vec::<&str>::new());
    assert!(editor.stop().await);
}

#[tokio::test]
async fn a_client_that_pulls_gets_answers_and_no_pushes() {
    let mut editor = Editor::start(pulling()).await;
    editor.open("pdev.yaml", BAD).await;
    let report = editor.pull("pdev.yaml").await;
    assert_eq!(loud(report["items"].as_array().unwrap()), ["PD0110"]);
    let uri = editor.uri("pdev.yaml");
    let again = json!({ "textDocument": { "uri": uri }, "previousResultId": report["resultId"] });
    assert_eq!(editor.ask("textDocument/diagnostic", again).await["kind"], "unchanged");
    editor.replace("pdev.yaml", 2, GOOD).await;
    assert_eq!(loud(editor.pull("pdev.yaml").await["items"].as_array().unwrap()), Vec::<&str>::new());
    assert!(editor.heard.iter().all(|message| message["method"] != "textDocument/publishDiagnostics"));
    assert!(editor.stop().await);
}

#[tokio::test]
async fn each_offered_encoding_counts_its_own_units() {
    let text = "pdev: 1\napp: shop\nvars: { smile: \"😀ä\", prt: 1 }\nservices: { web: { image: \"😀ä\", prot: 1 } }\n";
    let before = text.lines().nth(3).unwrap().split("prot").next().unwrap();
    for (offered, agreed, column) in [
        (json!(["utf-16", "utf-8"]), "utf-8", before.len()),
        (json!(["utf-32"]), "utf-32", before.chars().count()),
        (json!(null), "utf-16", before.encode_utf16().count()),
    ] {
        let mut capabilities = pushed();
        capabilities["general"] = json!({ "positionEncodings": offered });
        let mut editor = Editor::start(capabilities).await;
        assert_eq!(editor.capabilities["positionEncoding"], agreed);
        editor.open("pdev.yaml", text).await;
        let found = editor.published("pdev.yaml", 1).await;
        let one = found.iter().find(|one| one["code"] == "PD0110").unwrap();
        assert_eq!(one["range"]["start"], json!({ "line": 3, "character": column }), "{agreed}");
    }
}

#[tokio::test]
async fn files_of_others_are_met_with_silence() {
    let mut editor = Editor::start(pushed()).await;
    editor.open("deployment.yaml", "kind: Deployment\nspec: [\n").await;
    editor.open("module.yaml", "name: somebody-else\n").await;
    let uri = editor.uri("deployment.yaml");
    let started = std::time::Instant::now();
    editor.ask("textDocument/diagnostic", json!({ "textDocument": { "uri": uri } })).await;
    assert!(started.elapsed().as_millis() < 500);
    editor.open("pdev.yaml", GOOD).await;
    editor.published("pdev.yaml", 1).await;
    assert!(editor.heard.iter().all(|message| message["method"] != "textDocument/publishDiagnostics"));
    let unknown = editor.ask_for_all("pdev/noSuchThing", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32601);
}

#[tokio::test]
async fn the_disk_wins_over_a_buffer_that_nobody_changed_and_over_no_other() {
    let mut editor = Editor::start(pulling()).await;
    editor.write("pdev.yaml", GOOD);
    editor.open("pdev.yaml", GOOD).await;
    assert_eq!(loud(editor.pull("pdev.yaml").await["items"].as_array().unwrap()), Vec::<&str>::new());
    // A client that opens once and never tells of changes.
    editor.write("pdev.yaml", BAD);
    assert_eq!(loud(editor.pull("pdev.yaml").await["items"].as_array().unwrap()), ["PD0110"]);
    // The user's own change is newer than anything on the disk.
    editor.replace("pdev.yaml", 2, GOOD).await;
    editor.write("pdev.yaml", "app: [\n");
    assert_eq!(loud(editor.pull("pdev.yaml").await["items"].as_array().unwrap()), Vec::<&str>::new());
}

#[tokio::test]
async fn an_include_is_watched_read_from_its_buffer_and_shows_its_own_findings() {
    let mut editor = Editor::start(pushed()).await;
    editor.write("platform.yaml", "services:\n  db: { image: \"db:1\", prot: 1 }\n");
    editor.open("pdev.yaml", &format!("{GOOD}include: [platform.yaml]\n")).await;
    let included = editor.uri("platform.yaml");
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 2 {
        let params = editor.next("textDocument/publishDiagnostics").await;
        seen.insert(params["uri"].as_str().unwrap().to_owned(), params["diagnostics"].as_array().unwrap().clone());
    }
    assert_eq!(loud(&seen[&included]), ["PD0110"]);
    editor.write("platform.yaml", "services:\n  db: { image: \"db:1\", port: 1 }\n");
    editor.tell("workspace/didChangeWatchedFiles", json!({ "changes": [{ "uri": included, "type": 2 }] })).await;
    loop {
        let params = editor.next("textDocument/publishDiagnostics").await;
        if params["uri"] == included.as_str() {
            assert_eq!(loud(params["diagnostics"].as_array().unwrap()), Vec::<&str>::new());
            break;
        }
    }
    // Opened and changed, but not saved.
    editor.open("platform.yaml", "services:\n  db: { image: \"db:1\", prot: 1 }\n").await;
    assert_eq!(loud(&editor.published("platform.yaml", 1).await), ["PD0110"]);
    // Closing the manifest takes its findings away.
    let uri = editor.uri("pdev.yaml");
    editor.tell("textDocument/didClose", json!({ "textDocument": { "uri": uri } })).await;
    assert_eq!(codes(&editor.published("platform.yaml", 1).await), Vec::<&str>::new());
}

#[tokio::test]
async fn two_thousand_changes_in_one_go_end_in_their_order() {
    let mut editor = Editor::start(pushed()).await;
    editor.open("pdev.yaml", GOOD).await;
    let end = json!({ "line": 4, "character": 0 });
    editor.change("pdev.yaml", 2, json!([{ "range": { "start": end, "end": end }, "text": "a_: 1\nb_: 1\n" }])).await;
    // Each appends one letter to a key; any two out of order give another one. YAML's keys end at 1,024 letters.
    let mut keys = ["a_".to_owned(), "b_".to_owned()];
    for number in 0..2_000_u32 {
        let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
        keys[(number % 2) as usize].push(letter);
        let at = json!({ "line": 4 + number % 2, "character": 2 + number / 2 });
        let version = 3 + i32::try_from(number).unwrap();
        let change = json!([{ "range": { "start": at, "end": at }, "text": letter.to_string() }]);
        editor.change("pdev.yaml", version, change).await;
    }
    let mut versions = Vec::new();
    while versions.last() != Some(&2_002) {
        let params = editor.next("textDocument/publishDiagnostics").await;
        versions.push(params["version"].as_i64().unwrap());
    }
    assert!(versions.is_sorted(), "{versions:?}");
    let uri = editor.uri("pdev.yaml");
    let symbols = editor.ask("textDocument/documentSymbol", json!({ "textDocument": { "uri": uri } })).await;
    let names: Vec<&Value> = symbols.as_array().unwrap().iter().rev().take(2).map(|one| &one["name"]).collect();
    assert_eq!(names, [keys[1].as_str(), keys[0].as_str()]);
}

#[tokio::test]
async fn settings_silence_a_code_and_choose_an_environment() {
    let text = format!("{GOOD}environments:\n  preview: {{ services: {{ web: {{ prot: 1 }} }} }}\n");
    let mut editor = Editor::start_with(pushed(), json!({ "pdev": { "codes": { "PD0110": "off" } } })).await;
    editor.open("pdev.yaml", &text).await;
    assert!(!codes(&editor.published("pdev.yaml", 1).await).contains(&"PD0110"));
    let settings = json!({ "settings": { "pdev": { "environment": "nowhere" } } });
    editor.tell("workspace/didChangeConfiguration", settings).await;
    let found = editor.published("pdev.yaml", 1).await;
    assert!(codes(&found).contains(&"PD0118") && codes(&found).contains(&"PD0110"), "{:?}", codes(&found));
}

#[tokio::test]
async fn a_client_that_goes_away_without_a_word_ends_the_server() {
    assert!(!Editor::start(pushed()).await.vanish().await);
}
