//! The one trait behind which the runtimes stand, and what all of them promise (see `contract.rs`).
//!
//! A driver observes and applies; it decides nothing. Every call has a deadline of its own and is safe to repeat:
//! creating what is there and removing what is gone succeed. Dropping a call's future leaves the runtime in a state
//! that the next `observe` describes truthfully.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit, UnitName};
use plan::observed::{Exit, Images, Observed};
use plan::{Application, step::Action};

/// Where things of one preview lie on this machine, decided by the agent.
#[derive(Clone, Debug)]
pub struct Locations {
    /// The manifest's folder.
    pub project: PathBuf,
    /// Data of the process runtime, kept over `down`: `<data>/previews/<id>`.
    pub data: PathBuf,
    /// Keeper's sockets and delivered secrets, mode 0700, short enough for a socket path: `<runtime>/<id>`.
    pub runtime: PathBuf,
    /// Logs and small state: `<state>/previews/<id>`.
    pub state: PathBuf,
    /// Shared by all previews: build hashes and the like.
    pub cache: PathBuf,
}

/// What a call concerns.
#[derive(Clone)]
pub struct Scope {
    pub preview: PreviewName,
    pub locations: Locations,
    pub application: Arc<Application>,
    pub secrets: Arc<dyn SecretFiles>,
    pub progress: Arc<dyn Progress>,
}

/// The only way a driver meets a secret: as a folder of files that the agent has already delivered on this machine
/// (mode 0444 inside a 0700 folder; tmpfs where there is one). The driver never reads them unless the engine is remote.
pub trait SecretFiles: Send + Sync {
    /// The folder that holds exactly this unit's secrets, one file per name.
    fn folder(&self, unit: &str) -> Option<PathBuf>;
}

/// Progress of one long call, for people. Bounded by the receiver: slow spectators lose lines, not the build.
pub trait Progress: Send + Sync {
    fn report(&self, unit: &str, line: ProgressLine);
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProgressLine {
    /// A build step began or ended: `[2/5] RUN pip install`.
    BuildStep { name: String, is_done: bool, is_cached: bool, error: Option<String> },
    /// Output of a build step or build command.
    BuildOutput(String),
    /// A pull: bytes so far of bytes in all.
    Pull { layer: String, current: u64, total: u64 },
}

#[async_trait]
pub trait Driver: Send + Sync {
    fn runtime(&self) -> RuntimeKind;

    /// One or two calls to the runtime, however many units there are.
    async fn observe(&self, preview: &PreviewId, places: &Locations) -> Result<Observed, Problem>;

    /// For every unit of this driver: which image is current, or why it is stale. Does no building.
    async fn inspect_images(&self, scope: &Scope) -> Result<Images, Problem>;

    /// Performs one step. `AwaitReady` and `AwaitExit` never reach a driver.
    async fn perform(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem>;

    /// Exits and starts of this preview's units, from now on; ends with `Lost` when the runtime goes away.
    async fn follow_events(
        &self,
        preview: &PreviewId,
        places: &Locations,
    ) -> Result<BoxStream<'static, RuntimeEvent>, Problem>;

    async fn logs(
        &self,
        preview: &PreviewId,
        places: &Locations,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem>;

    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem>;

    /// Every preview that left something at this runtime, by label: for `ls` after a lost registry, and for `down` by name.
    async fn discover(&self) -> Result<Vec<DiscoveredPreview>, Problem>;

    /// The address of this machine where units of this runtime look for credentials; the agent listens there, on a port
    /// for each unit. `None` where they cannot reach this machine at an address that SDKs take.
    async fn credential_endpoint_address(&self) -> Result<Option<IpAddr>, Problem> {
        Ok(None)
    }

    /// Whether a connection from `peer` to `local` was made by this unit, by what the kernel or the engine tells.
    async fn is_connection_from(
        &self,
        _preview: &PreviewId,
        _unit: &str,
        _peer: SocketAddr,
        _local: SocketAddr,
    ) -> Result<bool, Problem> {
        Ok(false)
    }

    /// Where local processes are reached from this preview's containers: the address the agent forwards on.
    async fn gateway_address(&self, _preview: &PreviewId) -> Result<Option<IpAddr>, Problem> {
        Ok(None)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepOutcome {
    /// The handle of what was created, when something was.
    pub handle: Option<String>,
    /// Where a unit that was started is reached, when it has an address of its own and that is known already.
    pub address: Option<IpAddr>,
    /// The image's identity after `PrepareImage`.
    pub image: Option<String>,
    /// Said to the user, as in "the engine is remote: secrets were copied into the container's own layer".
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
    /// The stream ended: engine stopped, keeper gone.
    ConnectionLost {
        reason: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogRequest {
    pub follow: bool,
    /// Unix milliseconds.
    pub since: Option<i64>,
    /// Only the last so many lines.
    pub tail: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Unix milliseconds.
    pub timestamp: i64,
    pub is_stderr: bool,
    /// Lossy UTF-8, without the line end; lines over 16 KiB are cut into pieces.
    pub text: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExecRequest {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub dir: Option<String>,
    pub user: Option<String>,
    /// Rows and columns when a terminal is wanted.
    pub terminal_size: Option<(u16, u16)>,
}

/// A running command: feed `input`, read `output` until it ends, then `exit`.
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
    /// The manifest's folder as it was when the object was made.
    pub project: Option<PathBuf>,
    pub unit_count: usize,
    pub running_count: usize,
}

/// Why a call failed: a kind for decisions, words for people, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub kind: ProblemKind,
    /// Lowercase fragment: "cannot reach the Docker engine at `unix:///var/run/docker.sock`: connection refused".
    pub message: String,
    /// One sentence with the next thing to try.
    pub hint: Option<String>,
    /// Output that explains it (the failing build step's last lines).
    pub output: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProblemKind {
    /// The runtime is not there (engine stopped, keeper gone): retrying later may help.
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
    /// The runtime refuses what was asked (bad raw field, invalid mount).
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

    /// An operating system error while doing `what` ("cannot write `PATH`").
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ProblemKind::NotFound,
            io::ErrorKind::PermissionDenied => ProblemKind::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ProblemKind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem => ProblemKind::ReadOnlyFilesystem,
            io::ErrorKind::TimedOut => ProblemKind::Timeout,
            _ => ProblemKind::Internal,
        };
        Self::new(kind, format!("{what}: {error}"))
    }
}
