//! Is somebody else already listening where this unit is to be reached?

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

use plan::application::Unit;

use crate::driver::{Problem, ProblemKind};
use crate::ports;

/// Asked immediately before the start, on both loopback families: a server on `::1` alone breaks probes just as well.
/// A port that is merely bound (pdev holds it for this unit) is not taken, and neither is one in TIME_WAIT.
pub(super) fn check_ports(unit: &Unit) -> Result<(), Problem> {
    for (name, port) in &unit.ports {
        let attempts = [
            TcpListener::bind((Ipv4Addr::LOCALHOST, port.host_port)),
            TcpListener::bind((Ipv6Addr::LOCALHOST, port.host_port)),
        ];
        for attempt in attempts {
            if attempt.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                return Err(port_taken_problem(unit, name, port.host_port));
            }
        }
    }
    Ok(())
}

fn port_taken_problem(unit: &Unit, name: &str, port: u16) -> Problem {
    let which = if name == "main" { "port".to_owned() } else { format!("port `{name}`") };
    let by = ports::find_port_owner(port).map(|holder| holder.to_string()).unwrap_or_default();
    let message = format!("{which} `{port}` of `{}` is taken{by}", unit.name);
    Problem::new(ProblemKind::PortTaken, message).hint("End the program that listens there, or choose another port.")
}

/// How much of the log's end is looked at.
const LOG_TAIL_BYTES: u64 = 4096;

/// A program that ended with a complaint about a taken port, in its own words. Lines of earlier runs do not count.
pub(super) fn find_address_in_use_error(log: &Path, started_at: i64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find_map(|line| {
        let mut parts = line.splitn(3, ' ');
        let at: i64 = parts.next()?.parse().ok()?;
        let words = parts.nth(1)?.trim();
        let lower = words.to_ascii_lowercase();
        let complains = lower.contains("address already in use") || lower.contains("eaddrinuse");
        (at >= started_at && complains).then(|| words.chars().take(300).collect())
    })
}
