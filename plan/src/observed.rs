//! What a driver sees of one preview right now, found by label. A value: observing changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::application::{RuntimeKind, UnitName};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    pub units: BTreeMap<UnitName, ObservedUnit>,
    /// Second and further objects that claim the same unit (an interrupted recreate): always removed.
    pub strays: Vec<ObservedUnit>,
    /// Present networks of the preview; normally none or one.
    pub networks: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ObservedUnit {
    pub name: UnitName,
    pub runtime: RuntimeKind,
    /// The driver's own handle: container id, keeper's unit id.
    pub handle: String,
    /// The `dev.pdev.hash` label.
    pub hash: String,
    /// The identity of what it was built or pulled from, as the driver recorded it at creation.
    pub image: Option<String>,
    pub state: RunState,
    /// Where the unit is reached directly from this machine, when not by its host port (a container's own address).
    pub address: Option<IpAddr>,
    /// Host ports in use, by port name.
    pub host_ports: BTreeMap<String, u16>,
    /// Unix milliseconds.
    pub started_at: Option<i64>,
    /// False when the container lost the preview's network.
    pub connected: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunState {
    /// Made, never started.
    Created,
    Running,
    Paused,
    Exited(Exit),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exit {
    /// None when ended by a signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out_of_memory: bool,
    /// The runtime's own words when it could not start at all (exec format error, no such file).
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

/// What an image would be if it were built or pulled now; asked of the driver before comparing, because only it can
/// hash a build context or ask the engine. Absent entries mean "not present and has to be made".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Images {
    /// Unit -> identity of the image that is there and up to date for this unit's source.
    pub current: BTreeMap<UnitName, String>,
    /// Unit -> why it has to be built or pulled (`context changed: src/main.py`, `not present`).
    pub stale: BTreeMap<UnitName, String>,
}
