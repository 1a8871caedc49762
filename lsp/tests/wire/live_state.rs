//! Live state from a scripted agent over the wire: lenses, hints, diagnostics, hover, drift and commands, with and
//! without an agent.

#[path = "../../../client/tests/fake/mod.rs"]
pub mod fake;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use client::SocketLocation;
use fake::{FakeRequest, json_response as http_json};
use serde_json::{Value, json};

use crate::editor::{Editor, push_capabilities};

const TEXT: &str = "pdev: 1\napp: shop\nservices:\n  api:\n    image: \"a:1\"\n    port: 80\n    env: { LEVEL: debug }\n  web: { image: \"w:1\", port: 81 }\n";

fn preview(folder: &str) -> Value {
    json!({ "id": "p1", "title": "shop/main", "app": "shop", "branch": "main", "environment": "local", "folder": folder })
}

fn unit(name: &str, state: &str, more: Value) -> Value {
    let mut unit = json!({ "name": name, "role": "service", "runtime": "docker", "state": state, "restarts": 0, "support": "paved" });
    unit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    unit
}

fn status(folder: &str) -> Value {
    let mut status = preview(folder);
    let units = [
        unit(
            "api",
            "ready",
            json!({ "url": "http://api.main.shop.localhost:8642", "started_at": 1000, "ready_at": 1250 }),
        ),
        unit("web", "ready", json!({ "ports": { "main": 40001 } })),
    ];
    let more =
        json!({ "state": "ready", "folder_present": true, "url": "http://main.shop.localhost:8642", "units": units });
    status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    status
}

/// The status after these events. The server may fetch it at any time, so it must not contradict an event.
fn status_after(folder: &str, kinds: &[Value]) -> Value {
    let mut status = status(folder);
    for changed in kinds.iter().filter(|kind| kind["event"] == "unit_changed").map(|kind| &kind["unit"]) {
        let units = status["units"].as_array_mut().unwrap();
        if let Some(unit) = units.iter_mut().find(|unit| unit["name"] == changed["name"]) {
            *unit = changed.clone();
        }
    }
    status
}

/// A response with these events. The stream stays open after them.
fn event_stream_response(folder: &str, kinds: &[Value]) -> Vec<u8> {
    let mut bytes =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for (id, kind) in kinds.iter().enumerate() {
        let mut event = json!({ "id": id + 1, "at": 0, "preview": preview(folder) });
        event.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        if event["status"] == "$STATUS" {
            event["status"] = status(folder);
        }
        let text = format!("id: {}\ndata: {event}\n\n", id + 1);
        bytes += &format!("{:x}\r\n{text}\r\n", text.len());
    }
    bytes.into()
}

struct LiveFixture {
    editor: Editor,
    requests: Arc<Mutex<Vec<String>>>,
}

/// An editor with a manifest, and an agent with its preview. The agent sends the events `kinds`, and answers `POST
/// /v1/plan` with the steps `plan`.
async fn start_fixture(kinds: Vec<Value>, plan: Vec<Value>) -> LiveFixture {
    start_fixture_of_client(kinds, plan, &["pdev.shell"]).await
}

async fn start_fixture_of_client(kinds: Vec<Value>, plan: Vec<Value>, client_commands: &[&str]) -> LiveFixture {
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let socket = SocketLocation::in_folder(sockets.path());
    let mut capabilities = push_capabilities();
    capabilities["window"] = json!({ "workDoneProgress": true, "showDocument": { "support": true } });
    capabilities["workspace"]["applyEdit"] = json!(true);
    capabilities["experimental"] = json!({ "commands": client_commands });
    let mut editor = Editor::start_with_agent_at(capabilities, Value::Null, socket.clone()).await;
    let folder = editor.path("").to_string_lossy().into_owned();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&requests);
    let answer = move |request: &FakeRequest| {
        let line = request.head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
        recorded.lock().unwrap().push(format!("{line} {}", String::from_utf8_lossy(&request.body)));
        match () {
            () if request.starts_with("GET /v1/agent ") => fake::agent_info_response(1),
            () if request.starts_with("GET /v1/previews ") => {
                http_json("200 OK", &json!([status_after(&folder, &kinds)]).to_string())
            }
            () if request.starts_with("GET /v1/events ") => {
                [fake::KEEP_OPEN_PREFIX, &event_stream_response(&folder, &kinds)].concat()
            }
            () if request.starts_with("POST /v1/plan ") => {
                let reply = json!({ "preview": preview(&folder), "plan": { "steps": plan, "unchanged": false }, "notes": [], "diagnostics": [] });
                http_json("200 OK", &reply.to_string())
            }
            () if request.starts_with("POST /v1/previews/p1/restart ")
                || request.starts_with("POST /v1/previews/p1/stop ") =>
            {
                let finished =
                    json!({ "event": "finished", "status": status(&folder), "milliseconds": 5, "unchanged": false });
                let started = json!({ "event": "step_started", "step": 0, "text": "restart api" });
                let mut bytes = event_stream_response(&folder, &[started, finished]);
                bytes.extend(b"0\r\n\r\n");
                bytes
            }
            () if request.starts_with("GET /v1/previews/p1/logs") => {
                let line = json!({ "at": 1, "unit": "api", "stream": "stdout", "text": "hello" }).to_string() + "\n";
                let mut bytes = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
                    line.len()
                );
                bytes += &line;
                bytes.into_bytes()
            }
            () => http_json("404 Not Found", r#"{"code":"not_found","title":"no such route"}"#),
        }
    };
    fake::serve(&socket.socket_path(), Arc::new(answer));
    editor.keep_alive(sockets);
    editor.open("pdev.yaml", TEXT).await;
    LiveFixture { editor, requests }
}

