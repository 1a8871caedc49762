//! Missing logins over the wire: the diagnostics, their actions, and a login by a scripted agent.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::SocketLocation;
use serde_json::{Value, json};

use crate::editor::{Editor, push_capabilities};
use crate::live_state::fake::{self, FakeRequest, json_response as http_json};

const TEXT: &str = "pdev: 1\napp: shop\nservices:\n  api:\n    image: \"a:1\"\n    port: 80\n    identity: shop-dev\n  web:\n    image: \"w:1\"\n    identity: unknown\n  old: { image: \"o:1\", identity: fine }\n  job: { image: \"o:1\", identity: role }\n";

fn identities(signed_in: bool) -> Value {
    let problem = json!({ "code": "needs_login", "status": 0, "title": "the session of `shop-dev` has ended" });
    let shop_dev = match signed_in {
        true => json!({ "name": "shop-dev", "source": "aws-sso", "state": "ready" }),
        false => json!({ "name": "shop-dev", "source": "aws-sso", "state": "needs_login", "problem": problem }),
    };
    let derived = json!({ "name": "role", "source": "aws-role", "state": "ready", "sign_in": "base", "login_ends_at": 50_700_000_i64 });
    json!([shop_dev, { "name": "fine", "source": "exec", "state": "idle" }, derived])
}

/// An editor, and an agent without previews and without a login for `shop-dev`.
async fn start_editor_with_agent() -> Editor {
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let socket = SocketLocation::in_folder(sockets.path());
    let mut capabilities = push_capabilities();
    capabilities["window"] = json!({ "showDocument": { "support": true } });
    let mut editor = Editor::start_with_agent_at(capabilities, Value::Null, socket.clone()).await;
    let signed_in = AtomicBool::new(false);
    let answer = move |request: &FakeRequest| match () {
        () if request.starts_with("GET /v1/agent ") => fake::agent_info_response(1),
        () if request.starts_with("GET /v1/previews ") => http_json("200 OK", "[]"),
        () if request.starts_with("GET /v1/identities ") => {
            http_json("200 OK", &identities(signed_in.load(Ordering::SeqCst)).to_string())
        }
        () if request.starts_with("GET /v1/events ") => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
            [fake::KEEP_OPEN_PREFIX, head.as_bytes()].concat()
        }
        () if request.starts_with("POST /v1/identities/shop-dev/login ") => {
            signed_in.store(true, Ordering::SeqCst);
            let lines =
                [json!({ "login": "open", "url": "http://127.0.0.1:9/sign-in" }), json!({ "login": "signed_in" })];
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n";
            format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }
        () => http_json("404 Not Found", r#"{"code":"not_found","title":"no such route"}"#),
    };
    fake::serve(&socket.socket_path(), Arc::new(answer));
    editor.keep_alive(sockets);
    editor
}

async fn wait_for_live_diagnostics(editor: &mut Editor) -> Vec<Value> {
    loop {
        let params = editor.next_message("textDocument/publishDiagnostics").await;
        let all = params["diagnostics"].as_array().unwrap();
        let live: Vec<Value> = all.iter().filter(|diagnostic| diagnostic["source"] == "pdev (live)").cloned().collect();
        if !live.is_empty() {
            return live;
        }
    }
}

#[tokio::test]
async fn missing_login_is_reported_with_login_action() {
    let mut editor = start_editor_with_agent().await;
    editor.open("pdev.yaml", TEXT).await;
    let found = wait_for_live_diagnostics(&mut editor).await;
    let codes_and_lines: Vec<_> = found
        .iter()
        .map(|diagnostic| {
            (diagnostic["code"].as_str().unwrap(), diagnostic["range"]["start"]["line"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(codes_and_lines, [("needs_login", 6), ("identity_unknown", 9), ("login_ends", 11)]);
    assert_eq!(found[2]["message"], "the login of `base` ends at 14:05 UTC\nRun `pdev login base` to renew it.");
    assert_eq!(found[0]["range"]["start"]["character"], 14);
    assert_eq!(found[0]["message"], "the session of `shop-dev` has ended\nRun `pdev login shop-dev` to sign in.");
    let uri = editor.uri("pdev.yaml");
    let params = json!({
        "textDocument": { "uri": uri }, "range": found[0]["range"],
        "context": { "diagnostics": found, "only": ["quickfix"] },
    });
    let actions = editor.request("textDocument/codeAction", params).await;
    let titles: Vec<&str> = actions
        .as_array()
        .unwrap()
        .iter()
        .filter(|action| action["command"].is_object())
        .map(|action| action["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles, ["Log in as `shop-dev`", "Log in as `base`"]);
    let login =
        actions.as_array().unwrap().iter().find(|action| action["command"].is_object()).unwrap()["command"].clone();
    let params = json!({ "command": login["command"], "arguments": login["arguments"] });
    assert!(editor.request("workspace/executeCommand", params).await.is_null());
    assert_eq!(editor.next_message("window/showDocument").await["uri"], "http://127.0.0.1:9/sign-in");
    let message = editor.next_message("window/showMessage").await;
    assert_eq!((message["type"].as_u64(), message["message"].as_str()), (Some(3), Some("signed in as `shop-dev`")));
    let refused = editor.request_raw("workspace/executeCommand", json!({ "command": "pdev.login" })).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("needs `identity`"), "{refused}");
}
