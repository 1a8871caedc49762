//! Previews that a coding agent's session brings up or reaches into: nothing of them gets more than the session may have.

use std::fs;

use serde_json::Value;

use crate::aws::{Server, python};
use crate::outlets::identities;
use crate::sandbox::{Said, Sandbox, unit};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
/// What an AWS SDK does: the endpoint and its token from the variables of the service.
const FETCH: &str = "\
import os, sys, urllib.request, urllib.error\n\
base = os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI']\n\
token = open(os.environ['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE']).read()\n\
request = urllib.request.Request(base, headers={'Authorization': token})\n\
try:\n    print(urllib.request.urlopen(request, timeout=60).read().decode())\n\
except urllib.error.HTTPError as refused:\n    print(refused.code, refused.read().decode())\n";

struct Stage {
    sandbox: Sandbox,
    _moto: Server,
    _recorder: Server,
}

/// What a container does where the agent's socket is mounted.
const ASK: &str = "\
import http.client, json, socket\n\
asked = http.client.HTTPConnection('pdev')\n\
asked.sock = socket.socket(socket.AF_UNIX)\n\
asked.sock.connect('/agent/agent.sock')\n\
asked.request('POST', '/v1/credentials', json.dumps({'identity': 'prod', 'form': 'aws'}), {'content-type': 'application/json'})\n\
print(asked.getresponse().read().decode())\n";

/// `web` acts as a role, `pay` as production, `plain` as nobody; STS is moto behind a recorder.
fn stage(journey: &str, container: Option<&str>) -> Option<Stage> {
    let python = python(journey)?;
    let sandbox = if container.is_some() { Sandbox::with_docker(journey)? } else { Sandbox::bare() };
    let moto = Server::moto(&python);
    let recorder = Server::recorder(&sandbox, &format!("http://127.0.0.1:{}/", moto.port));
    let keys = r#"{\"Version\":1,\"AccessKeyId\":\"AKIA1\",\"SecretAccessKey\":\"s\"}"#;
    let role = |name: &str, more: &str| {
        format!(
            "[{name}]\nsource = \"aws-role\"\nfrom = \"base\"\nask = \"never\"\nduration = \"12h\"\n{more}\
             role_arn = \"arn:aws:iam::123456789012:role/dev\"\nendpoint = \"http://127.0.0.1:{}\"\n",
            recorder.port
        )
    };
    let base = format!("[base]\nsource = \"exec\"\ncommand = [\"echo\", \"{keys}\"]\n");
    identities(&sandbox, &[base, role("role", ""), role("prod", "production = true\n")].concat());
    sandbox.write("fetch.py", FETCH);
    sandbox.write("ask.py", ASK);
    let service = |name: &str, more: &str| {
        let image = container.map(|image| {
            format!(
                "    image: {image}\n    command: [sleep, '1000']\n    \
                 raw: {{ docker: {{ HostConfig: {{ Binds: ['./fetch.py:/fetch.py:ro', './ask.py:/ask.py:ro', '{run}:/agent'] }} }} }}\n",
                run = sandbox.path("run").display()
            )
        });
        let process = format!("    process: {{ command: [sleep, '1000'] }}\n{more}    health: none\n");
        format!("  {name}:\n{}{process}", image.unwrap_or_default())
    };
    let manifest = format!(
        "pdev: 1\napp: a\nidentities: {{ role: x, prod: x }}\nservices:\n{}{}{}",
        service("web", "    identity: role\n"),
        service("pay", "    identity: prod\n"),
        service("plain", "")
    );
    sandbox.write("pdev.yaml", &manifest);
    Some(Stage { sandbox, _moto: moto, _recorder: recorder })
}

impl Stage {
    fn session(&self, script: &str) -> Said {
        self.sandbox.pdev(&["session", "run", "--name", "robot", "--", "sh", "-c", script])
    }