impl LiveFixture {
    fn document_params(&self) -> Value {
        json!({ "textDocument": { "uri": self.editor.uri("pdev.yaml") } })
    }

    /// Waits until the server has received the agent's state and asks for a refresh of the lenses.
    async fn wait_for_refresh(&mut self) {
        self.editor.next_message("workspace/codeLens/refresh").await;
    }

    async fn lens_titles(&mut self) -> Vec<String> {
        let params = self.document_params();
        let all = self.editor.request("textDocument/codeLens", params).await;
        let title =
            |lens: &Value| format!("{} {}", lens["range"]["start"]["line"], lens["command"]["title"].as_str().unwrap());
        all.as_array().unwrap().iter().map(title).collect()
    }

    async fn run_command(&mut self, command: &str, argument: Value) -> Value {
        let mut argument = argument;
        argument["uri"] = json!(self.editor.uri("pdev.yaml"));
        let params = json!({ "command": command, "arguments": [argument] });
        self.editor.request_raw("workspace/executeCommand", params).await
    }

    /// Waits for a publication with live diagnostics and returns those.
    async fn wait_for_live_diagnostics(&mut self) -> Vec<Value> {
        loop {
            let params = self.editor.next_message("textDocument/publishDiagnostics").await;
            let all = params["diagnostics"].as_array().unwrap();
            let live: Vec<Value> =
                all.iter().filter(|diagnostic| diagnostic["source"] == "pdev (live)").cloned().collect();
            if !live.is_empty() {
                return live;
            }
        }
    }
}

