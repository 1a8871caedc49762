//! Documents and diagnostics over the wire: synchronisation, versions, push, pull, files on disk, files of other tools.

use crate::editor::{Editor, diagnostic_codes, error_and_warning_codes, pull_capabilities, push_capabilities};
use serde_json::{Value, json};

const GOOD: &str = "pdev: 1\napp: shop\nservices:\n  web: { image: \"shop-web:1\", port: 8080 }\n";
const BAD: &str = "pdev: 1\napp: shop\nservices:\n  web:\n    image: \"shop-web:1\"\n    prot: 8080\n";

#[tokio::test]
async fn pushed_diagnostics_carry_version_and_clear_after_fix() {
    lsp::set_pages_folder("/pages".into());
    let mut editor = Editor::start(push_capabilities()).await;
    assert!(editor.capabilities["diagnosticProvider"].is_null());
    editor.open("pdev.yaml", BAD).await;
    let found = editor.published_diagnostics("pdev.yaml", 1).await;
    let diagnostic = found.iter().find(|found| found["code"] == "PD0110").unwrap();
    assert_eq!(
        diagnostic["range"],
        json!({ "start": { "line": 5, "character": 4 }, "end": { "line": 5, "character": 8 } })
    );
    assert_eq!((diagnostic["severity"].as_u64(), diagnostic["source"].as_str()), (Some(1), Some("pdev")));
    assert!(diagnostic["message"].as_str().unwrap().contains("fix: change `prot` to `port`"), "{diagnostic}");
    assert_eq!(diagnostic["codeDescription"]["href"], "file:///pages/PD0110.md");
    assert_eq!(diagnostic["data"]["fixes"][0]["edits"][0]["newText"], "port");
    let fix = json!([{ "range": diagnostic["range"], "text": "port" }]);
    editor.change("pdev.yaml", 2, fix).await;
    assert_eq!(error_and_warning_codes(&editor.published_diagnostics("pdev.yaml", 2).await), Vec::<&str>::new());
    assert!(editor.stop().await);
}

#[tokio::test]
async fn pull_client_receives_no_pushed_diagnostics() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.open("pdev.yaml", BAD).await;
    let report = editor.pull_diagnostics("pdev.yaml").await;
    assert_eq!(error_and_warning_codes(report["items"].as_array().unwrap()), ["PD0110"]);
    let uri = editor.uri("pdev.yaml");
    let again = json!({ "textDocument": { "uri": uri }, "previousResultId": report["resultId"] });
    assert_eq!(editor.request("textDocument/diagnostic", again).await["kind"], "unchanged");
    editor.replace("pdev.yaml", 2, GOOD).await;
    assert_eq!(
        error_and_warning_codes(editor.pull_diagnostics("pdev.yaml").await["items"].as_array().unwrap()),
        Vec::<&str>::new()
    );
    assert!(editor.unread_messages.iter().all(|message| message["method"] != "textDocument/publishDiagnostics"));
    assert!(editor.stop().await);
}

#[tokio::test]
async fn positions_use_negotiated_encoding() {
    let text = "pdev: 1\napp: shop\nvars: { smile: \"😀ä\", prt: 1 }\nservices: { web: { image: \"😀ä\", prot: 1 } }\n";
    let before = text.lines().nth(3).unwrap().split("prot").next().unwrap();
    for (offered, negotiated, column) in [
        (json!(["utf-16", "utf-8"]), "utf-8", before.len()),
        (json!(["utf-32"]), "utf-32", before.chars().count()),
        (json!(null), "utf-16", before.encode_utf16().count()),
    ] {
        let mut capabilities = push_capabilities();
        capabilities["general"] = json!({ "positionEncodings": offered });
        let mut editor = Editor::start(capabilities).await;
        assert_eq!(editor.capabilities["positionEncoding"], negotiated);
        editor.open("pdev.yaml", text).await;
        let found = editor.published_diagnostics("pdev.yaml", 1).await;
        let diagnostic = found.iter().find(|found| found["code"] == "PD0110").unwrap();
        assert_eq!(diagnostic["range"]["start"], json!({ "line": 3, "character": column }), "{negotiated}");
    }
}

#[tokio::test]
async fn foreign_files_get_no_diagnostics() {
    let mut editor = Editor::start(push_capabilities()).await;
    editor.open("deployment.yaml", "kind: Deployment\nspec: [\n").await;
    editor.open("module.yaml", "name: other-tool\n").await;
    let uri = editor.uri("deployment.yaml");
    let started = std::time::Instant::now();
    editor.request("textDocument/diagnostic", json!({ "textDocument": { "uri": uri } })).await;
    assert!(started.elapsed().as_millis() < 500);
    editor.open("pdev.yaml", GOOD).await;
    editor.published_diagnostics("pdev.yaml", 1).await;
    assert!(editor.unread_messages.iter().all(|message| message["method"] != "textDocument/publishDiagnostics"));
    let unknown = editor.request_raw("pdev/noSuchThing", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32601);
}

