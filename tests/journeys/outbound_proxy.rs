//! Networks with an outbound proxy: sources are reached through it, and its errors are reported.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::aws::write_passphrase;
use crate::cloud_sources::{CloudServer, login_with_secret};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, wait_until};

/// A real proxy (proxy.py).
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
        // HOME, because proxy.py creates folders there.
        command.args(more).env("HOME", sandbox.path("home")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let written = || fs::read_to_string(&port).is_ok_and(|text| !text.trim().is_empty());
        wait_until("the proxy listens", Duration::from_secs(30), written);
        let port = fs::read_to_string(port).unwrap().trim().to_owned();
        Some(Self { child, port, log })
    }

    fn has_logged(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).unwrap_or_default().contains(text)
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
    // Each request starts its own agent, because the agent has the environment of the command that starts it.
    let request_as = |identity: &str, proxy: &str, no_proxy: &str| -> CommandOutput {
        let mut command = sandbox.command(&sandbox.project(), &["credential", "token", identity]);
        command.env("HTTPS_PROXY", proxy).env("NO_PROXY", no_proxy);
        command.env("SSL_CERT_FILE", clouds.folder.join("ca.pem"));
        let output = run_with_timeout(command, Duration::from_secs(60));
        // The proxy logs a connection when it ends, and the agent would keep it open for the next request.
        sandbox.pdev(&["agent", "stop"]);
        output
    };
    let request = |proxy: &str, no_proxy: &str| request_as("app", proxy, no_proxy);
    let (open, target) = (format!("http://127.0.0.1:{}", proxy.port), format!("localhost:{tls}"));
    assert!(request(&open, "localhost,other.example").ok().out.starts_with("canary-"));
    assert!(!proxy.has_logged(&target), "`NO_PROXY` was ignored");
    assert!(request(&open, "").ok().out.starts_with("canary-"));
    wait_until("the proxy logs the connection", Duration::from_secs(10), || proxy.has_logged(&target));

    let closed = format!("http://127.0.0.1:{}", guarded.port);
    let through = format!("through the proxy `{closed}/`");
    request(&closed, "").fails_with(1).prints(&through).prints("proxy authorization required");
    let signed_in = format!("http://me:canary-pass@127.0.0.1:{}", guarded.port);
    assert!(request(&signed_in, "").ok().out.starts_with("canary-"));
    let wrong = request("http://me:canary-pass@127.0.0.1:1", "")
        .fails_with(1)
        .prints("through the proxy `http://127.0.0.1:1/`");
    assert!(!wrong.transcript().contains("canary-pass"), "{}", wrong.transcript());
    // The exchange process that spends a refresh token uses the same proxy and certificates.
    let plain = clouds.url("/token");
    let user = fs::read_to_string(clouds.folder.join("user.json")).unwrap();
    let user = user.replace(&plain, &format!("https://localhost:{tls}/token"));
    write_passphrase(&sandbox);
    login_with_secret(&sandbox, "user", &user).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    assert!(request_as("user", &signed_in, "").ok().out.starts_with("canary-"));
    request_as("user", &closed, "").fails_with(1).prints(&through).prints("proxy authorization required");
    request("socks5://127.0.0.1:1", "").fails_with(1).prints("is no `http://` one");
}
