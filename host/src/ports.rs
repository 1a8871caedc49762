//! Finds the process that listens on a port of this machine, for messages about ports in use.
//!
//! Only reads `/proc`: binds, connects and signals nothing. Processes of other users are found if the kernel permits.
//! On other systems than Linux, no process is found.

use std::fmt;
use std::fs;

use crate::processes::{self, all_pids, has_open_socket};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortOwner {
    pub pid: u32,
    /// The command line, shortened.
    pub command: String,
}

/// Formatted to follow the words "is taken" in a message.
impl fmt::Display for PortOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, " by `{}` (pid {})", self.command, self.pid)
    }
}

/// Long enough to recognise a program in a message; users do not read the full command line there.
const COMMAND_MAX: usize = 80;

/// The process that listens on this TCP port, on any address.
#[must_use]
pub fn find_port_owner(port: u16) -> Option<PortOwner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| listening_inodes(table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    // Forked servers share the socket, so several processes may match. The oldest one is usually the parent; pids are no
    // indication of age, because they start again from the lowest one.
    let owners = all_pids().into_iter().filter(|pid| has_open_socket(*pid, &inodes));
    let pid = owners.min_by_key(|pid| (processes::find(*pid).map_or(u64::MAX, |process| process.start), *pid))?;
    Some(PortOwner { pid: pid.cast_unsigned(), command: short_command_line(pid).unwrap_or_else(|| "?".to_owned()) })
}

/// Inodes of the sockets in state LISTEN on this port.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode_of = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let is_match = u16::from_str_radix(hex, 16) == Ok(port) && *fields.get(3)? == LISTEN;
        is_match.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(inode_of).collect()
}

fn short_command_line(pid: i32) -> Option<String> {
    let line = processes::command_line(pid);
    let words = line.iter().filter(|word| !word.is_empty());
    let text = words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned());
    }
    if text.chars().count() <= COMMAND_MAX {
        return Some(text);
    }
    Some(text.chars().take(COMMAND_MAX - 1).chain(['…']).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_inodes_skips_other_ports_and_states() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1\n\
             1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 4712 1\n\
             2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4713 1\n";
        assert_eq!(listening_inodes(table, 8080), [4711]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn finds_own_process_as_port_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert_eq!(find_port_owner(port).map(|owner| owner.pid), Some(std::process::id()));
        drop(listener);
        assert_eq!(find_port_owner(port), None);
    }
}
