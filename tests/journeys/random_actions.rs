//! Random actions of a user on three apps, compared with a model after each action.
//!
//! The sequence depends only on the seed. `PDEV_ACTIONS` sets the number of actions, `PDEV_SEED` the seed, and
//! `PDEV_KILLS_DURING_OPERATIONS=1` adds kills of the agent during operations, whose moment depends on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::sandbox::{CommandOutput, Sandbox, find_unit, run_with_timeout, send_signal, wait_until};

/// An app and the state that the user asked for.
struct App {
    name: &'static str,
    folder: PathBuf,
    /// Service -> version in the manifest.
    written: BTreeMap<String, u64>,
    /// Service -> version of the last `up`; empty while the app is down.
    applied: BTreeMap<String, u64>,
    stopped: BTreeSet<String>,
    is_up: bool,
    moves: u64,
}

impl App {
    fn manifest(&self) -> String {
        let mut text = format!("pdev: 1\napp: {}\nservices:\n", self.name);
        for (service, version) in &self.written {
            // The argument of `sleep` identifies the program in the list of processes.
            text += &format!(
                "  {service}: {{ health: none, env: {{ VERSION: '{version}' }}, process: {{ command: 'exec sleep 77$VERSION' }} }}\n"
            );
        }
        text + "jobs:\n  prepare: { process: { command: ['true'] } }\n"
    }

    fn write_manifest(&self) {
        std::fs::write(self.folder.join("pdev.yaml"), self.manifest()).unwrap();
    }

    fn running_versions(&self) -> Vec<u64> {
        let running = self.applied.iter().filter(|(service, _)| self.is_up && !self.stopped.contains(*service));
        running.map(|(_, version)| *version).collect()
    }
}

/// A linear congruential generator: the sequence is the same on each machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn choose<T: Clone>(&mut self, items: impl IntoIterator<Item = T>) -> T {
        let items: Vec<T> = items.into_iter().collect();
        items[self.below(items.len())].clone()
    }
}

struct User {
    sandbox: Sandbox,
    apps: Vec<App>,
    random: Random,
    next_version: u64,
    shells: Vec<Option<PathBuf>>,
    history: Vec<String>,
    /// Whether the agent is also killed during operations.
    interrupts_operations: bool,
}

impl User {
    fn new(seed: u64) -> Self {
        let sandbox = Sandbox::without_docker();
        let mut shells = vec![None];
        for name in ["tmp", "login", "other"] {
            let folder = sandbox.path(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            shells.extend((name != "tmp").then_some(Some(folder)));
        }
        let mut next_version = 100;
        let app = |name: &'static str, services: &[&str], next_version: &mut u64| {
            let folder = sandbox.path(&format!("{name}-0"));
            std::fs::create_dir(&folder).unwrap();
            let version = |service: &&str| {
                *next_version += 1;
                ((*service).to_owned(), *next_version)
            };
            let written = services.iter().map(version).collect();
            let (applied, stopped) = (BTreeMap::new(), BTreeSet::new());
            let app = App { name, folder, written, applied, stopped, is_up: false, moves: 0 };
            app.write_manifest();
            app
        };
        let apps = vec![
            app("alpha", &["api", "web"], &mut next_version),
            app("beta", &["one"], &mut next_version),
            app("gamma", &["a", "b", "c"], &mut next_version),
        ];
        let interrupts_operations = parameter("PDEV_KILLS_DURING_OPERATIONS", 0) > 0;
        Self { apps, random: Random(seed), next_version, shells, history: Vec::new(), interrupts_operations, sandbox }
    }

