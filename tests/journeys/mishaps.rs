//! What goes wrong with a login, and what the person is told: each row of the table in docs/credentials.md happens here.
//!
//! What real providers refuse stands in `logins`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::aws::{Server, aws, passphrase, sign_in as sign_in_at_the_center};
use crate::failures::FullDisk;
use crate::keyring::Keyring;
use crate::outlets::identities;
use crate::sandbox::{Said, Sandbox, eventually, finish, signal};
use crate::unruly::Unruly;

const LOGINS: [&str; 7] = [
    "the consent was denied",
    "the code was typed too late",
    "the code is not the provider's",
    "the port of the browser's answer is taken",
    "no browser, or an SSH session",
    "no browser, and the provider has no codes",
    "the provider is not there",
];
const RENEWALS: [&str; 8] = [
    "the login has ended, was revoked, or a spent token came back (an old backup)",
    "the login has ended, and could not be renewed",
    "the provider is in trouble",
    "the provider says that it is in trouble",
    "the provider hangs",
    "the provider answers with a web page",
    "the provider's answer does not end",
    "this machine's clock is off",
];
const FILES: [&str; 4] = [
    "a sealed file is cut off",
    "a sealed file is of another machine, or changed",
    "a sealed file was written by a later version",
    "the whole vault is of another machine",
];
const OTHERS: [&str; 4] = [
    "a role that you do not have",
    "the keyring was locked meanwhile",
    "the disk is full when a login is renewed",
    "a second agent is started",
];

/// What the page says of each mishap: the words on the terminal, and the words of the way out.
fn page() -> BTreeMap<String, (String, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/credentials.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("### When something goes wrong").nth(1).unwrap().split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let says = cells.get(1)?.strip_prefix("``")?.strip_suffix("``")?.trim().to_owned();
        let ways = cells.get(2)?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((cells[0].to_owned(), (says, ways)))
    };
    section.lines().filter_map(row).collect()
}