#[tokio::test]
async fn lenses_hints_and_hover_show_unit_state() {
    let mut fixture = start_fixture(Vec::new(), Vec::new()).await;
    fixture.wait_for_refresh().await;
    let lenses = fixture.lens_titles().await;
    assert_eq!(
        lenses,
        [
            "0 shop/main: ready",
            "0 ▶ up",
            "0 ■ stop",
            "0 open",
            "3 ↻ restart",
            "3 ■ stop",
            "3 logs",
            "3 open",
            "3 shell",
            "7 ↻ restart",
            "7 ■ stop",
            "7 logs",
            "7 shell"
        ]
    );
    let mut params = fixture.document_params();
    params["range"] = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 9, "character": 0 } });
    let hints = fixture.editor.request("textDocument/inlayHint", params).await;
    let labels: Vec<&str> = hints.as_array().unwrap().iter().map(|hint| hint["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["ready http://api.main.shop.localhost:8642", "ready 127.0.0.1:40001"]);
    let mut params = fixture.document_params();
    params["position"] = json!({ "line": 3, "character": 3 });
    let hover = fixture.editor.request("textDocument/hover", params).await;
    let markdown = hover["contents"]["value"].as_str().unwrap();
    // The running state comes before the static text.
    assert!(
        markdown.starts_with("**now**: service ready as docker") && markdown.contains(" d ago, ready after 250 ms"),
        "{hover}"
    );
    let mut params = fixture.document_params();
    params["position"] = json!({ "line": 7, "character": 24 });
    let hover = fixture.editor.request("textDocument/hover", params).await;
    let on_port = hover["contents"]["value"].as_str().unwrap();
    assert!(on_port.starts_with("**now**: port main: 127.0.0.1:40001\n\n---\n\n**port**"), "{on_port}");
    // The first hover only requests the log lines. A later one shows them.
    let mut markdown = markdown.to_owned();
    for _ in 0..2000 {
        if markdown.contains("hello") {
            break;
        }
        let mut params = fixture.document_params();
        params["position"] = json!({ "line": 3, "character": 3 });
        markdown = fixture.editor.request("textDocument/hover", params).await["contents"]["value"]
            .as_str()
            .unwrap()
            .to_owned();
    }
    assert!(markdown.contains("last lines, 0 s ago:\n\n```text\nhello\n```"), "{markdown}");
}

/// A terminal that follows the log of a unit that has ended would close at once.
#[tokio::test]
async fn lens_of_ended_unit_shows_its_log_and_end() {
    for state in ["failed", "done", "stopped"] {
        let ended = unit("api", state, json!({ "reason": "exit code 1" }));
        let ended = json!({ "event": "unit_changed", "unit": ended });
        let mut fixture = start_fixture_of_client(vec![ended], Vec::new(), &["pdev.tail"]).await;
        let params = fixture.document_params();
        let logs_commands = loop {
            fixture.wait_for_refresh().await;
            let lenses = fixture.editor.request("textDocument/codeLens", params.clone()).await;
            let logs = lenses.as_array().unwrap().iter().filter(|lens| lens["command"]["title"] == "logs");
            let commands: Vec<String> =
                logs.map(|lens| lens["command"]["command"].as_str().unwrap().to_owned()).collect();
            if commands.first().is_some_and(|command| command == "pdev.logs") {
                break commands;
            }
        };
        assert_eq!(logs_commands, ["pdev.logs", "pdev.tail"], "{state}");
        let shown = fixture.run_command("pdev.logs", json!({ "unit": "api", "show": true })).await;
        let expected = format!("api  hello\n-- `api` has ended ({state}): exit code 1 --\n");
        assert_eq!(shown["result"]["text"], expected);
    }
}

#[tokio::test]
async fn failure_is_reported_on_the_causing_line() {
    let problem = json!({ "code": "image_not_found", "title": "no image `a:1`", "unit": "api", "hint": "Build it first.", "output": ["last words"] });
    let unhealthy = unit("web", "unhealthy", json!({ "reason": "GET / answered 503" }));
    let failed = json!({ "event": "failed", "problems": [problem], "status": "$STATUS", "milliseconds": 1 });
    let mut fixture =
        start_fixture(vec![failed, json!({ "event": "unit_changed", "unit": unhealthy })], Vec::new()).await;
    let live = loop {
        let live = fixture.wait_for_live_diagnostics().await;
        if live.len() == 2 {
            break live;
        }
    };
    let with_code =
        |code: &str| live.iter().find(|found| found["code"] == code).unwrap_or_else(|| panic!("no {code}: {live:#?}"));
    let image = with_code("image_not_found");
    assert_eq!(
        (image["severity"].as_u64(), image["range"]["start"].clone()),
        (Some(1), json!({ "line": 4, "character": 11 }))
    );
    assert_eq!(image["message"], "`api`: no image `a:1`\nlast words\nBuild it first.");
    let mut params = fixture.document_params();
    params["range"] = image["range"].clone();
    params["context"] = json!({ "diagnostics": [image], "only": ["quickfix"] });
    let actions = fixture.editor.request("textDocument/codeAction", params).await;
    let titles: Vec<&str> =
        actions.as_array().unwrap().iter().map(|action| action["title"].as_str().unwrap()).collect();
    assert!(titles.contains(&"Show logs of `api`") && titles.contains(&"Restart `api`"), "{titles:?}");
    let shown = fixture.run_command("pdev.logs", json!({ "unit": "api", "show": true })).await;
    assert_eq!(shown["result"]["text"], "api  hello\n");
    assert_eq!(
        (with_code("not_ready")["severity"].as_u64(), with_code("not_ready")["range"]["start"]["line"].as_u64()),
        (Some(2), Some(7))
    );
}

#[tokio::test]
async fn drift_is_reported_on_the_differing_line() {
    let step = json!({ "id": 0, "action": "create", "unit": "api", "runtime": "docker", "text": "create api", "after": [], "cause": "changed", "because": "env.LEVEL changed" });
    let mut fixture = start_fixture(Vec::new(), vec![step]).await;
    let live = fixture.wait_for_live_diagnostics().await;
    assert_eq!((live[0]["code"].as_str(), live[0]["range"]["start"]["line"].as_u64()), (Some("drift"), Some(6)));
    assert!(live[0]["message"].as_str().unwrap().contains("env.LEVEL changed"));
    assert!(fixture.lens_titles().await.contains(&"0 ▶ up (1 changes)".to_owned()));
}

#[tokio::test]
async fn stopped_unit_is_no_drift_and_gets_start_lens() {
    let step = |unit: &str, cause: &str| json!({ "id": 0, "action": "start", "unit": unit, "runtime": "docker", "text": format!("start {unit}"), "after": [], "cause": cause, "because": cause });
    let stopped = json!({ "event": "unit_changed", "unit": unit("web", "stopped", json!({})) });
    let finished = json!({ "event": "finished", "status": "$STATUS", "milliseconds": 1, "unchanged": false });
    let mut fixture =
        start_fixture(vec![finished, stopped.clone()], vec![step("web", "not_running"), step("api", "changed")]).await;
    loop {
        let lenses = fixture.lens_titles().await;
        if lenses.contains(&"7 ▶ start".to_owned()) {
            assert!(!lenses.iter().any(|lens| lens.starts_with("7 ↻") || lens.starts_with("7 ■")), "{lenses:?}");
            break;
        }
        fixture.wait_for_refresh().await;
    }
    fixture.editor.notify("textDocument/didSave", fixture.document_params()).await;
    loop {
        let live = fixture.wait_for_live_diagnostics().await;
        let units: Vec<&str> = live.iter().filter_map(|diagnostic| diagnostic["data"]["unit"].as_str()).collect();
        if units == ["api"] {
            break;
        }
    }
}

#[tokio::test]
async fn commands_run_and_report_progress() {
    let mut fixture = start_fixture(Vec::new(), Vec::new()).await;
    fixture.wait_for_refresh().await;
    assert!(fixture.run_command("pdev.restart", json!({ "unit": "api" })).await["result"].is_null());
    let begin = fixture.editor.next_message("$/progress").await;
    assert_eq!(begin["value"]["kind"], "begin");
    assert_eq!(fixture.editor.next_message("$/progress").await["value"]["message"], "restart api");
    assert_eq!(fixture.editor.next_message("$/progress").await["value"]["kind"], "end");
    assert!(fixture.requests.lock().unwrap().iter().any(|line| line.contains("restart") && line.contains("api")));
    assert!(fixture.run_command("pdev.stop", json!({ "unit": "web" })).await["result"].is_null());
    while fixture.editor.next_message("$/progress").await["value"]["kind"] != "end" {}
    assert!(fixture.requests.lock().unwrap().contains(&r#"POST /v1/previews/p1/stop {"units":["web"]}"#.to_owned()));
    assert_eq!(fixture.run_command("pdev.logs", json!({ "unit": "api" })).await["result"][0]["text"], "hello");
    assert_eq!(fixture.run_command("pdev.open", json!({})).await["result"], "http://main.shop.localhost:8642");
    assert_eq!(fixture.editor.next_message("window/showDocument").await["external"], true);
    assert_eq!(fixture.run_command("pdev.status", json!({})).await["result"]["title"], "shop/main");
    assert!(fixture.run_command("pdev.check", json!({})).await["result"].is_array());
    let render = fixture.run_command("pdev.render", json!({ "unit": "api" })).await;
    assert!(
        render["result"].as_str().unwrap_or_default().contains("services.api.docker.HostConfig.Memory = "),
        "{render}"
    );
    assert!(!render["result"].as_str().unwrap().contains("services.web"));
    assert!(fixture.run_command("pdev.diff", json!({})).await["result"]["steps"].is_array());
    fixture
        .run_command("pdev.waive", json!({ "code": "PD011", "scope": "services.api", "reason": "an old library" }))
        .await;
    let edit = fixture.editor.next_message("workspace/applyEdit").await;
    assert!(edit["edit"].to_string().contains("an old library"), "{edit}");
    assert_eq!(fixture.run_command("pdev.nothing", json!({})).await["error"]["code"], -32602);
}

#[tokio::test]
async fn static_features_work_without_agent() {
    let sockets = tempfile::tempdir().unwrap();
    let socket = SocketLocation::in_folder(sockets.path().join("never-made"));
    let mut editor = Editor::start_with_agent_at(push_capabilities(), Value::Null, socket).await;
    editor.open("pdev.yaml", TEXT).await;
    editor.published_diagnostics("pdev.yaml", 1).await;
    editor.next_message("workspace/codeLens/refresh").await;
    let uri = editor.uri("pdev.yaml");
    let lenses = editor.request("textDocument/codeLens", json!({ "textDocument": { "uri": uri } })).await;
    assert_eq!(lenses.as_array().unwrap().len(), 1);
    assert!(lenses[0]["command"]["title"].as_str().unwrap().contains("no agent runs"));
    let open = json!({ "command": "pdev.open", "arguments": [{ "uri": uri }] });
    let refused = editor.request_raw("workspace/executeCommand", open).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("nothing is up"), "{refused}");
    assert!(!sockets.path().join("never-made").exists(), "the check created the folder of the agent");
}

#[tokio::test]
async fn missing_agent_is_shown_once_until_agent_starts() {
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let socket = SocketLocation::in_folder(sockets.path());
    let mut client = push_capabilities();
    client["textDocument"]["inlayHint"] = json!({});
    let mut editor = Editor::start_with_agent_at(client, Value::Null, socket.clone()).await;
    editor.open("pdev.yaml", TEXT).await;
    editor.next_message("workspace/codeLens/refresh").await;
    let document = json!({ "uri": editor.uri("pdev.yaml") });
    let range = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 9, "character": 0 } });
    let whole_file = json!({ "textDocument": document, "range": range });
    let hints = editor.request("textDocument/inlayHint", whole_file.clone()).await;
    assert_eq!(hints[0]["position"], json!({ "line": 0, "character": 7 }));
    assert_eq!(hints[0]["label"][1]["command"]["command"], "pdev.agent");
    let lenses = editor.request("textDocument/codeLens", json!({ "textDocument": document })).await;
    assert_eq!((lenses.as_array().unwrap().len(), lenses[0]["command"]["title"].as_str()), (1, Some("▶ up")));
    let top = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 0, "character": 0 } });
    let here = json!({ "textDocument": document, "range": top, "context": { "diagnostics": [] } });
    let actions = editor.request("textDocument/codeAction", here.clone()).await;
    assert!(actions.to_string().contains("Start the pdev agent"), "{actions}");
    let answer = |request: &FakeRequest| match () {
        () if request.starts_with("GET /v1/agent ") => fake::agent_info_response(1),
        () if request.starts_with("GET /v1/previews ") => http_json("200 OK", "[]"),
        () if request.starts_with("GET /v1/events ") => {
            [fake::KEEP_OPEN_PREFIX, &event_stream_response("", &[])].concat()
        }
        () => http_json("404 Not Found", r#"{"code":"not_found","title":"no such route"}"#),
    };
    fake::serve(&socket.socket_path(), Arc::new(answer));
    editor.notify("textDocument/didSave", json!({ "textDocument": document })).await;
    editor.next_message("workspace/codeLens/refresh").await;
    assert_eq!(editor.request("textDocument/inlayHint", whole_file).await, json!([]));
    let actions = editor.request("textDocument/codeAction", here).await;
    assert!(!actions.to_string().contains("Start the pdev agent"), "{actions}");
}

