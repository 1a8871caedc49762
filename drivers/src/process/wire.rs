//! The protocol between keeper and driver: one JSON line each way, one request per connection.
//!
//! The keeper sends a greeting first, so a driver of another version detects the mismatch before it sends a request. A
//! keeper outlives upgrades of pdev: new versions only add fields and ignore unknown ones. [`PROTOCOL_VERSION`] changes
//! only when old and new versions cannot understand each other.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plan::shell_environment::ShellEnvironment;
use serde::{Deserialize, Serialize};

use super::record::{ExitRecord, StopRecord, UnitRecord};

pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Printed on standard output once the socket accepts connections. Standard output is closed afterwards.
pub(crate) const READY: &str = "ready";
/// Printed instead if another keeper runs for this preview.
pub(crate) const BUSY: &str = "busy";

/// Environment variable with the soft limit of open files for the keeper and its programs.
pub(crate) const DESCRIPTOR_LIMIT_ENV: &str = "PDEV_KEEPER_DESCRIPTORS";

pub(crate) fn socket_path(runtime: &Path) -> PathBuf {
    runtime.join("keeper.sock")
}

/// Longest line that either side accepts: an environment of a few hundred kilobytes is legal on Linux.
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
        /// Held in the keeper's memory for the next agent, and never written to a file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shell_environment: Option<ShellEnvironment>,
    },
    /// The environment of the last `Start` that had one.
    ShellEnvironment,
    Stop {
        unit: String,
        /// Stop settings from the current manifest; `None` uses those from the unit's start.
        stop: Option<StopRecord>,
    },
    Remove {
        unit: String,
    },
    Follow,
    /// Sends an event whenever the unit's log grows.
    Output {
        unit: String,
    },
    /// The message carries three descriptors: standard input, output and error.
    Exec {
        spawn: Box<SpawnSpec>,
        /// A command with the same key that still runs is ended first. Its client is gone: a client has at most one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exclusive: Option<String>,
    },
}

/// A program that is ready to be executed, with every path and variable resolved.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnSpec {
    pub program: OsString,
    pub arguments: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub dir: OsString,
    pub account: Option<Account>,
    /// Standard input is a terminal, and becomes the controlling terminal.
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
    /// The subscription is active; events follow.
    Following,
    ShellEnvironment {
        environment: Option<ShellEnvironment>,
    },
    /// The command of an `Exec` request ended.
    Exited {
        exit: ExitRecord,
    },
    /// The operating system failed to start the program.
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
    /// The client was too slow and missed events; it must observe again.
    Missed,
    /// The unit's log grew.
    Wrote,
    /// The unit ended and its log file is complete.
    OutputEnded,
}
