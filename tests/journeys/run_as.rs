//! `pdev run --as`: programs that run longer than a lease and an agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::credential_formats::write_identities;
use crate::endpoints::{SOURCE_SCRIPT, find_sdks};
use crate::http::request;
use crate::sandbox::{Sandbox, run_with_timeout, send_signal, to_command_output, wait_until};

fn write_test_identities(sandbox: &Sandbox) {
    let script = sandbox.path("source.sh");
    fs::write(&script, SOURCE_SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let identity = |name: &str, cloud: &str, form: &str| {
        let count = sandbox.path(&format!("count-{name}"));
        let (script, count) = (script.display(), count.display());
        format!("[{name}]\nsource = \"exec\"\ncloud = \"{cloud}\"\ncommand = [\"{script}\", \"{form}\", \"{count}\"]\n")
    };
    let named = identity("named", "google", "token") + "variable = \"GITHUB_TOKEN\"\n";
    let google = identity("google", "google", "token") + "project = \"shop\"\n";
    write_identities(
        sandbox,
        &[identity("aws", "aws", "aws"), google, identity("azure", "azure", "token"), named].concat(),
    );
    fs::create_dir_all(sandbox.path("home/.aws")).unwrap();
    // These keys would take precedence over the endpoint. Of this configuration, only the region must be used.
    fs::write(sandbox.path("home/.aws/config"), "[default]\nregion = eu-north-1\n").unwrap();
    fs::write(
        sandbox.path("home/.aws/credentials"),
        "[default]\naws_access_key_id = AKIAWRONG\naws_secret_access_key = x\n",
    )
    .unwrap();
}

struct Program {
    child: Child,
    folder: PathBuf,
}

impl Program {
    fn start(sandbox: &Sandbox, cloud: &str, (python, sdks): &(PathBuf, PathBuf)) -> Self {
        let folder = sandbox.path(&format!("program-{cloud}"));
        fs::create_dir(&folder).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/long_running.py");
        let mut command = sandbox.command(&sandbox.project(), &["run", "--as", cloud, "--"]);
        command.arg(python).arg(script).arg(cloud).arg(&folder).env("PYTHONPATH", sdks);
        command.env("AWS_ACCESS_KEY_ID", "AKIAWRONG").env("AWS_SECRET_ACCESS_KEY", "x");
        Self { child: command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), folder }
    }

    fn observations(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.folder.join("seen")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn lease_count(&self) -> usize {
        self.observations().iter().filter(|lease| lease[0] != "").count()
    }

    /// A variable of the program's environment.
    fn environment_variable(&self, name: &str) -> String {
        let all = fs::read(format!("/proc/{}/environ", self.child.id())).unwrap();
        let all = String::from_utf8(all).unwrap();
        let found = all.split('\0').find_map(|variable| variable.strip_prefix(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("no {name} in {all}")).to_owned()
    }
}

#[test]
fn long_running_programs_get_renewed_credentials() {
    let Some(sdks) = find_sdks("programs that act as an identity") else { return };
    let sandbox = Sandbox::without_docker();
    write_test_identities(&sandbox);
    let programs = ["aws", "google", "azure"].map(|cloud| Program::start(&sandbox, cloud, &sdks));
    let all = |count: usize| programs.iter().all(|program| program.lease_count() >= count);
    wait_until("each program has received three leases", Duration::from_secs(60), || all(3));

    // The endpoint rejects another process, even with the token.
    let url = programs[0].environment_variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let port: u16 = url.rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
    let token = fs::read_to_string(programs[0].environment_variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")).unwrap();
    let path = url.split_once(&port.to_string()).unwrap().1.to_owned();
    let host = format!("127.0.0.1:{port}");
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\n\r\n");
    let response = request("127.0.0.1", port, &text);
    assert!(response.status == 403 && !response.body.contains("AKIA"), "{} {}", response.status, response.body);

    // After the agent is killed, any command starts the next one, which opens the endpoints of the programs again.
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["identity"]).ok();
    sandbox.pdev(&["ls"]).ok();
    let before: Vec<usize> = programs.iter().map(Program::lease_count).collect();
    wait_until("two more leases after the agent was killed", Duration::from_secs(60), || {
        programs.iter().zip(&before).all(|(program, before)| program.lease_count() >= before + 2)
    });
    let audit = sandbox.pdev(&["audit"]).ok();
    assert!(audit.out.contains("python"), "{}", audit.transcript());

    let secrets = programs[0].environment_variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    for program in programs {
        fs::write(program.folder.join("stop"), "").unwrap();
        let (leases, ended) =
            (program.observations(), to_command_output(&program.child.wait_with_output().unwrap()).ok());
        let mut lines = ended.out.lines();
        assert_eq!(lines.next(), Some("{}"), "the environment contains a credential: {}", ended.transcript());
        assert!(
            lines.next().unwrap().contains("canary") || ended.out.contains("AKIA"),
            "the child received no credential: {}",
            ended.transcript()
        );
        assert!(!ended.out.contains("AKIAWRONG") && !leases.iter().any(|lease| lease[0] == "AKIAWRONG"), "{leases:?}");
        if leases[0][1] == "container-role" {
            assert_eq!(leases[0][2], "eu-north-1", "the region of the user's configuration is missing");
        }
    }
    wait_until("the endpoint closes with its program", Duration::from_secs(10), || {
        !Path::new(&secrets).exists() && std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    });
}

#[test]
fn ancestry_decides_who_uses_the_endpoint() {
    let sandbox = Sandbox::without_docker();
    write_test_identities(&sandbox);
    let attack = |environment: &str| {
        let url = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/token";
        format!("{environment} curl -s -H 'Metadata-Flavor: Google' {url}")
    };
    // A descendant without any of the variables is answered, a detached one with all of them is not.
    let script = format!(
        "{}; echo; {} > detached 2>&1; while ! [ -s detached ]; do sleep 0.1; done; env > environment; \
         while ! [ -e stop ]; do sleep 0.1; done",
        attack("env -i"),
        attack("setsid -f"),
    );
    let mut command = sandbox.command(&sandbox.project(), &["run", "--as", "google", "--", "sh", "-c", &script]);
    let program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let file = |name: &str| fs::read_to_string(sandbox.project().join(name)).unwrap_or_default();
    wait_until("the program has asked", Duration::from_secs(30), || file("environment").contains("PDEV_RUN="));
    let copied = file("environment");
    let copied = copied.lines().filter_map(|line| line.split_once('='));
    let mut stranger = std::process::Command::new("sh");
    stranger.args(["-c", &attack("")]).env_clear().envs(copied);
    let stranger = run_with_timeout(stranger, Duration::from_secs(30)).out;
    fs::write(sandbox.project().join("stop"), "").unwrap();
    let ended = to_command_output(&program.wait_with_output().unwrap()).ok();
    assert!(ended.out.contains("canary-token"), "a descendant: {}", ended.transcript());
    for refused in [stranger, file("detached")] {
        assert!(refused.contains("this endpoint is for another") && !refused.contains("canary"), "{refused}");
    }
}

#[test]
fn gcloud_wrapper_uses_its_identity() {
    if std::process::Command::new("gcloud").arg("--version").output().is_err() {
        println!("skipped: gcloud as an identity: `gcloud` is not installed");
        return;
    }
    let sandbox = Sandbox::without_docker();
    write_test_identities(&sandbox);
    let bin = sandbox.path("home/.local/bin");
    fs::create_dir_all(&bin).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run_program = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        let plain = sandbox.command(&sandbox.project(), &[]);
        command.args(arguments).current_dir(sandbox.project()).env_clear().stdin(Stdio::null());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", &path);
        run_with_timeout(command, Duration::from_secs(60))
    };
    let setup =
        |more: &[&str]| run_program(env!("CARGO_BIN_EXE_pdev"), &[&["credential", "setup", "gcloud"], more].concat());
    setup(&["aws"]).fails_with(2).prints("`aws` is not a Google identity");
    setup(&["google"]).fails_with(2).prints("`google` has no `email`");
    let text = fs::read_to_string(sandbox.path("home/.config/pdev/identities.toml")).unwrap();
    write_identities(
        &sandbox,
        &text.replace("project = \"shop\"\n", "project = \"shop\"\nemail = \"dev@example.org\"\n"),
    );
    setup(&["google"]).fails_with(2).prints("+exec ").prints("nothing was changed");
    setup(&["google", "--yes"]).ok();
    setup(&["google", "--yes"]).ok().prints("nothing to change");

    let wrapper = bin.join("gcloud-google");
    let gcloud = |arguments: &[&str]| run_program(wrapper.to_str().unwrap(), arguments).ok().out;
    let first = gcloud(&["auth", "print-access-token"]);
    assert!(first.starts_with("canary-token-"), "{first}");
    wait_until("a later gcloud gets the next lease", Duration::from_secs(30), || {
        let now = gcloud(&["auth", "print-access-token"]);
        now.starts_with("canary-token-") && now != first
    });
    assert_eq!(gcloud(&["config", "get-value", "core/project"]).trim(), "shop");
    assert!(gcloud(&["auth", "list"]).contains("dev@example.org"));
    let audit = sandbox.pdev(&["audit"]).ok();
    assert!(!audit.out.contains("refused"), "the id token that gcloud requests was refused: {}", audit.transcript());
    let mut grep = std::process::Command::new("grep");
    grep.args(["-rlsa", "canary-token"]).arg(sandbox.path("home"));
    assert_eq!(run_with_timeout(grep, Duration::from_secs(10)).out, "", "a file contains a token");

    setup(&["google", "--undo", "--yes"]).ok();
    assert!(!wrapper.exists());
    fs::write(&wrapper, "#!/bin/sh\n").unwrap();
    setup(&["google", "--undo", "--yes"]).fails_with(2).prints("pdev did not write it");
}

#[test]
fn credential_without_endpoint_is_set_in_environment() {
    let sandbox = Sandbox::without_docker();
    write_test_identities(&sandbox);
    let shell = |arguments: &[&str], script: &str| {
        let all = [&["run"], arguments, &["--", "sh", "-c", script]].concat();
        run_with_timeout(sandbox.command(&sandbox.project(), &all), Duration::from_secs(30)).ok().out
    };
    assert!(shell(&["--in-env", "--as", "aws"], "echo $AWS_SESSION_TOKEN").contains("canary-token-"));
    assert!(
        shell(&["--as", "named"], "echo $GITHUB_TOKEN").contains("canary-token-"),
        "the configured variable is missing"
    );
    let output = shell(&["--as", "aws"], "env; cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    assert!(output.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI") && !output.contains("canary"), "{output}");
    sandbox.pdev(&["run", "--in-env", "seed"]).fails_with(2);
}
