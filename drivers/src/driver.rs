//! The trait that every runtime implements: a core, and capabilities that some runtimes have. `contract.rs` tests the
//! guarantees of both for each driver.
//!
//! A driver observes and applies; it makes no decisions. Every call has its own deadline and is safe to repeat:
//! creating an object that exists and removing one that is gone both succeed. If the caller drops a call's future,
//! the next `observe` still describes the runtime correctly.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit, UnitName};
use plan::observed::{Exit, Observed};
use plan::shell_environment::ShellEnvironment;
use plan::target::Targets;
use plan::{Application, step::Action};

use crate::capabilities::{CredentialEndpoints, EnvironmentStore, Gateway, HostPorts, ImageInspection, PortForward};

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

#[async_trait]
pub trait Driver: Send + Sync {
    fn runtime(&self) -> RuntimeKind;

    /// Reads the preview's state with one or two calls to the runtime, independent of the number of units.
    async fn observe(&self, preview: &PreviewId, locations: &Locations) -> Result<Observed, Problem>;

    /// Performs one step. `AwaitReady` and `AwaitExit` never reach a driver: the agent handles them.
    async fn perform(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem>;

    /// Streams what happens to this preview's units from now on. The stream ends with `ConnectionLost` when the
    /// runtime goes away.
    async fn follow_events(
        &self,
        preview: &PreviewId,
        locations: &Locations,
    ) -> Result<BoxStream<'static, RuntimeEvent>, Problem>;

    async fn logs(
        &self,
        preview: &PreviewId,
        locations: &Locations,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem>;

    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem>;

    /// Finds every preview that has objects in this runtime, by label. `ls` needs it after a lost registry, and `down`
    /// to find a preview by name.
    async fn discover(&self) -> Result<Vec<DiscoveredPreview>, Problem>;

    // The capabilities; see `capabilities.rs`.

    fn image_inspection(&self) -> Option<&dyn ImageInspection> {
        None
    }

    fn credential_endpoints(&self) -> Option<&dyn CredentialEndpoints> {
        None
    }

    fn host_ports(&self) -> Option<&dyn HostPorts> {
        None
    }

    fn environment_store(&self) -> Option<&dyn EnvironmentStore> {
        None
    }

    fn gateway(&self) -> Option<&dyn Gateway> {
        None
    }

    fn port_forward(&self) -> Option<&dyn PortForward> {
        None
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepOutcome {
    /// The handle of the created object, if the step created one.
    pub handle: Option<String>,
    /// The started unit's address, if it has its own address and the driver already knows it.
    pub address: Option<IpAddr>,
    /// The image's identity after `PrepareImage`.
    pub image: Option<String>,
    /// Shown to the user, for example "`web` was paused and is running again".
    pub notes: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuntimeEvent {
    Started {
        unit: UnitName,
        handle: String,
    },
    Exited {
        unit: UnitName,
        handle: String,
        exit: Exit,
    },
    /// A runtime that supervises its units reports that the health of one is different: observe it.
    Changed {
        unit: UnitName,
    },
    /// The stream ended: the engine stopped or the keeper is gone.
    ConnectionLost {
        reason: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogRequest {
    pub follow: bool,
    /// Unix milliseconds.
    pub since: Option<i64>,
    /// Limits the output to this many lines from the end.
    pub tail: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Unix milliseconds.
    pub timestamp: i64,
    pub is_stderr: bool,
    /// Lossy UTF-8 without the line end. Lines over 16 KiB are split.
    pub text: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExecRequest {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub dir: Option<String>,
    pub user: Option<String>,
    /// Rows and columns if the command needs a terminal.
    pub terminal_size: Option<(u16, u16)>,
}

/// A running command: send to `input`, and read `output` until it ends; its last item is the exit code.
pub struct ExecSession {
    pub input: tokio::sync::mpsc::Sender<ExecInput>,
    pub output: BoxStream<'static, ExecOutput>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExecInput {
    Bytes(Bytes),
    /// End of standard input.
    Close,
    Resize {
        rows: u16,
        columns: u16,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExecOutput {
    Stdout(Bytes),
    Stderr(Bytes),
    Exit(i32),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveredPreview {
    pub preview: PreviewName,
    pub runtime: RuntimeKind,
    /// The manifest's folder at the time the object was created.
    pub project: Option<PathBuf>,
    pub unit_count: usize,
    pub running_count: usize,
}

/// Why a call failed: a kind for decisions, a message for the user, and a hint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub kind: ProblemKind,
    /// Lowercase fragment: "cannot reach the Docker engine at `unix:///var/run/docker.sock`: connection refused".
    pub message: String,
    /// One sentence with the next step to try.
    pub hint: Option<String>,
    /// Output that explains the failure, such as the last lines of a failed build step.
    pub output: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProblemKind {
    /// The runtime cannot be reached (engine stopped, keeper gone). A later retry may succeed.
    Unavailable,
    ImageNotFound,
    PullDenied,
    BuildFailed,
    BuildInputMissing,
    PortTaken,
    ProgramNotFound,
    /// EPERM, EACCES.
    PermissionDenied,
    ReadOnlyFilesystem,
    ExecFormat,
    OutOfMemory,
    DiskFull,
    Timeout,
    NotFound,
    /// The runtime rejects the request, for example a bad raw field or an invalid mount.
    Refused,
    Internal,
}

impl Problem {
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, output: Vec::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn output(mut self, lines: Vec<String>) -> Self {
        self.output = lines;
        self
    }

    /// The step is not for this driver: the agent performs it, or the runtime has other steps for the same purpose.
    #[must_use]
    pub fn unsupported(action: &Action) -> Self {
        Self::new(ProblemKind::Internal, format!("the runtime has no step `{action}`"))
    }

    /// An operating system error; `context` says what failed ("cannot write `PATH`").
    pub fn io(context: impl std::fmt::Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ProblemKind::NotFound,
            io::ErrorKind::PermissionDenied => ProblemKind::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ProblemKind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem => ProblemKind::ReadOnlyFilesystem,
            io::ErrorKind::TimedOut => ProblemKind::Timeout,
            _ => ProblemKind::Internal,
        };
        Self::new(kind, format!("{context}: {error}"))
    }
}
