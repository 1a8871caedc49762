//! Previews that a coding agent's session starts or enters: their services get no more than the session may have.

use std::fs;

use serde_json::Value;

use crate::aws::{TestServer, find_python};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, find_unit};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
/// Requests a credential as an AWS SDK does, with the endpoint and the token from the service's variables.
const FETCH_SCRIPT: &str = "\
import os, sys, urllib.request, urllib.error\n\
base = os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI']\n\
token = open(os.environ['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE']).read()\n\
request = urllib.request.Request(base, headers={'Authorization': token})\n\
try:\n    print(urllib.request.urlopen(request, timeout=60).read().decode())\n\
except urllib.error.HTTPError as error:\n    print(error.code, error.read().decode())\n";

struct Fixture {
    sandbox: Sandbox,
    _moto: TestServer,
    _recorder: TestServer,
}

/// Requests a credential at the agent's socket, which is mounted into the container.
const SOCKET_REQUEST_SCRIPT: &str = "\
import http.client, json, socket\n\
agent = http.client.HTTPConnection('pdev')\n\
agent.sock = socket.socket(socket.AF_UNIX)\n\
agent.sock.connect('/sandbox/run/agent.sock')\n\
agent.request('POST', '/v1/credentials', json.dumps({'identity': 'prod', 'form': 'aws'}), {'content-type': 'application/json'})\n\
print(agent.getresponse().read().decode())\n";