#[tokio::test]
async fn disk_replaces_only_unmodified_buffers() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.write("pdev.yaml", GOOD);
    editor.open("pdev.yaml", GOOD).await;
    assert_eq!(
        error_and_warning_codes(editor.pull_diagnostics("pdev.yaml").await["items"].as_array().unwrap()),
        Vec::<&str>::new()
    );
    // The client opens the file once and does not report later changes.
    editor.write("pdev.yaml", BAD);
    assert_eq!(
        error_and_warning_codes(editor.pull_diagnostics("pdev.yaml").await["items"].as_array().unwrap()),
        ["PD0110"]
    );
    // Text that the user has typed takes precedence over the disk.
    editor.replace("pdev.yaml", 2, GOOD).await;
    editor.write("pdev.yaml", "app: [\n");
    assert_eq!(
        error_and_warning_codes(editor.pull_diagnostics("pdev.yaml").await["items"].as_array().unwrap()),
        Vec::<&str>::new()
    );
}

#[tokio::test]
async fn included_file_reports_its_own_diagnostics() {
    let mut editor = Editor::start(push_capabilities()).await;
    editor.write("platform.yaml", "services:\n  db: { image: \"db:1\", prot: 1 }\n");
    editor.open("pdev.yaml", &format!("{GOOD}include: [platform.yaml]\n")).await;
    let included = editor.uri("platform.yaml");
    let mut published = std::collections::BTreeMap::new();
    while published.len() < 2 {
        let params = editor.next_message("textDocument/publishDiagnostics").await;
        published.insert(params["uri"].as_str().unwrap().to_owned(), params["diagnostics"].as_array().unwrap().clone());
    }
    assert_eq!(error_and_warning_codes(&published[&included]), ["PD0110"]);
    editor.write("platform.yaml", "services:\n  db: { image: \"db:1\", port: 1 }\n");
    editor.notify("workspace/didChangeWatchedFiles", json!({ "changes": [{ "uri": included, "type": 2 }] })).await;
    loop {
        let params = editor.next_message("textDocument/publishDiagnostics").await;
        if params["uri"] == included.as_str() {
            assert_eq!(error_and_warning_codes(params["diagnostics"].as_array().unwrap()), Vec::<&str>::new());
            break;
        }
    }
    // The included file is open with unsaved changes.
    editor.open("platform.yaml", "services:\n  db: { image: \"db:1\", prot: 1 }\n").await;
    assert_eq!(error_and_warning_codes(&editor.published_diagnostics("platform.yaml", 1).await), ["PD0110"]);
    // Closing the manifest clears the diagnostics of the included file.
    let uri = editor.uri("pdev.yaml");
    editor.notify("textDocument/didClose", json!({ "textDocument": { "uri": uri } })).await;
    assert_eq!(diagnostic_codes(&editor.published_diagnostics("platform.yaml", 1).await), Vec::<&str>::new());
}

#[tokio::test]
async fn rapid_changes_are_applied_in_order() {
    let mut editor = Editor::start(push_capabilities()).await;
    editor.open("pdev.yaml", GOOD).await;
    let end = json!({ "line": 4, "character": 0 });
    editor.change("pdev.yaml", 2, json!([{ "range": { "start": end, "end": end }, "text": "a_: 1\nb_: 1\n" }])).await;
    // Each change appends one letter to a key, so changes in the wrong order result in another key. There are two keys,
    // because a YAML key has at most 1,024 characters.
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
        let params = editor.next_message("textDocument/publishDiagnostics").await;
        versions.push(params["version"].as_i64().unwrap());
    }
    assert!(versions.is_sorted(), "{versions:?}");
    let uri = editor.uri("pdev.yaml");
    let symbols = editor.request("textDocument/documentSymbol", json!({ "textDocument": { "uri": uri } })).await;
    let names: Vec<&Value> = symbols.as_array().unwrap().iter().rev().take(2).map(|symbol| &symbol["name"]).collect();
    assert_eq!(names, [keys[1].as_str(), keys[0].as_str()]);
}

