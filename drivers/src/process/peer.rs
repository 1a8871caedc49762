//! Whether a program belongs to a unit: the initial environment of a keeper's process names its keeper and unit.
//!
//! A program of the same user can imitate a unit by setting these variables; a program of another user cannot.

use std::net::SocketAddr;

use host::connections::peer_pids;
use host::ports::{Listener, find_listener, listening_ports, listens_on};
use host::processes::{descendants, environment};

use super::kernel::MARKER;
use super::record::KeeperRecord;
use crate::driver::PortUse;

/// Whether the process at the other end of a connection was started for this unit by the keeper with this nonce.
pub(super) fn peer_is_unit(nonce: &str, unit: &str, peer: SocketAddr, local: SocketAddr) -> bool {
    peer_pids(peer, local, |pid| belongs_to_unit(pid, nonce, unit)).next().is_some()
}

/// Who listens on a port that belongs to this unit.
///
/// `leader` is the process that the keeper started for the unit. It listens itself in most units, and then the process
/// table need not be read, which takes milliseconds.
pub(super) fn port_use(keeper: &KeeperRecord, unit: &str, leader: Option<i32>, port: u16) -> PortUse {
    if leader.is_some_and(|leader| listens_on(leader, port)) {
        return PortUse { listener: Listener::Expected, unit_ports: vec![port] };
    }
    // The keeper adopts programs that detach from their parent. Descent is checked first because it is cheap, and because
    // some programs overwrite the memory of their environment (postgres and nginx, to show their state in `ps`).
    let programs = descendants(keeper.process.pid);
    let is_program = |pid: &i32| belongs_to_unit(*pid, &keeper.nonce, unit);
    let listener = find_listener(port, &programs, |pid| is_program(&pid));
    let unit_programs: Vec<i32> = programs.into_iter().filter(is_program).collect();
    PortUse { listener, unit_ports: listening_ports(&unit_programs) }
}

fn belongs_to_unit(pid: i32, nonce: &str, unit: &str) -> bool {
    let environment = environment(pid);
    // The dot ends the nonce, so a nonce that starts with this one does not match.
    let (marker, unit) = (format!("{MARKER}={nonce}."), format!("PDEV_UNIT={unit}"));
    environment.iter().any(|entry| entry.starts_with(marker.as_bytes()))
        && environment.iter().any(|entry| entry == unit.as_bytes())
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
        assert!(!peer_is_unit("abc", "web", peer, local));
        assert!(!peer_is_unit("ab", "api", peer, local));
        assert!(!peer_is_unit("abc", "ap", peer, local));
        assert!(!peer_is_unit("abc", "api", other_stream.local_addr().unwrap(), local));
        drop(stream);
        child.wait().unwrap();
    }
}
