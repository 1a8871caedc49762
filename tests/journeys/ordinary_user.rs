//! An ordinary user without access to the container engine, with an empty environment.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::sandbox::{CommandOutput, Sandbox, find_unit, run_with_timeout, wait_until};

/// An id that no account of the machine has. The user is in no group, so not in `docker` either.
const USER: u32 = 61_234;

struct User {
    sandbox: Sandbox,
    changes_user: bool,
}

impl User {
    fn new() -> Self {
        let sandbox = Sandbox::without_docker();
        let changes_user = rustix::process::geteuid().is_root();
        std::fs::copy(env!("CARGO_BIN_EXE_pdev"), sandbox.path("pdev")).unwrap();
        for folder in ["tmp", "runtime"] {
            std::fs::create_dir(sandbox.path(folder)).unwrap();
            std::fs::set_permissions(sandbox.path(folder), PermissionsExt::from_mode(0o700)).unwrap();
        }
        let user = Self { sandbox, changes_user };
        user.own("");
        user
    }

    /// Gives everything in this folder to the user.
    fn own(&self, inside: &str) {
        if self.changes_user {
            let owner = format!("{USER}:{USER}");
            assert!(
                Command::new("chown").args(["-R", &owner]).arg(self.sandbox.path(inside)).status().unwrap().success()
            );
        }
    }

    fn write(&self, inside: &str, text: &str) {
        self.sandbox.write(inside, text);
        self.own("p");
    }

    /// Like a shell of `env -i`, `cron` or `su`: with a home and a path, and nothing else.
    fn command(&self, runtime: Option<&Path>, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.sandbox.path("pdev"));
        command.args(arguments).current_dir(self.sandbox.project()).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.sandbox.path("home")).env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
        command.env("TMPDIR", self.sandbox.path("tmp"));
        if let Some(runtime) = runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        if self.changes_user {
            command.uid(USER).gid(USER);
        }
        command
    }

    #[track_caller]
    fn pdev(&self, arguments: &[&str]) -> CommandOutput {
        run_with_timeout(self.command(None, arguments), Duration::from_secs(60))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for arguments in [["down", "--all"], ["agent", "stop"]] {
            drop(self.command(None, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).status());
        }
    }
}

const MANIFEST: &str = "pdev: 1\napp: plain\nservices:\n  one: { health: none, process: { command: [sleep, '1000'] } }\njobs:\n  gen: { process: { command: ['true'] }, inputs: [in.txt] }\n";

#[test]
fn daily_commands_work_without_engine_and_environment() {
    let user = User::new();
    user.write("in.txt", "1");
    user.write("pdev.yaml", MANIFEST);
    user.pdev(&["up"]).ok();
    let status = || user.pdev(&["status", "--json"]).ok().json();
    assert_eq!(find_unit(&status(), "one")["state"], "ready");
    // The agent of another kind of shell is the same one.
    let runtime = user.sandbox.path("runtime");
    let elsewhere = run_with_timeout(user.command(Some(&runtime), &["restart", "one"]), Duration::from_secs(60));
    elsewhere.ok();
    for round in 2..6 {
        user.write("in.txt", &round.to_string());
        user.pdev(&["up"]).ok();
    }
    user.pdev(&["exec", "one", "--", "true"]).ok();
    user.pdev(&["logs", "-n", "1"]).ok();

    // After a logout that removes the runtime folder.
    std::fs::remove_dir_all(user.sandbox.path("tmp")).unwrap();
    std::fs::create_dir(user.sandbox.path("tmp")).unwrap();
    user.own("tmp");
    wait_until("the programs are known again", Duration::from_secs(20), || {
        find_unit(&status(), "one")["state"] == "ready"
    });
    user.pdev(&["restart"]).ok();
    user.pdev(&["down"]).ok();
    let left = user.sandbox.processes().into_iter().filter(|(_, command)| command.contains("sleep 1000")).count();
    assert_eq!(left, 0);
}

/// `down` of a preview without containers must not ask an engine that the user cannot reach.
#[test]
fn engine_without_permission_is_not_asked() {
    let user = User::new();
    if !user.changes_user {
        return println!("skipped: engine without permission: only root can act as another user");
    }
    user.write("pdev.yaml", MANIFEST);
    let socket = user.sandbox.path("engine.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600)).unwrap();
    let host = format!("unix://{}", socket.display());
    let with_engine = |arguments: &[&str]| {
        let mut command = user.command(None, arguments);
        command.env("DOCKER_HOST", &host);
        run_with_timeout(command, Duration::from_secs(60))
    };
    with_engine(&["up"]).ok();
    with_engine(&["down"]).ok();
    // Only a service that needs a container reports the engine, with the way to get access.
    user.write("pdev.yaml", "pdev: 1\napp: plain\nservices:\n  box: { image: \"debian:stable-slim\" }\n");
    with_engine(&["up"]).fails_with(1).prints("permission denied").prints("no container engine answers");
}