#[tokio::test]
async fn settings_disable_code_and_select_environment() {
    let text = format!("{GOOD}environments:\n  preview: {{ services: {{ web: {{ prot: 1 }} }} }}\n");
    let mut editor =
        Editor::start_with_options(push_capabilities(), json!({ "pdev": { "codes": { "PD0110": "off" } } })).await;
    editor.open("pdev.yaml", &text).await;
    assert!(!diagnostic_codes(&editor.published_diagnostics("pdev.yaml", 1).await).contains(&"PD0110"));
    let settings = json!({ "settings": { "pdev": { "environment": "nowhere" } } });
    editor.notify("workspace/didChangeConfiguration", settings).await;
    let found = editor.published_diagnostics("pdev.yaml", 1).await;
    assert!(
        diagnostic_codes(&found).contains(&"PD0118") && diagnostic_codes(&found).contains(&"PD0110"),
        "{:?}",
        diagnostic_codes(&found)
    );
}

#[tokio::test]
async fn server_stops_when_client_disconnects() {
    assert!(!Editor::start(push_capabilities()).await.disconnect().await);
}

#[tokio::test]
async fn advice_is_one_hint_until_it_is_requested() {
    let mut editor = Editor::start(push_capabilities()).await;
    let services: String = (0..40).map(|n| format!("  s{n}: {{ image: \"w:1\", port: 80 }}\n")).collect();
    let text = format!("pdev: 1\napp: shop\nservices:\n{services}  bad: {{ image: \"w:latest\", port: 80 }}\n");
    editor.open("pdev.yaml", &text).await;
    let found = editor.published_diagnostics("pdev.yaml", 1).await;
    let hints: Vec<&Value> = found.iter().filter(|found| found["severity"] == 4).collect();
    assert_eq!(hints.len(), 1, "{found:?}");
    assert!(hints[0]["message"].as_str().unwrap().contains("suggestions"), "{hints:?}");
    // Warnings are shown as they are.
    assert!(found.iter().any(|found| found["code"] == "PD011"), "{found:?}");
    let uri = editor.uri("pdev.yaml");
    let mut shown_counts = Vec::new();
    for title in ["Show advice", "Hide advice"] {
        let params = json!({
            "textDocument": { "uri": uri }, "range": hints[0]["range"], "context": { "diagnostics": [], "only": ["quickfix"] }
        });
        let actions = editor.request("textDocument/codeAction", params).await;
        let action = actions.as_array().unwrap().iter().find(|action| action["title"] == title).unwrap();
        let run = json!({ "command": action["command"]["command"], "arguments": action["command"]["arguments"] });
        editor.request("workspace/executeCommand", run).await;
        let found = editor.published_diagnostics("pdev.yaml", 1).await;
        shown_counts.push(found.iter().filter(|found| found["severity"] == 4).count());
    }
    assert!(shown_counts[0] > 40 && shown_counts[1] == 1, "{shown_counts:?}");
}

#[tokio::test]
async fn malformed_messages_are_answered_and_session_continues() {
    let mut editor = Editor::start(push_capabilities()).await;
    let frame = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let request = r#"{"jsonrpc":"2.0","id":90,"method":"$/unknownThing","params":{}}"#;
    let upper_case = r#"{"jsonrpc":"2.0","id":91,"method":"pdev/none"}"#;
    for (bytes, id, code) in [
        (frame("{ not json"), Value::Null, -32700),
        (frame("[]"), Value::Null, -32600),
        (frame(r#"[{"jsonrpc":"2.0","id":5,"method":"shutdown"}]"#), Value::Null, -32600),
        (frame("7"), Value::Null, -32600),
        (frame(r#"{"jsonrpc":"2.0"}"#), Value::Null, -32600),
        ("X-Other: 1\r\n\r\n".to_owned(), Value::Null, -32700),
        (frame(request), json!(90), -32601),
        (format!("content-type: x\r\nCONTENT-LENGTH:{}\r\n\r\n{upper_case}", upper_case.len()), json!(91), -32601),
    ] {
        editor.send_bytes(&bytes).await;
        let answer = editor.receive_unchecked().await;
        assert_eq!((&answer["id"], answer["error"]["code"].as_i64()), (&id, Some(code)), "{bytes}: {answer}");
    }
    editor.open("pdev.yaml", BAD).await;
    assert!(!editor.published_diagnostics("pdev.yaml", 1).await.is_empty());
    assert!(editor.stop().await);
}

#[tokio::test]
async fn server_ends_after_process_of_its_client() {
    use tokio::io::AsyncWriteExt;
    let mut client = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(far);
    let folder = tempfile::tempdir().unwrap();
    let socket = client::SocketLocation::in_folder(folder.path().join("never-made"));
    let server = tokio::spawn(lsp::serve_with_agent_at(input, output, socket));
    let params = json!({ "processId": client.id(), "rootUri": null, "capabilities": {} });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string();
    near.write_all(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    // The response shows that the server knows the process.
    tokio::io::AsyncReadExt::read_u8(&mut near).await.unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    let was_shut_down = tokio::time::timeout(std::time::Duration::from_secs(60), server).await.unwrap().unwrap();
    assert!(!was_shut_down);
}
