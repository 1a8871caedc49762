//! A machine of its own for one journey: home, socket folder, project; everything is taken down when it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub struct Sandbox {
    root: tempfile::TempDir,
    docker: bool,
    /// Another engine than the machine's own.
    engine: Option<String>,
}

/// What a finished command said.
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// Both streams, for messages of failed checks.
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
    pub fn prints(self, words: &str) -> Self {
        assert!(self.out.contains(words) || self.err.contains(words), "missing: {words}\n{}", self.transcript());
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON: {error}\n{}", self.transcript()))
    }
}

impl Sandbox {
    /// Without a container engine: the process runtime.
    pub fn without_docker() -> Self {
        Self::new(false)
    }

    /// With the machine's engine, if there is one.
    pub fn with_docker(journey: &str) -> Option<Self> {
        let answers =
            Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).stderr(Stdio::null()).output();
        if answers.is_ok_and(|output| output.status.success()) {
            return Some(Self::new(true));
        }
        println!("skipped: {journey}: no container engine answers");
        None
    }

    /// With an engine of the journey's own, which takes its objects with it.
    pub fn with_engine(host: &str) -> Self {
        let mut sandbox = Self::new(false);
        sandbox.engine = Some(host.to_owned());
        sandbox
    }

    fn new(docker: bool) -> Self {
        // Socket paths have 108 bytes at most, so the folder is short.
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

    /// The project's folder, made by writing into it.
    pub fn project(&self) -> PathBuf {
        self.path("p")
    }

    pub fn write(&self, inside: &str, text: &str) -> PathBuf {
        let path = self.project().join(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A copy of an example as a git repository on the branch `main`.
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
        let done = Command::new("git").args(identity).args(arguments).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    pub fn add_worktree(&self, branch: &str, folder: &str) -> PathBuf {
        let path = self.path(folder);
        self.git(&self.project(), &["worktree", "add", "-q", "-b", branch, path.to_str().unwrap()]);
        path
    }

    /// The binary with this machine's environment and nothing of the caller's.
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

    /// Runs to the end, within two minutes.
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
        let said = self.pdev(&["agent", "status", "--json"]);
        serde_json::from_str::<Value>(&said.out).ok()?["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    /// Processes that carry this sandbox's folder in their environment or command line.
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

    /// Containers, networks and volumes that this sandbox's previews left.
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

/// Asks again until it holds; for facts outside of pdev that no event tells (a process table, an engine's list).
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
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
        let quietly = |arguments: &[&str]| {
            drop(self.command(&self.project(), arguments).stdout(Stdio::null()).stderr(Stdio::null()).status());
        };
        quietly(&["down", "--all", "--volumes"]);
        quietly(&["agent", "stop"]);
        for (pid, _) in self.processes() {
            send_signal(pid, "KILL");
        }
        for object in self.docker_objects() {
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
