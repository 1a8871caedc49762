//! Uses secrets of all kinds with all tools, and then searches for them in all other places.
//!
//! The search excludes places that may contain secrets: the output of a credential helper, the sealed vault, the secret
//! files of running services (in memory, in a folder that only the owner can enter), and the memory of processes. pdev
//! does not filter the output of a service or a source that prints its own secret.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::aws::{TestServer, find_python, write_passphrase};
use crate::credential_formats::{RecordingServer, is_installed, run_with_input, tool_command, write_identities};
use crate::http;
use crate::leak_search::{self, Evidence, Needles};
use crate::logins::{Provider, sign_in};
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, wait_until};

/// Requests a credential from the endpoint as an SDK does, reads its secret, and prints only the lengths.
const FETCH_SCRIPT: &str = r#"import json, os, signal, sys, time, urllib.request
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
token = open(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read()
request = urllib.request.Request(os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers={"Authorization": token})
credential = json.load(urllib.request.urlopen(request, timeout=20))
secret = open(os.environ["SECRET_FILE"]).read()
print("lengths", len(credential["SecretAccessKey"]), len(credential["Token"]), len(secret), flush=True)
time.sleep(1000)
"#;

const MANIFEST: &str = "pdev: 1\napp: canary\nsecrets: { key: { description: k } }\nidentities: { aws: x }\nservices:\n  \
    beside: { health: none, identity: aws, runtime: process, env: { SECRET_FILE: '${secrets.key.path}' }, process: { command: [python3, ask.py] } }\n";
const CONTAINER_SERVICE: &str = "  inside: { health: none, identity: aws, image: 'python:3-slim', command: [python3, /ask.py], env: { SECRET_FILE: '${secrets.key.path}' }, \
    raw: { docker: { HostConfig: { Binds: ['./ask.py:/ask.py:ro'] } } } }\n";
const FAILING_MANIFEST: &str = "pdev: 1\napp: failing\nsecrets: { key: { description: k } }\nservices:\n  \
    web: { port: 8080, restart: never, env: { F: '${secrets.key.path}' }, process: { command: [sh, -c, 'read -r secret < $F; echo no route; exit $${#secret}'] } }\n";

struct Fixture {
    sandbox: Sandbox,
    canary: String,
    needles: Needles,
    evidence: Evidence,
    has_docker: bool,
}

/// A new value for each run, so that the search does not find files of an earlier run.
fn random_canary() -> String {
    let mut bytes = [0; 12];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("canary{hex}")
}

impl Fixture {
    fn new() -> Self {
        let with_engine = Sandbox::with_docker("the canary in containers");
        let docker = with_engine.is_some();
        let sandbox = with_engine.unwrap_or_else(Sandbox::without_docker);
        let canary = random_canary();
        let mut needles = Needles::new(sandbox.path("needles"));
        needles.add("the canary", &canary);
        let evidence = Evidence::new(sandbox.path("evidence"));
        fs::create_dir(sandbox.path("tmp")).unwrap();
        let fixture = Self { sandbox, canary, needles, evidence, has_docker: docker };
        let bin = fixture.sandbox.path("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["pdev", "docker-credential-pdev", "git-credential-pdev", "cargo-credential-pdev"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pdev"), bin.join(name)).unwrap();
        }
        write_passphrase(&fixture.sandbox);
        fixture
    }

    /// Writes a source outside of the searched home, because the script contains the secret.
    fn write_source(&self, name: &str, text: &str) -> String {
        let path = self.sandbox.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    fn write_identities(&self, more: &str) {
        let echo_port = start_echo_server();
        let (c, end) = (&self.canary, "2099-01-01T00:00:00Z");
        let token =
            self.write_source("token.sh", &format!("echo '{{\"token\":\"tok-{c}\",\"expires_at\":\"{end}\"}}'"));
        let aws = self.write_source("aws.sh", &format!(
            "echo '{{\"Version\":1,\"AccessKeyId\":\"AKIACANARY\",\"SecretAccessKey\":\"key-{c}\",\"SessionToken\":\"session-{c}\",\"Expiration\":\"{end}\"}}'"
        ));
        let words = self.write_source("words.sh", &format!("echo 'not json but {c}'"));
        let half =
            self.write_source("half.sh", &format!("printf '{{\"token\":\"{c}'; echo 'cannot continue' >&2; exit 3"));
        let ended = self
            .write_source("ended.sh", &format!("echo '{{\"token\":\"{c}\",\"expires_at\":\"2001-01-01T00:00:00Z\"}}'"));
        let server =
            self.write_source("server.sh", &format!("echo '{{\"Username\":\"robot\",\"Secret\":\"pw-{c}\"}}'"));
        let text = format!(
            "[token]\nsource = \"exec\"\ncommand = [\"{token}\"]\nhosts = [\"git.example.org\", \"127.0.0.1\"]\nusername = \"robot\"\n\
             [aws]\nsource = \"exec\"\nask = \"never\"\ncloud = \"aws\"\ncommand = [\"{aws}\"]\n\
             [google]\nsource = \"exec\"\ncloud = \"google\"\nproject = \"shop\"\nemail = \"dev@example.org\"\ncommand = [\"{token}\"]\n\
             [password]\nsource = \"exec\"\ncommand = [\"{server}\"]\n\
             [words]\nsource = \"exec\"\ncommand = [\"{words}\"]\n[half]\nsource = \"exec\"\ncommand = [\"{half}\"]\n\
             [ended]\nsource = \"exec\"\ncommand = [\"{ended}\"]\n\
             [typed]\nsource = \"static\"\nkind = \"token\"\n\
             [parrot]\nsource = \"entra\"\ntenant = \"t\"\nclient_id = \"c\"\nendpoint = \"http://127.0.0.1:{echo_port}\"\n\
             [keys]\nsource = \"static\"\nkind = \"aws\"\naccess_key_id = \"AKIACANARY\"\n{more}"
        );
        write_identities(&self.sandbox, &text);
    }

    /// Enables the most detailed log of the agent and all commands.
    fn with_trace_logging(&self, mut command: Command) -> Command {
        command.env("PDEV_LOG", "trace").env("TMPDIR", self.sandbox.path("tmp"));
        command.env("PDEV_VAULT_PASSPHRASE_FILE", self.sandbox.path("passphrase"));
        if self.has_docker
            && let Some(host) = std::env::var_os("DOCKER_HOST")
        {
            command.env("DOCKER_HOST", host);
        }
        command
    }

    fn pdev_in(&self, folder: &Path, arguments: &[&str]) -> CommandOutput {
        run_with_timeout(self.with_trace_logging(self.sandbox.command(folder, arguments)), Duration::from_secs(120))
    }

    fn pdev(&self, arguments: &[&str]) -> CommandOutput {
        self.pdev_in(&self.sandbox.project(), arguments)
    }

    fn pdev_with_secret_input(&self, arguments: &[&str]) -> CommandOutput {
        let command = self.with_trace_logging(self.sandbox.command(&self.sandbox.project(), arguments));
        run_with_input(command, &self.sandbox, &format!("typed-{}\n", self.canary))
    }

    fn tool_command(&self, program: &str, arguments: &[&str]) -> Command {
        self.with_trace_logging(tool_command(&self.sandbox, program, arguments))
    }

    fn run(&self, command: Command) -> CommandOutput {
        run_with_timeout(command, Duration::from_secs(60))
    }

    /// Checks that the output contains the canary, because otherwise the search proves nothing.
    #[track_caller]
    fn expect_canary(&self, output: CommandOutput) -> String {
        let output = output.ok();
        assert!(output.out.contains(&self.canary), "{}", output.transcript());
        output.out
    }

    fn agent_socket(&self) -> PathBuf {
        self.sandbox.path("run/agent.sock")
    }
}

