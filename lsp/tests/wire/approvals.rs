//! Approvals over the wire: the diagnostic on the identity, the server's question, and the approval by a scripted
//! agent. Also the message in an editor that may not approve.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use client::SocketLocation;
use serde_json::{Value, json};

use crate::editor::{Editor, push_capabilities};
use crate::live_state::fake::{self, FakeRequest, json_response as http_json};

const TEXT: &str = "pdev: 1\napp: shop\nservices:\n  api:\n    image: \"a:1\"\n    identity: shop-dev\n";
const SHOW_MESSAGE_REQUEST: &str = "window/showMessageRequest";

struct ApprovalFixture {
    editor: Editor,
    requests: Arc<Mutex<Vec<String>>>,
}

/// An editor with these client commands, and an agent with a pending approval for `api`. With `refusal`, the agent
/// rejects approvals of this editor for that reason.
async fn start_fixture(commands: Value, refusal: Option<&'static str>) -> ApprovalFixture {
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let socket = SocketLocation::in_folder(sockets.path());
    let mut capabilities = push_capabilities();
    capabilities["experimental"] = json!({ "commands": commands });
    let mut editor = Editor::start_with_agent_at(capabilities, Value::Null, socket.clone()).await;
    let folder = editor.path("").to_string_lossy().into_owned();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&requests);
    let approved = AtomicBool::new(false);
    let identity_use = json!({ "repository": "/r/.git", "service": "api", "identity": "shop-dev" });
    let with = move |more: Value| {
        let mut view = identity_use.clone();
        view.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        view
    };
    let answer = move |request: &FakeRequest| {
        recorded.lock().unwrap().push(request.head.lines().next().unwrap_or_default().to_owned());
        let pending = with(json!({ "code": "7kq2-mxgh", "until": 1, "folders": [folder] }));
        match () {
            () if request.starts_with("GET /v1/agent ") => fake::agent_info_response(1),
            () if request.starts_with("GET /v1/previews ") => {
                let unit = json!({ "name": "api", "role": "service", "runtime": "docker", "state": "ready", "restarts": 0, "support": "paved" });
                let status = json!({
                    "id": "p1", "title": "shop/main", "app": "shop", "branch": "main", "environment": "local",
                    "folder": folder, "state": "ready", "folder_present": true, "units": [unit],
                });
                http_json("200 OK", &json!([status]).to_string())
            }
            () if request.starts_with("GET /v1/identities ") => {
                http_json("200 OK", r#"[{"name":"shop-dev","source":"exec","state":"idle"}]"#)
            }
            () if request.starts_with("GET /v1/approvals/waiting ") => {
                let all = if approved.load(Ordering::SeqCst) { json!([]) } else { json!([pending]) };
                http_json("200 OK", &all.to_string())
            }
            () if request.starts_with("GET /v1/approvals/7kq2-mxgh ") => {
                let refusal =
                    refusal.map(|reason| json!({ "code": "not_by_the_asker", "status": 403, "title": reason }));
                http_json("200 OK", &with(json!({ "at": 0, "until": 1, "refusal": refusal })).to_string())
            }
            () if request.starts_with("POST /v1/approvals/7kq2-mxgh ") => {
                approved.store(true, Ordering::SeqCst);
                http_json("200 OK", &with(json!({ "at": 1, "until": 2 })).to_string())
            }
            () if request.starts_with("GET /v1/events ") => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                [fake::KEEP_OPEN_PREFIX, head.as_bytes()].concat()
            }
            () => http_json("404 Not Found", r#"{"code":"not_found","title":"no such route"}"#),
        }
    };
    fake::serve(&socket.socket_path(), Arc::new(answer));
    editor.keep_alive(sockets);
    editor.open("pdev.yaml", TEXT).await;
    ApprovalFixture { editor, requests }
}

impl ApprovalFixture {
    async fn wait_for_approval_diagnostic(&mut self) -> Value {
        loop {
            let params = self.editor.next_message("textDocument/publishDiagnostics").await;
            let all = params["diagnostics"].as_array().unwrap();
            if let Some(found) = all.iter().find(|diagnostic| diagnostic["code"] == "needs_approval") {
                return found.clone();
            }
        }
    }

    async fn run_approve_action(&mut self, found: &Value) {
        let params = json!({
            "textDocument": { "uri": self.editor.uri("pdev.yaml") }, "range": found["range"],
            "context": { "diagnostics": [found], "only": ["quickfix"] },
        });
        let actions = self.editor.request("textDocument/codeAction", params).await;
        let fix = actions.as_array().unwrap().iter().find(|action| action["command"].is_object()).unwrap().clone();
        assert_eq!(fix["title"], "Approve `shop-dev` for `api`…");
        let params = json!({ "command": "pdev.approve", "arguments": fix["command"]["arguments"] });
        assert!(self.editor.request("workspace/executeCommand", params).await.is_null());
    }

