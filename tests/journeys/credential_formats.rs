//! Credentials handed to the real tools: git, docker, kubectl, cargo, botocore, and plain programs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, wait_until};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");

/// A sandbox with identities whose source is a program that counts its runs.
fn sandbox_with_identities() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(PDEV, bin.join("pdev")).unwrap();
    for link in ["docker-credential-pdev", "git-credential-pdev", "cargo-credential-pdev"] {
        symlink(PDEV, bin.join(link)).unwrap();
    }
    let script = |name: &str, json: &str| {
        let path = sandbox.path(name);
        let text = format!("#!/bin/sh\necho run >> {}\necho '{json}'\n", sandbox.path("runs").display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let end = "2099-01-01T00:00:00Z";
    let token = script("token.sh", &format!(r#"{{"token":"canary-tok","expires_at":"{end}"}}"#));
    let aws = script(
        "aws.sh",
        &format!(
            r#"{{"Version":1,"AccessKeyId":"AKIACANARY","SecretAccessKey":"canary-s","SessionToken":"canary-t","Expiration":"{end}"}}"#
        ),
    );
    let broken = script("broken.sh", "not json");
    write_identities(
        &sandbox,
        &format!(
            "[reg]\nsource = \"exec\"\ncommand = [\"{token}\"]\nhosts = [\"git.example.org\", \"localhost\", \"127.0.0.1\"]\nusername = \"robot\"\n[hub]\nsource = \"exec\"\ncommand = [\"{token}\"]\nvariable = \"GITHUB_TOKEN\"\n\
             [dev]\nsource = \"exec\"\ncommand = [\"{aws}\"]\n[bad]\nsource = \"exec\"\ncommand = [\"{broken}\"]\nhosts = [\"bad.example.org\"]\n"
        ),
    );
    sandbox
}

pub fn write_identities(sandbox: &Sandbox, text: &str) {
    let file = sandbox.path("home/.config/pdev/identities.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn source_runs(sandbox: &Sandbox) -> usize {
    fs::read_to_string(sandbox.path("runs")).unwrap_or_default().lines().count()
}

/// A tool with pdev's helpers on its PATH, and without the configuration of the user who runs the test.
pub fn tool_command(sandbox: &Sandbox, program: &str, arguments: &[&str]) -> Command {
    let mut path = sandbox.path("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", path).env("HOME", sandbox.path("home"));
    command.env("PDEV_SOCKET_DIR", sandbox.path("run")).env("NO_COLOR", "1").current_dir(sandbox.project());
    command.stdin(Stdio::null());
    command
}

pub fn run_with_input(mut command: Command, sandbox: &Sandbox, input: &str) -> CommandOutput {
    let path = sandbox.path("input");
    fs::File::create(&path).unwrap().write_all(input.as_bytes()).unwrap();
    command.stdin(fs::File::open(path).unwrap());
    run_with_timeout(command, Duration::from_secs(60))
}

fn run(command: Command) -> CommandOutput {
    run_with_timeout(command, Duration::from_secs(60))
}

pub fn is_installed(journey: &str, program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works = status.is_ok_and(|status| status.success());
    if !works {
        println!("skipped: {journey}: `{program} {}` does not work here", arguments.join(" "));
    }
    works
}

/// A server that logs the credential of each request.
pub struct RecordingServer {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl RecordingServer {
    pub fn start(sandbox: &Sandbox, tls: &[&Path]) -> Self {
        let (port_file, log) = (sandbox.path("port"), sandbox.path("requests"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/listener.py");
        let child = Command::new("python3").arg(script).arg(&port_file).arg(&log).args(tls).spawn().unwrap();
        wait_until("the listener listens", Duration::from_secs(20), || port_file.exists());
        let port = fs::read_to_string(port_file).unwrap().parse().unwrap();
        Self { child, port, log }
    }

    pub fn requests(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for RecordingServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn git_gets_password_and_falls_back_without_identity() {
    let sandbox = sandbox_with_identities();
    let git = |verb: &str| {
        let mut command = tool_command(&sandbox, "git", &["-c", "credential.helper=pdev", "credential", verb]);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false");
        command
    };
    let output = run_with_input(git("fill"), &sandbox, "protocol=https\nhost=git.example.org\npath=a/b.git\n\n").ok();
    assert!(output.out.contains("username=robot\npassword=canary-tok\n"), "{}", output.transcript());
    // After a 401, git erases the credential. The next one comes from the source again, and the login still exists.
    run_with_input(
        git("reject"),
        &sandbox,
        "protocol=https\nhost=git.example.org\nusername=robot\npassword=canary-tok\n\n",
    )
    .ok();
    run_with_input(git("fill"), &sandbox, "protocol=https\nhost=git.example.org\n\n").ok();
    assert_eq!(source_runs(&sandbox), 2);
    let other = run_with_input(git("fill"), &sandbox, "protocol=https\nhost=other.example.org\n\n");
    assert!(other.code != 0 && !other.transcript().contains("pdev:"), "{}", other.transcript());
    let broken = run_with_input(git("fill"), &sandbox, "protocol=https\nhost=bad.example.org\n\n");
    assert!(broken.code != 0 && broken.err.contains("printed no JSON"), "{}", broken.transcript());
    assert!(!run_with_input(git("fill"), &sandbox, "protocol=http\nhost=git.example.org\n\n").out.contains("canary"));
}

#[test]
fn botocore_threads_and_processes_share_one_lease() {
    if !is_installed("botocore", "python3", &["-c", "import botocore.session"]) {
        return;
    }
    let sandbox = sandbox_with_identities();
    let config = sandbox.path("aws-config");
    fs::write(&config, format!("[profile dev]\nregion = eu-central-1\ncredential_process = {PDEV} credential aws dev\n[profile bad]\ncredential_process = {PDEV} credential aws unknown\n")).unwrap();
    let python = |program: &str| {
        let mut command = tool_command(&sandbox, "python3", &["-c", program]);
        command.env("AWS_CONFIG_FILE", &config).env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
    };
    let output = run(python(
        "import botocore.session as b, concurrent.futures as c\n\
         def key(_):\n  s = b.Session(profile='dev'); k = s.get_credentials().get_frozen_credentials(); return k.access_key + k.secret_key + k.token\n\
         print(sorted(set(c.ThreadPoolExecutor(10).map(key, range(10)))))",
    ))
    .ok();
    assert_eq!(output.out.trim(), "['AKIACANARYcanary-scanary-t']");
    assert_eq!(source_runs(&sandbox), 1);
    // Ten processes, each with its own helper, and no cached lease.
    sandbox.pdev(&["agent", "stop"]).ok();
    let program = "import botocore.session as b; k = b.Session(profile='dev').get_credentials().get_frozen_credentials(); print(k.token)";
    let all: Vec<Child> = (0..10).map(|_| python(program).stdout(Stdio::piped()).spawn().unwrap()).collect();
    for process in all {
        let output = process.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "canary-t\n", "{:?}", output.status);
    }
    assert_eq!(source_runs(&sandbox), 2);
    let refused = run(python("import botocore.session as b; b.Session(profile='bad').get_credentials()"));
    assert!(refused.err.contains("there is no identity `unknown`"), "{}", refused.transcript());
}

#[test]
fn kubectl_sends_token_to_server() {
    if !is_installed("kubectl", "kubectl", &["version", "--client"])
        || !is_installed("kubectl", "openssl", &["version"])
    {
        return;
    }
    let sandbox = sandbox_with_identities();
    let (certificate, key) = (sandbox.path("cert.pem"), sandbox.path("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"]);
    openssl.arg(&key).arg("-out").arg(&certificate);
    run(openssl).ok();
    let listener = RecordingServer::start(&sandbox, &[&certificate, &key]);
    let config = sandbox.path("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: u, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: pdev, args: [credential, kubectl, reg], interactiveMode: Never}}}}}}]\n",
        listener.port
    );
    fs::write(&config, text).unwrap();
    let mut kubectl = tool_command(&sandbox, "kubectl", &["get", "--raw", "/version"]);
    kubectl.env("KUBECONFIG", &config);
    run(kubectl).ok().prints("v1.30.0");
    assert!(listener.requests().contains("/version Bearer canary-tok"), "{}", listener.requests());
    assert_eq!(source_runs(&sandbox), 1);
}

#[test]
fn cargo_sends_token_to_registry() {
    let sandbox = sandbox_with_identities();
    let listener = RecordingServer::start(&sandbox, &[]);
    let cargo_home = sandbox.path("cargo");
    fs::create_dir(&cargo_home).unwrap();
    let config = format!(
        "[registries.ours]\nindex = \"sparse+http://127.0.0.1:{}/index/\"\ncredential-provider = \"cargo-credential-pdev\"\n",
        listener.port
    );
    fs::write(cargo_home.join("config.toml"), config).unwrap();
    let mut cargo = tool_command(&sandbox, env!("CARGO"), &["info", "nothing", "--registry", "ours"]);
    cargo.env("CARGO_HOME", &cargo_home);
    for name in ["RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            cargo.env(name, value);
        }
    }
    let output = run(cargo);
    assert!(
        listener.requests().contains("/index/config.json canary-tok"),
        "{}\n{}",
        listener.requests(),
        output.transcript()
    );
}

#[test]
fn docker_sends_password_to_registry() {
    let Some(engine) = Sandbox::with_docker("docker's credential helper") else { return };
    drop(engine);
    let sandbox = sandbox_with_identities();
    let listener = RecordingServer::start(&sandbox, &[]);
    let server = format!("127.0.0.1:{}", listener.port);
    let folder = sandbox.path("docker");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), format!(r#"{{"credHelpers":{{"{server}":"pdev","localhost:9":"pdev"}}}}"#))
        .unwrap();
    let docker = |arguments: &[&str]| {
        let mut command = tool_command(&sandbox, "docker", arguments);
        command.env("DOCKER_CONFIG", &folder);
        if let Some(host) = std::env::var_os("DOCKER_HOST") {
            command.env("DOCKER_HOST", host);
        }
        command
    };
    drop(run(docker(&["pull", "-q", &format!("{server}/nothing:1")])));
    // Base64 of robot:canary-tok.
    assert!(listener.requests().contains("Basic cm9ib3Q6Y2FuYXJ5LXRvaw=="), "{}", listener.requests());
    run(docker(&["logout", &server])).ok();
    let helper = |verb: &str, input: &str| {
        run_with_input(tool_command(&sandbox, "docker-credential-pdev", &[verb]), &sandbox, input)
    };
    let absent = helper("get", "registry.example.org\n").fails_with(1);
    assert_eq!(absent.out, "credentials not found in native keychain\n");
    assert_eq!(helper("list", "").ok().out, "{}\n");
    helper("store", "{}").fails_with(1).prints("pdev login NAME");
    helper("get", "bad.example.org").fails_with(1).prints("printed no JSON");
}

#[test]
fn audit_records_requests_without_secrets() {
    let sandbox = sandbox_with_identities();
    sandbox.pdev(&["credential", "token", "reg"]).ok().prints("canary-tok");
    sandbox.pdev(&["credential", "aws", "reg"]).fails_with(1).prints("gives a token, and an AWS credential is needed");
    sandbox.pdev(&["credential", "token", "rge"]).fails_with(1).prints("try: Did you mean `reg`?");
    sandbox.pdev(&["credential", "tokn", "reg"]).fails_with(2).prints("'token'");
    let list = sandbox.pdev(&["identity"]).ok();
    assert!(list.out.contains("reg       exec    ready"), "{}", list.transcript());
    let output = sandbox.pdev(&["audit", "reg", "--json"]).ok();
    let entries: Vec<serde_json::Value> = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<&str> = entries.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(actions, ["renewed", "issued", "refused"]);
    let requester = entries[1]["chain"][0].as_str().unwrap();
    assert!(requester.contains("journeys"), "the test is the requester: {requester}");
    let mut grep = Command::new("grep");
    grep.args(["-rls", "canary"]).arg(sandbox.path("home")).arg(sandbox.path("run"));
    assert_eq!(run(grep).out, "", "a credential is on disk");
    assert!(!sandbox.pdev(&["identity", "--json"]).ok().transcript().contains("canary"));
}

#[test]
fn static_secret_is_entered_once() {
    let sandbox = sandbox_with_identities();
    write_identities(&sandbox, "[reg]\nsource = \"static\"\nkind = \"password\"\nusername = \"robot\"\n");
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "a long enough passphrase").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    sandbox.pdev(&["credential", "token", "reg"]).fails_with(1).prints("Run `pdev login reg` to sign in");
    let mut login = tool_command(&sandbox, "pdev", &["login", "reg"]);
    login.env("PDEV_VAULT_PASSPHRASE_FILE", &passphrase);
    run_with_input(login, &sandbox, "canary-pw\n").ok().prints("signed in as `reg`");
    assert_eq!(sandbox.pdev(&["credential", "token", "reg"]).ok().out, "canary-pw");
    sandbox.pdev(&["logout", "reg"]).ok();
    sandbox.pdev(&["credential", "token", "reg"]).fails_with(1).prints("Run `pdev login reg` to sign in");
    sandbox.pdev(&["identity"]).ok().prints("needs login");
    sandbox.pdev(&["login", "rge"]).fails_with(4).prints("Did you mean `reg`?");
}

#[test]
fn run_as_gives_credential_only_to_that_program() {
    let sandbox = sandbox_with_identities();
    let mut run_as = tool_command(
        &sandbox,
        "pdev",
        &[
            "run",
            "--in-env",
            "--as",
            "dev",
            "--",
            "sh",
            "-c",
            "echo $AWS_ACCESS_KEY_ID $AWS_SESSION_TOKEN ${AWS_PROFILE-none}; exit 7",
        ],
    );
    run_as.env("AWS_PROFILE", "other");
    let output = run(run_as).fails_with(7);
    assert_eq!(output.out, "AKIACANARY canary-t none\n");
    sandbox.pdev(&["run", "--as", "reg", "--", "sh", "-c", "echo $PDEV_TOKEN"]).ok().prints("canary-tok");
    sandbox.pdev(&["run", "--as", "hub", "--", "sh", "-c", "echo $GITHUB_TOKEN"]).ok().prints("canary-tok");
    sandbox.pdev(&["run", "--as", "reg", "--", "/no/such"]).fails_with(127).prints("cannot start `/no/such`");
    sandbox.pdev(&["run", "--as", "rge", "--", "true"]).fails_with(125).prints("Did you mean `reg`?");
    sandbox.pdev(&["run", "--as", "reg"]).fails_with(2);
    sandbox.pdev(&["run"]).fails_with(2);
    assert!(sandbox.pdev(&["audit"]).ok().out.contains("env"));
}

#[test]
fn credential_setup_shows_writes_and_undoes_changes() {
    let sandbox = sandbox_with_identities();
    let home = |path: &str| sandbox.path("home").join(path);
    fs::write(home(".gitconfig"), "[user]\n\tname = A\n").unwrap();
    let setup =
        |arguments: &[&str]| run(tool_command(&sandbox, "pdev", &[&["credential", "setup"], arguments].concat()));
    setup(&["aws", "dev"]).fails_with(2).prints("+[profile dev]").prints("nothing was changed");
    assert!(!home(".aws/config").exists());
    setup(&["aws", "dev", "--yes"]).ok();
    setup(&["aws", "dev", "--yes"]).ok().prints("nothing to change");
    setup(&["git", "dev"]).fails_with(2).prints("has no server in its `hosts`");
    setup(&["git", "reg", "--yes"]).ok().prints("+[credential \"https://git.example.org\"]");
    let mut git = tool_command(&sandbox, "git", &["credential", "fill"]);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("GIT_ASKPASS", "false");
    run_with_input(git, &sandbox, "protocol=https\nhost=git.example.org\n\n").ok().prints("password=canary-tok");
    setup(&["docker", "reg", "--yes"]).ok().prints("\"git.example.org\": \"pdev\"");
    if is_installed("kubectl's setup", "kubectl", &["version", "--client"]) {
        setup(&["kubectl", "reg", "--yes"]).ok();
        assert!(fs::read_to_string(home(".kube/config")).unwrap().contains("- kubectl"));
        setup(&["kubectl", "reg", "--yes"]).ok().prints("nothing to change");
        setup(&["kubectl", "reg", "--undo", "--yes"]).ok();
        assert!(!fs::read_to_string(home(".kube/config")).unwrap().contains("- kubectl"));
    }
    for (tool, identity) in [("aws", "dev"), ("git", "reg"), ("docker", "reg")] {
        setup(&[tool, identity, "--undo", "--yes"]).ok();
    }
    assert_eq!(fs::read_to_string(home(".aws/config")).unwrap(), "");
    assert_eq!(fs::read_to_string(home(".gitconfig")).unwrap(), "[user]\n\tname = A\n");
    assert_eq!(fs::read_to_string(home(".docker/config.json")).unwrap(), "{}");
}