/// A server that rejects each request and repeats the sent secret in its error message.
fn start_echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request, mut piece) = (stream.unwrap(), String::new(), [0; 4096]);
            // `pdev doctor` only reads the server's clock.
            while !request.contains("client_secret=") && !request.starts_with("GET ") {
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0, "no client secret was sent: {request}");
                request += &String::from_utf8_lossy(&piece[..length]);
            }
            let secret = request.rsplit_once("client_secret=").map_or("", |(_, secret)| secret);
            let body =
                format!("{{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: {secret} is none\"}}");
            let head = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\nconnection: close";
            write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    port
}

/// Uses each source with the plainest credential format.
fn exercise_sources(fixture: &mut Fixture, provider: Option<&Provider>, moto: Option<&TestServer>) {
    fixture.pdev_with_secret_input(&["login", "typed"]).ok();
    fixture.pdev_with_secret_input(&["login", "keys"]).ok();
    for identity in ["token", "typed", "password"] {
        fixture.expect_canary(fixture.pdev(&["credential", "token", identity]));
    }
    for identity in ["aws", "keys"] {
        fixture.expect_canary(fixture.pdev(&["credential", "aws", identity]));
    }
    fixture.pdev_with_secret_input(&["login", "parrot"]).ok();
    for (identity, message) in [
        ("parrot", "AADSTS7000215: *** is none"),
        ("words", "printed no JSON"),
        ("half", "cannot continue"),
        ("ended", "have already expired"),
    ] {
        let output = fixture.pdev(&["credential", "token", identity]).fails_with(1).prints(message);
        fixture.evidence.record_output(&format!("refused {identity}"), &output);
    }
    if moto.is_some() {
        let credential = fixture.pdev(&["credential", "aws", "role"]).ok().json();
        for key in ["SecretAccessKey", "SessionToken"] {
            fixture.needles.add(&format!("{key} of STS"), credential[key].as_str().unwrap());
        }
    }
    if let Some(provider) = provider {
        sign_in(&fixture.sandbox, &fixture.sandbox.path("passphrase"), "device");
        let token = fixture.pdev(&["credential", "token", "idp"]).ok().out;
        let tokens: Vec<String> =
            serde_json::from_str(&http::get("127.0.0.1", provider.port, "/test/tokens").body).unwrap();
        assert!(tokens.contains(&token) && tokens.len() > 2, "{tokens:?}");
        for token in &tokens {
            fixture.needles.add("a token of the provider", token);
        }
    }
}

