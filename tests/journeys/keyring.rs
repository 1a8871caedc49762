//! A real desktop keyring for one test: gnome-keyring on a private session bus.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::sandbox::{Sandbox, wait_until};

pub struct Keyring {
    bus: Child,
    daemon: Option<Child>,
    home: PathBuf,
    run: PathBuf,
    pub address: String,
}

/// A session bus without service files. With the system's files, a request for the keyring between two daemons starts a
/// third one by D-Bus activation. That one stays locked and owns the name that the second daemon needs.
const BUS_CONFIG: &str = r#"<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
"#;

/// Starts a session bus for one test and returns its address.
pub fn start_session_bus(home: &Path, run: &Path) -> (Child, String) {
    let config = home.join("session-bus.conf");
    std::fs::write(&config, BUS_CONFIG).unwrap();
    let mut bus = Command::new("dbus-daemon");
    bus.arg("--config-file").arg(&config).args(["--nofork", "--print-address"]).env_clear();
    bus.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home).env("XDG_RUNTIME_DIR", run);
    let mut bus = bus.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (bus, address.trim().to_owned())
}

impl Keyring {
    /// Prints a skip and returns `None` if a program is not installed.
    pub fn start(journey: &str, sandbox: &Sandbox) -> Option<Self> {
        for program in ["dbus-daemon", "gnome-keyring-daemon", "secret-tool", "gdbus"] {
            if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                println!("skipped: {journey}: `{program}` is not installed");
                return None;
            }
        }
        let (home, run) = (sandbox.path("home"), sandbox.path("run"));
        let (bus, address) = start_session_bus(&home, &run);
        let mut keyring = Self { bus, daemon: None, home, run, address };
        keyring.unlock();
        Some(keyring)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &self.home);
        command.env("XDG_RUNTIME_DIR", &self.run).env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Starts the daemon with an unlocked login collection. Replaces a running daemon.
    pub fn unlock(&mut self) {
        if let Some(mut old) = self.daemon.take() {
            drop(old.kill());
            drop(old.wait());
        }
        let mut daemon = self.command("gnome-keyring-daemon");
        daemon.args(["--foreground", "--unlock", "--components=secrets"]);
        let mut child = daemon.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"test password").unwrap();
        self.daemon = Some(child);
        wait_until("the keyring is unlocked", Duration::from_secs(10), || self.is_locked() == Some(false));
    }

    fn is_locked(&self) -> Option<bool> {
        let mut call = self.command("gdbus");
        call.args([
            "call",
            "--session",
            "-d",
            "org.freedesktop.secrets",
            "-o",
            "/org/freedesktop/secrets/aliases/default",
        ]);
        call.args(["-m", "org.freedesktop.DBus.Properties.Get", "org.freedesktop.Secret.Collection", "Locked"]);
        let output = call.output().unwrap();
        let reply = String::from_utf8_lossy(&output.stdout).into_owned();
        // Neither word: the daemon does not answer yet.
        if reply.contains("false") { Some(false) } else { reply.contains("true").then_some(true) }
    }

    pub fn lock(&self) {
        let mut call = self.command("gdbus");
        call.args(["call", "--session", "-d", "org.freedesktop.secrets", "-o", "/org/freedesktop/secrets"]);
        call.args(["-m", "org.freedesktop.Secret.Service.Lock", "['/org/freedesktop/secrets/collection/login']"]);
        assert!(call.status().unwrap().success());
    }

    /// Reads an item with another program, by the attributes that Python's keyring uses.
    pub fn lookup(&self, attributes: &[&str]) -> String {
        let output = self.command("secret-tool").arg("lookup").args(attributes).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn stop(&mut self) {
        for child in self.daemon.iter_mut().chain([&mut self.bus]) {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Pauses or continues the daemon. While it is paused, the bus works, but the keyring does not respond.
    pub fn set_frozen(&self, frozen: bool) {
        if let Some(daemon) = &self.daemon {
            crate::sandbox::send_signal(daemon.id(), if frozen { "STOP" } else { "CONT" });
        }
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.set_frozen(false);
        self.stop();
    }
}
