//! Services with an identity: boto3, google-auth and azure-identity renew their credentials, in containers and in local
//! processes, beyond the end of a lease and of an agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::credential_formats::write_identities;
use crate::http;
use crate::sandbox::{Sandbox, find_unit, send_signal, wait_until};

/// Counts its runs, and prints a credential that contains the number of the run and expires after five seconds.
pub const SOURCE_SCRIPT: &str = r#"#!/bin/sh
n=$(($(cat "$2" 2>/dev/null || echo 0) + 1)); echo $n > "$2"
end=$(($(date +%s) + 5))
case $1 in
aws) printf '{"Version":1,"AccessKeyId":"AKIA%s","SecretAccessKey":"canary-secret-%s","SessionToken":"canary-token-%s","Expiration":"%s"}' $n $n $n "$(date -u -d @$end +%Y-%m-%dT%H:%M:%SZ)";;
*) printf '{"token":"canary-token-%s","expires_at":%s}' $n $end;;
esac
"#;

struct Fixture {
    sandbox: Sandbox,
    runtime: &'static str,
}

/// Returns a Python and the folder of the SDKs. Prints a skip and returns `None` if they are missing.
pub fn find_sdks(journey: &str) -> Option<(PathBuf, PathBuf)> {
    let python = PathBuf::from(std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into()));
    let folder = std::env::var_os("PDEV_TEST_SDKS").map(PathBuf::from).unwrap_or_default();
    let check = ["-c", "import boto3, google.auth, requests, azure.identity"];
    let status = Command::new(&python).args(check).env("PYTHONPATH", &folder).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return Some((python, folder));
    }
    println!("skipped: {journey}: python has no boto3, google-auth and azure-identity");
    None
}

impl Fixture {
    fn new(sandbox: Sandbox, runtime: &'static str, python: &Path, folder: &Path) -> Self {
        let script = sandbox.path("source.sh");
        fs::write(&script, SOURCE_SCRIPT).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let identity = |name: &str, cloud: &str, form: &str| {
            let count = sandbox.path(&format!("count-{name}"));
            format!(
                "[{name}]\nsource = \"exec\"\nask = \"never\"\ncloud = \"{cloud}\"\ncommand = [\"{}\", \"{form}\", \"{}\"]\n",
                script.display(),
                count.display()
            )
        };
        let google = "project = \"shop\"\nemail = \"dev@shop.iam.gserviceaccount.com\"\n";
        let all =
            [identity("a", "aws", "aws"), identity("g", "google", "token") + google, identity("z", "azure", "token")];
        write_identities(&sandbox, &all.concat());
        let consumer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/consumer.py");
        sandbox.write("consumer.py", &fs::read_to_string(consumer).unwrap());
        let service = |name: &str, identity: &str| {
            format!(
                "  {name}:\n    port: 8000\n    image: python:3-slim\n    command: [python3, /consumer.py, 0.0.0.0, '8000']\n\
                 {identity}    env: {{ PYTHONPATH: /sdks }}\n    raw: {{ docker: {{ HostConfig: {{ Binds: ['{sdks}:/sdks:ro', './consumer.py:/consumer.py:ro'] }} }} }}\n    \
                 process: {{ command: 'exec {python} consumer.py 127.0.0.1 $PORT', env: {{ PYTHONPATH: '{sdks}' }} }}\n",
                python = python.display(),
                sdks = folder.display(),
            )
        };
        let manifest = format!(
            "pdev: 1\napp: sdk\nidentities: {{ a: x, g: x, z: x }}\nservices:\n{}{}{}{}",
            service("aws", "    identity: a\n"),
            service("google", "    identity: g\n"),
            service("azure", "    identity: z\n"),
            service("other", ""),
        );
        sandbox.write("pdev.yaml", &manifest);
        Self { sandbox, runtime }
    }

    fn up(&self) {
        self.sandbox.pdev(&["up", "--runtime", self.runtime]).ok();
    }

    fn service_port(&self, service: &str) -> u16 {
        let status = self.sandbox.status(&self.sandbox.project());
        u16::try_from(find_unit(&status, service)["ports"]["main"].as_u64().unwrap()).unwrap()
    }

