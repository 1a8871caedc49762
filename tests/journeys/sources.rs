//! Google, Microsoft Entra and HashiCorp Vault as sources, at a protocol server that google-auth, azure-identity and hvac
//! are content with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{get, request};
use crate::outlets::identities;
use crate::sandbox::{Said, Sandbox, eventually, finish, signal, unit};

const ROBOT: &str = "robot@shop.iam.gserviceaccount.com";

pub struct Clouds {
    child: Child,
    port: u16,
    pub folder: PathBuf,
}

fn python(program: &str, folder: &Path) -> Command {
    let python = std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials").join(program)).arg(folder);
    command.env("PYTHONPATH", std::env::var_os("PDEV_TEST_SDKS").unwrap_or_default());
    command
}

impl Clouds {
    pub fn start(journey: &str, sandbox: &Sandbox) -> Option<Self> {
        let python_path = std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let check = ["-c", "import cryptography, google.auth, azure.identity, hvac"];
        let sdks = std::env::var_os("PDEV_TEST_SDKS").unwrap_or_default();
        let found = Command::new(python_path).args(check).env("PYTHONPATH", sdks).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            println!("skipped: {journey}: python has no cryptography, google-auth, azure-identity and hvac");
            return None;
        }
        let folder = sandbox.path("clouds");
        fs::create_dir(&folder).unwrap();
        let child = python("clouds.py", &folder).spawn().unwrap();
        eventually("the clouds listen", Duration::from_secs(30), || folder.join("port").exists());
        let port = fs::read_to_string(folder.join("port")).unwrap().parse().unwrap();
        let clouds = Self { child, port, folder };
        finish(python("clouds_clients.py", &clouds.folder), Duration::from_secs(60)).ok().says("proven");
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

    fn told(&self, what: &str) {
        let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        request("127.0.0.1", self.port, &format!("POST /test/{what} {head}"));
    }
}