/// Pieces in their order; `…` and `NAME` stand for anything.
fn holds(text: &str, words: &str) -> bool {
    let words = words.replace("NAME", "…");
    let mut rest = text;
    words.split('…').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

#[track_caller]
fn told(said: &Said, what: &str) {
    let page = page();
    let (says, ways) = page.get(what).unwrap_or_else(|| panic!("no row `{what}` in docs/credentials.md"));
    let all = said.all();
    assert!(holds(&all, says), "{what}: the page says `{says}`\n{all}");
    // Other names in code are for who reads the page: files, scopes, options.
    let shown =
        |way: &&String| !matches!(way.as_str(), "identities.toml" | "offline_access" | "pdev doctor credentials");
    for way in ways.iter().filter(shown) {
        assert!(holds(&all, way), "{what}: the page says to do `{way}`\n{all}");
    }
    assert!(!all.contains("panicked"), "{all}");
}

#[test]
fn each_row_of_the_page_happens_in_a_journey() {
    let mut covered: Vec<&str> = [&LOGINS[..], &RENEWALS, &FILES, &OTHERS].concat();
    covered.sort_unstable();
    assert_eq!(page().keys().collect::<Vec<_>>(), covered);
}

/// A login under way, as a person sees it.
struct Login {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    seen: String,
}

impl Login {
    fn start(sandbox: &Sandbox, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut login = sandbox.command(&sandbox.project(), &[&["login"], arguments].concat());
        login.env("PDEV_VAULT_PASSPHRASE_FILE", passphrase(sandbox)).envs(environment.iter().copied());
        let mut child = login.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, seen: String::new() }
    }

    /// Reads on until the words are there, and gives that line.
    #[track_caller]
    fn until(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("no `{words}` in:\n{}", self.seen)).unwrap();
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(words) {
                return line;
            }
        }
    }

    /// What a browser would do at the end: the provider's redirect with these words.
    fn redirected(&mut self, words: &str) {
        let page = self.until("/authorize?");
        let field = |name: &str| {
            let text = page.split(&format!("{name}=")).nth(1).unwrap().split('&').next().unwrap().to_owned();
            text.trim().replace("%3A", ":").replace("%2F", "/")
        };
        let (redirect, state) = (field("redirect_uri"), field("state"));
        let address = redirect.strip_prefix("http://").unwrap();
        let (host, path) = address.split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let asked = format!("GET /{path}?{words}&state={state} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(asked.as_bytes()).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }

    fn end(mut self) -> Said {
        for line in self.lines.by_ref() {
            self.seen.push_str(&line.unwrap());
            self.seen.push('\n');
        }
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        Said { code: self.child.wait().unwrap().code().unwrap_or(-1), out, err: std::mem::take(&mut self.seen) }
    }
}

#[track_caller]
fn signed_in(sandbox: &Sandbox, name: &str) {
    let mut login = Login::start(sandbox, &[name, "--flow", "browser", "--no-open"], &[]);
    login.redirected("code=c");
    login.end().ok().says("signed in as");
}

fn token_of(sandbox: &Sandbox, name: &str) -> Said {
    sandbox.pdev(&["credential", "token", name])
}

/// A tool's word that it was refused: the next one that asks gets another.
fn refused(sandbox: &Sandbox, name: &str) {
    let server = sandbox.path("server");
    fs::write(&server, format!("{name}.example")).unwrap();
    let mut erase = sandbox.command(&sandbox.project(), &["credential", "docker", "erase"]);
    erase.stdin(fs::File::open(server).unwrap());
    finish(erase, Duration::from_secs(60)).ok();
}

#[test]
fn logins_that_come_to_nothing() {
    let sandbox = Sandbox::bare();
    let unruly = Unruly::start("now");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port = {}", taken.local_addr().unwrap().port());
    let away = "[away]\nsource = \"oidc\"\nissuer = \"http://127.0.0.1:1\"\nclient_id = \"me\"\n";
    let all = ["denied", "late", "foreign", "codeless", "fine"].map(|name| unruly.identity(name, ""));
    identities(&sandbox, &[&all.concat(), &unruly.identity("taken", &port), away].concat());
    let end = |arguments: &[&str]| Login::start(&sandbox, arguments, &[]).end();

    for (name, what) in [("denied", LOGINS[0]), ("late", LOGINS[1]), ("foreign", LOGINS[2])] {
        told(&end(&[name, "--flow", "device"]).fails_with(1), what);
    }
    let mut denied = Login::start(&sandbox, &["denied", "--flow", "browser", "--no-open"], &[]);
    denied.redirected("error=access_denied");
    told(&denied.end().fails_with(1), LOGINS[0]);
    told(&end(&["taken", "--flow", "browser", "--no-open"]).fails_with(1), LOGINS[3]);
    told(&end(&["codeless"]).fails_with(1), LOGINS[5]);
    let away = end(&["away"]).fails_with(1);
    assert!(holds(&away.err, "`127.0.0.1:1` cannot be reached: Connection refused"), "{}", away.all());
    token_of(&sandbox, "fine").fails_with(1).says("nobody has signed in as `fine`").says("`pdev login fine` signs in");

    // Where the browser is: none, one that a person at the display sees, one on the other side of SSH.
    for (environment, flow) in [
        (&[][..], "type the code"),
        (&[("DISPLAY", ":0")][..], "in a browser on this machine"),
        (&[("DISPLAY", ":10"), ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")][..], "type the code"),
        (&[("WAYLAND_DISPLAY", "w"), ("SSH_TTY", "/dev/pts/1")][..], "type the code"),
    ] {
        let mut login = Login::start(&sandbox, &["fine", "--no-open"], environment);
        let line = login.until("open");
        assert!(line.contains(flow), "{environment:?}: {line}");
        signal(login.child.id(), "INT");
        let said = login.end();
        if flow == "type the code" {
            told(&said, LOGINS[4]);
        }
        assert!(said.err.contains("the login was given up"), "{}", said.all());
    }
}

#[test]
fn renewals_that_fail_are_told_and_lose_no_login() {
    let sandbox = Sandbox::bare();
    let unruly = Unruly::start("now");
    let ahead = Unruly::start("+20 minutes");
    let names = ["ended", "brief", "broken", "troubled", "hangs", "slow", "garbage", "huge"];
    identities(&sandbox, &[names.map(|name| unruly.identity(name, "")).concat(), ahead.identity("clock", "")].concat());
    for name in names.into_iter().chain(["clock"]) {
        signed_in(&sandbox, name);
    }
    // Those that take their time beside the others.
    std::thread::scope(|scope| {
        let late = ["hangs", "slow"].map(|name| (name, scope.spawn(|| token_of(&sandbox, name).fails_with(1))));
        for (name, what) in [
            ("ended", RENEWALS[0]),
            ("brief", RENEWALS[1]),
            ("broken", RENEWALS[2]),
            ("troubled", RENEWALS[3]),
            ("garbage", RENEWALS[5]),
            ("huge", RENEWALS[6]),
        ] {
            let said = token_of(&sandbox, name).fails_with(1);
            told(&said, what);
            assert!(!said.all().contains("canary-refresh") && !said.all().contains("airport"), "{}", said.all());
        }
        // A clock that is off is nobody's failure: the token's life counts from its arrival.
        token_of(&sandbox, "clock").ok().says("canary-access");
        told(&sandbox.pdev(&["doctor", "credentials"]), RENEWALS[7]);
        for (_, late) in late {
            told(&late.join().unwrap(), RENEWALS[4]);
        }
    });
    // Nobody was signed out: when the provider is well again, so is everything; what it had sent late was kept.
    unruly.heal();
    for name in ["broken", "troubled", "garbage", "huge", "slow"] {
        eventually(name, Duration::from_secs(30), || token_of(&sandbox, name).code == 0);
    }
    assert_eq!(unruly.slow_next(), "canary-refresh-next-next");
    let left = || sandbox.processes().iter().filter(|(_, command)| command.contains("exchange")).count();
    eventually("the exchange that hangs has ended", Duration::from_secs(90), || left() == 0);
    token_of(&sandbox, "hangs").ok();
}

#[test]
fn sealed_files_that_do_not_open() {
    let sandbox = Sandbox::bare();
    let unruly = Unruly::start("now");
    identities(&sandbox, &["cut", "moved", "newer"].map(|name| unruly.identity(name, "")).concat());
    let vault = sandbox.path("home/.local/share/pdev/credentials/vault");
    let file = |name: &str| vault.join(format!("login~{name}.sealed"));
    for name in ["cut", "moved", "newer"] {
        signed_in(&sandbox, name);
    }
    let whole = fs::read(file("cut")).unwrap();
    fs::write(file("cut"), &whole[..20]).unwrap();
    fs::write(file("moved"), &whole).unwrap();
    let mut newer = fs::read(file("newer")).unwrap();
    newer[8] = 9;
    fs::write(file("newer"), newer).unwrap();
    for (name, what) in [("cut", FILES[0]), ("moved", FILES[1]), ("newer", FILES[2])] {
        told(&token_of(&sandbox, name).fails_with(1), what);
    }
    assert_eq!(unruly.refreshed(), 0, "a token was spent that could not be read");
    // What it says helps.
    signed_in(&sandbox, "cut");
    token_of(&sandbox, "cut").ok().says("canary-access");

    sandbox.pdev(&["agent", "stop"]).ok();
    fs::write(sandbox.path("passphrase"), "the passphrase of another machine").unwrap();
    told(&token_of(&sandbox, "moved").fails_with(1), FILES[3]);
}

#[test]
fn a_full_disk_spends_no_token() {
    let sandbox = Sandbox::bare();
    let Some(disk) = FullDisk::at_home(&sandbox) else {
        println!("skipped: a full disk at a renewal: mounting a tmpfs is not allowed here");
        return;
    };
    let unruly = Unruly::start("now");
    identities(&sandbox, &unruly.identity("fine", ""));
    signed_in(&sandbox, "fine");
    token_of(&sandbox, "fine").ok();
    let before = unruly.refreshed();
    refused(&sandbox, "fine");
    disk.fill();
    told(&token_of(&sandbox, "fine").fails_with(1), OTHERS[2]);
    assert_eq!(unruly.refreshed(), before, "the provider was asked");
    disk.make_room();
    // Left alone for a second after a failure.
    eventually("it works again", Duration::from_secs(10), || token_of(&sandbox, "fine").code == 0);
}

#[test]
fn a_keyring_that_is_locked_meanwhile_costs_no_login() {
    let sandbox = Sandbox::bare();
    let Some(mut keyring) = Keyring::start("a keyring that is locked meanwhile", &sandbox) else { return };
    let unruly = Unruly::start("now");
    identities(&sandbox, &unruly.identity("fine", ""));
    let bus = [("DBUS_SESSION_BUS_ADDRESS", keyring.address.clone()), ("PDEV_VAULT", "desktop".to_owned())];
    let pdev = |arguments: &[&str]| {
        let mut command = sandbox.command(&sandbox.project(), arguments);
        command.envs(bus.clone()).env("XDG_RUNTIME_DIR", sandbox.path("run"));
        command
    };
    let mut login = pdev(&["login", "fine", "--flow", "browser", "--no-open"]);
    let mut child = login.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut login = Login { child, lines, seen: String::new() };
    login.redirected("code=c");
    login.end().ok();
    let token = || finish(pdev(&["credential", "token", "fine"]), Duration::from_secs(60));
    token().ok();
    keyring.lock();
    // The agent has the vault open: it goes on, and renews.
    refused(&sandbox, "fine");
    token().ok().says("canary-access");
    signal(sandbox.agent_pid().unwrap(), "KILL");
    told(&token().fails_with(1), OTHERS[1]);
    keyring.unlock();
    eventually("it works again", Duration::from_secs(20), || token().code == 0);
}

#[test]
fn a_role_that_nobody_gave() {
    let sandbox = Sandbox::bare();
    let center = Server::identity_center(&sandbox, 7_776_000);
    let url = format!("http://127.0.0.1:{}", center.port);
    let text = format!(
        "[shop]\nsource = \"aws-sso\"\nstart_url = \"https://x.awsapps.com/start\"\nregion = \"eu-central-1\"\naccount = \"111111111111\"\n\
         role = \"Admin\"\noidc_endpoint = \"{url}\"\nportal_endpoint = \"{url}\"\n"
    );
    identities(&sandbox, &text);
    sign_in_at_the_center(&sandbox, "shop", "device");
    told(&aws(&sandbox, "shop").fails_with(1), OTHERS[0]);
}

/// Two agents of one user, each with a socket folder of its own, over the same logins.
#[test]
fn two_agents_take_turns_at_a_login() {
    let sandbox = Sandbox::bare();
    let Some(provider) = crate::logins::Provider::start("two agents", &sandbox) else { return };
    let passphrase = crate::logins::with_vault(&sandbox, &provider);
    crate::logins::sign_in(&sandbox, &passphrase, "device");
    let second: PathBuf = sandbox.path("run2");
    fs::create_dir(&second).unwrap();
    fs::set_permissions(&second, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let ask = |folder: &Path, arguments: &[&str]| {
        let mut command = sandbox.command(&sandbox.project(), arguments);
        command.env("PDEV_SOCKET_DIR", folder);
        finish(command, Duration::from_secs(60))
    };
    let rounds = 5;
    std::thread::scope(|scope| {
        for folder in [sandbox.path("run"), second.clone()] {
            scope.spawn(move || {
                for _ in 0..rounds {
                    ask(&folder, &["credential", "token", "idp"]).ok();
                    ask(&folder, &["agent", "stop"]).ok();
                }
            });
        }
    });
    assert_eq!(provider.renewals(), 2 * rounds);
    ask(&second, &["credential", "token", "idp"]).ok();
    told(&ask(&second, &["agent", "run"]), OTHERS[3]);
    ask(&second, &["agent", "stop"]).ok();
}