/// Uses each tool that gets credentials from pdev.
fn exercise_credential_formats(fixture: &Fixture) {
    let listener = RecordingServer::start(&fixture.sandbox, &[]);
    let server = format!("127.0.0.1:{}", listener.port);
    let git = |verb: &str, input: &str| {
        let mut git = fixture.tool_command("git", &["-c", "credential.helper=pdev", "credential", verb]);
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false");
        run_with_input(git, &fixture.sandbox, input)
    };
    let filled = fixture.expect_canary(git("fill", "protocol=https\nhost=git.example.org\n\n"));
    git("approve", &filled).ok();
    git("reject", &filled).ok();
    run_with_input(
        fixture.tool_command("docker-credential-pdev", &["store"]),
        &fixture.sandbox,
        &format!("{{\"Secret\":\"{}\"}}", fixture.canary),
    )
    .fails_with(1);
    fixture.expect_canary(run_with_input(
        fixture.tool_command("docker-credential-pdev", &["get"]),
        &fixture.sandbox,
        &format!("{server}\n"),
    ));
    if fixture.has_docker {
        let folder = fixture.sandbox.path("home/.docker");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), format!("{{\"credHelpers\":{{\"{server}\":\"pdev\"}}}}")).unwrap();
        let mut docker = fixture.tool_command("docker", &["pull", "-q", &format!("{server}/nothing:1")]);
        docker.env("DOCKER_CONFIG", &folder);
        fixture.evidence.record_output("docker pull", &fixture.run(docker));
        assert!(listener.requests().contains("Basic "), "{}", listener.requests());
    }
    let mut kubectl = fixture.tool_command("pdev", &["credential", "kubectl", "token"]);
    kubectl.env("KUBERNETES_EXEC_INFO", "{\"apiVersion\":\"client.authentication.k8s.io/v1\"}");
    fixture.expect_canary(fixture.run(kubectl));
    let cargo_home = fixture.sandbox.path("home/.cargo");
    fs::create_dir(&cargo_home).unwrap();
    let config = format!(
        "[registries.ours]\nindex = \"sparse+http://{server}/index/\"\ncredential-provider = \"cargo-credential-pdev\"\n"
    );
    fs::write(cargo_home.join("config.toml"), config).unwrap();
    let mut cargo = fixture.tool_command(env!("CARGO"), &["info", "nothing", "--registry", "ours"]);
    cargo.env("CARGO_HOME", &cargo_home);
    for name in ["RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        cargo.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    fixture.evidence.record_output("cargo info", &fixture.run(cargo));
    assert!(
        listener.requests().contains(&format!("/index/config.json tok-{}", fixture.canary)),
        "{}",
        listener.requests()
    );
    if is_installed("the canary in gcloud", "gcloud", &["--version"]) {
        fs::create_dir_all(fixture.sandbox.path("home/.local/bin")).unwrap();
        let mut setup =
            fixture.tool_command(env!("CARGO_BIN_EXE_pdev"), &["credential", "setup", "gcloud", "google", "--yes"]);
        let path = fixture.sandbox.path("home/.local/bin").display().to_string();
        setup.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
        fixture.run(setup).ok();
        let gcloud = fixture.sandbox.path("home/.local/bin/gcloud-google");
        fixture.expect_canary(
            fixture.run(fixture.tool_command(gcloud.to_str().unwrap(), &["auth", "print-access-token"])),
        );
    }
    fixture.expect_canary(fixture.pdev(&[
        "run",
        "--in-env",
        "--as",
        "aws",
        "--",
        "sh",
        "-c",
        "echo $AWS_SESSION_TOKEN",
    ]));
}