impl Drop for Clouds {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set(sandbox: &Sandbox, clouds: &Clouds) {
    let base = format!("http://127.0.0.1:{}", clouds.port);
    let secure = fs::read_to_string(clouds.folder.join("tls-port")).unwrap();
    let secure = format!("https://localhost:{secure}");
    let text = format!(
        r#"[subject]
source = "exec"
command = ["echo", "{{\"token\":\"subject-of-another\"}}"]
[stranger]
source = "exec"
command = ["echo", "{{\"token\":\"somebody\"}}"]
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
    let unasked =
        |text: String, name: &&str| text.replace(&format!("[{name}]\n"), &format!("[{name}]\nask = \"never\"\n"));
    identities(sandbox, &["key", "robot", "app", "app-fed"].iter().fold(text, unasked));
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "a long enough passphrase").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn login(sandbox: &Sandbox, identity: &str, secret: &str) -> Said {
    let path = sandbox.path("given");
    fs::write(&path, secret).unwrap();
    let mut login = sandbox.command(&sandbox.project(), &["login", identity]);
    login.env("PDEV_VAULT_PASSPHRASE_FILE", sandbox.path("passphrase")).stdin(fs::File::open(&path).unwrap());
    let said = finish(login, Duration::from_secs(60));
    fs::remove_file(path).unwrap();
    said
}

fn token(sandbox: &Sandbox, identity: &str) -> Said {
    sandbox.pdev(&["credential", "token", identity])
}

#[track_caller]
fn begins(said: Said, start: &str) {
    let said = said.ok();
    assert!(said.out.starts_with(start), "{}", said.all());
}

/// What is for one audience or resource only is asked for when a service's SDK wants it.
fn services(sandbox: &Sandbox, clouds: &Clouds) {
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
    let ask = |service: &str, path: &str| {
        let port = unit(&status, service)["ports"]["main"].as_u64().unwrap();
        get("127.0.0.1", u16::try_from(port).unwrap(), path).body
    };
    for service in ["key", "robot"] {
        let said = ask(service, "/google-id");
        assert!(said.contains("\"audience\": \"https://run.example\"") && said.contains(ROBOT), "{said}");
    }
    for service in ["app", "app-fed"] {
        let said = ask(service, "/azure-resources");
        assert!(said.contains("\"different\": 2"), "{said}");
    }
    assert_eq!(clouds.stat("https://storage.azure.com/.default"), 2);
    let refused = ask("app", "/google");
    assert!(refused.contains("error"), "{refused}");
    sandbox.pdev(&["down"]).ok();
}

#[test]
fn google_entra_and_vault_give_what_their_own_clients_get() {
    let sandbox = Sandbox::bare();
    let Some(clouds) = Clouds::start("sources of clouds", &sandbox) else { return };
    set(&sandbox, &clouds);
    let read = |name: &str| fs::read_to_string(clouds.folder.join(name)).unwrap();

    // The agent that this one starts trusts the test's certificate too.
    let mut first = sandbox.command(&sandbox.project(), &["credential", "token", "fed"]);
    first.env("SSL_CERT_FILE", clouds.folder.join("ca.pem"));
    begins(finish(first, Duration::from_secs(60)), "canary-federated-");
    login(&sandbox, "key", "no json").fails_with(2).says("`key`: it is no JSON").says("nothing was kept");
    login(&sandbox, "key", &read("key.json")).ok();
    begins(token(&sandbox, "key"), "canary-key-");
    login(&sandbox, "user", &read("user.json")).ok();
    begins(token(&sandbox, "user"), "canary-user-");
    begins(token(&sandbox, "fed"), "canary-federated-");
    token(&sandbox, "fed-stranger").fails_with(1).says("rejected by the attribute condition");
    begins(token(&sandbox, "robot"), "canary-impersonated-");
    let denied = token(&sandbox, "other").fails_with(1);
    denied.says("Permission 'iam.serviceAccounts.getAccessToken' denied").says("asked as `key`");

    token(&sandbox, "app").fails_with(1).says("the client secret of `app` was never given").says("`pdev login app`");
    login(&sandbox, "app", "wrong\n").ok();
    token(&sandbox, "app").fails_with(1).says("AADSTS7000215");
    login(&sandbox, "app", "canary-entra\n").ok();
    begins(token(&sandbox, "app"), "canary-entra-");
    begins(token(&sandbox, "app-fed"), "canary-entra-");

    login(&sandbox, "root", "ended").ok();
    sandbox.pdev(&["credential", "aws", "root"]).fails_with(1).says("invalid token").says("`pdev login root`");
    login(&sandbox, "root", "canary-root").ok();
    sandbox.pdev(&["credential", "aws", "root"]).ok().says("AKIAV");
    for name in ["db", "kv", "nothing"] {
        login(&sandbox, name, "canary-secret-id").ok();
    }
    begins(token(&sandbox, "db"), "canary-db");
    begins(token(&sandbox, "kv"), "canary-kv");
    token(&sandbox, "nothing").fails_with(1).says("there is nothing at `kv/data/none`");

    services(&sandbox, &clouds);

    // Renewed in another agent's life: the rotated refresh token was kept.
    let before = clouds.stat("refreshes");
    signal(sandbox.agent_pid().unwrap(), "KILL");
    let mut again = sandbox.command(&sandbox.project(), &["credential", "token", "user"]);
    again.env("PDEV_VAULT_PASSPHRASE_FILE", sandbox.path("passphrase"));
    begins(finish(again, Duration::from_secs(60)), "canary-user-");
    assert_eq!((clouds.stat("refreshes"), clouds.stat("reuse")), (before + 1, 0));
    clouds.told("revoke");
    signal(sandbox.agent_pid().unwrap(), "KILL");
    let mut ended = sandbox.command(&sandbox.project(), &["credential", "token", "user"]);
    ended.env("PDEV_VAULT_PASSPHRASE_FILE", sandbox.path("passphrase"));
    finish(ended, Duration::from_secs(60))
        .fails_with(1)
        .says("expired or revoked")
        .says("gcloud auth application-default");

    let mut grep = Command::new("grep");
    grep.args(["-rlsa", "canary-"]).arg(sandbox.path("home")).arg(sandbox.path("run"));
    assert_eq!(String::from_utf8(grep.output().unwrap().stdout).unwrap(), "");
}

#[test]
fn a_session_is_given_google_tokens_to_read_with() {
    let sandbox = Sandbox::bare();
    let Some(clouds) = Clouds::start("a session at Google", &sandbox) else { return };
    set(&sandbox, &clouds);
    let read = |name: &str| fs::read_to_string(clouds.folder.join(name)).unwrap();
    login(&sandbox, "key", &read("key.json")).ok();
    login(&sandbox, "user", &read("user.json")).ok();
    let session = |name: &str| {
        let script = format!("{} credential token {name}", env!("CARGO_BIN_EXE_pdev"));
        sandbox.pdev(&["session", "run", "--name", "robot", "--for", "10m", "--", "sh", "-c", &script])
    };
    let asked = || clouds.stats()["given_for"].as_array().unwrap().clone();
    let (all, less) =
        ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/cloud-platform.read-only");
    let proven = asked().len();
    session("key").ok().says("canary-key-");
    session("fed").ok().says("canary-federated-");
    session("robot").ok().says("canary-impersonated-");
    let given = asked()[proven..].to_vec();
    // What the account is impersonated by stays inside.
    assert_eq!(given[..3], [json!(["key", less]), json!(["fed", less]), json!(["fed", all])]);
    let seconds = given[3][2].as_str().unwrap().trim_end_matches('s').parse::<u32>().unwrap();
    assert_eq!((&given[3][0], &given[3][1]), (&json!("robot"), &json!(less)));
    assert!((300..=600).contains(&seconds), "no longer than the session: {seconds}");

    // What the person's login was not granted is not asked around.
    let refused = session("user").fails_with(1);
    let refused =
        refused.says(&format!("`user` cannot be held to `{less}`")).says("Some requested scopes were invalid");
    refused.says("gcloud auth application-default login --scopes").says("pdev session allow");
    assert_eq!(asked().len(), proven + 4);
    assert_eq!(clouds.stat("reuse"), 0);
    clouds.told("grant");
    session("user").ok().says("canary-user-");
    assert_eq!(asked().last().unwrap(), &json!(["user", less]));
    begins(token(&sandbox, "user"), "canary-user-");
    sandbox.pdev(&["audit"]).ok().says("cannot be held to");
}
