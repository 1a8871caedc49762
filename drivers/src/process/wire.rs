//! What keeper and driver say to one another: one JSON line each way, one request per connection.
//!
//! The keeper greets first, so a driver of another version learns whom it met before it asks for anything. A keeper
//! outlives upgrades of pdev: fields are only ever added, unknown ones are ignored, and [`PROTOCOL`] changes only
//! when old and new cannot understand each other.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::record::{ExitRecord, StopRecord, UnitRecord};

pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Longest line either side accepts: an environment of a few hundred kilobytes is legal on Linux.
pub(crate) const LINE_MAX: usize = 4 * 1024 * 1024;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    pub pdev_keeper: u32,
    pub nonce: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Request {
    Start {
        record: Box<UnitRecord>,
        spawn: Box<SpawnSpec>,
    },
    Stop {
        unit: String,
        /// What the manifest says now; else as it was when the unit started.
        stop: Option<StopRecord>,
    },
    Remove {
        unit: String,
    },
    Follow,
    /// Tells whenever the unit's log grew.
    Output {
        unit: String,
    },
    /// With two or three descriptors attached: standard input, output and error.
    Exec {
        spawn: Box<SpawnSpec>,
    },
}

/// A program ready to be executed: nothing left to resolve.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnSpec {
    pub program: OsString,
    pub arguments: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub dir: OsString,
    pub account: Option<Account>,
    /// Standard input is a terminal and becomes the controlling one.
    pub terminal: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Started {
        started_at: i64,
    },
    /// Events follow.
    Following,
    /// The command ended.
    Exited {
        exit: ExitRecord,
    },
    /// The operating system refused to start the program.
    SpawnFailed {
        errno: i32,
    },
    Failed {
        message: String,
    },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Started {
        unit: String,
        handle: String,
    },
    Exited {
        unit: String,
        handle: String,
        exit: ExitRecord,
    },
    /// The asker was too slow; it should observe afresh.
    Missed,
    Wrote,
    /// The unit ended and all its output is in the file.
    OutputEnded,
}