/// A program that runs as an identity until it is dropped.
struct RunningProgram(Child);

impl RunningProgram {
    fn start(fixture: &Fixture) -> Self {
        let secret = fixture.sandbox.path("run/other");
        fs::write(&secret, "not a secret").unwrap();
        let mut command = fixture.with_trace_logging(
            fixture.sandbox.command(&fixture.sandbox.project(), &["run", "--as", "aws", "--", "python3", "ask.py"]),
        );
        let out = fs::File::create(fixture.sandbox.path("program-output")).unwrap();
        command.env("SECRET_FILE", secret).stdout(out).stderr(Stdio::null());
        let program = Self(command.spawn().unwrap());
        wait_until("the program has received its credential", Duration::from_secs(30), || {
            fs::read_to_string(fixture.sandbox.path("program-output")).unwrap().starts_with("lengths ")
        });
        program
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a preview whose services get credentials and a secret, and one that fails with a secret.
fn start_previews(fixture: &Fixture) {
    let lengths = format!(
        "lengths {} {} {}",
        "key-".len() + fixture.canary.len(),
        "session-".len() + fixture.canary.len(),
        "typed-".len() + fixture.canary.len()
    );
    fixture.sandbox.write("ask.py", FETCH_SCRIPT);
    fixture
        .sandbox
        .write("pdev.yaml", &format!("{MANIFEST}{}", if fixture.has_docker { CONTAINER_SERVICE } else { "" }));
    fixture.pdev_with_secret_input(&["secret", "set", "key"]).ok();
    let runtime = if fixture.has_docker { "docker" } else { "process" };
    let up = fixture.pdev(&["up", "--runtime", runtime]);
    fixture.evidence.record_output("up", &up);
    up.ok();
    let services = if fixture.has_docker { 2 } else { 1 };
    wait_until("each service has received its credential and its secret", Duration::from_secs(30), || {
        fixture.pdev(&["logs"]).out.matches(&lengths).count() == services
    });
    let folder = fixture.sandbox.path("failing");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("pdev.yaml"), FAILING_MANIFEST).unwrap();
    // Pass the secret as a variable of `up`. It must not appear in the environment of processes that `up` starts.
    let mut up = fixture.with_trace_logging(fixture.sandbox.command(&folder, &["up", "--runtime", "process"]));
    up.env("PDEV_SECRET_KEY", &fixture.canary);
    let output = run_with_timeout(up, Duration::from_secs(60))
        .fails_with(1)
        .prints(&format!("exit code {}", fixture.canary.len()));
    fixture.evidence.record_output("failing up", &output);
}

/// Records the output of all commands that do not return a credential.
fn run_commands(fixture: &Fixture) {
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["ls", "--json"],
        &["logs"],
        &["plan", "--json"],
        &["up", "-v"],
        &["explain", "services.beside.env"],
        &["check", "--json"],
        &["identity"],
        &["identity", "--json"],
        &["audit"],
        &["audit", "--json"],
        &["secret", "list", "--json"],
        &["vault", "--json"],
        &["doctor"],
        &["doctor", "credentials", "--json"],
        &["doctor", "credentials", "--ask"],
        &["agent", "status", "--json"],
        &["agent", "logs", "-n", "100000"],
        &["session", "list"],
        &["identity", "approvals"],
        &["exec", "beside", "--", "env"],
        &["version"],
    ] {
        fixture.evidence.record_output(&arguments.join(" "), &fixture.pdev(arguments));
    }
    let failing = fixture.sandbox.path("failing");
    for arguments in [&["status", "--json"][..], &["logs"], &["plan"]] {
        fixture
            .evidence
            .record_output(&format!("failing {}", arguments.join(" ")), &fixture.pdev_in(&failing, arguments));
    }
    if fixture.has_docker {
        fixture.evidence.record_output("exec inside env", &fixture.pdev(&["exec", "inside", "--", "env"]));
    }
}

