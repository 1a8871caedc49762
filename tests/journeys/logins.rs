//! Logins at a real OpenID Connect provider, and their renewal.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::credential_formats::write_identities;
use crate::http::get;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, send_signal, wait_until};

fn test_program(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials").join(file)
}

pub struct Provider {
    child: Child,
    pub port: u16,
}

impl Provider {
    /// Prints a skip and returns `None` if PDEV_TEST_NODE_MODULES names no folder with oidc-provider.
    pub fn start(journey: &str, sandbox: &Sandbox) -> Option<Self> {
        let modules = std::env::var_os("PDEV_TEST_NODE_MODULES").map(PathBuf::from);
        let modules = modules.filter(|path| path.join("oidc-provider").is_dir());
        let Some(modules) = modules else {
            println!("skipped: {journey}: PDEV_TEST_NODE_MODULES names no folder with oidc-provider");
            return None;
        };
        let port_file = sandbox.path("provider-port");
        let mut node = Command::new("node");
        node.arg(test_program("provider.mjs")).arg(&port_file).env("PDEV_TEST_NODE_MODULES", modules);
        let child = node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        wait_until("the provider listens", Duration::from_secs(30), || port_file.exists());
        let port = fs::read_to_string(port_file).unwrap().parse().unwrap();
        Some(Self { child, port })
    }

    pub fn renewals(&self) -> u64 {
        self.stat("refresh_token")
    }

    pub fn refusals(&self) -> u64 {
        self.stat("refused")
    }

    fn stat(&self, name: &str) -> u64 {
        let stats: Value = serde_json::from_str(&get("127.0.0.1", self.port, "/test/stats").body).unwrap();
        stats[name].as_u64().unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn set_up_vault(sandbox: &Sandbox, provider: &Provider) -> PathBuf {
    let issuer = format!("http://127.0.0.1:{}", provider.port);
    write_identities(
        sandbox,
        &format!(
            "[idp]\nsource = \"oidc\"\nissuer = \"{issuer}\"\nclient_id = \"pdev\"\nhosts = [\"idp.example\"]\n[lost]\nsource = \"oidc\"\nissuer = \"{issuer}/nowhere\"\nclient_id = \"pdev\"\n"
        ),
    );
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "a long enough passphrase").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    passphrase
}

/// Signs in as a user would: opens the page that pdev names, confirms, and waits for the end of `pdev login`.
#[track_caller]
pub fn sign_in(sandbox: &Sandbox, passphrase: &Path, flow: &str) {
    sign_in_with(sandbox, ("PDEV_VAULT_PASSPHRASE_FILE", passphrase.to_str().unwrap()), flow);
}

/// The variable selects the store of the vault's key, which the login creates.
#[track_caller]
pub fn sign_in_with(sandbox: &Sandbox, (variable, value): (&str, &str), flow: &str) {
    let mut login = sandbox.command(&sandbox.project(), &["login", "idp", "--flow", flow, "--no-open", "--json"]);
    login.env(variable, value).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut login = login.spawn().unwrap();
    let mut lines = BufReader::new(login.stdout.take().unwrap()).lines();
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let page = event["complete_url"].as_str().or(event["url"].as_str()).unwrap_or_else(|| panic!("{event}"));
    let mut user = Command::new("python3");
    user.arg(test_program("user.py")).arg(page);
    let user = run_with_timeout(user, Duration::from_secs(60)).ok();
    let last: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(last["login"], "signed_in", "{last}\n{}", user.transcript());
    assert!(login.wait().unwrap().success());
}

pub fn request_token(sandbox: &Sandbox) -> CommandOutput {
    sandbox.pdev(&["credential", "token", "idp"])
}

fn kill_agent(sandbox: &Sandbox) {
    let pid = sandbox.agent_pid().unwrap();
    send_signal(pid, "KILL");
    wait_until("the agent has ended", Duration::from_secs(10), || !Path::new(&format!("/proc/{pid}/exe")).exists());
}

#[test]
fn device_login_survives_killed_agents() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = Provider::start("device login", &sandbox) else { return };
    let passphrase = set_up_vault(&sandbox, &provider);
    request_token(&sandbox).fails_with(1).prints("`pdev login");
    sign_in(&sandbox, &passphrase, "device");
    let first = request_token(&sandbox).ok().out;
    assert!(first.len() > 20, "{first}");
    assert_eq!(request_token(&sandbox).ok().out, first, "a valid lease was requested again");
    sandbox.pdev(&["identity"]).ok().prints("ready");
    assert_eq!(provider.renewals(), 1);