    #[track_caller]
    fn request_json(&self, port: u16, path: &str) -> Value {
        let response = http::get("127.0.0.1", port, path);
        serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", response.body))
    }

    /// Requests credentials from the same programs until each has received three leases in sequence.
    #[track_caller]
    fn assert_survives_renewals(&self, clients: &[(u16, &str)]) {
        let number = |response: &Value| response["number"].as_i64().unwrap_or_else(|| panic!("{response}"));
        let firsts: Vec<Value> = clients.iter().map(|(port, path)| self.request_json(*port, path)).collect();
        wait_until("two more leases", Duration::from_secs(60), || {
            let all = clients.iter().zip(&firsts).map(|((port, path), first)| {
                let now = self.request_json(*port, path);
                assert_eq!(now["pid"], first["pid"], "the program was restarted");
                number(&now) >= number(first) + 2
            });
            // `filter` and `count` visit all clients in each round, because a client without requests renews nothing.
            all.filter(|renewed| !renewed).count() == 0
        });
    }

    /// Searches all places outside of the source that could contain a lease.
    fn find_canary(&self) -> String {
        let sandbox = &self.sandbox;
        let mut grep = Command::new("grep");
        grep.args(["-rlsa", "canary-"]).arg(sandbox.path("home")).arg(sandbox.path("run")).arg(sandbox.project());
        let mut found = String::from_utf8(grep.output().unwrap().stdout).unwrap();
        let environments = "grep -lsa canary-[t]oken- /proc/[0-9]*/environ /proc/[0-9]*/cmdline";
        let processes = Command::new("sh").args(["-c", environments]).output().unwrap();
        found += &String::from_utf8_lossy(&processes.stdout);
        for arguments in [&["status", "--json"][..], &["identity", "--json"], &["audit", "--json"], &["logs"]] {
            let output = sandbox.pdev(arguments);
            if output.transcript().contains("canary-") {
                found += &format!("{arguments:?}\n");
            }
        }
        found
    }
}

fn check_endpoints(fixture: &Fixture) {
    fixture.up();
    let [aws, google, azure, other] = ["aws", "google", "azure", "other"].map(|service| fixture.service_port(service));
    let credential = fixture.request_json(aws, "/aws");
    assert_eq!(credential["method"], "container-role", "{credential}");
    assert_eq!(fixture.request_json(aws, "/imds")["role"], "a");
    let account = fixture.request_json(google, "/google");
    assert_eq!(account["project"], "shop", "{account}");
    assert_eq!(account["email"], "dev@shop.iam.gserviceaccount.com");
    let all = [(aws, "/aws"), (aws, "/imds"), (google, "/google"), (azure, "/azure"), (azure, "/azure-default")];
    fixture.assert_survives_renewals(&all);

    // The endpoint rejects another service of the preview and another program of this machine.
    let environment = fixture.request_json(google, "/env");
    let address = environment["GCE_METADATA_HOST"].as_str().unwrap();
    let token = format!("http://{address}/computeMetadata/v1/instance/service-accounts/default/token");
    assert_eq!(fixture.request_json(google, &format!("/fetch?{token}"))["status"], 200);
    for stranger in [other, aws] {
        let refused = fixture.request_json(stranger, &format!("/fetch?{token}"));
        assert_eq!(refused["status"], 403, "{refused}");
        assert!(refused["body"].as_str().unwrap().contains("this endpoint is for another service"), "{refused}");
    }
    let stranger = Command::new("curl").args(["-s", "-H", "Metadata-Flavor: Google", &token]).output().unwrap();
    assert!(!String::from_utf8_lossy(&stranger.stdout).contains("canary"));
    // The endpoint answers only in the format of its own cloud.
    let base = token.split("/computeMetadata").next().unwrap();
    let refused = fixture.request_json(google, &format!("/fetch?{base}/metadata/identity/oauth2/token?resource=x"));
    assert_eq!(refused["status"], 400);
    assert!(
        refused["body"].as_str().unwrap().contains("`g` is an identity of Google, and it was asked as one of Azure")
    );

    let pid = fixture.sandbox.agent_pid().unwrap();
    send_signal(pid, "KILL");
    fixture.sandbox.pdev(&["status"]).ok();
    for (port, path) in all {
        wait_until(&format!("{path}: the next agent responds"), Duration::from_secs(30), || {
            fixture.request_json(port, path)["number"].is_i64()
        });
    }
    fixture.assert_survives_renewals(&all);
    fixture.sandbox.pdev(&["up", "--runtime", fixture.runtime]).ok().prints("nothing changed");
    assert_eq!(fixture.find_canary(), "");
    let audit = fixture.sandbox.pdev(&["audit"]).ok();
    let audit = audit.prints("service aws of sdk, main").prints("ecs").prints("imds").prints("gce");
    assert!(audit.transcript().contains("msi"));
}

