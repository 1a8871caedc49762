//! A second Docker engine of a test's own, which may be stopped and started. Its data lies in a folder of the test, and
//! its network is apart from the machine's, as that of a virtual machine or a rootless engine is.

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
    /// With the image, or why there can be none here.
    pub fn start(image: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a second engine needs root".to_owned());
        }
        // Socket paths have 108 bytes at most.
        let folder = tempfile::Builder::new().prefix("pe").tempdir_in("/tmp").map_err(|error| error.to_string())?;
        let mut engine = Self { folder, child: None };
        engine.start_daemon()?;
        let load = format!("docker save {image} | docker -H {} load", engine.host());
        if !succeeds(silent_command("sh").args(["-c", &load])) {
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

    /// Starts it, again or for the first time, and waits until it answers.
    pub fn start_daemon(&mut self) -> Result<(), String> {
        let log = std::fs::File::create(self.path("log")).map_err(|error| error.to_string())?;
        // In a network of its own: an engine may remove `docker0` and rewrite the packet filter, whosever they are.
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
            let ended = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(format!("a second engine does not come up: {last}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// As a service manager stops it: containers are ended with it.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(silent_command("kill").arg(child.id().to_string()).status());
        drop(child.wait());
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let host = self.host();
        let tidy =
            format!("docker -H {host} ps -aq | xargs -r docker -H {host} rm -f; docker -H {host} network prune -f");
        drop(silent_command("sh").args(["-c", &tidy]).status());
        self.stop();
        let left = format!(
            "mount | awk '{{print $3}}' | grep '^{}/' | sort -r | xargs -r umount -l",
            self.folder.path().display()
        );
        drop(silent_command("sh").args(["-c", &left]).status());
    }
}