/// `web` uses a role, `pay` a production identity, `plain` none. STS is moto behind a recorder.
fn start_fixture(journey: &str, container: Option<&str>) -> Option<Fixture> {
    let python = find_python(journey)?;
    let sandbox = if container.is_some() { Sandbox::with_docker(journey)? } else { Sandbox::without_docker() };
    let moto = TestServer::start_moto(&python);
    let recorder = TestServer::start_recorder(&sandbox, &format!("http://127.0.0.1:{}/", moto.port));
    let keys = r#"{\"Version\":1,\"AccessKeyId\":\"AKIA1\",\"SecretAccessKey\":\"s\"}"#;
    let role = |name: &str, more: &str| {
        format!(
            "[{name}]\nsource = \"aws-role\"\nfrom = \"base\"\nask = \"never\"\nduration = \"12h\"\n{more}\
             role_arn = \"arn:aws:iam::123456789012:role/dev\"\nendpoint = \"http://127.0.0.1:{}\"\n",
            recorder.port
        )
    };
    let base = format!("[base]\nsource = \"exec\"\ncommand = [\"echo\", \"{keys}\"]\n");
    write_identities(&sandbox, &[base, role("role", ""), role("prod", "production = true\n")].concat());
    sandbox.write("fetch.py", FETCH_SCRIPT);
    sandbox.write("ask.py", SOCKET_REQUEST_SCRIPT);
    let service = |name: &str, more: &str| {
        let image = container.map(|image| {
            format!(
                "    image: {image}\n    command: [sleep, '1000']\n    \
                 raw: {{ docker: {{ HostConfig: {{ Binds: ['./fetch.py:/fetch.py:ro', './ask.py:/ask.py:ro', '{root}:/sandbox'] }} }} }}\n",
                root = sandbox.path("").display().to_string().trim_end_matches('/')
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
    Some(Fixture { sandbox, _moto: moto, _recorder: recorder })
}

impl Fixture {
    fn run_session(&self, script: &str) -> CommandOutput {
        self.sandbox.pdev(&["session", "run", "--name", "robot", "--", "sh", "-c", script])
    }

    /// The requests that STS received, in order.
    fn sts_requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.sandbox.path("recorded")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn owning_session(&self) -> Value {
        self.sandbox.status(&self.sandbox.project())["session"].clone()
    }
}

#[track_caller]
fn assert_session_request(request: &Value) {
    assert_eq!(request["PolicyArns.member.1.arn"], "arn:aws:iam::aws:policy/ReadOnlyAccess", "{request}");
    assert!(request["DurationSeconds"].as_str().unwrap().parse::<u32>().unwrap() <= 3600, "{request}");
    assert_eq!(
        (&request["Tags.member.1.Key"], &request["Tags.member.2.Key"]),
        (&"pdev:session".into(), &"pdev:agent".into())
    );
    assert_eq!(request["Tags.member.2.Value"], "robot");
}

#[track_caller]
fn assert_user_request(request: &Value) {
    assert_eq!(request["DurationSeconds"], "43200", "{request}");
    assert!(
        request.get("PolicyArns.member.1.arn").is_none() && request.get("Tags.member.1.Key").is_none(),
        "{request}"
    );
}

fn check_session_preview(fixture: &Fixture, runtime: &str, fetch: &str) {
    let sandbox = &fixture.sandbox;
    let up = format!("{PDEV} up --runtime {runtime}");
    let get = |unit: &str| format!("{PDEV} exec {unit} -- {fetch}");
    // In its own preview, the session gets less than the user, also through the services.
    let output = fixture.run_session(&format!("{up}; {}; {}", get("web"), get("pay"))).ok();
    output
        .prints("the session `robot` started this preview")
        .prints("`pay` gets no credentials of `prod`: `prod` is production");
    // A session cannot enter the preview of another session.
    fixture
        .run_session(&format!("! {}", get("web")))
        .ok()
        .prints("so a coding agent's session (`robot`) would get the user's access");
    let all = fixture.sts_requests();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_session_request(&all[0]);
    assert_eq!(fixture.owning_session(), "robot");
    sandbox.pdev(&["ls"]).ok().prints("(session robot)");
    sandbox.pdev(&["status"]).ok().prints("started in session robot");
    sandbox
        .pdev(&["audit"])
        .ok()
        .prints("preview_held")
        .prints("service web of a")
        .prints("session robot: `prod` is production");

    // After the session has ended, the restriction stays for every requester until `down`, also with a new agent.
    let fetch_as_user = |name: &str| sandbox.pdev(&["exec", name, "--", "sh", "-c", fetch]);
    fetch_as_user("web").prints("is over");
    sandbox.pdev(&["agent", "stop"]).ok();
    fetch_as_user("web").prints("is over");
    sandbox.pdev(&["up", "--runtime", runtime]).ok().prints("run `pdev down`, then `pdev up` outside of the session");
    fetch_as_user("web").prints("is over");
    sandbox.pdev(&["down"]).ok();
    sandbox.pdev(&["up", "--runtime", runtime]).ok();
    assert_eq!(fixture.owning_session(), Value::Null);
    fetch_as_user("web").prints("AccessKeyId");
    let all = fixture.sts_requests();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_user_request(&all[1]);

    // A session can enter the user's preview only after its own `up`, which restarts the services with a lease.
    let status = || sandbox.status(&sandbox.project());
    let before = status();
    for command in [get("web"), format!("{PDEV} restart"), format!("{PDEV} restart web")] {
        let output = fixture.run_session(&format!("! {command}")).ok();
        output.prints("would get the user's access").prints("Run `pdev up` inside the session");
    }
    let of_plain = fixture.run_session(&format!("{PDEV} exec plain -- true"));
    assert_eq!(
        of_plain.transcript().contains("is a local process of the user"),
        runtime == "process",
        "{}",
        of_plain.transcript()
    );
    fixture.run_session(&format!("{up}; {}", get("web"))).ok().prints("AccessKeyId");
    let after = status();
    assert_ne!(find_unit(&before, "web")["started_at"], find_unit(&after, "web")["started_at"]);
    assert_eq!(
        find_unit(&before, "plain")["started_at"],
        find_unit(&after, "plain")["started_at"],
        "a service without a lease was restarted"
    );
    let all = fixture.sts_requests();
    assert_eq!(all.len(), 3, "{all:?}");
    assert_session_request(&all[2]);
    assert_ne!(
        all[2]["Tags.member.1.Value"], all[0]["Tags.member.1.Value"],
        "both requests have the tag of one session"
    );
}

/// A session can copy the variables of a local service, but not its ancestry.
#[test]
fn session_copying_service_environment_gets_nothing() {
    let Some(fixture) = start_fixture("a session at a person's endpoint", None) else { return };
    let sandbox = &fixture.sandbox;
    sandbox.pdev(&["up"]).ok();
    let copied = sandbox.path("copied");
    let copy = format!("env -0 > {}", copied.display());
    sandbox.pdev(&["exec", "web", "--", "sh", "-c", &copy]).ok();
    let fetch = sandbox.project().join("fetch.py");
    let pass = format!("xargs -0 sh -c 'exec env \"$@\" python3 {}' sh < {}", fetch.display(), copied.display());
    let refused = fixture.run_session(&pass).transcript();
    assert!(refused.contains("403") && !refused.contains("AccessKeyId"), "{refused}");
    let of_user = sandbox.pdev(&["exec", "web", "--", "sh", "-c", &format!("python3 {}", fetch.display())]);
    of_user.prints("AccessKeyId");
    assert_user_request(&fixture.sts_requests()[0]);
}

#[test]
fn session_processes_get_session_credentials() {
    let Some(fixture) = start_fixture("a session's preview of processes", None) else { return };
    let fetch = format!("python3 {}", fixture.sandbox.project().join("fetch.py").display());
    check_session_preview(&fixture, "process", &fetch);
}

#[test]
fn session_containers_get_session_credentials() {
    let Some(fixture) = start_fixture("a session's preview of containers", Some("python:3-slim")) else { return };
    check_session_preview(&fixture, "docker", "python3 /fetch.py");
    // The container reaches the socket of the agent through a mounted folder above it.
    let exec = ["exec", "plain", "--", "python3", "/ask.py"];
    let output = fixture.sandbox.pdev(&exec).ok();
    output.prints("not_for_previews");
    fixture.run_session(&format!("{PDEV} up; {PDEV} {}", exec.join(" "))).ok().prints("not_for_previews");
}
