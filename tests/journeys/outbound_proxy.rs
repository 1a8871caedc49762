//! Where the network is left by a proxy only: sources are reached through it, and what it says is told.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::aws::write_passphrase;
use crate::cloud_sources::{CloudServer, login_with_secret};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, wait_until};

/// proxy.py, a proxy of its own right.
struct Proxy {
    child: Child,
    port: String,
    log: PathBuf,
}

impl Proxy {
    fn start(sandbox: &Sandbox, name: &str, more: &[&str]) -> Option<Self> {
        let python = std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let has = Command::new(&python).args(["-c", "import proxy"]).stderr(Stdio::null()).status();
        if !has.is_ok_and(|status| status.success()) {
            println!("skipped: sources through a proxy: python has no proxy.py");
            return None;
        }
        let (port, log) = (sandbox.path(&format!("{name}-port")), sandbox.path(&format!("{name}-log")));
        let mut command = Command::new(python);
        command.args(["-m", "proxy", "--hostname", "127.0.0.1", "--port", "0", "--num-workers", "1"]);
        command.args(["--num-acceptors", "1", "--threaded"]).arg("--port-file").arg(&port).arg("--log-file").arg(&log);
        // Its own folders go into the sandbox's home.
        command.args(more).env("HOME", sandbox.path("home")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let written = || fs::read_to_string(&port).is_ok_and(|text| !text.trim().is_empty());
        wait_until("the proxy listens", Duration::from_secs(30), written);
        let port = fs::read_to_string(port).unwrap().trim().to_owned();
        Some(Self { child, port, log })
    }

    fn has_logged(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).unwrap_or_default().contains(words)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn sources_use_proxy_from_environment() {
    let sandbox = Sandbox::without_docker();
    let Some(proxy) = Proxy::start(&sandbox, "open", &[]) else { return };
    let Some(guarded) = Proxy::start(&sandbox, "guarded", &["--basic-auth", "me:canary-pass"]) else { return };
    let Some(clouds) = CloudServer::start("sources through a proxy", &sandbox) else { return };
    let tls = fs::read_to_string(clouds.folder.join("tls-port")).unwrap();
    let subject = "command = [\"echo\", \"{\\\"token\\\":\\\"subject-of-another\\\"}\"]";
    write_identities(
        &sandbox,
        &format!(
            "[subject]\nsource = \"exec\"\n{subject}\n[app]\nsource = \"entra-federation\"\nfrom = \"subject\"\ntenant = \"tenant\"\n\
             client_id = \"app\"\nendpoint = \"https://localhost:{tls}\"\n[user]\nsource = \"google\"\n"
        ),
    );
    // Each with an agent of its own, which has the environment of who starts it.
    let ask_as = |identity: &str, proxy: &str, none: &str| -> CommandOutput {
        let mut command = sandbox.command(&sandbox.project(), &["credential", "token", identity]);
        command.env("HTTPS_PROXY", proxy).env("NO_PROXY", none);
        command.env("SSL_CERT_FILE", clouds.folder.join("ca.pem"));
        let said = run_with_timeout(command, Duration::from_secs(60));
        // The proxy writes a connection down when it ends, and this agent would keep it for the next request.
        sandbox.pdev(&["agent", "stop"]);
        said
    };
    let ask = |proxy: &str, none: &str| ask_as("app", proxy, none);
    let (open, asked_for) = (format!("http://127.0.0.1:{}", proxy.port), format!("localhost:{tls}"));
    assert!(ask(&open, "localhost,other.example").ok().out.starts_with("canary-"));
    assert!(!proxy.has_logged(&asked_for), "`NO_PROXY` was not obeyed");
    assert!(ask(&open, "").ok().out.starts_with("canary-"));
    wait_until("the proxy's log tells of it", Duration::from_secs(10), || proxy.has_logged(&asked_for));

    let closed = format!("http://127.0.0.1:{}", guarded.port);
    let through = format!("through the proxy `{closed}/`");
    ask(&closed, "").fails_with(1).prints(&through).prints("proxy authorization required");
    let signed_in = format!("http://me:canary-pass@127.0.0.1:{}", guarded.port);
    assert!(ask(&signed_in, "").ok().out.starts_with("canary-"));
    let wrong =
        ask("http://me:canary-pass@127.0.0.1:1", "").fails_with(1).prints("through the proxy `http://127.0.0.1:1/`");
    assert!(!wrong.transcript().contains("canary-pass"), "{}", wrong.transcript());
    // A token that is spent is spent in another process, which knows the same proxy and certificates.
    let plain = clouds.url("/token");
    let user = fs::read_to_string(clouds.folder.join("user.json")).unwrap();
    let user = user.replace(&plain, &format!("https://localhost:{tls}/token"));
    write_passphrase(&sandbox);
    login_with_secret(&sandbox, "user", &user).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    assert!(ask_as("user", &signed_in, "").ok().out.starts_with("canary-"));
    ask_as("user", &closed, "").fails_with(1).prints(&through).prints("proxy authorization required");
    ask("socks5://127.0.0.1:1", "").fails_with(1).prints("is no `http://` one");
}