    /// A command of one of the user's shells.
    fn command(&mut self, folder: &Path, arguments: &[&str]) -> Command {
        let shell = self.random.choose(self.shells.clone());
        let mut command = self.sandbox.command(folder, arguments);
        command.env_remove("PDEV_SOCKET_DIR").env("TMPDIR", self.sandbox.path("tmp"));
        if let Some(runtime) = shell {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        command
    }

    fn pdev(&mut self, folder: &Path, arguments: &[&str]) -> CommandOutput {
        run_with_timeout(self.command(folder, arguments), Duration::from_secs(60))
    }

    fn act(&mut self) {
        let index = self.random.below(self.apps.len());
        let folder = self.apps[index].folder.clone();
        let services: Vec<String> = self.apps[index].applied.keys().cloned().collect();
        let is_up = self.apps[index].is_up;
        let mut actions = vec![
            "up",
            "up",
            "up",
            "down",
            "restart",
            "restart one",
            "stop",
            "edit",
            "edit",
            "add",
            "kill agent",
            "stop agent",
            "move",
            "up detached",
        ];
        if self.interrupts_operations {
            actions.extend(["up killed", "restart killed", "down killed"]);
        }
        let action = self.random.choose(actions);
        self.history.push(format!("{action} {}", self.apps[index].name));
        match action {
            "up" | "up detached" => {
                let arguments: &[&str] = if action == "up" { &["up"] } else { &["up", "--detach"] };
                self.pdev(&folder, arguments).ok();
                let app = &mut self.apps[index];
                app.applied = app.written.clone();
                app.stopped.clear();
                app.is_up = true;
            }
            "down" if is_up => {
                self.pdev(&folder, &["down"]).ok();
                let app = &mut self.apps[index];
                (app.is_up, app.applied, app.stopped) = (false, BTreeMap::new(), BTreeSet::new());
            }
            "restart" if is_up => {
                self.pdev(&folder, &["restart"]).ok();
                self.apps[index].stopped.clear();
            }
            "restart one" if is_up => {
                let service = self.random.choose(services);
                self.pdev(&folder, &["restart", &service]).ok();
                self.apps[index].stopped.remove(&service);
            }
            "stop" if is_up => {
                let service = self.random.choose(services);
                self.pdev(&folder, &["stop", &service]).ok();
                self.apps[index].stopped.insert(service);
            }
            "edit" => {
                let service = self.random.choose(self.apps[index].written.keys().cloned().collect::<Vec<_>>());
                self.next_version += 1;
                self.apps[index].written.insert(service, self.next_version);
                self.apps[index].write_manifest();
            }
            "add" => {
                self.next_version += 1;
                let app = &mut self.apps[index];
                if app.written.remove("extra").is_none() {
                    app.written.insert("extra".to_owned(), self.next_version);
                }
                app.write_manifest();
            }
            "up killed" => {
                self.pdev(&folder, &["up", "--detach"]).ok();
                self.kill_agent(&folder, 10);
                let app = &mut self.apps[index];
                app.applied = app.written.clone();
                app.stopped.clear();
                app.is_up = true;
            }
            "restart killed" if is_up && self.apps[index].stopped.is_empty() => {
                self.interrupt(&folder, &["restart"]);
            }
            "down killed" if is_up => {
                self.interrupt(&folder, &["down"]);
                // The killed agent may have completed it.
                let repeated = self.pdev(&folder, &["down"]);
                assert!([0, 4].contains(&repeated.code), "{}", repeated.transcript());
                let app = &mut self.apps[index];
                (app.is_up, app.applied, app.stopped) = (false, BTreeMap::new(), BTreeSet::new());
            }
            "kill agent" => self.kill_agent(&folder, 0),
            "stop agent" => drop(self.pdev(&folder, &["agent", "stop"])),
            "move" => {
                let app = &mut self.apps[index];
                app.moves += 1;
                let target = self.sandbox.path(&format!("{}-{}", app.name, app.moves));
                std::fs::rename(&app.folder, &target).unwrap();
                app.folder = target;
            }
            _ => {}
        }
    }

    /// Kills the agent after a random time.
    fn kill_agent(&mut self, folder: &Path, milliseconds_max: usize) {
        let status = self.pdev(folder, &["agent", "status", "--json"]);
        let info: serde_json::Value = serde_json::from_str(&status.out).unwrap_or_default();
        if milliseconds_max > 0 {
            std::thread::sleep(Duration::from_millis(self.random.below(milliseconds_max) as u64));
        }
        if let Some(pid) = info["pid"].as_u64() {
            send_signal(u32::try_from(pid).unwrap(), "KILL");
        }
    }

    /// Begins a command, and kills the agent while it works on it. The command itself may fail.
    fn interrupt(&mut self, folder: &Path, arguments: &[&str]) {
        let mut command = self.command(folder, arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.kill_agent(folder, 10);
        let _result_does_not_matter = child.wait().unwrap();
    }

    /// Compares the status and the programs with the model.
    fn check(&mut self) {
        for index in 0..self.apps.len() {
            let (folder, is_up) = (self.apps[index].folder.clone(), self.apps[index].is_up);
            if !is_up {
                self.pdev(&folder, &["status"]).fails_with(4);
                continue;
            }
            let waited = self.pdev(&folder, &["wait"]);
            let status = self.pdev(&folder, &["status", "--json"]).ok().json();
            let app = &self.apps[index];
            let all_stopped = app.applied.keys().all(|service| app.stopped.contains(service));
            assert_eq!(waited.code, i32::from(all_stopped), "{} after {:?}\n{status:#}", app.name, self.history);
            for service in app.applied.keys() {
                let expected = if app.stopped.contains(service) { "stopped" } else { "ready" };
                let unit = find_unit(&status, service);
                assert_eq!(unit["state"], expected, "{service} of {} after {:?}\n{unit:#}", app.name, self.history);
                assert_eq!(unit["restarts"], 0, "{service} of {} after {:?}\n{unit:#}", app.name, self.history);
            }
        }
        let mut expected: Vec<u64> = self.apps.iter().flat_map(App::running_versions).collect();
        expected.sort_unstable();
        let mut running = Vec::new();
        for _ in 0..100 {
            running = self.running_programs();
            if running == expected {
                return;
            }
            // A program that was just started may still be the shell that replaces itself by it.
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("programs {running:?} instead of {expected:?} after {:?}", self.history);
    }

    fn running_programs(&self) -> Vec<u64> {
        let commands = self.sandbox.processes().into_iter();
        let mut versions: Vec<u64> =
            commands.filter_map(|(_, command)| command.trim().strip_prefix("sleep 77")?.parse().ok()).collect();
        versions.sort_unstable();
        versions
    }
}

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn random_actions_end_in_the_requested_state() {
    let mut user = User::new(parameter("PDEV_SEED", 14));
    for _ in 0..parameter("PDEV_ACTIONS", 200) {
        user.act();
        user.check();
    }
    for index in 0..user.apps.len() {
        let folder = user.apps[index].folder.clone();
        user.pdev(&folder, &["up"]).ok();
        let app = &mut user.apps[index];
        app.applied = app.written.clone();
        app.stopped.clear();
        app.is_up = true;
    }
    user.check();
    for index in 0..user.apps.len() {
        let folder = user.apps[index].folder.clone();
        user.pdev(&folder, &["down"]).ok();
    }
    wait_until("no program is left", Duration::from_secs(5), || user.running_programs().is_empty());
    let folder = user.apps[0].folder.clone();
    user.pdev(&folder, &["agent", "stop"]).ok();
}