/// Records everything again and returns all places that contain the canary.
fn search_for_canary(fixture: &Fixture, events: &Arc<Mutex<Vec<u8>>>) -> BTreeSet<String> {
    let evidence = &fixture.evidence;
    drop(fs::remove_dir_all(evidence.folder.join("processes")));
    run_commands(fixture);
    assert!(evidence.record_processes() > 20, "too few processes could be read");
    assert!(evidence.record_api(&fixture.agent_socket()) > 10, "too few routes were requested");
    if fixture.has_docker {
        let label = format!("dev.pdev.project={}", fixture.sandbox.project().display());
        assert!(evidence.record_engine(&label) >= 2, "the engine has no container and no network");
    }
    evidence.record("events", "received", &events.lock().unwrap());
    let sandbox = &fixture.sandbox;
    let (home, run, tmp, project) = (sandbox.path("home"), sandbox.path("run"), sandbox.path("tmp"), sandbox.project());
    fixture.needles.find_in(&[
        &evidence.folder,
        &home,
        &run,
        &tmp,
        &project,
        &sandbox.path("failing"),
        Path::new("/dev/shm"),
    ])
}

/// The matches in delivered secret files. Checks that these are read-only and in a folder that only the owner can
/// enter.
fn delivered_files(found: &BTreeSet<String>, sandbox: &Sandbox) -> BTreeSet<String> {
    let run = sandbox.path("run/secrets").display().to_string();
    let is_delivered = |line: &&String| line.starts_with("/dev/shm/pdev-") || line.starts_with(&run);
    for line in found.iter().filter(is_delivered) {
        let path = PathBuf::from(line.rsplit_once(": ").unwrap().0);
        let root = path
            .ancestors()
            .find(|at| at.parent().is_some_and(|up| up == Path::new("/dev/shm")))
            .unwrap_or(Path::new(&run));
        assert_eq!(fs::metadata(root).unwrap().mode() & 0o777, 0o700, "{}", root.display());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o222, 0, "{} can be changed", path.display());
    }
    found.iter().filter(is_delivered).cloned().collect()
}

