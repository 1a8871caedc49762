//! Finds the process at the other end of a loopback connection. The kernel's TCP table identifies the socket,
//! `/proc/PID/fd` shows which process has it open, and the program's initial environment names its keeper and unit.
//!
//! A program of the same user can imitate a unit by setting these variables; a program of another user cannot.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use super::kernel::{MARKER, all_pids};

/// Whether the process at the other end of a connection was started for this unit by the keeper with this nonce.
pub(super) fn peer_is_unit(nonce: &str, unit: &str, peer: SocketAddr, local: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let Some(inode) = find_socket_inode(&table, peer, local) else { return false };
    let link = format!("socket:[{inode}]");
    // Check the environment first: reading the descriptors of every process costs more.
    all_pids().into_iter().any(|pid| belongs_to_unit(pid, nonce, unit) && has_open_socket(pid, &link))
}

/// Whether the process at the other end of a connection was started with this variable (`NAME=value`).
#[must_use]
pub fn peer_has_variable(variable: &str, peer: SocketAddr, local: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let Some(inode) = find_socket_inode(&table, peer, local) else { return false };
    let link = format!("socket:[{inode}]");
    let has_variable_set = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    all_pids().into_iter().any(|pid| has_variable_set(pid) && has_open_socket(pid, &link))
}

/// The processes at the other end of a connection, regardless of their environment.
#[must_use]
pub fn peer_pids(peer: SocketAddr, local: SocketAddr) -> Vec<i32> {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let Some(inode) = find_socket_inode(&table, peer, local) else { return Vec::new() };
    let link = format!("socket:[{inode}]");
    all_pids().into_iter().filter(|pid| has_open_socket(*pid, &link)).collect()
}

/// The inode of the socket at `peer` that is connected to `local`.
fn find_socket_inode(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u64> {
    let (peer, local) = (kernel_address(peer)?, kernel_address(local)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_match = fields.next()? == peer && fields.next()? == local;
        // The inode is column 9; the iterator is behind column 2.
        is_match.then(|| fields.nth(6)?.parse().ok()).flatten()
    })
}

/// The kernel's notation of an address: the address bytes as a native-endian number in hexadecimal, then the port.
fn kernel_address(address: SocketAddr) -> Option<String> {
    // The credential endpoints of both runtimes have IPv4 addresses, so IPv6 needs no support.
    let SocketAddr::V4(address) = address else { return None };
    let ip: Ipv4Addr = *address.ip();
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

fn belongs_to_unit(pid: i32, nonce: &str, unit: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has_mark = |mark: &str, exact: bool| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables
            .any(|variable| if exact { variable == mark.as_bytes() } else { variable.starts_with(mark.as_bytes()) })
    };
    // The dot ends the nonce, so a nonce that starts with this one does not match.
    has_mark(&format!("{MARKER}={nonce}."), false) && has_mark(&format!("PDEV_UNIT={unit}"), true)
}

fn has_open_socket(pid: i32, link: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn peer_matches_only_its_own_unit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let line = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r _ <&3", local.port());
        let mut child = Command::new("bash")
            .args(["-c", &line])
            .env(MARKER, "abc.3")
            .env("PDEV_UNIT", "api")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let other_stream = TcpStream::connect(local).unwrap();
        assert!(peer_is_unit("abc", "api", peer, local));
        assert_eq!(peer_pids(peer, local), [child.id().cast_signed()]);
        assert!(!peer_is_unit("abc", "web", peer, local));
        assert!(!peer_is_unit("ab", "api", peer, local));
        assert!(!peer_is_unit("abc", "ap", peer, local));
        assert!(!peer_is_unit("abc", "api", other_stream.local_addr().unwrap(), local));
        drop(stream);
        child.wait().unwrap();
    }

    #[test]
    fn socket_inode_is_found_in_kernel_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:C350 0100007F:4E20 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n";
        let (peer, local) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:20000".parse().unwrap());
        assert_eq!(find_socket_inode(table, peer, local), Some(4711));
        assert_eq!(find_socket_inode(table, local, peer), None);
    }
}
