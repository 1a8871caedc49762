//! Detects port conflicts: before a start by binding, and after a crash from the program's own output.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

use host::ports::find_port_owner;
use plan::application::Unit;

use crate::problem::{Problem, ProblemKind};

/// Checks that no program listens on the unit's ports, immediately before the start. Checks both loopback families,
/// because a server on `::1` alone breaks probes, too. A port that is only bound (pdev reserves it for this unit)
/// counts as free, and so does a port in TIME_WAIT: the standard library sets `SO_REUSEADDR` on listeners.
pub(super) fn check_ports(unit: &Unit) -> Result<(), Problem> {
    for (name, port) in &unit.ports {
        let attempts = [
            TcpListener::bind((Ipv4Addr::LOCALHOST, port.host_port)),
            TcpListener::bind((Ipv6Addr::LOCALHOST, port.host_port)),
        ];
        for attempt in attempts {
            // Other errors, such as a machine without IPv6, do not indicate a conflict.
            if attempt.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                return Err(port_taken_problem(unit, name, port.host_port));
            }
        }
    }
    Ok(())
}

fn port_taken_problem(unit: &Unit, name: &str, port: u16) -> Problem {
    let port_label = if name == "main" { "port".to_owned() } else { format!("port `{name}`") };
    let owner_note = find_port_owner(port).map(|owner| owner.to_string()).unwrap_or_default();
    let message = format!("{port_label} `{port}` of `{}` is taken{owner_note}", unit.name);
    Problem::new(ProblemKind::PortTaken, message).hint("End the program that listens there, or choose another port.")
}

/// Number of bytes to search at the end of the log.
const LOG_TAIL_BYTES: u64 = 4096;

/// Finds the program's own error message about an address in use. Ignores lines from before `started_at`.
pub(super) fn find_address_in_use_error(log: &Path, started_at: i64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // Search backwards, because the last error is the most likely reason for the exit. A line that the seek cut in half
    // has no valid time and is skipped.
    text.lines().rev().find_map(|line| {
        let mut parts = line.splitn(3, ' ');
        let timestamp: i64 = parts.next()?.parse().ok()?;
        let message_text = parts.nth(1)?.trim();
        let lower = message_text.to_ascii_lowercase();
        let is_conflict = lower.contains("address already in use") || lower.contains("eaddrinuse");
        (timestamp >= started_at && is_conflict).then(|| message_text.chars().take(300).collect())
    })
}
