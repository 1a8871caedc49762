//! Finds the process at the other end of a loopback connection. The kernel's TCP table identifies the socket, and
//! `/proc/PID/fd` shows which processes have it open.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use crate::processes::{all_pids, has_open_socket, socket_name};
#[cfg(target_os = "linux")]
use crate::socket_diag;

/// The processes at the other end of a connection, of those that `is_candidate` accepts.
///
/// Candidates are selected first, because reading the descriptors of every process costs more.
pub fn peer_pids(peer: SocketAddr, local: SocketAddr, is_candidate: impl Fn(i32) -> bool) -> impl Iterator<Item = i32> {
    let sockets = socket_names(peer, local);
    let pids = if sockets.is_empty() { Vec::new() } else { all_pids() };
    pids.into_iter().filter(move |pid| is_candidate(*pid) && has_open_socket(*pid, &sockets))
}

/// The names in `/proc/PID/fd` of the sockets at `peer` that are connected to `local`: one or none.
fn socket_names(peer: SocketAddr, local: SocketAddr) -> Vec<String> {
    #[cfg(target_os = "linux")]
    if let Some(sockets) = socket_diag::connected_sockets(peer, local) {
        return sockets.iter().map(|socket| socket_name(socket.inode)).collect();
    }
    // Dual-stack sockets, such as those of Java, are in the second table.
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().find_map(|table| find_socket_inode(table, peer, local)).map(socket_name).into_iter().collect()
}

/// The inode of the socket at `peer` that is connected to `local`.
fn find_socket_inode(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u64> {
    let (peer, local) = (kernel_address(peer)?, kernel_address(local)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_match = without_mapping(fields.next()?) == peer && without_mapping(fields.next()?) == local;
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

/// Removes the prefix `::ffff:` of an IPv4 address in the table of IPv6 sockets.
fn without_mapping(address: &str) -> &str {
    address.strip_prefix("0000000000000000FFFF0000").unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn peer_is_found_among_candidates_only() {
        use std::net::{TcpListener, TcpStream};
        use std::process::{Command, Stdio};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let line = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r _ <&3", local.port());
        let mut child = Command::new("bash").args(["-c", &line]).stdin(Stdio::null()).spawn().unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let other_stream = TcpStream::connect(local).unwrap();
        let other = other_stream.local_addr().unwrap();
        let (own_pid, child_pid) = (std::process::id().cast_signed(), child.id().cast_signed());
        assert_eq!(peer_pids(peer, local, |_| true).collect::<Vec<_>>(), [child_pid]);
        assert_eq!(peer_pids(peer, local, |pid| pid == own_pid).next(), None);
        assert_eq!(peer_pids(other, local, |_| true).collect::<Vec<_>>(), [own_pid]);
        drop(stream);
        child.wait().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn dual_stack_peer_is_found() {
        use std::net::{Ipv6Addr, TcpListener};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let SocketAddr::V4(v4) = local else { panic!("an IPv4 address") };
        let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
        let family = rustix::net::AddressFamily::INET6;
        let client = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
        if rustix::net::bind(&client, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).is_err() {
            eprintln!("this machine has no IPv6");
            return;
        }
        rustix::net::connect(&client, &mapped).unwrap();
        let (_stream, peer) = listener.accept().unwrap();
        let own_pid = std::process::id().cast_signed();
        assert_eq!(peer_pids(peer, local, |pid| pid == own_pid).collect::<Vec<_>>(), [own_pid]);
    }

    #[test]
    fn socket_inode_is_found_in_kernel_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:C350 0100007F:4E20 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n";
        let (peer, local) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:20000".parse().unwrap());
        assert_eq!(find_socket_inode(table, peer, local), Some(4711));
        assert_eq!(find_socket_inode(table, local, peer), None);
        let mapped = table.replace(" 0100007F", " 0000000000000000FFFF00000100007F");
        assert_eq!(find_socket_inode(&mapped, peer, local), Some(4711));
    }
}
