//! The preview that a call to a driver concerns, and what the driver needs to serve it.

use std::path::PathBuf;
use std::sync::Arc;

use plan::Application;
use plan::application::PreviewName;
use plan::shell_environment::ShellEnvironment;
use plan::target::Targets;

/// Folders of one preview on this machine, chosen by the agent.
#[derive(Clone, Debug)]
pub struct Locations {
    /// The manifest's folder.
    pub project: PathBuf,
    /// Data of the process runtime, preserved by `down`: `<data>/previews/<id>`.
    pub data: PathBuf,
    /// The keeper's sockets and delivered secrets, mode 0700. Short, because a socket path has a length limit:
    /// `<runtime>/<id>`.
    pub runtime: PathBuf,
    /// Logs and small state files: `<state>/previews/<id>`.
    pub state: PathBuf,
    /// Shared by all previews, for example for build hashes.
    pub cache: PathBuf,
}

/// The preview that a call concerns, and what the driver needs to serve it.
#[derive(Clone)]
pub struct Scope {
    pub preview: PreviewName,
    pub locations: Locations,
    pub application: Arc<Application>,
    /// Where its units run. A driver works on the target of its own runtime.
    pub targets: Targets,
    /// The environment of the shell that ran `pdev up`, if one did. Only local processes receive it.
    pub shell_environment: Option<Arc<ShellEnvironment>>,
    pub secrets: Arc<dyn SecretFiles>,
    pub progress: Arc<dyn Progress>,
}

/// A driver's only access to secrets: a folder of files that the agent has already delivered on this machine (mode 0444
/// inside a 0700 folder, on tmpfs where available). A driver passes on the folder's path and never reads the files.
pub trait SecretFiles: Send + Sync {
    /// The folder with exactly this unit's secrets, one file per secret name.
    fn folder(&self, unit: &str) -> Option<PathBuf>;
}

/// Progress of a long call, shown to users. The receiver bounds it: a slow client loses lines and never delays a build.
pub trait Progress: Send + Sync {
    fn report(&self, unit: &str, line: ProgressLine);
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProgressLine {
    /// A build step started or ended: `[2/5] RUN pip install`.
    BuildStep { name: String, is_done: bool, is_cached: bool, error: Option<String> },
    /// Output of a build step or build command.
    BuildOutput(String),
    /// Bytes of a layer pulled so far, and its total size.
    Pull { layer: String, current: u64, total: u64 },
}
