//! The environment of one journey: home, socket folder, project. Dropping a [`Sandbox`] removes everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub struct Sandbox {
    root: tempfile::TempDir,
    docker: bool,
    /// The host of a private engine, instead of the machine's engine.
    engine: Option<String>,
}

/// The exit code and the output of a finished command.
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// Exit code and both streams, for messages of failed assertions.
    pub fn transcript(&self) -> String {
        format!("exit {}\n--- out\n{}\n--- err\n{}", self.code, self.out, self.err)
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.transcript());
        self
    }

    #[track_caller]
    pub fn fails_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.transcript());
        self
    }

    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "missing: {text}\n{}", self.transcript());
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON: {error}\n{}", self.transcript()))
    }
}

impl Sandbox {
    /// Hides the container engine, so that pdev uses the process runtime.
    pub fn without_docker() -> Self {
        Self::new(false)
    }

    /// Uses the machine's engine. Prints a skip and returns `None` if none answers.
    pub fn with_docker(journey: &str) -> Option<Self> {
        let answers =
            Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).stderr(Stdio::null()).output();
        if answers.is_ok_and(|output| output.status.success()) {
            return Some(Self::new(true));
        }
        println!("skipped: {journey}: no container engine answers");
        None
    }

    /// Uses a private engine. Its objects disappear with it, so the sandbox does not remove them.
    pub fn with_engine(host: &str) -> Self {
        let mut sandbox = Self::new(false);
        sandbox.engine = Some(host.to_owned());
        sandbox
    }

    fn new(docker: bool) -> Self {
        // A short path, because socket paths are limited to 108 bytes.
        let root = tempfile::Builder::new().prefix("pj").tempdir_in("/tmp").unwrap();
        for name in ["home", "run", "p"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(root.path().join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self { root, docker, engine: None }
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside)
    }

    /// The project's folder, which the first write creates.
    pub fn project(&self) -> PathBuf {
        self.path("p")
    }

    pub fn write(&self, inside: &str, text: &str) -> PathBuf {
        let path = self.project().join(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Copies an example into the project and makes it a git repository on the branch `main`.
    pub fn create_example(&self, name: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        copy_folder(&source, &self.project());
        self.git_init(&self.project());
        self.project()
    }

    pub fn git_init(&self, folder: &Path) {
        self.git(folder, &["init", "-q", "-b", "main"]);
        self.git(folder, &["add", "-A"]);
        self.git(folder, &["commit", "-q", "-m", "start"]);
    }

    #[track_caller]
    pub fn git(&self, folder: &Path, arguments: &[&str]) {
        let identity = ["-c", "user.name=Journey", "-c", "user.email=journey@example.org"];
        let output = Command::new("git").args(identity).args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn add_worktree(&self, branch: &str, folder: &str) -> PathBuf {
        let path = self.path(folder);
        self.git(&self.project(), &["worktree", "add", "-q", "-b", branch, path.to_str().unwrap()]);
        path
    }

    /// The binary with only PATH, LANG and USER of the caller's environment.
    pub fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pdev"));
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_clear();
        for name in ["PATH", "LANG", "USER"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", self.path("home")).env("PDEV_SOCKET_DIR", self.path("run")).env("NO_COLOR", "1");
        if let Some(host) = &self.engine {
            command.env("DOCKER_HOST", host);
        } else if self.docker {
            if let Some(host) = std::env::var_os("DOCKER_HOST") {
                command.env("DOCKER_HOST", host);
            }
        } else {
            command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
        }
        command
    }

    /// Runs the command to its end, within two minutes.
    #[track_caller]
    pub fn pdev_in(&self, folder: &Path, arguments: &[&str]) -> CommandOutput {
        run_with_timeout(self.command(folder, arguments), Duration::from_secs(120))
    }

    #[track_caller]
    pub fn pdev(&self, arguments: &[&str]) -> CommandOutput {
        self.pdev_in(&self.project(), arguments)
    }

    /// `pdev status --json` of a folder.
    #[track_caller]
    pub fn status(&self, folder: &Path) -> Value {
        self.pdev_in(folder, &["status", "--json"]).ok().json()
    }

    /// The URL of a service through the proxy, as `(host, port)`.
    #[track_caller]
    pub fn url(&self, folder: &Path, service: Option<&str>) -> (String, u16) {
        let status = self.status(folder);
        let url = match service {
            Some(name) => find_unit(&status, name)["url"].as_str().map(str::to_owned),
            None => status["url"].as_str().map(str::to_owned),
        };
        let url = url.unwrap_or_else(|| panic!("no URL in {status:#}"));
        let rest = url.strip_prefix("http://").unwrap();
        let (host, port) = rest.trim_end_matches('/').split_once(':').unwrap();
        (host.to_owned(), port.parse().unwrap())
    }

    pub fn agent_pid(&self) -> Option<u32> {
        let output = self.pdev(&["agent", "status", "--json"]);
        serde_json::from_str::<Value>(&output.out).ok()?["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    /// Processes with this sandbox's folder in their environment or command line.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let needle = self.root.path().as_os_str().as_encoded_bytes().to_vec();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let (command, environment) = (read("cmdline"), read("environ"));
            if [&command, &environment].iter().any(|bytes| contains(bytes, &needle)) {
                found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
            }
        }
        found
    }

    /// Containers, networks and volumes of this sandbox's previews.
    pub fn docker_objects(&self) -> Vec<String> {
        if !self.docker {
            return Vec::new();
        }
        let filter = format!("label=dev.pdev.project={}", self.project().display());
        let mut found = Vec::new();
        for arguments in [
            ["ps", "-aq", "--filter", &filter],
            ["network", "ls", "-q", "--filter"],
            ["volume", "ls", "-q", "--filter"],
        ] {
            let mut command = Command::new("docker");
            command.args(arguments);
            if arguments[0] != "ps" {
                command.arg(&filter);
            }
            let output = command.output().unwrap();
            found.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
        }
        found
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[track_caller]
pub fn run_with_timeout(mut command: Command, limit: Duration) -> CommandOutput {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // `wait_with_output` consumes the child and has no timeout, so keep the pid and wait on another thread.
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(limit) {
        Ok(output) => to_command_output(&output.unwrap()),
        Err(_) => {
            send_signal(pid, "KILL");
            panic!("{command:?} did not end within {limit:?}");
        }
    }
}

pub fn to_command_output(output: &Output) -> CommandOutput {
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn send_signal(pid: u32, name: &str) {
    drop(Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status());
}

/// Polls a condition. For facts outside of pdev that no event reports, such as a process table or an engine's list.
#[track_caller]
pub fn wait_until(description: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{description}: not within {limit:?}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[track_caller]
pub fn find_unit<'a>(status: &'a Value, name: &str) -> &'a Value {
    let units = status["units"].as_array().unwrap_or_else(|| panic!("no units in {status:#}"));
    units.iter().find(|unit| unit["name"] == name).unwrap_or_else(|| panic!("no unit {name} in {status:#}"))
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Errors are ignored, because the journey may have failed at any point and removal must continue.
        let quietly = |arguments: &[&str]| {
            drop(self.command(&self.project(), arguments).stdout(Stdio::null()).stderr(Stdio::null()).status());
        };
        quietly(&["down", "--all", "--volumes"]);
        quietly(&["agent", "stop"]);
        for (pid, _) in self.processes() {
            send_signal(pid, "KILL");
        }
        for object in self.docker_objects() {
            // The list does not name the kind of an object, so try all of them; the wrong ones fail.
            for arguments in [["rm", "-f"], ["network", "rm"], ["volume", "rm"]] {
                drop(
                    Command::new("docker")
                        .args(arguments)
                        .arg(&object)
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .status(),
                );
            }
        }
    }
}
