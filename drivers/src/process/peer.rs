//! Whose connection it is, on the loopback: the kernel's table names the socket, `/proc/PID/fd` who holds it, and the
//! environment that the program was started with its keeper and unit.
//!
//! A program of the same user that wants to can pass for a unit; another user's cannot.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use super::kernel::{MARKER, all_pids};

/// Whether a process that the keeper with this nonce started for this unit holds the other end of a connection.
pub(super) fn peer_is_unit(nonce: &str, unit: &str, peer: SocketAddr, local: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let Some(inode) = find_socket_inode(&table, peer, local) else { return false };
    let link = format!("socket:[{inode}]");
    all_pids().into_iter().any(|pid| belongs_to_unit(pid, nonce, unit) && has_open_socket(pid, &link))
}

/// Whether a process that was started with this variable holds the other end of a connection.
#[must_use]
pub fn peer_has_variable(variable: &str, peer: SocketAddr, local: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let Some(inode) = find_socket_inode(&table, peer, local) else { return false };
    let link = format!("socket:[{inode}]");
    let has = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes())
    };
    all_pids().into_iter().any(|pid| has(pid) && has_open_socket(pid, &link))
}

/// The processes that hold the other end of a connection, whatever they say of themselves.
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
        let ends_meet = fields.next()? == peer && fields.next()? == local;
        ends_meet.then(|| fields.nth(6)?.parse().ok()).flatten()
    })
}

/// As the kernel writes an address: its bytes as a number of this machine, then the port.
fn kernel_address(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let ip: Ipv4Addr = *address.ip();
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

fn belongs_to_unit(pid: i32, nonce: &str, unit: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has = |mark: &str, whole: bool| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables
            .any(|variable| if whole { variable == mark.as_bytes() } else { variable.starts_with(mark.as_bytes()) })
    };
    has(&format!("{MARKER}={nonce}."), false) && has(&format!("PDEV_UNIT={unit}"), true)
}

fn has_open_socket(pid: i32, link: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
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
        let strangers = TcpStream::connect(local).unwrap();
        assert!(peer_is_unit("abc", "api", peer, local));
        assert_eq!(peer_pids(peer, local), [child.id().cast_signed()]);
        assert!(!peer_is_unit("abc", "web", peer, local));
        assert!(!peer_is_unit("ab", "api", peer, local));
        assert!(!peer_is_unit("abc", "ap", peer, local));
        assert!(!peer_is_unit("abc", "api", strangers.local_addr().unwrap(), local));
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