    fn is_approved(&self) -> bool {
        self.requests.lock().unwrap().iter().any(|line| line.starts_with("POST /v1/approvals/"))
    }
}

#[tokio::test]
async fn approval_needs_answer_to_current_prompt() {
    let mut fixture = start_fixture(json!(["pdev.approve"]), None).await;
    let found = fixture.wait_for_approval_diagnostic().await;
    assert_eq!((&found["range"]["start"]["line"], &found["range"]["start"]["character"]), (&json!(5), &json!(14)));
    let message = found["message"].as_str().unwrap();
    assert!(message.starts_with("`api` runs without the identity `shop-dev`: its first use"), "{message}");
    assert!(message.contains("`pdev identity approve 7kq2-mxgh` in another terminal"), "{message}");

    // The user dismisses the question: nothing is approved, and no other message appears.
    fixture.run_approve_action(&found).await;
    let question = fixture.editor.next_message(SHOW_MESSAGE_REQUEST).await;
    assert_eq!(question["message"], "`api` of /r would act as `shop-dev`, whenever it runs, for 90 days.");
    let approve = &question["actions"][1];
    assert_eq!(question["actions"][0], json!({ "title": "Not now" }));
    assert_eq!((&approve["title"], &approve["typed"]), (&json!("Approve `shop-dev`"), &json!("shop-dev")));
    assert!(!fixture.is_approved());

    // A response with the token of an earlier question does not approve.
    fixture.editor.replies.insert(SHOW_MESSAGE_REQUEST.to_owned(), approve.clone());
    fixture.run_approve_action(&found).await;
    let again = fixture.editor.next_message(SHOW_MESSAGE_REQUEST).await;
    assert_ne!(again["actions"][1]["token"], approve["token"]);
    assert!(!fixture.is_approved());

    fixture.editor.auto_choose_title = Some("Approve `shop-dev`".to_owned());
    fixture.run_approve_action(&found).await;
    fixture.editor.next_message(SHOW_MESSAGE_REQUEST).await;
    let after = fixture.editor.next_message(SHOW_MESSAGE_REQUEST).await;
    assert_eq!(after["message"], "approved: the next `up` gives `shop-dev` to `api`");
    assert_eq!(after["actions"], json!([{ "title": "Bring it up again" }]));
    assert!(fixture.is_approved());
}

#[tokio::test]
async fn approve_command_without_confirmation_approves_nothing() {
    let mut fixture = start_fixture(json!([]), None).await;
    fixture.wait_for_approval_diagnostic().await;
    fixture.editor.replies.insert(SHOW_MESSAGE_REQUEST.to_owned(), json!({ "title": "Not now" }));
    let argument =
        json!({ "uri": fixture.editor.uri("pdev.yaml"), "typed": "shop-dev", "code": "7kq2-mxgh", "approve": true });
    fixture
        .editor
        .request("workspace/executeCommand", json!({ "command": "pdev.approve", "arguments": [argument] }))
        .await;
    let question = fixture.editor.next_message(SHOW_MESSAGE_REQUEST).await;
    assert_eq!(
        question["actions"],
        json!([{ "title": "Not now" }, { "title": "Approve `shop-dev`" }]),
        "without `pdev.approve` there is no `typed`"
    );
    // When this request is answered, the question before it has ended.
    let argument = json!({ "uri": fixture.editor.uri("pdev.yaml"), "unit": "web" });
    let params = json!({ "command": "pdev.approve", "arguments": [argument] });
    let refused = fixture.editor.request_raw("workspace/executeCommand", params).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("no approval is pending here"), "{refused}");
    assert!(!fixture.is_approved());
}

#[tokio::test]
async fn refused_approval_shows_terminal_command() {
    const REASON: &str = "the request came through this editor, and any program in it could have made it";
    let mut fixture = start_fixture(json!(["pdev.approve", "pdev.copy"]), Some(REASON)).await;
    let found = fixture.wait_for_approval_diagnostic().await;
    fixture.run_approve_action(&found).await;
    let question = fixture.editor.next_message(SHOW_MESSAGE_REQUEST).await;
    let message = question["message"].as_str().unwrap();
    assert!(
        message.contains(REASON) && message.ends_with("outside of this editor: pdev identity approve 7kq2-mxgh"),
        "{message}"
    );
    let copy = json!([{ "title": "Copy the command", "copy": "pdev identity approve 7kq2-mxgh" }]);
    assert_eq!(question["actions"], copy);

    let mut plain = start_fixture(json!([]), Some(REASON)).await;
    let found = plain.wait_for_approval_diagnostic().await;
    plain.run_approve_action(&found).await;
    let message = plain.editor.next_message("window/showMessage").await;
    assert!(message["message"].as_str().unwrap().contains("pdev identity approve 7kq2-mxgh"), "{message}");
    assert!(!fixture.is_approved() && !plain.is_approved());
}
