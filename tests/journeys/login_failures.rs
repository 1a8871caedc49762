//! Login failures and their messages: the tests cause each row of the table in docs/credentials.md.
//!
//! `logins` tests the errors of a real provider.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::aws::{TestServer, aws_credential, sign_in as sign_in_at_the_center, write_passphrase};
use crate::credential_formats::write_identities;
use crate::failures::FullDisk;
use crate::faulty_provider::FaultyProvider;
use crate::keyring::Keyring;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, send_signal, wait_until};

const LOGIN_FAILURES: [&str; 7] = [
    "the consent was denied",
    "the code was typed too late",
    "the code is not the provider's",
    "the port of the browser's answer is taken",
    "no browser, or an SSH session",
    "no browser, and the provider has no codes",
    "the provider is not there",
];
const RENEWAL_FAILURES: [&str; 8] = [
    "the login has ended, was revoked, or a spent token came back (an old backup)",
    "the login has ended, and could not be renewed",
    "the provider is in trouble",
    "the provider says that it is in trouble",
    "the provider hangs",
    "the provider answers with a web page",
    "the provider's answer does not end",
    "this machine's clock is off",
];
const VAULT_FAILURES: [&str; 4] = [
    "a sealed file is cut off",
    "a sealed file is of another machine, or changed",
    "a sealed file was written by a later version",
    "the whole vault is of another machine",
];
const OTHER_FAILURES: [&str; 4] = [
    "a role that you do not have",
    "the keyring was locked meanwhile",
    "the disk is full when a login is renewed",
    "a second agent is started",
];

/// The rows of the table: failure, message, and the commands of the fix.
fn documented_failures() -> BTreeMap<String, (String, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/credentials.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("### When something goes wrong").nth(1).unwrap().split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let message = cells.get(1)?.strip_prefix("``")?.strip_suffix("``")?.trim().to_owned();
        let fixes = cells.get(2)?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((cells[0].to_owned(), (message, fixes)))
    };
    section.lines().filter_map(row).collect()
}

