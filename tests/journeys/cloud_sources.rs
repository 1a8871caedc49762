//! Google, Microsoft Entra and HashiCorp Vault as sources, with a protocol server that google-auth, azure-identity and
//! hvac check.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::credential_formats::write_identities;
use crate::http::{get, request};
use crate::sandbox::{CommandOutput, Sandbox, find_unit, run_with_timeout, send_signal, wait_until};

const ROBOT: &str = "robot@shop.iam.gserviceaccount.com";

pub struct CloudServer {
    child: Child,
    port: u16,
    pub folder: PathBuf,
}

fn python_command(program: &str, folder: &Path) -> Command {
    let python = std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials").join(program)).arg(folder);
    command.env("PYTHONPATH", std::env::var_os("PDEV_TEST_SDKS").unwrap_or_default());
    command
}

impl CloudServer {
    pub fn start(journey: &str, sandbox: &Sandbox) -> Option<Self> {
        let python_path = std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let check = ["-c", "import cryptography, google.auth, azure.identity, hvac"];
        let sdks = std::env::var_os("PDEV_TEST_SDKS").unwrap_or_default();
        let imports = Command::new(python_path).args(check).env("PYTHONPATH", sdks).stderr(Stdio::null()).status();
        if !imports.is_ok_and(|status| status.success()) {
            println!("skipped: {journey}: python has no cryptography, google-auth, azure-identity and hvac");
            return None;
        }
        let folder = sandbox.path("clouds");
        fs::create_dir(&folder).unwrap();
        let child = python_command("clouds.py", &folder).spawn().unwrap();
        wait_until("the clouds listen", Duration::from_secs(30), || folder.join("port").exists());
        let port = fs::read_to_string(folder.join("port")).unwrap().parse().unwrap();
        let clouds = Self { child, port, folder };
        run_with_timeout(python_command("clouds_clients.py", &clouds.folder), Duration::from_secs(60))
            .ok()
            .prints("passed");
        Some(clouds)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn stats(&self) -> Value {
        serde_json::from_str(&get("127.0.0.1", self.port, "/test/stats").body).unwrap()
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats()[name].as_u64().unwrap()
    }

    fn send_control(&self, action: &str) {
        let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        request("127.0.0.1", self.port, &format!("POST /test/{action} {head}"));
    }
}

impl Drop for CloudServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn write_cloud_identities(sandbox: &Sandbox, clouds: &CloudServer) {
    let base = format!("http://127.0.0.1:{}", clouds.port);
    let secure = fs::read_to_string(clouds.folder.join("tls-port")).unwrap();
    let secure = format!("https://localhost:{secure}");
    let text = format!(
        r#"[subject]
source = "exec"
command = ["echo", "{{\"token\":\"subject-of-another\"}}"]
[stranger]
source = "exec"
command = ["echo", "{{\"token\":\"stranger\"}}"]
[key]
source = "google"
[user]
source = "google"
[fed]
source = "google-federation"
from = "subject"
audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
endpoint = "{base}"
[fed-stranger]
source = "google-federation"
from = "stranger"
audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
endpoint = "{base}"
[robot]
source = "google-impersonation"
from = "fed"
service_account = "{ROBOT}"
endpoint = "{base}"
[other]
source = "google-impersonation"
from = "key"
service_account = "other@shop.iam.gserviceaccount.com"
endpoint = "{base}"
[app]
source = "entra"
tenant = "tenant"
client_id = "app"
endpoint = "{secure}"
[app-fed]
source = "entra-federation"
from = "subject"
tenant = "tenant"
client_id = "app"
scopes = ["https://vault.azure.net/.default"]
endpoint = "{secure}"
[root]
source = "vault-server"
address = "{base}"
path = "aws/creds/deploy"
[db]
source = "vault-server"
address = "{base}"
path = "database/creds/shop"
role_id = "role"
[kv]
source = "vault-server"
address = "{base}"
path = "kv/data/shop"
role_id = "role"
[nothing]
source = "vault-server"
address = "{base}"
path = "kv/data/none"
role_id = "role"
"#
    );
    let without_approval =
        |text: String, name: &&str| text.replace(&format!("[{name}]\n"), &format!("[{name}]\nask = \"never\"\n"));
    write_identities(sandbox, &["key", "robot", "app", "app-fed"].iter().fold(text, without_approval));
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "a long enough passphrase").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn login_with_secret(sandbox: &Sandbox, identity: &str, secret: &str) -> CommandOutput {
    let path = sandbox.path("secret");
    fs::write(&path, secret).unwrap();
    let mut login = sandbox.command(&sandbox.project(), &["login", identity]);
    login.env("PDEV_VAULT_PASSPHRASE_FILE", sandbox.path("passphrase")).stdin(fs::File::open(&path).unwrap());
    let output = run_with_timeout(login, Duration::from_secs(60));
    fs::remove_file(path).unwrap();
    output
}

fn request_token(sandbox: &Sandbox, identity: &str) -> CommandOutput {
    sandbox.pdev(&["credential", "token", identity])
}

#[track_caller]
fn assert_output_starts_with(output: CommandOutput, start: &str) {
    let output = output.ok();
    assert!(output.out.starts_with(start), "{}", output.transcript());
}

/// A token for one audience or resource is requested only when a service's SDK requests it.
fn check_services(sandbox: &Sandbox, clouds: &CloudServer) {
    let consumer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/consumer.py");
    sandbox.write("consumer.py", &fs::read_to_string(consumer).unwrap());
    let program = std::env::var("PDEV_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let sdks = std::env::var("PDEV_TEST_SDKS").unwrap_or_default();
    let service = |name: &str| {
        format!(
            "  {name}: {{ identity: {name}, port: 8000, process: {{ command: '{program} consumer.py 127.0.0.1 $PORT', env: {{ PYTHONPATH: '{sdks}' }} }} }}\n"
        )
    };
    let names = ["key", "robot", "app", "app-fed"];
    let declared = names.map(|name| format!("{name}: x")).join(", ");
    let services = names.map(service).concat();
    sandbox.write("pdev.yaml", &format!("pdev: 1\napp: cl\nidentities: {{ {declared} }}\nservices:\n{services}"));
    sandbox.pdev(&["up"]).ok();
    let status = sandbox.status(&sandbox.project());
    let fetch = |service: &str, path: &str| {
        let port = find_unit(&status, service)["ports"]["main"].as_u64().unwrap();
        get("127.0.0.1", u16::try_from(port).unwrap(), path).body
    };
    for service in ["key", "robot"] {
        let output = fetch(service, "/google-id");
        assert!(output.contains("\"audience\": \"https://run.example\"") && output.contains(ROBOT), "{output}");
    }
    for service in ["app", "app-fed"] {
        let output = fetch(service, "/azure-resources");
        assert!(output.contains("\"different\": 2"), "{output}");
    }
    assert_eq!(clouds.stat("https://storage.azure.com/.default"), 2);
    let refused = fetch("app", "/google");
    assert!(refused.contains("error"), "{refused}");
    sandbox.pdev(&["down"]).ok();
}

#[test]
fn google_entra_and_vault_sources_give_tokens() {
    let sandbox = Sandbox::without_docker();
    let Some(clouds) = CloudServer::start("sources of clouds", &sandbox) else { return };
    write_cloud_identities(&sandbox, &clouds);
    let read = |name: &str| fs::read_to_string(clouds.folder.join(name)).unwrap();

    // The first command starts the agent, which inherits the test's certificate.
    let mut first = sandbox.command(&sandbox.project(), &["credential", "token", "fed"]);
    first.env("SSL_CERT_FILE", clouds.folder.join("ca.pem"));
    assert_output_starts_with(run_with_timeout(first, Duration::from_secs(60)), "canary-federated-");
    login_with_secret(&sandbox, "key", "no json")
        .fails_with(2)
        .prints("`key`: it is no JSON")
        .prints("nothing was stored");
    login_with_secret(&sandbox, "key", &read("key.json")).ok();
    assert_output_starts_with(request_token(&sandbox, "key"), "canary-key-");
    login_with_secret(&sandbox, "user", &read("user.json")).ok();
    assert_output_starts_with(request_token(&sandbox, "user"), "canary-user-");
    assert_output_starts_with(request_token(&sandbox, "fed"), "canary-federated-");
    request_token(&sandbox, "fed-stranger").fails_with(1).prints("rejected by the attribute condition");
    assert_output_starts_with(request_token(&sandbox, "robot"), "canary-impersonated-");
    let denied = request_token(&sandbox, "other").fails_with(1);
    denied.prints("Permission 'iam.serviceAccounts.getAccessToken' denied").prints("asked as `key`");

    request_token(&sandbox, "app")
        .fails_with(1)
        .prints("no client secret is stored for `app`")
        .prints("`pdev login app`");
    login_with_secret(&sandbox, "app", "wrong\n").ok();
    request_token(&sandbox, "app").fails_with(1).prints("AADSTS7000215");
    login_with_secret(&sandbox, "app", "canary-entra\n").ok();
    assert_output_starts_with(request_token(&sandbox, "app"), "canary-entra-");
    assert_output_starts_with(request_token(&sandbox, "app-fed"), "canary-entra-");

    login_with_secret(&sandbox, "root", "ended").ok();
    sandbox.pdev(&["credential", "aws", "root"]).fails_with(1).prints("invalid token").prints("`pdev login root`");
    login_with_secret(&sandbox, "root", "canary-root").ok();
    sandbox.pdev(&["credential", "aws", "root"]).ok().prints("AKIAV");
    for name in ["db", "kv", "nothing"] {
        login_with_secret(&sandbox, name, "canary-secret-id").ok();
    }
    assert_output_starts_with(request_token(&sandbox, "db"), "canary-db");
    assert_output_starts_with(request_token(&sandbox, "kv"), "canary-kv");
    request_token(&sandbox, "nothing").fails_with(1).prints("there is nothing at `kv/data/none`");

    check_services(&sandbox, &clouds);

    // A new agent renews with the rotated refresh token, which the killed agent has stored.
    let before = clouds.stat("refreshes");
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    let mut again = sandbox.command(&sandbox.project(), &["credential", "token", "user"]);
    again.env("PDEV_VAULT_PASSPHRASE_FILE", sandbox.path("passphrase"));
    assert_output_starts_with(run_with_timeout(again, Duration::from_secs(60)), "canary-user-");
    assert_eq!((clouds.stat("refreshes"), clouds.stat("reuse")), (before + 1, 0));
    clouds.send_control("revoke");
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    let mut ended = sandbox.command(&sandbox.project(), &["credential", "token", "user"]);
    ended.env("PDEV_VAULT_PASSPHRASE_FILE", sandbox.path("passphrase"));
    run_with_timeout(ended, Duration::from_secs(60))
        .fails_with(1)
        .prints("expired or revoked")
        .prints("gcloud auth application-default");

    let mut grep = Command::new("grep");
    grep.args(["-rlsa", "canary-"]).arg(sandbox.path("home")).arg(sandbox.path("run"));
    assert_eq!(String::from_utf8(grep.output().unwrap().stdout).unwrap(), "");
}

#[test]
fn session_gets_read_only_google_tokens() {
    let sandbox = Sandbox::without_docker();
    let Some(clouds) = CloudServer::start("a session at Google", &sandbox) else { return };
    write_cloud_identities(&sandbox, &clouds);
    let read = |name: &str| fs::read_to_string(clouds.folder.join(name)).unwrap();
    login_with_secret(&sandbox, "key", &read("key.json")).ok();
    login_with_secret(&sandbox, "user", &read("user.json")).ok();
    let session = |name: &str| {
        let script = format!("{} credential token {name}", env!("CARGO_BIN_EXE_pdev"));
        sandbox.pdev(&["session", "run", "--name", "robot", "--for", "10m", "--", "sh", "-c", &script])
    };
    let issued = || clouds.stats()["issued_scopes"].as_array().unwrap().clone();
    let (full, read_only) =
        ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/cloud-platform.read-only");
    let before = issued().len();
    session("key").ok().prints("canary-key-");
    session("fed").ok().prints("canary-federated-");
    session("robot").ok().prints("canary-impersonated-");
    let in_session = issued()[before..].to_vec();
    // The federated token that impersonates the account has the full scope, because it does not leave the agent.
    assert_eq!(in_session[..3], [json!(["key", read_only]), json!(["fed", read_only]), json!(["fed", full])]);
    let seconds = in_session[3][2].as_str().unwrap().trim_end_matches('s').parse::<u32>().unwrap();
    assert_eq!((&in_session[3][0], &in_session[3][1]), (&json!("robot"), &json!(read_only)));
    assert!((300..=600).contains(&seconds), "the lease is longer than the session: {seconds}");

    // If the user's login lacks the read-only scope, the session gets an error, not a token with the full scope.
    let refused = session("user").fails_with(1);
    let refused = refused
        .prints(&format!("`user` cannot be restricted to `{read_only}`"))
        .prints("Some requested scopes were invalid");
    refused.prints("gcloud auth application-default login --scopes").prints("pdev session allow");
    assert_eq!(issued().len(), before + 4);
    assert_eq!(clouds.stat("reuse"), 0);
    clouds.send_control("grant");
    session("user").ok().prints("canary-user-");
    assert_eq!(issued().last().unwrap(), &json!(["user", read_only]));
    assert_output_starts_with(request_token(&sandbox, "user"), "canary-user-");
    sandbox.pdev(&["audit"]).ok().prints("cannot be restricted to");
}
