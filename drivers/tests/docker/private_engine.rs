//! A second Docker engine for one test, which can be stopped and started. Its data is in a temporary folder. Its
//! network is separate from the machine's, like that of a virtual machine or a rootless engine.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct PrivateEngine {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

fn silent_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

impl PrivateEngine {
    /// Starts an engine that has the image, or returns why that is not possible here.
    pub fn start(image: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a second engine needs root".to_owned());
        }
        // A short path, because a socket path has at most 108 bytes.
        let folder = tempfile::Builder::new().prefix("pe").tempdir_in("/tmp").map_err(|error| error.to_string())?;
        let mut engine = Self { folder, child: None };
        engine.start_daemon()?;
        let load_script = format!("docker save {image} | docker -H {} load", engine.host());
        if !succeeds(silent_command("sh").args(["-c", &load_script])) {
            return Err(format!("the image {image} cannot be copied into a second engine"));
        }
        Ok(engine)
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.path("s").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the daemon, initially or after `stop`, and waits until it answers.
    pub fn start_daemon(&mut self) -> Result<(), String> {
        let log = std::fs::File::create(self.path("log")).map_err(|error| error.to_string())?;
        // In its own network namespace: an engine may remove `docker0` and rewrite the packet filter of another engine.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; exec dockerd \"$@\"", "dockerd"]);
        command.arg("--data-root").arg(self.path("data")).arg("--exec-root").arg(self.path("exec"));
        command.arg("--pidfile").arg(self.path("pid")).args(["--host", &self.host()]);
        command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--default-address-pool", "base=10.213.0.0/16,size=24"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.map_err(|error| format!("no second engine: {error}"))?);
        let deadline = Instant::now() + START_TIMEOUT;
        while !succeeds(silent_command("docker").args(["-H", &self.host(), "version"])) {
            let has_exited =
                self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if has_exited || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                let last_line = log.lines().last().unwrap_or("no output").to_owned();
                return Err(format!("a second engine does not start: {last_line}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Stops the daemon like a service manager; the engine ends its containers.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(silent_command("kill").arg(child.id().to_string()).status());
        drop(child.wait());
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let host = self.host();
        let cleanup_script =
            format!("docker -H {host} ps -aq | xargs -r docker -H {host} rm -f; docker -H {host} network prune -f");
        drop(silent_command("sh").args(["-c", &cleanup_script]).status());
        self.stop();
        // Mounts that the daemon leaves behind would block the removal of the folder.
        let unmount_script = format!(
            "mount | awk '{{print $3}}' | grep '^{}/' | sort -r | xargs -r umount -l",
            self.folder.path().display()
        );
        drop(silent_command("sh").args(["-c", &unmount_script]).status());
    }
}
