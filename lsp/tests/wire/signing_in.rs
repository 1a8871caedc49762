//! Identities that somebody has to sign in as: told where the manifest names them, with the action, which a scripted agent
//! carries out; and a shell for clients that open terminals.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::Place;
use serde_json::{Value, json};

use crate::editor::{Editor, pushed};
use crate::living::fake::{self, Asked, json as http_json};

const TEXT: &str = "pdev: 1\napp: shop\nservices:\n  api:\n    image: \"a:1\"\n    port: 80\n    identity: shop-dev\n  web:\n    image: \"w:1\"\n    identity: nobody\n  old: { image: \"o:1\", identity: fine }\n  job: { image: \"o:1\", identity: role }\n";

fn identities(signed_in: bool) -> Value {
    let problem = json!({ "code": "needs_login", "status": 0, "title": "the session of `shop-dev` has ended" });
    let own = match signed_in {
        true => json!({ "name": "shop-dev", "source": "aws-sso", "state": "ready" }),
        false => json!({ "name": "shop-dev", "source": "aws-sso", "state": "needs_login", "problem": problem }),
    };
    let built_on = json!({ "name": "role", "source": "aws-role", "state": "ready", "sign_in": "base", "login_ends_at": 50_700_000_i64 });
    json!([own, { "name": "fine", "source": "exec", "state": "idle" }, built_on])
}

/// An editor and an agent where nothing is up, and nobody has signed in until somebody does.
async fn world() -> Editor {
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let place = Place::at(sockets.path());
    let mut capabilities = pushed();
    capabilities["window"] = json!({ "showDocument": { "support": true } });
    let mut editor = Editor::start_at(capabilities, Value::Null, place.clone()).await;
    let signed_in = AtomicBool::new(false);
    let answer = move |request: &Asked| match () {
        () if request.is("GET /v1/agent ") => fake::info(1),
        () if request.is("GET /v1/previews ") => http_json("200 OK", "[]"),
        () if request.is("GET /v1/identities ") => {
            http_json("200 OK", &identities(signed_in.load(Ordering::SeqCst)).to_string())
        }
        () if request.is("GET /v1/events ") => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
            [fake::OPEN, head.as_bytes()].concat()
        }
        () if request.is("POST /v1/identities/shop-dev/login ") => {
            signed_in.store(true, Ordering::SeqCst);
            let lines =
                [json!({ "login": "open", "url": "http://127.0.0.1:9/sign-in" }), json!({ "login": "signed_in" })];
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n";
            format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
        }
        () => http_json("404 Not Found", r#"{"code":"not_found","title":"no such route"}"#),
    };
    fake::serve(&place.socket(), Arc::new(answer));
    editor.keep_alive(sockets);
    editor
}

async fn live(editor: &mut Editor) -> Vec<Value> {
    loop {
        let params = editor.next("textDocument/publishDiagnostics").await;
        let all = params["diagnostics"].as_array().unwrap();
        let live: Vec<Value> = all.iter().filter(|one| one["source"] == "pdev (live)").cloned().collect();
        if !live.is_empty() {
            return live;
        }
    }
}

#[tokio::test]
async fn who_has_to_sign_in_is_told_and_helped_where_the_identity_stands() {
    let mut editor = world().await;
    editor.open("pdev.yaml", TEXT).await;
    let found = live(&mut editor).await;
    let told: Vec<_> = found
        .iter()
        .map(|one| (one["code"].as_str().unwrap(), one["range"]["start"]["line"].as_u64().unwrap()))
        .collect();
    assert_eq!(told, [("needs_login", 6), ("identity_unknown", 9), ("login_ends", 11)]);
    assert_eq!(found[2]["message"], "the login of `base` ends at 14:05 UTC\n`pdev login base` signs you in anew.");
    assert_eq!(found[0]["range"]["start"]["character"], 14);
    assert_eq!(found[0]["message"], "the session of `shop-dev` has ended\n`pdev login shop-dev` signs you in.");
    let uri = editor.uri("pdev.yaml");
    let params = json!({
        "textDocument": { "uri": uri }, "range": found[0]["range"],
        "context": { "diagnostics": found, "only": ["quickfix"] },
    });
    let actions = editor.ask("textDocument/codeAction", params).await;
    let titles: Vec<&str> = actions
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["command"].is_object())
        .map(|one| one["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles, ["Log in as `shop-dev`", "Log in as `base`"]);
    let login = actions.as_array().unwrap().iter().find(|one| one["command"].is_object()).unwrap()["command"].clone();
    let params = json!({ "command": login["command"], "arguments": login["arguments"] });
    assert!(editor.ask("workspace/executeCommand", params).await.is_null());
    assert_eq!(editor.next("window/showDocument").await["uri"], "http://127.0.0.1:9/sign-in");
    let message = editor.next("window/showMessage").await;
    assert_eq!((message["type"].as_u64(), message["message"].as_str()), (Some(3), Some("signed in as `shop-dev`")));
    let refused = editor.ask_for_all("workspace/executeCommand", json!({ "command": "pdev.login" })).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("needs `identity`"), "{refused}");
}
