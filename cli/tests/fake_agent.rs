//! The binary with a scripted agent: its output and exit codes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../client/tests/fake/mod.rs"]
mod fake;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use fake::{FakeRequest, json_response};
use protocol::exec::Frame;

const PREVIEW: &str = r#""id":"p1","title":"shop/main","app":"shop","branch":"main","environment":"local""#;

fn unit(name: &str, state: &str, more_fields: &str) -> String {
    format!(
        r#"{{"name":"{name}","role":"service","runtime":"docker","state":"{state}","restarts":0,"support":"paved"{more_fields}}}"#
    )
}

fn status(state: &str) -> String {
    let url = r#","url":"http://api.main.shop.localhost:8642""#;
    let units = [unit("api", state, url), unit("db", "ready", r#","ports":{"db":40001}"#)].join(",");
    format!(
        r#"{{{PREVIEW},"state":"{state}","folder":"/gone","folder_present":false,"url":"http://main.shop.localhost:8642","units":[{units}]}}"#
    )
}

fn event(id: usize, kind: &str) -> String {
    format!("id: {id}\ndata: {{\"id\":{id},\"at\":0,\"preview\":{{{PREVIEW}}},{kind}}}\n\n")
}

fn event_stream(kinds: &[String]) -> Vec<u8> {
    let mut text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for (id, kind) in kinds.iter().enumerate() {
        let event = event(id, kind);
        text += &format!("{:x}\r\n{event}\r\n", event.len());
    }
    (text + "0\r\n\r\n").into()
}

fn planned_event() -> String {
    let step = r#"{"id":0,"action":"create","unit":"api","runtime":"docker","text":"create api","after":[],"cause":"absent","because":"it does not exist yet"}"#;
    format!(r#""event":"planned","plan":{{"steps":[{step}],"unchanged":false}}"#)
}

fn unit_changed_event(unit: &str) -> String {
    format!(r#""event":"unit_changed","unit":{unit}"#)
}

struct TestAgent {
    folder: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TestAgent {
    fn new(respond: impl Fn(&FakeRequest) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        std::fs::create_dir(&socket).unwrap();
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(folder.path().join("pdev.yaml"), MANIFEST).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = requests.clone();
        fake::serve(
            &socket.join("agent.sock"),
            Arc::new(move |request| {
                let line = request.head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
                recorded.lock().unwrap().push(format!("{line} {}", String::from_utf8_lossy(&request.body)));
                match () {
                    () if request.starts_with("GET /v1/agent ") => fake::agent_info_response(1),
                    () if request.starts_with("POST /v1/locate ") => {
                        json_response("200 OK", &format!(r#"{{"preview":{{{PREVIEW}}},"known":true}}"#))
                    }
                    () if request.starts_with("GET /v1/previews ")
                        || request.starts_with("POST /v1/previews/discover ") =>
                    {
                        json_response("200 OK", &format!("[{}]", status("ready")))
                    }
                    () if request.starts_with("GET /v1/previews/p1 ") => json_response("200 OK", &status("ready")),
                    () if request.starts_with("PUT ") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                    () => respond(request),
                }
            }),
        );
        Self { folder, requests }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let path: PathBuf = self.folder.path().join("input");
        std::fs::write(&path, input).unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pdev"));
        command
            .args(arguments)
            .env_clear()
            .env("PDEV_SOCKET_DIR", self.folder.path().join("socket"))
            .env("HOME", self.folder.path())
            .env("PDEV_SECRET_KEY", "from the environment")
            .env("LEVEL", "debug")
            .current_dir(&self.folder)
            .stdin(Stdio::from(std::fs::File::open(path).unwrap()))
            .kill_on_drop(true);
        tokio::time::timeout(std::time::Duration::from_secs(20), command.output()).await.unwrap().unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().filter(|line| !line.starts_with("GET /v1/agent")).cloned().collect()
    }
}

const MANIFEST: &str = r#"pdev: 1
app: shop
services:
  api: { image: shop-api, port: 8080, env: { LOG_LEVEL: "${env.LEVEL}", KEY: "${secrets.key.path}", CERT: "${secrets.cert.path}" } }
secrets: { key: {}, cert: {} }
"#;

fn assert_output(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert_eq!(
        (text(&output.stdout), text(&output.stderr), output.status.code()),
        (stdout.to_owned(), stderr.to_owned(), Some(code))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successful_up_prints_summary() {
    let finished = format!(r#""event":"finished","status":{},"milliseconds":1234,"unchanged":false"#, status("ready"));
    let script = [
        planned_event(),
        unit_changed_event(&unit("api", "starting", r#","reason":"waits for GET /""#)),
        finished.clone(),
    ];
    let agent = TestAgent::new(move |_| event_stream(&script));
    assert_output(
        &agent.run(&["up"]).await,
        0,
        "✔ shop/main is ready in 1.2 s\n  api  http://api.main.shop.localhost:8642\n\
         next: `pdev logs -f`, `pdev status`, `pdev open`, `pdev down`",
        "plan: 1 step\napi: starting (waits for GET /)",
    );
    let output = agent.run(&["up", "--json"]).await;
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| line["event"].as_str().unwrap()).collect::<Vec<_>>(),
        ["planned", "unit_changed", "finished"]
    );
    assert!(output.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_up_prints_one_line() {
    let script = [format!(r#""event":"finished","status":{},"milliseconds":4,"unchanged":true"#, status("ready"))];
    let agent = TestAgent::new(move |_| event_stream(&script));
    let summary = "shop/main: nothing changed, all healthy (4 ms)  http://main.shop.localhost:8642";
    assert_output(&agent.run(&["up"]).await, 0, summary, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_up_prints_problem() {
    let problem =
        r#"{"code":"exited","title":"exit code 1 while starting","unit":"api","hint":"Run it.","output":["boom"]}"#;
    let script =
        [format!(r#""event":"failed","problems":[{problem}],"status":{},"milliseconds":70000"#, status("failed"))];
    let agent = TestAgent::new(move |_| event_stream(&script));
    assert_output(
        &agent.run(&["up"]).await,
        1,
        "",
        "error: api: exit code 1 while starting\n  last lines of api:\n  | boom\ntry: Run it.\n\n\
         shop/main failed after 1 min 10 s; 1 of 2 units healthy. `pdev status` shows them, `pdev logs` their output.",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_sends_only_referenced_variables_and_secrets() {
    let script = [format!(r#""event":"finished","status":{},"milliseconds":4,"unchanged":true"#, status("ready"))];
    let agent = TestAgent::new(move |request| {
        if request.starts_with("PUT") { b"HTTP/1.1 204 No Content\r\n\r\n".to_vec() } else { event_stream(&script) }
    });
    let output = agent.run_with_input(&["up", "--secret", "cert=-", "-e", "local"], "a certificate").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let requests = agent.requests();
    assert_eq!(requests[1], "PUT /v1/previews/p1/secrets/cert a certificate");
    assert_eq!(requests[2], "PUT /v1/previews/p1/secrets/key from the environment");
    assert!(requests[3].contains(r#""variables":{"LEVEL":"debug"}"#), "{requests:?}");
    let output = agent.run(&["up", "--secret", "crt=-"]).await;
    assert_output(&output, 2, "", "error: the manifest has no secret `crt`\ntry: Did you mean `cert`?");
    let output = agent.run(&["up", "--secret", "cert=hunter2"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("every process on this machine can read"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_is_retried_after_lost_agent() {
    let finished = format!(r#""event":"finished","status":{},"milliseconds":4,"unchanged":true"#, status("ready"));
    let (stream, attempts) = (event_stream(&[finished]), Mutex::new(0));
    let agent = TestAgent::new(move |_| {
        let mut attempts = attempts.lock().unwrap();
        *attempts += 1;
        // The first stream is cut off before its last chunk is complete.
        let end = if *attempts == 1 { stream.len() - 9 } else { stream.len() };
        stream[..end].to_vec()
    });
    let output = agent.run(&["up"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(agent.requests().iter().filter(|line| line.starts_with("POST /v1/up")).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_commands_print_results() {
    let agent = TestAgent::new(|_| json_response("404 Not Found", "{}"));
    assert_output(
        &agent.run(&["ls"]).await,
        0,
        "PREVIEW    STATE  HEALTHY  URL                              FOLDER\n\
         shop/main  ready  2/2      http://main.shop.localhost:8642  /gone (gone)",
        "",
    );
    assert_output(&agent.run(&["open", "api"]).await, 0, "http://api.main.shop.localhost:8642", "");
    assert_output(
        &agent.run(&["status", "shop/mian"]).await,
        4,
        "",
        "error: no preview `shop/mian`\ntry: Did you mean `shop/main`?",
    );
    assert_output(
        &agent.run(&["logs", "dbb"]).await,
        4,
        "",
        "error: `shop/main` has no unit `dbb`\ntry: Did you mean `db`?",
    );
    let output = agent.run(&["status", "--json"]).await;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["units"][1]["ports"]["db"], 40001);
    let output = agent.run(&["status", "nothing", "--json"]).await;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((value["code"].as_str(), output.status.code()), (Some("not_found"), Some(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_returns_exit_code() {
    let agent = TestAgent::new(|_| {
        let mut bytes =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: pdev-exec/1\r\n\r\n".to_vec();
        for frame in [Frame::Stdout(b"out".to_vec()), Frame::Stderr(b"err".to_vec()), Frame::Exit(42)] {
            bytes.extend(frame.encode());
        }
        bytes
    });
    assert_output(&agent.run(&["exec", "api", "--", "ls", "-l"]).await, 42, "out", "err");
    assert!(agent.requests().iter().any(|line| line.contains(r#""argv":["ls","-l"]"#)));
    let agent =
        TestAgent::new(|_| json_response("409 Conflict", r#"{"code":"not_running","title":"it does not run"}"#));
    assert_output(&agent.run(&["exec", "api"]).await, 125, "", "error: it does not run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_pipe_is_not_a_failure() {
    let agent = TestAgent::new(|_| {
        let line = r#"{"at":1,"unit":"api","stream":"stdout","text":"x"}"#.to_owned() + "\n";
        let body = line.repeat(20_000);
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
    });
    let script = format!("'{}' logs | head -n 1; echo \"${{PIPESTATUS[0]}}\"", env!("CARGO_BIN_EXE_pdev"));
    let output = tokio::process::Command::new("bash")
        .args(["-c", &script])
        .env("PDEV_SOCKET_DIR", agent.folder.path().join("socket"))
        .current_dir(&agent.folder)
        .output()
        .await
        .unwrap();
    assert_output(&output, 0, "api | x\n0", "");
}