#[tokio::test]
async fn virtual_documents_are_readable_only_by_owner() {
    let step = json!({ "id": 0, "action": "create", "unit": "api", "runtime": "docker", "text": "create api", "after": [], "cause": "changed", "because": "env.LEVEL changed" });
    let mut fixture = start_fixture(Vec::new(), vec![step]).await;
    fixture.wait_for_refresh().await;
    let live = fixture.wait_for_live_diagnostics().await;
    for (command, words) in [
        ("pdev.render", "services.api.docker.HostConfig.Memory = "),
        ("pdev.diff", "create api  # env.LEVEL changed"),
        ("pdev.report", "preview: shop/main is ready"),
    ] {
        let answer = fixture.run_command(command, json!({ "unit": "api", "show": true })).await["result"].clone();
        let path = answer["uri"].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(words) && answer["text"] == text.as_str(), "{command}: {text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        let request = fixture.editor.next_message("window/showDocument").await;
        assert_eq!((&request["uri"], &request["external"]), (&answer["uri"], &json!(false)));
        // The second call replaces the read-only file.
        fixture.run_command(command, json!({ "unit": "api", "show": true })).await;
        fixture.editor.next_message("window/showDocument").await;
    }
    let report = fixture.run_command("pdev.report", json!({})).await["result"].clone();
    assert!(
        report.as_str().unwrap().contains("drift: create api") && !report.to_string().contains("debug"),
        "{report}"
    );
    let mut params = fixture.document_params();
    params["range"] = live[0]["range"].clone();
    params["context"] = json!({ "diagnostics": live });
    let actions = fixture.editor.request("textDocument/codeAction", params).await;
    let apply = actions.as_array().unwrap().iter().find(|action| action["command"]["command"] == "pdev.apply").unwrap();
    assert_eq!(
        (apply["title"].as_str(), &apply["command"]["arguments"][0]["unit"]),
        (Some("Apply the manifest to `api`"), &json!("api"))
    );
}