/// Whether `text` contains the parts of the pattern in this order. `…` and `NAME` match any text.
fn matches_pattern(text: &str, pattern: &str) -> bool {
    let pattern = pattern.replace("NAME", "…");
    let mut rest = text;
    pattern.split('…').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

#[track_caller]
fn assert_documented(output: &CommandOutput, failure: &str) {
    let page = documented_failures();
    let (message, fixes) = page.get(failure).unwrap_or_else(|| panic!("no row `{failure}` in docs/credentials.md"));
    let all = output.transcript();
    assert!(matches_pattern(&all, message), "{failure}: the documented message is `{message}`\n{all}");
    // These names are explanations on the page, not part of the output.
    let is_printed =
        |fix: &&String| !matches!(fix.as_str(), "identities.toml" | "offline_access" | "pdev doctor credentials");
    for fix in fixes.iter().filter(is_printed) {
        assert!(matches_pattern(&all, fix), "{failure}: the documented fix is `{fix}`\n{all}");
    }
    assert!(!all.contains("panicked"), "{all}");
}

#[test]
fn every_documented_failure_is_tested() {
    let mut covered: Vec<&str> = [&LOGIN_FAILURES[..], &RENEWAL_FAILURES, &VAULT_FAILURES, &OTHER_FAILURES].concat();
    covered.sort_unstable();
    assert_eq!(documented_failures().keys().collect::<Vec<_>>(), covered);
}

/// A running `pdev login` and its output so far.
struct LoginProcess {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    transcript: String,
}

impl LoginProcess {
    fn start(sandbox: &Sandbox, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut login = sandbox.command(&sandbox.project(), &[&["login"], arguments].concat());
        login.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(sandbox)).envs(environment.iter().copied());
        let mut child = login.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, transcript: String::new() }
    }

    /// Reads until a line contains the text, and returns that line.
    #[track_caller]
    fn read_until(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("no `{text}` in:\n{}", self.transcript)).unwrap();
            self.transcript.push_str(&line);
            self.transcript.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends the provider's redirect to the loopback listener, as the browser does after the login.
    fn send_redirect(&mut self, query: &str) {
        let page = self.read_until("/authorize?");
        let field = |name: &str| {
            let text = page.split(&format!("{name}=")).nth(1).unwrap().split('&').next().unwrap().to_owned();
            text.trim().replace("%3A", ":").replace("%2F", "/")
        };
        let (redirect, state) = (field("redirect_uri"), field("state"));
        let address = redirect.strip_prefix("http://").unwrap();
        let (host, path) = address.split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let request = format!("GET /{path}?{query}&state={state} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }

    fn wait_for_output(mut self) -> CommandOutput {
        for line in self.lines.by_ref() {
            self.transcript.push_str(&line.unwrap());
            self.transcript.push('\n');
        }
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        CommandOutput {
            code: self.child.wait().unwrap().code().unwrap_or(-1),
            out,
            err: std::mem::take(&mut self.transcript),
        }
    }
}

#[track_caller]
fn sign_in(sandbox: &Sandbox, name: &str) {
    let mut login = LoginProcess::start(sandbox, &[name, "--flow", "browser", "--no-open"], &[]);
    login.send_redirect("code=c");
    login.wait_for_output().ok().prints("signed in as");
}

fn request_token(sandbox: &Sandbox, name: &str) -> CommandOutput {
    sandbox.pdev(&["credential", "token", name])
}

/// Reports a credential as rejected, as docker does, so that the next request gets a new lease.
fn reject_credential(sandbox: &Sandbox, name: &str) {
    let server = sandbox.path("server");
    fs::write(&server, format!("{name}.example")).unwrap();
    let mut erase = sandbox.command(&sandbox.project(), &["credential", "docker", "erase"]);
    erase.stdin(fs::File::open(server).unwrap());
    run_with_timeout(erase, Duration::from_secs(60)).ok();
}

#[test]
fn failed_logins_print_documented_messages() {
    let sandbox = Sandbox::without_docker();
    let provider = FaultyProvider::start("now");
    let taken_port = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port = {}", taken_port.local_addr().unwrap().port());
    let away = "[away]\nsource = \"oidc\"\nissuer = \"http://127.0.0.1:1\"\nclient_id = \"me\"\n";
    let all = ["denied", "late", "foreign", "codeless", "fine"].map(|name| provider.identity_toml(name, ""));
    write_identities(&sandbox, &[&all.concat(), &provider.identity_toml("taken", &port), away].concat());
    let login = |arguments: &[&str]| LoginProcess::start(&sandbox, arguments, &[]).wait_for_output();

    for (name, failure) in [("denied", LOGIN_FAILURES[0]), ("late", LOGIN_FAILURES[1]), ("foreign", LOGIN_FAILURES[2])]
    {
        assert_documented(&login(&[name, "--flow", "device"]).fails_with(1), failure);
    }
    let mut denied = LoginProcess::start(&sandbox, &["denied", "--flow", "browser", "--no-open"], &[]);
    denied.send_redirect("error=access_denied");
    assert_documented(&denied.wait_for_output().fails_with(1), LOGIN_FAILURES[0]);
    assert_documented(&login(&["taken", "--flow", "browser", "--no-open"]).fails_with(1), LOGIN_FAILURES[3]);
    assert_documented(&login(&["codeless"]).fails_with(1), LOGIN_FAILURES[5]);
    let away = login(&["away"]).fails_with(1);
    assert!(matches_pattern(&away.err, "`127.0.0.1:1` cannot be reached: Connection refused"), "{}", away.transcript());
    request_token(&sandbox, "fine")
        .fails_with(1)
        .prints("no user has signed in as `fine`")
        .prints("Run `pdev login fine` to sign in");

    // The flow depends on the browser: none, one on the display of this machine, one at the other end of SSH.
    for (environment, flow) in [
        (&[][..], "enter the code"),
        (&[("DISPLAY", ":0")][..], "in a browser on this machine"),
        (&[("DISPLAY", ":10"), ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")][..], "enter the code"),
        (&[("WAYLAND_DISPLAY", "w"), ("SSH_TTY", "/dev/pts/1")][..], "enter the code"),
    ] {
        let mut login = LoginProcess::start(&sandbox, &["fine", "--no-open"], environment);
        let line = login.read_until("open");
        assert!(line.contains(flow), "{environment:?}: {line}");
        send_signal(login.child.id(), "INT");
        let output = login.wait_for_output();
        if flow == "enter the code" {
            assert_documented(&output, LOGIN_FAILURES[4]);
        }
        assert!(output.err.contains("the login was cancelled"), "{}", output.transcript());
    }
}

#[test]
fn failed_renewals_keep_the_login() {
    let sandbox = Sandbox::without_docker();
    let provider = FaultyProvider::start("now");
    let ahead = FaultyProvider::start("+20 minutes");
    let names = ["ended", "brief", "broken", "troubled", "hangs", "slow", "garbage", "huge"];
    write_identities(
        &sandbox,
        &[names.map(|name| provider.identity_toml(name, "")).concat(), ahead.identity_toml("clock", "")].concat(),
    );
    for name in names.into_iter().chain(["clock"]) {
        sign_in(&sandbox, name);
    }
    // Run the slow cases in parallel with the others.
    std::thread::scope(|scope| {
        let late = ["hangs", "slow"].map(|name| (name, scope.spawn(|| request_token(&sandbox, name).fails_with(1))));
        for (name, failure) in [
            ("ended", RENEWAL_FAILURES[0]),
            ("brief", RENEWAL_FAILURES[1]),
            ("broken", RENEWAL_FAILURES[2]),
            ("troubled", RENEWAL_FAILURES[3]),
            ("garbage", RENEWAL_FAILURES[5]),
            ("huge", RENEWAL_FAILURES[6]),
        ] {
            let output = request_token(&sandbox, name).fails_with(1);
            assert_documented(&output, failure);
            assert!(
                !output.transcript().contains("canary-refresh") && !output.transcript().contains("airport"),
                "{}",
                output.transcript()
            );
        }
        // A wrong clock causes no failure, because the token's lifetime is counted from its arrival.
        request_token(&sandbox, "clock").ok().prints("canary-access");
        assert_documented(&sandbox.pdev(&["doctor", "credentials"]), RENEWAL_FAILURES[7]);
        for (_, late) in late {
            assert_documented(&late.join().unwrap(), RENEWAL_FAILURES[4]);
        }
    });
    // No identity was signed out. The identities work again with the provider, and the late refresh token was stored.
    provider.heal();
    for name in ["broken", "troubled", "garbage", "huge", "slow"] {
        wait_until(name, Duration::from_secs(30), || request_token(&sandbox, name).code == 0);
    }
    assert_eq!(provider.next_slow_token(), "canary-refresh-next-next");
    let exchanges = || sandbox.processes().iter().filter(|(_, command)| command.contains("exchange")).count();
    wait_until("the hanging exchange has ended", Duration::from_secs(90), || exchanges() == 0);
    request_token(&sandbox, "hangs").ok();
}

#[test]
fn unreadable_vault_files_are_reported() {
    let sandbox = Sandbox::without_docker();
    let provider = FaultyProvider::start("now");
    write_identities(&sandbox, &["cut", "moved", "newer"].map(|name| provider.identity_toml(name, "")).concat());
    let vault = sandbox.path("home/.local/share/pdev/credentials/vault");
    let file = |name: &str| vault.join(format!("login~{name}.sealed"));
    for name in ["cut", "moved", "newer"] {
        sign_in(&sandbox, name);
    }
    let sealed = fs::read(file("cut")).unwrap();
    fs::write(file("cut"), &sealed[..20]).unwrap();
    fs::write(file("moved"), &sealed).unwrap();
    let mut newer = fs::read(file("newer")).unwrap();
    // The format version follows the eight bytes of the magic number.
    newer[8] = 9;
    fs::write(file("newer"), newer).unwrap();
    for (name, failure) in [("cut", VAULT_FAILURES[0]), ("moved", VAULT_FAILURES[1]), ("newer", VAULT_FAILURES[2])] {
        assert_documented(&request_token(&sandbox, name).fails_with(1), failure);
    }
    assert_eq!(provider.refresh_count(), 0, "an unreadable token was sent to the provider");
    // The documented fix works.
    sign_in(&sandbox, "cut");
    request_token(&sandbox, "cut").ok().prints("canary-access");

    sandbox.pdev(&["agent", "stop"]).ok();
    fs::write(sandbox.path("passphrase"), "the passphrase of another machine").unwrap();
    assert_documented(&request_token(&sandbox, "moved").fails_with(1), VAULT_FAILURES[3]);
}

#[test]
fn full_disk_spends_no_refresh_token() {
    let sandbox = Sandbox::without_docker();
    let Some(disk) = FullDisk::mount_at_home(&sandbox) else {
        println!("skipped: a full disk at a renewal: mounting a tmpfs is not allowed here");
        return;
    };
    let provider = FaultyProvider::start("now");
    write_identities(&sandbox, &provider.identity_toml("fine", ""));
    sign_in(&sandbox, "fine");
    request_token(&sandbox, "fine").ok();
    let before = provider.refresh_count();
    reject_credential(&sandbox, "fine");
    disk.fill();
    assert_documented(&request_token(&sandbox, "fine").fails_with(1), OTHER_FAILURES[2]);
    assert_eq!(provider.refresh_count(), before, "a refresh token was spent");
    disk.free_space();
    // The agent retries only one second after a failure.
    wait_until("requests succeed again", Duration::from_secs(10), || request_token(&sandbox, "fine").code == 0);
}

#[test]
fn locked_keyring_keeps_the_login() {
    let sandbox = Sandbox::without_docker();
    let Some(mut keyring) = Keyring::start("a keyring that is locked meanwhile", &sandbox) else { return };
    let provider = FaultyProvider::start("now");
    write_identities(&sandbox, &provider.identity_toml("fine", ""));
    let bus = [("DBUS_SESSION_BUS_ADDRESS", keyring.address.clone()), ("PDEV_VAULT", "desktop".to_owned())];
    let pdev = |arguments: &[&str]| {
        let mut command = sandbox.command(&sandbox.project(), arguments);
        command.envs(bus.clone()).env("XDG_RUNTIME_DIR", sandbox.path("run"));
        command
    };
    let mut login = pdev(&["login", "fine", "--flow", "browser", "--no-open"]);
    let mut child = login.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut login = LoginProcess { child, lines, transcript: String::new() };
    login.send_redirect("code=c");
    login.wait_for_output().ok();
    let token = || run_with_timeout(pdev(&["credential", "token", "fine"]), Duration::from_secs(60));
    token().ok();
    keyring.lock();
    // The agent has already read the vault's key, so it can renew.
    reject_credential(&sandbox, "fine");
    token().ok().prints("canary-access");
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    assert_documented(&token().fails_with(1), OTHER_FAILURES[1]);
    keyring.unlock();
    wait_until("requests succeed again", Duration::from_secs(20), || token().code == 0);
}

#[test]
fn missing_role_is_reported() {
    let sandbox = Sandbox::without_docker();
    let center = TestServer::start_identity_center(&sandbox, 7_776_000);
    let url = format!("http://127.0.0.1:{}", center.port);
    let text = format!(
        "[shop]\nsource = \"aws-sso\"\nstart_url = \"https://x.awsapps.com/start\"\nregion = \"eu-central-1\"\naccount = \"111111111111\"\n\
         role = \"Admin\"\noidc_endpoint = \"{url}\"\nportal_endpoint = \"{url}\"\n"
    );
    write_identities(&sandbox, &text);
    sign_in_at_the_center(&sandbox, "shop", "device");
    assert_documented(&aws_credential(&sandbox, "shop").fails_with(1), OTHER_FAILURES[0]);
}

/// Two agents of one user with the same logins, for example of two machines that share a home folder.
#[test]
fn two_agents_share_one_login() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = crate::logins::Provider::start("two agents", &sandbox) else { return };
    let passphrase = crate::logins::set_up_vault(&sandbox, &provider);
    crate::logins::sign_in(&sandbox, &passphrase, "device");
    let second: PathBuf = sandbox.path("run2");
    fs::create_dir(&second).unwrap();
    fs::set_permissions(&second, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let pdev = |folder: &Path, arguments: &[&str]| {
        let mut command = sandbox.command(&sandbox.project(), arguments);
        command.env("PDEV_SOCKET_DIR", folder).env("XDG_STATE_HOME", folder.join("state"));
        run_with_timeout(command, Duration::from_secs(60))
    };
    let rounds = 5;
    std::thread::scope(|scope| {
        for folder in [sandbox.path("run"), second.clone()] {
            scope.spawn(move || {
                for _ in 0..rounds {
                    pdev(&folder, &["credential", "token", "idp"]).ok();
                    pdev(&folder, &["agent", "stop"]).ok();
                }
            });
        }
    });
    assert_eq!(provider.renewals(), 2 * rounds);
    pdev(&second, &["credential", "token", "idp"]).ok();
    assert_documented(&pdev(&second, &["agent", "run"]), OTHER_FAILURES[3]);
    pdev(&second, &["agent", "stop"]).ok();
}