#[test]
fn secrets_exist_only_in_delivered_files() {
    let mut fixture = Fixture::new();
    let provider = Provider::start("the canary in an OpenID provider", &fixture.sandbox);
    let moto = find_python("the canary in STS").map(|python| TestServer::start_moto(&python));
    let idp = provider.as_ref().map(|provider| {
        format!("[idp]\nsource = \"oidc\"\nissuer = \"http://127.0.0.1:{}\"\nclient_id = \"pdev\"\n", provider.port)
    });
    let role = moto.as_ref().map(|moto| {
        format!("[role]\nsource = \"aws-role\"\nfrom = \"keys\"\nrole_arn = \"arn:aws:iam::123456789012:role/dev\"\nendpoint = \"http://127.0.0.1:{}\"\n", moto.port)
    });
    fixture.write_identities(&[idp, role].into_iter().flatten().collect::<String>());
    // The command that starts the agent has a secret in its environment, as in a CI script.
    let mut first = fixture.with_trace_logging(fixture.sandbox.command(&fixture.sandbox.project(), &["ls"]));
    first.env("PDEV_SECRET_KEY", &fixture.canary).env("AWS_SECRET_ACCESS_KEY", &fixture.canary);
    run_with_timeout(first, Duration::from_secs(30)).ok();
    let events = leak_search::record_events(&fixture.agent_socket());
    exercise_sources(&mut fixture, provider.as_ref(), moto.as_ref());
    exercise_credential_formats(&fixture);
    start_previews(&fixture);
    let program = RunningProgram::start(&fixture);

    let found = search_for_canary(&fixture, &events);
    let delivered = delivered_files(&found, &fixture.sandbox);
    assert!(delivered.len() >= 2, "the search misses the secret files of running services: {found:?}");
    let leaks: Vec<&String> = found.difference(&delivered).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    let log = fs::read_to_string(fixture.sandbox.path("run/agent.log")).unwrap();
    assert!(log.contains("TRACE"), "the agent's log has no trace messages");
    assert!(!events.lock().unwrap().is_empty(), "no event was received");

    drop(program);
    fixture.pdev(&["down", "--all"]).ok();
    let sandbox = &fixture.sandbox;
    let remaining = fixture.needles.find_in(&[
        &sandbox.path("home/.local"),
        &sandbox.path("home/.cache"),
        &sandbox.path("run"),
        Path::new("/dev/shm"),
    ]);
    assert!(remaining.is_empty(), "after `down`: {remaining:#?}");

    fixture.pdev(&["up"]).ok();
    // A search that finds nothing proves nothing, so check that it finds a planted canary in each kind of place.
    let kinds = plant_canary(&fixture, &events);
    let mut expected = BTreeSet::from(["api", "commands", "events", "files", "processes"]);
    expected.extend(fixture.has_docker.then_some("engine"));
    assert_eq!(kinds, expected.into_iter().map(str::to_owned).collect(), "the search misses kinds of places");
}

/// Writes the canary to forbidden places. Returns the kinds of places in which the search finds it.
fn plant_canary(fixture: &Fixture, events: &Arc<Mutex<Vec<u8>>>) -> BTreeSet<String> {
    let canary = &fixture.canary;
    let planted = fixture.sandbox.path("home/planted");
    // Write it inside of a base64 text, as in an HTTP header.
    let mut base64 = Command::new("sh");
    base64.args(["-c", "printf 'robot:%s!' \"$C\" | base64 -w0 > \"$0\""]).arg(&planted).env("C", canary);
    run_with_timeout(base64, Duration::from_secs(10)).ok();
    let mut sleeper = Command::new("sleep").arg("600").env("PLANTED", canary).spawn().unwrap();
    let file = fixture.sandbox.path("home/.config/pdev/identities.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}[{canary}]\nsource = \"static\"\nkind = \"token\"\n")).unwrap();
    let mut volume = None;
    if fixture.has_docker {
        let label = format!("dev.pdev.project={}", fixture.sandbox.project().display());
        let mut create = Command::new("docker");
        create.args(["volume", "create", "--label", &label, "--label", &format!("planted={canary}")]);
        volume = Some(run_with_timeout(create, Duration::from_secs(30)).ok().out);
    }
    let found = search_for_canary(fixture, events);
    drop(sleeper.kill());
    drop(sleeper.wait());
    if let Some(name) = volume {
        drop(Command::new("docker").args(["volume", "rm", name.trim()]).stdout(Stdio::null()).status());
    }
    fs::write(&file, text).unwrap();
    assert!(
        found.iter().any(|line| line.starts_with(planted.to_str().unwrap()) && line.ends_with("in base64")),
        "{found:?}"
    );
    fs::remove_file(planted).unwrap();
    let evidence = fixture.evidence.folder.display().to_string();
    let delivered = delivered_files(&found, &fixture.sandbox);
    let kind = |line: &String| match line.strip_prefix(&format!("{evidence}/")) {
        Some(rest) => rest.split('/').next().unwrap().to_owned(),
        None => "files".to_owned(),
    };
    found.difference(&delivered).map(kind).collect()
}
