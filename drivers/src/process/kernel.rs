//! Facts about processes from the kernel: the identity behind a pid, descendants, and signals that cannot reach the
//! wrong process. Knows nothing about units or previews.
//!
//! A pid alone is never enough, because pids are recycled: every recorded process is (pid, kernel start time, boot id).

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// Name of the environment variable that marks every process that a keeper started: `<keeper's nonce>.<slot>`.
pub(crate) const MARKER: &str = "PDEV_KEEPER";

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
    pub boot: String,
}

impl ProcessIdentity {
    pub(crate) fn of_pid(pid: i32) -> Option<Self> {
        Some(Self { pid, start: stat(pid)?.start, boot: boot_id() })
    }

    /// True if the recorded process is alive. A zombie counts as dead.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot == boot_id() && stat(self.pid).is_some_and(|stat| stat.start == self.start && stat.state != b'Z')
    }

    /// Signals the process only if it is still the recorded one.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        signal_verified(self.pid, signal, |actual| actual.start == self.start) && self.boot == boot_id()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stat {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    pub state: u8,
    pub start: u64,
}

/// A snapshot of all processes of this machine.
pub(crate) struct ProcessTable(BTreeMap<i32, Stat>);

impl ProcessTable {
    pub(crate) fn read() -> Self {
        Self(all_pids().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stat> {
        self.0.values()
    }

    /// The given processes and all their descendants.
    pub(crate) fn descendants(&self, roots: &[i32]) -> Vec<Stat> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for stat in self.0.values() {
            children.entry(stat.parent).or_default().push(stat.pid);
        }
        let (mut pending, mut visited) = (roots.to_vec(), BTreeSet::new());
        while let Some(pid) = pending.pop() {
            // The table is not a consistent snapshot, so a recycled pid can create a cycle.
            if visited.insert(pid) {
                pending.extend(children.get(&pid).into_iter().flatten());
            }
        }
        visited.iter().filter_map(|pid| self.0.get(pid).copied()).collect()
    }
}

/// Signals exactly the process in `expected`, even if its pid was recycled in between.
pub(crate) fn signal_process(expected: &Stat, signal: Signal) -> bool {
    signal_verified(expected.pid, signal, |actual| actual.start == expected.start)
}

/// Accepts `SIGTERM`, `TERM`, `term` and plain numbers.
pub(crate) fn parse_signal(name: &str) -> Option<Signal> {
    let upper = name.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return Signal::from_named_raw(number);
    }
    Some(match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "QUIT" => Signal::QUIT,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        "ABRT" => Signal::ABORT,
        _ => return None,
    })
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::sync::OnceLock;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::{MARKER, Stat};

    pub(crate) fn boot_id() -> String {
        // Read once, because the id cannot change while this process runs.
        static BOOT: OnceLock<String> = OnceLock::new();
        BOOT.get_or_init(|| {
            fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
        })
        .clone()
    }

    pub(crate) fn all_pids() -> Vec<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    pub(crate) fn stat(pid: i32) -> Option<Stat> {
        parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name may contain spaces and parentheses, so fields are counted from the last `)`.
    pub(super) fn parse_stat(pid: i32, line: &[u8]) -> Option<Stat> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        // The fields 3, 4, 6 and 22 of proc(5); the vector starts with field 3.
        Some(Stat {
            pid,
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// Opens a pidfd first and then checks the process behind it, so the pid cannot be recycled in between.
    pub(super) fn signal_verified(pid: i32, signal: Signal, is_same: impl Fn(&Stat) -> bool) -> bool {
        let Some(pid) = Pid::from_raw(pid) else { return false };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        stat(pid.as_raw_nonzero().get()).is_some_and(|actual| is_same(&actual))
            && pidfd_send_signal(&pidfd, signal).is_ok()
    }

    /// The value of the marker in a process's environment. `None` if it is not readable or the process overwrote it.
    pub(crate) fn marker(pid: i32) -> Option<String> {
        let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
        environ.split(|byte| *byte == 0).find_map(|entry| {
            let entry = std::str::from_utf8(entry).ok()?;
            Some(entry.strip_prefix(MARKER)?.strip_prefix('=')?.to_owned())
        })
    }

    /// Children of the calling process, including adopted ones.
    pub(crate) fn own_children() -> Vec<i32> {
        // The file lists the children of one thread. The keeper has only one.
        let pid = std::process::id();
        match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
            Ok(list) => list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
            // Kernels without CONFIG_PROC_CHILDREN have no such file; scan all processes instead.
            Err(_) => super::ProcessTable::read()
                .iter()
                .filter(|stat| stat.parent == pid.cast_signed())
                .map(|s| s.pid)
                .collect(),
        }
    }
}

/// Other systems have no `/proc`, pidfd or subreaper, so only a process's own group can be followed. Start times are 0,
/// so only the boot id and the keeper's lock protect against recycled pids. This module is compiled but not tested.
#[cfg(not(target_os = "linux"))]
mod system {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};

    use super::Stat;

    pub(crate) fn boot_id() -> String {
        String::new()
    }

    pub(crate) fn all_pids() -> Vec<i32> {
        Vec::new()
    }

    pub(crate) fn stat(pid: i32) -> Option<Stat> {
        test_kill_process(Pid::from_raw(pid)?).ok()?;
        Some(Stat { pid, parent: 0, session: 0, state: b'S', start: 0 })
    }

    pub(super) fn signal_verified(pid: i32, signal: Signal, _is_same: impl Fn(&Stat) -> bool) -> bool {
        Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    pub(crate) fn marker(_pid: i32) -> Option<String> {
        None
    }

    pub(crate) fn own_children() -> Vec<i32> {
        Vec::new()
    }
}

pub(crate) use system::all_pids;
use system::signal_verified;
pub(crate) use system::{boot_id, marker, own_children, stat};

/// Signals a process group. Its leader must be an unreaped child of the caller, so that the number still names the
/// group.
pub(crate) fn signal_group(leader: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader) {
        // An error means that the group is already empty, which is the goal.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn recycled_pid_is_never_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep exists");
        let real = ProcessIdentity::of_pid(child.id().cast_signed()).expect("child lives");
        let recycled = ProcessIdentity { start: real.start + 1, ..real.clone() };
        assert!(!recycled.is_alive() && !recycled.signal(Signal::KILL));
        let other_boot = ProcessIdentity { boot: "another".to_owned(), ..real.clone() };
        assert!(!other_boot.is_alive());
        assert!(real.is_alive() && real.signal(Signal::KILL));
        assert!(!child.wait().expect("reaped").success());
        assert!(!real.is_alive());
    }

    #[test]
    fn parentheses_in_program_name_do_not_shift_fields() {
        let line = b"7 (a) b (c) S 1 7 5 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = system::parse_stat(7, line).expect("well formed");
        assert_eq!(stat, Stat { pid: 7, parent: 1, session: 5, state: b'S', start: 4242 });
    }

    #[test]
    fn signals_are_parsed_from_names_and_numbers() {
        for (name, signal) in [("SIGTERM", Some(Signal::TERM)), ("int", Some(Signal::INT)), ("9", Some(Signal::KILL))] {
            assert_eq!(parse_signal(name), signal, "{name}");
        }
        assert_eq!(parse_signal("SIGNOPE"), None);
    }
}