fn is_listening(address: &str) -> bool {
    let sockets = Command::new("ss").args(["-Hltn", "src", address]).output().unwrap();
    !sockets.stdout.is_empty()
}

/// A program of the user, outside of the preview, with everything that distinguishes a service's process in `/proc`.
fn check_copied_environment(fixture: &Fixture) {
    let google = fixture.service_port("google");
    let pid = fixture.request_json(google, "/google")["pid"].as_i64().unwrap();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut curl = Command::new("sh");
    let url = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/token";
    curl.args(["-c", &format!("curl -s -H 'Metadata-Flavor: Google' {url}")]).env_clear();
    for entry in environment.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
        let (name, value) = std::str::from_utf8(entry).unwrap().split_once('=').unwrap();
        curl.env(name, value);
    }
    let output = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert!(output.contains("this endpoint is for another service") && !output.contains("canary"), "{output}");
}

fn check_endpoints_close(fixture: &Fixture) {
    let google = fixture.service_port("google");
    let address = fixture.request_json(google, "/env")["GCE_METADATA_HOST"].as_str().unwrap().to_owned();
    assert!(is_listening(&address), "{address}");
    fixture.sandbox.pdev(&["down"]).ok();
    assert!(!is_listening(&address), "{address} after `down`");
}

#[test]
pub fn sdks_in_local_processes_stay_signed_in() {
    let name = "SDKs in local processes";
    let Some((python, folder)) = find_sdks(name) else { return };
    let fixture = Fixture::new(Sandbox::without_docker(), "process", &python, &folder);
    check_endpoints(&fixture);
    check_copied_environment(&fixture);
    check_endpoints_close(&fixture);
}

#[test]
pub fn sdks_in_containers_stay_signed_in() {
    let name = "SDKs in containers";
    let Some((python, folder)) = find_sdks(name) else { return };
    let Some(sandbox) = Sandbox::with_docker(name) else { return };
    let mount = format!("{}:/sdks:ro", folder.display());
    let check = ["run", "--rm", "-e", "PYTHONPATH=/sdks", "-v", &mount, "python:3-slim", "python3", "-c"];
    let imports = Command::new("docker").args(check).arg("import boto3, google.auth, azure.identity").output().unwrap();
    if !imports.status.success() {
        println!(
            "skipped: {name}: the image's python cannot use the SDKs: {}",
            String::from_utf8_lossy(&imports.stderr)
        );
        return;
    }
    let fixture = Fixture::new(sandbox, "docker", &python, &folder);
    check_endpoints(&fixture);

    let project = format!("label=dev.pdev.project={}", fixture.sandbox.project().display());
    let ids = Command::new("docker").args(["ps", "-q", "--filter", &project]).output().unwrap();
    let ids = String::from_utf8(ids.stdout).unwrap();
    assert_eq!(ids.lines().count(), 4, "the containers of the four services: {ids}");
    let inspected = Command::new("docker").arg("inspect").args(ids.lines()).output().unwrap();
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    let inspected = String::from_utf8(inspected.stdout).unwrap();
    assert!(!inspected.contains("canary"));
    let mut token_count = 0;
    for id in ids.lines() {
        let token = Command::new("docker").args(["exec", id, "cat", "/run/secrets/endpoint.token"]).output().unwrap();
        let token = String::from_utf8(token.stdout).unwrap();
        assert!(token.is_empty() || token.len() == 64 && !inspected.contains(&token));
        token_count += usize::from(!token.is_empty());
    }
    assert!(token_count >= 1, "no container has an endpoint token");
    check_endpoints_close(&fixture);
}