    // The new refresh token is on disk before each response, so the next agent can use it.
    let rotations = 3;
    for _ in 0..rotations {
        kill_agent(&sandbox);
        request_token(&sandbox).ok();
    }
    assert_eq!(provider.renewals(), 1 + rotations);

    // Fifty concurrent helpers without an agent: one agent, one renewal.
    kill_agent(&sandbox);
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..50).map(|_| scope.spawn(|| request_token(&sandbox).ok().out)).collect();
        helpers.into_iter().map(|helper| helper.join().unwrap()).collect()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(provider.renewals(), 2 + rotations);

    // Two hundred concurrent helpers without a lease: one renewal, no prompt.
    let server = sandbox.path("server");
    fs::write(&server, "idp.example").unwrap();
    let mut erase = sandbox.command(&sandbox.project(), &["credential", "docker", "erase"]);
    erase.stdin(fs::File::open(server).unwrap());
    run_with_timeout(erase, Duration::from_secs(20)).ok();
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..200).map(|_| scope.spawn(|| request_token(&sandbox).ok().out)).collect();
        helpers.into_iter().map(|helper| helper.join().unwrap()).collect()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(provider.renewals(), 3 + rotations);

    let mut grep = Command::new("grep");
    grep.args(["-rlsF", &tokens[0]]).arg(sandbox.path("home")).arg(sandbox.path("run"));
    assert_eq!(run_with_timeout(grep, Duration::from_secs(20)).out, "", "the token is on disk");

    // A spent refresh token (from an old backup) ends the login. The message names the fix.
    let file = sandbox.path("home/.local/share/pdev/credentials/vault/login~idp.sealed");
    let spent = fs::read(&file).unwrap();
    kill_agent(&sandbox);
    request_token(&sandbox).ok();
    kill_agent(&sandbox);
    fs::write(&file, spent).unwrap();
    request_token(&sandbox).fails_with(1).prints("has ended or was revoked").prints("Run `pdev login idp` to sign in");
    sandbox.pdev(&["identity"]).ok().prints("needs login");
}

#[test]
fn denied_consent_fails_login() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = Provider::start("denied consent", &sandbox) else { return };
    let passphrase = set_up_vault(&sandbox, &provider);
    for flow in ["device", "browser"] {
        let mut login = sandbox.command(&sandbox.project(), &["login", "idp", "--flow", flow, "--no-open", "--json"]);
        login.env("PDEV_VAULT_PASSPHRASE_FILE", &passphrase).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut login = login.spawn().unwrap();
        let mut lines = BufReader::new(login.stdout.take().unwrap()).lines();
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let page = event["complete_url"].as_str().or(event["url"].as_str()).unwrap_or_else(|| panic!("{event}"));
        let mut user = Command::new("python3");
        user.arg(test_program("user.py")).args([page, "no"]);
        run_with_timeout(user, Duration::from_secs(60)).ok();
        let last = lines.next().unwrap().unwrap();
        assert!(last.contains("the request was denied at the provider"), "{flow}: {last}");
        assert_eq!(login.wait().unwrap().code(), Some(1), "{flow}");
        request_token(&sandbox).fails_with(1).prints("no user has signed in as `idp`");
    }
}

#[test]
fn browser_login_uses_loopback_redirect() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = Provider::start("browser login", &sandbox) else { return };
    let passphrase = set_up_vault(&sandbox, &provider);
    sign_in(&sandbox, &passphrase, "browser");
    request_token(&sandbox).ok();
    sandbox.pdev(&["logout", "idp"]).ok();
    request_token(&sandbox).fails_with(1).prints("no user has signed in as `idp`");
    let lost = sandbox.pdev(&["login", "lost", "--flow", "device"]).fails_with(1);
    assert!(lost.err.contains("answered 404"), "{}", lost.transcript());
    let port = provider.port;
    drop(provider);
    sandbox
        .pdev(&["login", "idp", "--flow", "device"])
        .fails_with(1)
        .prints(&format!("`127.0.0.1:{port}` cannot be reached"));
}
