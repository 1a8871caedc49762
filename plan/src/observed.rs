//! The current state of one preview as a driver reports it. Drivers find objects by label; observing changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::application::{RuntimeKind, UnitName};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    pub units: BTreeMap<UnitName, ObservedUnit>,
    /// Second and further objects for the same unit, left by an interrupted replacement. They are always removed.
    pub strays: Vec<ObservedUnit>,
    /// Networks of the preview that exist; normally none or one in each runtime.
    pub networks: BTreeSet<RuntimeObject>,
    pub volumes: BTreeSet<RuntimeObject>,
}

/// A network or volume of the preview, and the runtime that has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuntimeObject {
    pub name: String,
    pub runtime: RuntimeKind,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ObservedUnit {
    pub name: UnitName,
    pub runtime: RuntimeKind,
    /// The driver's own id of the object: container id, or unit id of the keeper.
    pub handle: String,
    /// The `dev.pdev.hash` label.
    pub hash: String,
    /// The identity of its image or build, as the driver recorded it at creation.
    pub image: Option<String>,
    pub state: RunState,
    /// The address at which this machine reaches the unit directly instead of through its host port (a container's IP).
    pub address: Option<IpAddr>,
    /// Host ports in use, by port name.
    pub host_ports: BTreeMap<String, u16>,
    /// Unix milliseconds.
    pub started_at: Option<i64>,
    /// False when the container lost the preview's network.
    pub connected: bool,
    /// Only from runtimes that supervise their units.
    pub health: Option<ReportedHealth>,
}

/// The health of a unit as its runtime reports it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReportedHealth {
    pub is_ready: bool,
    pub replicas: Replicas,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replicas {
    pub wanted: u32,
    pub ready: u32,
}

/// A state that the runtime reports with a reason, for example that an image cannot be pulled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The runtime's own word: `ImagePullBackOff`.
    pub kind: String,
    pub message: String,
    /// True if waiting does not help.
    pub is_fatal: bool,
}

impl ReportedHealth {
    /// The condition that explains best why the unit is not ready, as text.
    #[must_use]
    pub fn reason(&self) -> String {
        let condition = self.conditions.iter().find(|condition| condition.is_fatal).or(self.conditions.first());
        match condition {
            Some(Condition { kind, message, .. }) if message.is_empty() => kind.clone(),
            Some(Condition { kind, message, .. }) => format!("{kind}: {message}"),
            None => format!("{} of {} replicas are ready", self.replicas.ready, self.replicas.wanted),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunState {
    /// Created, never started.
    Created,
    Running,
    Paused,
    Exited(Exit),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exit {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out_of_memory: bool,
    /// The runtime's message if it could not start at all (exec format error, no such file).
    pub error: Option<String>,
    /// Unix milliseconds.
    pub ended_at: Option<i64>,
}

impl Exit {
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0) && self.error.is_none()
    }
}

/// Which images are up to date and which have to be built or pulled. The driver reports this before the comparison,
/// because only the driver can hash a build context or query the engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Images {
    /// Unit -> identity of the image that exists and is up to date with the unit's source.
    pub current: BTreeMap<UnitName, String>,
    /// Unit -> why it has to be built or pulled (`context changed: src/main.py`, `not present`).
    pub stale: BTreeMap<UnitName, String>,
}
