//! The identity behind a pid, the marker of a keeper's processes, and signals that cannot reach the wrong process.
//! Knows nothing about units or previews.
//!
//! A pid alone is never enough, because pids are recycled: every recorded process is (pid, kernel start time, boot id).

use host::processes::{Process, boot_id, environment};
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
        Some(Self { pid, start: find(pid)?.start, boot: boot_id() })
    }

    /// True if the recorded process is alive. A zombie counts as dead.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot == boot_id() && find(self.pid).is_some_and(|found| found.start == self.start && !found.has_ended)
    }

    /// Signals the process only if it is still the recorded one.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        signal_verified(self.pid, signal, |actual| actual.start == self.start) && self.boot == boot_id()
    }
}

/// Signals exactly the process in `expected`, even if its pid was recycled in between.
pub(crate) fn signal_process(expected: &Process, signal: Signal) -> bool {
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

/// The value of the marker in a process's environment. `None` if it is not readable or the process overwrote it.
pub(crate) fn marker(pid: i32) -> Option<String> {
    environment(pid).iter().find_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        Some(entry.strip_prefix(MARKER)?.strip_prefix('=')?.to_owned())
    })
}

#[cfg(target_os = "linux")]
mod system {
    use host::processes::{self, Process};
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    pub(crate) fn find(pid: i32) -> Option<Process> {
        processes::find(pid)
    }

    /// Opens a pidfd first and then checks the process behind it, so the pid cannot be recycled in between.
    pub(super) fn signal_verified(pid: i32, signal: Signal, is_same: impl Fn(&Process) -> bool) -> bool {
        let Some(pid) = Pid::from_raw(pid) else { return false };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        find(pid.as_raw_nonzero().get()).is_some_and(|actual| is_same(&actual))
            && pidfd_send_signal(&pidfd, signal).is_ok()
    }
}

/// Other systems have no `/proc`, pidfd or subreaper, so only a process's own group can be followed. Start times are 0,
/// so only the keeper's lock protects against recycled pids. This module is compiled but not tested.
#[cfg(not(target_os = "linux"))]
mod system {
    use host::processes::Process;
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};

    pub(crate) fn find(pid: i32) -> Option<Process> {
        test_kill_process(Pid::from_raw(pid)?).ok()?;
        let name = String::new();
        Some(Process { pid, parent: 0, session: 0, terminal: 0, start: 0, name, has_ended: false })
    }

    pub(super) fn signal_verified(pid: i32, signal: Signal, _is_same: impl Fn(&Process) -> bool) -> bool {
        Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

pub(crate) use system::find;
use system::signal_verified;

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
    fn signals_are_parsed_from_names_and_numbers() {
        for (name, signal) in [("SIGTERM", Some(Signal::TERM)), ("int", Some(Signal::INT)), ("9", Some(Signal::KILL))] {
            assert_eq!(parse_signal(name), signal, "{name}");
        }
        assert_eq!(parse_signal("SIGNOPE"), None);
    }
}
