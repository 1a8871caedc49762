//! Asks the kernel for TCP sockets over netlink (sock_diag(7), `linux/inet_diag.h`).
//!
//! Reading `/proc/net/tcp` walks the kernel's whole table of connections, whose size depends on the machine's memory: 5 ms
//! with 24 GiB. The kernel finds listening sockets and one connection by its addresses in 0.02 ms.
//! A function returns `None` if the kernel refuses netlink, for example in a sandbox; then `/proc` is the only source.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// A TCP socket of this network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TcpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// As in the link target `socket:[INODE]` in `/proc/PID/fd`.
    pub(crate) inode: u64,
}

const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
const PROTOCOL_TCP: u8 = 6;
/// `1 << TCP_LISTEN`
const LISTENING: u32 = 1 << 10;
const ALL_STATES: u32 = u32::MAX;
/// `SOCK_DIAG_BY_FAMILY`
const MESSAGE_TYPE: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
/// The size of `struct nlmsghdr`.
const HEADER_SIZE: usize = 16;
/// The size of `struct inet_diag_msg`.
const ENTRY_SIZE: usize = 72;
/// The kernel answers at once; this only bounds a wait that should not exist.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// All listening TCP sockets.
pub(crate) fn listening_sockets() -> Option<Vec<TcpSocket>> {
    let mut found = Vec::new();
    for family in [FAMILY_V4, FAMILY_V6] {
        query(&request(family, LISTENING, NLM_F_REQUEST | NLM_F_DUMP, [0; 48]), &mut found).ok()?;
    }
    Some(found)
}

/// The sockets that are connected from `local` to `remote`: one or none.
pub(crate) fn connected_sockets(local: SocketAddr, remote: SocketAddr) -> Option<Vec<TcpSocket>> {
    let mut id = [0; 48];
    let (family, local_bytes) = address_bytes(local.ip());
    let (remote_family, remote_bytes) = address_bytes(remote.ip());
    if family != remote_family {
        return Some(Vec::new());
    }
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    id[4..20].copy_from_slice(&local_bytes);
    id[20..36].copy_from_slice(&remote_bytes);
    // `INET_DIAG_NOCOOKIE`: the kernel compares no cookie.
    id[40..48].fill(0xff);
    let mut found = Vec::new();
    match query(&request(family, ALL_STATES, NLM_F_REQUEST, id), &mut found) {
        // Without such a connection the kernel reports the socket that listens on the local address.
        Ok(()) => found.retain(|socket| socket.local == local && socket.remote == remote),
        Err(Errno::NOENT) => found.clear(),
        Err(_) => return None,
    }
    Some(found)
}

fn address_bytes(ip: IpAddr) -> (u8, [u8; 16]) {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            (FAMILY_V4, bytes)
        }
        IpAddr::V6(ip) => (FAMILY_V6, ip.octets()),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`. `id` is `struct inet_diag_sockid`.
fn request(family: u8, states: u32, flags: u16, id: [u8; 48]) -> Vec<u8> {
    const SIZE: u32 = 16 + 8 + 48;
    let mut message = Vec::with_capacity(SIZE as usize);
    message.extend(SIZE.to_ne_bytes());
    message.extend(MESSAGE_TYPE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // The sequence number and the sender's port, which the kernel fills in.
    message.extend([0; 8]);
    message.extend([family, PROTOCOL_TCP, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    message
}

fn query(message: &[u8], found: &mut Vec<TcpSocket>) -> Result<(), Errno> {
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
    rustix::net::send(&socket, message, SendFlags::empty())?;
    let is_dump = message.get(6..8) == Some(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes()[..]);
    // The kernel sends messages of at most 32 KiB (netlink(7)).
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if length == 0 || parse_messages(&buffer[..length], found)? || !is_dump {
            return Ok(());
        }
    }
}

/// Adds the sockets in one datagram. Returns true after the last message of a dump.
fn parse_messages(mut datagram: &[u8], found: &mut Vec<TcpSocket>) -> Result<bool, Errno> {
    while let Some(header) = datagram.get(..HEADER_SIZE) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = datagram.get(HEADER_SIZE..length).ok_or(Errno::BADMSG)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(parse_error(body)),
            MESSAGE_TYPE => found.extend(parse_entry(body)),
            _ => {}
        }
        // Messages start at multiples of 4 bytes.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn parse_error(body: &[u8]) -> Errno {
    let negative = body.get(..4).and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?)));
    negative.map_or(Errno::BADMSG, |code| Errno::from_raw_os_error(-code))
}

fn parse_entry(entry: &[u8]) -> Option<TcpSocket> {
    let entry = entry.get(..ENTRY_SIZE)?;
    let address = |port_at: usize, address_at: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(entry.get(port_at..port_at + 2)?.try_into().ok()?);
        let bytes: [u8; 16] = entry.get(address_at..address_at + 16)?.try_into().ok()?;
        let ip = match entry[0] {
            FAMILY_V4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            // A dual-stack socket that is connected over IPv4 has mapped addresses.
            _ => Ipv6Addr::from(bytes).to_canonical(),
        };
        Some(SocketAddr::new(ip, port))
    };
    let inode = u32::from_ne_bytes(entry.get(68..72)?.try_into().ok()?);
    Some(TcpSocket { local: address(4, 8)?, remote: address(6, 24)?, inode: u64::from(inode) })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn listening_sockets_of_both_families_are_found() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0");
        let ports = || listening_sockets().unwrap().iter().map(|socket| socket.local).collect::<Vec<_>>();
        assert!(ports().contains(&v4.local_addr().unwrap()));
        if let Ok(v6) = v6 {
            assert!(ports().contains(&v6.local_addr().unwrap()));
        }
        let address = v4.local_addr().unwrap();
        drop(v4);
        assert!(!ports().contains(&address));
    }

    #[test]
    fn connection_is_found_by_its_addresses_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let address = client.local_addr().unwrap();
        let found = connected_sockets(address, server).unwrap();
        assert_eq!(found.iter().map(|socket| (socket.local, socket.remote)).collect::<Vec<_>>(), [(address, server)]);
        // The listening socket is no connection, although the kernel offers it.
        let unconnected = SocketAddr::new(server.ip(), 1);
        assert_eq!(connected_sockets(server, unconnected), Some(Vec::new()));
    }

    #[test]
    fn truncated_messages_are_errors() {
        let mut found = Vec::new();
        assert_eq!(
            parse_messages(&[80, 0, 0, 0, 20, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], &mut found),
            Err(Errno::BADMSG)
        );
        assert!(found.is_empty() && parse_entry(&[2; 71]).is_none());
    }
}
