//! The trait that every runtime implements: a core, and capabilities that some runtimes have. `contract.rs` tests the
//! guarantees of both for each driver.
//!
//! A driver observes and applies; it makes no decisions. Every call has its own deadline and is safe to repeat:
//! creating an object that exists and removing one that is gone both succeed. If the caller drops a call's future,
//! the next `observe` still describes the runtime correctly.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit, UnitName};
use plan::observed::{Exit, Observed};
use plan::step::Action;

use crate::capabilities::{CredentialEndpoints, EnvironmentStore, Gateway, HostPorts, ImageInspection, PortForward};
use crate::problem::Problem;
use crate::scope::{Locations, Scope};

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
