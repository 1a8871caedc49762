//! Finds the process that listens on a port of this machine, for messages about ports in use.
//!
//! Only asks the kernel: binds, connects and signals nothing. Processes of other users are found if the kernel permits.
//! On other systems than Linux, no process is found.

use std::fmt;
use std::fs;

use crate::processes::{self, all_pids, has_open_socket, socket_name};
#[cfg(target_os = "linux")]
use crate::socket_diag;

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
    let sockets = listening_sockets(port);
    if sockets.is_empty() { None } else { find_socket_owner(&sockets) }
}

fn find_socket_owner(sockets: &[String]) -> Option<PortOwner> {
    // Forked servers share the socket, so several processes may match. The oldest one is usually the parent; pids are no
    // indication of age, because they start again from the lowest one.
    let owners = all_pids().into_iter().filter(|pid| has_open_socket(*pid, sockets));
    let pid = owners.min_by_key(|pid| (processes::find(*pid).map_or(u64::MAX, |process| process.start), *pid))?;
    Some(PortOwner { pid: pid.cast_unsigned(), command: short_command_line(pid).unwrap_or_else(|| "?".to_owned()) })
}

/// Who listens on a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listener {
    Absent,
    /// One of the expected processes.
    Expected,
    Other(PortOwner),
    /// The kernel does not show this user whose socket it is.
    Hidden,
}

/// Who listens on this TCP port. `expected` are probable owners; `is_expected` decides about all others, and is called
/// only if none of the first is an owner.
pub fn find_listener(port: u16, expected: &[i32], is_expected: impl Fn(i32) -> bool) -> Listener {
    let sockets = listening_sockets(port);
    if sockets.is_empty() {
        return Listener::Absent;
    }
    if expected.iter().any(|pid| has_open_socket(*pid, &sockets)) {
        return Listener::Expected;
    }
    match find_socket_owner(&sockets) {
        Some(owner) if is_expected(owner.pid.cast_signed()) => Listener::Expected,
        Some(owner) => Listener::Other(owner),
        None => Listener::Hidden,
    }
}

/// Whether this process listens on this TCP port. It reads only the descriptors of this one process.
#[must_use]
pub fn listens_on(pid: i32, port: u16) -> bool {
    let sockets = listening_sockets(port);
    !sockets.is_empty() && has_open_socket(pid, &sockets)
}

/// The TCP ports on which these processes listen, in order.
#[must_use]
pub fn listening_ports(pids: &[i32]) -> Vec<u16> {
    let mut found = std::collections::BTreeSet::new();
    for (port, socket) in all_listening_sockets() {
        let socket = [socket];
        if !found.contains(&port) && pids.iter().any(|pid| has_open_socket(*pid, &socket)) {
            found.insert(port);
        }
    }
    found.into_iter().collect()
}

/// The names in `/proc/PID/fd` of the sockets that listen on a port.
fn listening_sockets(port: u16) -> Vec<String> {
    all_listening_sockets().into_iter().filter(|(listening, _)| *listening == port).map(|(_, socket)| socket).collect()
}

/// The ports of all listening sockets, and the sockets' names in `/proc/PID/fd`.
fn all_listening_sockets() -> Vec<(u16, String)> {
    #[cfg(target_os = "linux")]
    if let Some(sockets) = socket_diag::listening_sockets() {
        return sockets.iter().map(|socket| (socket.local.port(), socket_name(socket.inode))).collect();
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|table| listening_entries(table)).collect()
}

/// The state LISTEN.
const LISTENING_STATE: &str = "0A";

/// The ports of the sockets in state LISTEN, and their names in `/proc/PID/fd`.
fn listening_entries(table: &str) -> impl Iterator<Item = (u16, String)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let inode: u64 = fields.get(9)?.parse().ok()?;
        let port = u16::from_str_radix(hex, 16).ok()?;
        (*fields.get(3)? == LISTENING_STATE).then(|| (port, socket_name(inode)))
    })
}

/// An address on which a program listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListeningAddress {
    pub port: u16,
    pub is_loopback: bool,
}

/// The listening sockets in the text of `/proc/net/tcp` and `/proc/net/tcp6`, for example of a container.
#[must_use]
pub fn listening_addresses(tables: &str) -> Vec<ListeningAddress> {
    // The kernel writes addresses as hexadecimal words in the byte order of the machine.
    const LOOPBACK_V6: &str = "00000000000000000000000001000000";
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, port) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let is_v4_mapped = address.starts_with("0000000000000000FFFF0000");
        let is_loopback = match address.len() {
            8 => address.ends_with("7F"),
            _ if is_v4_mapped => address.ends_with("7F"),
            _ => address == LOOPBACK_V6,
        };
        (*fields.get(3)? == LISTENING_STATE).then_some(ListeningAddress { port, is_loopback })
    };
    tables.lines().filter_map(parse).collect()
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
    fn listening_entries_skip_other_states() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1\n\
             1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 4712 1\n\
             2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4713 1\n";
        let entries: Vec<_> = listening_entries(table).collect();
        assert_eq!(entries, [(8080, "socket:[4711]".to_owned()), (8081, "socket:[4713]".to_owned())]);
    }

    #[test]
    fn loopback_addresses_are_recognised() {
        let header = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let line = |address: &str, state: &str| format!("   0: {address} 00000000:0000 {state} 00000000:00000000\n");
        let cases = [
            ("0100007F:1F90", true),
            ("0B00007F:A3C1", true),
            ("00000000:1F90", false),
            ("020011AC:1F90", false),
            ("00000000000000000000000000000000:1F90", false),
            ("00000000000000000000000001000000:1F90", true),
            ("0000000000000000FFFF00000100007F:1F90", true),
        ];
        for (address, is_loopback) in cases {
            let found = listening_addresses(&(header.to_owned() + &line(address, "0A") + &line(address, "01")));
            assert_eq!(found.iter().map(|found| found.is_loopback).collect::<Vec<_>>(), [is_loopback], "{address}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn listener_is_expected_other_or_absent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let own_pid = std::process::id().cast_signed();
        assert!(listens_on(own_pid, port) && !listens_on(1, port));
        assert_eq!(find_listener(port, &[own_pid], |_| false), Listener::Expected);
        assert_eq!(find_listener(port, &[], |pid| pid == own_pid), Listener::Expected);
        assert!(
            matches!(find_listener(port, &[], |_| false), Listener::Other(owner) if owner.pid == std::process::id())
        );
        assert!(listening_ports(&[own_pid]).contains(&port));
        drop(listener);
        assert_eq!(find_listener(port, &[own_pid], |_| false), Listener::Absent);
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
