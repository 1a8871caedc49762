//! Which unit a program belongs to. The process ancestry below the keeper decides; the marker in the environment, which
//! every program of the same user can copy, can only refuse.
//!
//! A program that leaves its unit's session and its parent is attributed by the marker alone. It is still below the
//! keeper, so it belongs to the same preview.

use std::net::SocketAddr;

use host::connections::peer_pids;
use host::ports::{Listener, find_listener, listening_ports, listens_on};
use host::processes::{descendants, environment, find};

use super::kernel::{MARKER, ProcessIdentity};
use super::record::{KeeperRecord, RecordStore, RecordedState};
use crate::capabilities::PortUse;

/// A child of the keeper may be adopted while the list of its programs is read.
const LOOKUPS_MAX: usize = 2;
const DEPTH_MAX: usize = 1024;

/// The first process of each running unit. It leads its own session, which no program of another unit can join.
pub(super) struct Leaders(Vec<(String, ProcessIdentity)>);

impl Leaders {
    pub(super) fn read(records: &RecordStore) -> Self {
        let running = records.read_units().unwrap_or_default().into_iter().filter_map(|record| match record.state {
            RecordedState::Running { process, .. } => Some((record.unit, process)),
            _ => None,
        });
        Self(running.filter(|(_, process)| process.is_alive()).collect())
    }

    fn unit_of(&self, leader: i32) -> Option<&str> {
        self.0.iter().find(|(_, process)| process.pid == leader).map(|(unit, _)| unit.as_str())
    }
}

/// Whether the process at the other end of a connection belongs to this unit of the keeper's preview.
pub(super) fn peer_is_unit(
    keeper: &KeeperRecord,
    leaders: &Leaders,
    unit: &str,
    peer: SocketAddr,
    local: SocketAddr,
) -> bool {
    let root = keeper.process.pid;
    (0..LOOKUPS_MAX).any(|_| {
        let programs = descendants(root);
        let mut peers = peer_pids(peer, local, |pid| pid != root && programs.contains(&pid));
        peers.any(|pid| is_program_of(pid, keeper, leaders, unit))
    })
}

fn is_program_of(pid: i32, keeper: &KeeperRecord, leaders: &Leaders, unit: &str) -> bool {
    match unit_by_ancestry(pid, keeper.process.pid, leaders) {
        // A program whose marker names another keeper or unit wants to be something else.
        Some(own) => own == unit && !has_other_marker(pid, &keeper.nonce, unit),
        None => belongs_to_unit(pid, &keeper.nonce, unit),
    }
}

/// The unit whose first process is an ancestor of this process, or leads the session of one.
fn unit_by_ancestry(pid: i32, keeper: i32, leaders: &Leaders) -> Option<&str> {
    let mut next = pid;
    for _ in 0..DEPTH_MAX {
        let process = find(next).filter(|process| process.pid != keeper && process.parent > 0)?;
        if let Some(unit) = leaders.unit_of(process.pid).or_else(|| leaders.unit_of(process.session)) {
            return Some(unit);
        }
        next = process.parent;
    }
    None
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

/// A program without a readable marker has none: some overwrite the memory of their environment.
fn has_other_marker(pid: i32, nonce: &str, unit: &str) -> bool {
    let environment = environment(pid);
    let differs = |name: &str, is_expected: &dyn Fn(&[u8]) -> bool| {
        let prefix = format!("{name}=");
        environment.iter().filter_map(|entry| entry.strip_prefix(prefix.as_bytes())).any(|value| !is_expected(value))
    };
    differs(MARKER, &|value| value.starts_with(format!("{nonce}.").as_bytes()))
        || differs("PDEV_UNIT", &|value| value == unit.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell below this process, which plays the keeper, connects and waits.
    struct Peer {
        listener: TcpListener,
        child: Child,
        address: SocketAddr,
        _stream: TcpStream,
    }

    impl Peer {
        fn connect(wrap: &str, variables: &[(&str, &str)]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let line = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r _ <&3", listener.local_addr().unwrap().port());
            let mut command = Command::new("bash");
            command.args(["-c", &wrap.replace("CONNECT", &line)]).envs(variables.iter().copied());
            let child = command.stdin(Stdio::null()).process_group(0).spawn().unwrap();
            let (stream, address) = listener.accept().unwrap();
            Self { listener, child, address, _stream: stream }
        }

        fn is_unit(&self, keeper: i32, leaders: &[(&str, i32)], unit: &str) -> bool {
            let identity = |pid| ProcessIdentity::of_pid(pid).unwrap();
            let keeper = KeeperRecord { process: identity(keeper), nonce: "abc".to_owned(), protocol: 1 };
            let leaders = Leaders(leaders.iter().map(|(unit, pid)| ((*unit).to_owned(), identity(*pid))).collect());
            peer_is_unit(&keeper, &leaders, unit, self.address, self.listener.local_addr().unwrap())
        }
    }

    impl Drop for Peer {
        fn drop(&mut self) {
            let group = rustix::process::Pid::from_child(&self.child);
            let _has_ended = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            drop(self.child.wait());
        }
    }

    const MARKS: [(&str, &str); 2] = [(MARKER, "abc.3"), ("PDEV_UNIT", "api")];

    #[test]
    fn descendants_of_unit_need_no_marker() {
        let own = std::process::id().cast_signed();
        // The connection is made by a child of the unit's first process, without its environment.
        let peer = Peer::connect("env -i bash -c 'CONNECT'; :", &MARKS);
        let leader = peer.child.id().cast_signed();
        assert!(peer.is_unit(own, &[("api", leader)], "api"));
        assert!(!peer.is_unit(own, &[("api", leader)], "web"));
    }

    #[test]
    fn copied_marker_does_not_make_a_unit() {
        let own = std::process::id().cast_signed();
        let peer = Peer::connect("CONNECT", &MARKS);
        let pid = peer.child.id().cast_signed();
        // Outside of the keeper's programs: a keeper without children.
        assert!(!peer.is_unit(pid, &[], "api"));
        // A program of another unit.
        assert!(!peer.is_unit(own, &[("web", pid)], "api"));
        // Its marker says that it is not of `web` either.
        assert!(!peer.is_unit(own, &[("web", pid)], "web"));
        // Neither this unit's process nor of its session, but started by the keeper: a command beside the unit.
        assert!(peer.is_unit(own, &[], "api") && !peer.is_unit(own, &[], "web"));
    }
}