    /// What STS was asked for, in order.
    fn asked(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.sandbox.path("asked")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn held_by(&self) -> Value {
        self.sandbox.status(&self.sandbox.project())["session"].clone()
    }
}

#[track_caller]
fn is_a_sessions(asked: &Value) {
    assert_eq!(asked["PolicyArns.member.1.arn"], "arn:aws:iam::aws:policy/ReadOnlyAccess", "{asked}");
    assert!(asked["DurationSeconds"].as_str().unwrap().parse::<u32>().unwrap() <= 3600, "{asked}");
    assert_eq!(
        (&asked["Tags.member.1.Key"], &asked["Tags.member.2.Key"]),
        (&"pdev:session".into(), &"pdev:agent".into())
    );
    assert_eq!(asked["Tags.member.2.Value"], "robot");
}

#[track_caller]
fn is_a_persons(asked: &Value) {
    assert_eq!(asked["DurationSeconds"], "43200", "{asked}");
    assert!(asked.get("PolicyArns.member.1.arn").is_none() && asked.get("Tags.member.1.Key").is_none(), "{asked}");
}

fn journey(stage: &Stage, runtime: &str, fetch: &str) {
    let sandbox = &stage.sandbox;
    let up = format!("{PDEV} up --runtime {runtime}");
    let get = |unit: &str| format!("{PDEV} exec {unit} -- {fetch}");
    // The session's own preview: less than its person gets, through the services too.
    let said = stage.session(&format!("{up}; {}; {}", get("web"), get("pay"))).ok();
    said.says("the session `robot` brought this preview up")
        .says("`pay` is given nothing as `prod`: `prod` is production");
    // Another session's preview is none of this one's.
    stage.session(&format!("! {}", get("web"))).ok().says("and a coding agent's session (`robot`) would have what");
    let all = stage.asked();
    assert_eq!(all.len(), 1, "{all:?}");
    is_a_sessions(&all[0]);
    assert_eq!(stage.held_by(), "robot");
    sandbox.pdev(&["ls"]).ok().says("(session robot)");
    sandbox.pdev(&["status"]).ok().says("brought up by the session robot");
    sandbox
        .pdev(&["audit"])
        .ok()
        .says("preview_held")
        .says("service web of a")
        .says("session robot: `prod` is production");

    // It stays so when the session is over, for whoever asks, until a person took it down; a new agent knows it.
    let mine = |name: &str| sandbox.pdev(&["exec", name, "--", "sh", "-c", fetch]);
    mine("web").says("is over");
    sandbox.pdev(&["agent", "stop"]).ok();
    mine("web").says("is over");
    sandbox.pdev(&["up", "--runtime", runtime]).ok().says("`pdev down`, then `pdev up` outside of it ends that");
    mine("web").says("is over");
    sandbox.pdev(&["down"]).ok();
    sandbox.pdev(&["up", "--runtime", runtime]).ok();
    assert_eq!(stage.held_by(), Value::Null);
    mine("web").says("AccessKeyId");
    let all = stage.asked();
    assert_eq!(all.len(), 2, "{all:?}");
    is_a_persons(&all[1]);

    // A person's preview: no way in for a session but to hold it first, which starts anew what has a lease.
    let status = || sandbox.status(&sandbox.project());
    let before = status();
    for way in [get("web"), format!("{PDEV} restart"), format!("{PDEV} restart web")] {
        let said = stage.session(&format!("! {way}")).ok();
        said.says("for a person").says("`pdev up` from within the session");
    }
    let of_plain = stage.session(&format!("{PDEV} exec plain -- true"));
    assert_eq!(of_plain.all().contains("is a local process for a person"), runtime == "process", "{}", of_plain.all());
    stage.session(&format!("{up}; {}", get("web"))).ok().says("AccessKeyId");
    let after = status();
    assert_ne!(unit(&before, "web")["started_at"], unit(&after, "web")["started_at"]);
    assert_eq!(unit(&before, "plain")["started_at"], unit(&after, "plain")["started_at"], "it had no lease");
    let all = stage.asked();
    assert_eq!(all.len(), 3, "{all:?}");
    is_a_sessions(&all[2]);
    assert_ne!(all[2]["Tags.member.1.Value"], all[0]["Tags.member.1.Value"], "another session");
}

/// What tells an endpoint whose a local program is can be copied; that it belongs to a session cannot be hidden.
#[test]
fn a_session_that_passes_for_a_persons_service_stays_a_session() {
    let Some(stage) = stage("a session at a person's endpoint", None) else { return };
    let sandbox = &stage.sandbox;
    sandbox.pdev(&["up"]).ok();
    let copied = sandbox.path("copied");
    let copy = format!("env -0 > {}", copied.display());
    sandbox.pdev(&["exec", "web", "--", "sh", "-c", &copy]).ok();
    let fetch = sandbox.project().join("fetch.py");
    let pass = format!("xargs -0 sh -c 'exec env \"$@\" python3 {}' sh < {}", fetch.display(), copied.display());
    stage.session(&pass).ok().says("AccessKeyId");
    is_a_sessions(&stage.asked()[0]);
    let mine = sandbox.pdev(&["exec", "web", "--", "sh", "-c", &format!("python3 {}", fetch.display())]);
    mine.says("AccessKeyId");
    is_a_persons(&stage.asked()[1]);
}

#[test]
fn a_sessions_processes_get_what_the_session_may_have() {
    let Some(stage) = stage("a session's preview of processes", None) else { return };
    let fetch = format!("python3 {}", stage.sandbox.project().join("fetch.py").display());
    journey(&stage, "process", &fetch);
}

#[test]
fn a_sessions_containers_get_what_the_session_may_have() {
    let Some(stage) = stage("a session's preview of containers", Some("python:3-slim")) else { return };
    journey(&stage, "docker", "python3 /fetch.py");
    // With the agent's socket mounted it asks by itself; the preview is the last session's still.
    let ask = ["exec", "plain", "--", "python3", "/ask.py"];
    let said = stage.sandbox.pdev(&ask).ok();
    said.says("session_over");
    stage.session(&format!("{PDEV} up; {PDEV} {}", ask.join(" "))).ok().says("session_production");
}
