//! What the kernel says about processes: who a pid really is, who descends from whom, and signals that cannot hit a
//! stranger. Knows nothing of units or previews.
//!
//! A pid alone is never enough: pids are recycled, so every recorded process is (pid, kernel start time, boot id).

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// Name of the environment variable that marks every process a keeper started: `<keeper's nonce>.<slot>`.
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

    /// Alive and still the same process; a zombie is dead.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot == boot_id() && stat(self.pid).is_some_and(|stat| stat.start == self.start && stat.state != b'Z')
    }

    /// Signals this very process or nobody.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        signal_verified(self.pid, signal, |found| found.start == self.start) && self.boot == boot_id()
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

/// All processes of this machine at one moment.
pub(crate) struct ProcessTable(BTreeMap<i32, Stat>);

impl ProcessTable {
    pub(crate) fn read() -> Self {
        Self(all_pids().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stat> {
        self.0.values()
    }

    /// The given processes and everything below them.
    pub(crate) fn descendants(&self, roots: &[i32]) -> Vec<Stat> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for stat in self.0.values() {
            children.entry(stat.parent).or_default().push(stat.pid);
        }
        let (mut todo, mut seen) = (roots.to_vec(), BTreeSet::new());
        while let Some(pid) = todo.pop() {
            if seen.insert(pid) {
                todo.extend(children.get(&pid).into_iter().flatten());
            }
        }
        seen.iter().filter_map(|pid| self.0.get(pid).copied()).collect()
    }
}

/// Signals exactly the process that was seen, even when its pid was given away in between.
pub(crate) fn signal_process(seen: &Stat, signal: Signal) -> bool {
    signal_verified(seen.pid, signal, |found| found.start == seen.start)
}

/// `SIGTERM`, `TERM`, `term` and plain numbers.
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

    /// The program's name may hold spaces and parentheses, so fields are counted from the last `)`.
    pub(super) fn parse_stat(pid: i32, line: &[u8]) -> Option<Stat> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            pid,
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// The process is pinned by a descriptor first and looked at afterwards, so it cannot be exchanged in between.
    pub(super) fn signal_verified(pid: i32, signal: Signal, same: impl Fn(&Stat) -> bool) -> bool {
        let Some(pid) = Pid::from_raw(pid) else { return false };
        let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        stat(pid.as_raw_nonzero().get()).is_some_and(|found| same(&found)) && pidfd_send_signal(&pinned, signal).is_ok()
    }

    /// The value of the marker in a process's environment, when it may be read and was not overwritten.
    pub(crate) fn marker(pid: i32) -> Option<String> {
        let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
        environ.split(|byte| *byte == 0).find_map(|entry| {
            let entry = std::str::from_utf8(entry).ok()?;
            Some(entry.strip_prefix(MARKER)?.strip_prefix('=')?.to_owned())
        })
    }

    /// Children of the calling process, adopted ones too.
    pub(crate) fn own_children() -> Vec<i32> {
        let pid = std::process::id();
        match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
            Ok(list) => list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
            // Kernels without CONFIG_PROC_CHILDREN: the long way.
            Err(_) => super::ProcessTable::read()
                .iter()
                .filter(|stat| stat.parent == pid.cast_signed())
                .map(|s| s.pid)
                .collect(),
        }
    }
}

/// Without `/proc`, pidfd and subreaper only a process's own group can be followed: start times read as 0, so the
/// guard against recycled pids is the boot id and the keeper's lock alone. Compiled, not tested.
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

    pub(super) fn signal_verified(pid: i32, signal: Signal, _same: impl Fn(&Stat) -> bool) -> bool {
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

/// Signals every member of a process group whose leader is an unreaped child of ours, so the number is still its own.
pub(crate) fn signal_group(leader: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader) {
        // A group that is already empty is what was wanted.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_never_signalled() {
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
    fn names_with_parentheses_do_not_shift_the_fields() {
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
