//! The processes of this machine, as the kernel reports them in `/proc`.
//!
//! A pid alone is never enough, because pids are recycled: pid and start time together identify a process until the
//! machine restarts. Other systems than Linux have no `/proc`, and no process is found there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    /// Device number of the controlling terminal; 0 without one.
    pub terminal: u64,
    /// Ticks since the machine started.
    pub start: u64,
    pub name: String,
    /// The main thread has ended. Other threads may still run, and the entry stays until the parent reads the status.
    pub has_ended: bool,
}

#[must_use]
pub fn find(pid: i32) -> Option<Process> {
    // Larger than any `stat` file with its 52 fields, so that a single read is enough: credential helpers wait for it.
    let mut stat = [0; 2048];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    parse_stat(pid, &stat[..length])
}

/// Whether a process with this pid runs, on every system. A recycled pid belongs to another process.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};
    let Some(valid_pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return false };
    // Another user's process may not be signalled, but it exists.
    let exists = matches!(test_kill_process(valid_pid), Ok(()) | Err(Errno::PERM));
    exists && find(pid).is_none_or(|process| !process.has_ended)
}

/// The program's name may contain spaces, parentheses and bytes that are no UTF-8, so fields are counted from the last
/// `)`.
fn parse_stat(pid: i32, line: &[u8]) -> Option<Process> {
    let name_start = line.iter().position(|byte| *byte == b'(')? + 1;
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(line.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    // The fields 3, 4, 6, 7 and 22 of proc(5); the vector starts with field 3.
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        // The kernel prints it as a signed number.
        terminal: u64::try_from(fields.get(4)?.parse::<i64>().ok()?).unwrap_or_default(),
        start: fields.get(19)?.parse().ok()?,
        name: String::from_utf8_lossy(line.get(name_start..name_end)?).into_owned(),
        has_ended: matches!(fields.first(), Some(&("Z" | "X"))),
    })
}

#[must_use]
pub fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A snapshot of all processes. It is not consistent: processes start and end while it is read.
pub struct ProcessTable(BTreeMap<i32, Process>);

impl ProcessTable {
    #[must_use]
    pub fn read() -> Self {
        Self(all_pids().into_iter().filter_map(|pid| Some((pid, find(pid)?))).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.0.values()
    }

    /// The given processes and all their descendants.
    #[must_use]
    pub fn descendants(&self, roots: &[i32]) -> Vec<Process> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for process in self.0.values() {
            children.entry(process.parent).or_default().push(process.pid);
        }
        let (mut pending, mut visited) = (roots.to_vec(), BTreeSet::new());
        while let Some(pid) = pending.pop() {
            // In an inconsistent snapshot, a recycled pid can create a cycle.
            if visited.insert(pid) {
                pending.extend(children.get(&pid).into_iter().flatten());
            }
        }
        visited.iter().filter_map(|pid| self.0.get(pid).cloned()).collect()
    }
}

/// Children of the calling process, including adopted ones. The caller must have only one thread.
#[must_use]
pub fn own_children() -> Vec<i32> {
    let pid = std::process::id().cast_signed();
    children_of_thread(pid, pid).unwrap_or_else(|| {
        let table = ProcessTable::read();
        table.iter().filter(|process| process.parent == pid).map(|process| process.pid).collect()
    })
}

/// `None` on kernels without CONFIG_PROC_CHILDREN, which have no such file.
fn children_of_thread(pid: i32, thread: i32) -> Option<Vec<i32>> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok()?;
    Some(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The descendants of a process. Reads only files of these processes if the kernel has lists of children.
#[must_use]
pub fn descendants(root: i32) -> Vec<i32> {
    if children_of_thread(root, root).is_none() {
        return ProcessTable::read().descendants(&[root]).iter().map(|process| process.pid).collect();
    }
    let mut found = Vec::new();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for child in threads.filter_map(|thread| children_of_thread(pid, thread)).flatten() {
            // A recycled pid may make a process appear twice.
            if !found.contains(&child) {
                found.push(child);
                pending.push(child);
            }
        }
    }
    found
}

/// Texts that are separated by NUL bytes in one file of `/proc`.
pub struct NulSeparated(Vec<u8>);

impl NulSeparated {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == 0)
    }
}

/// The command line of a process; empty if the process has ended, is a zombie, or belongs to the kernel.
#[must_use]
pub fn command_line(pid: i32) -> NulSeparated {
    NulSeparated(fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
}

/// The environment with which a process was started, as `NAME=value`; empty if it may not be read. The process can
/// overwrite it.
#[must_use]
pub fn environment(pid: i32) -> NulSeparated {
    NulSeparated(fs::read(format!("/proc/{pid}/environ")).unwrap_or_default())
}

/// The path of the program that a process runs. `None` if it may not be read.
#[must_use]
pub fn executable(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The link target of a socket in `/proc/PID/fd`.
pub(crate) fn socket_name(inode: u64) -> String {
    format!("socket:[{inode}]")
}

/// Whether the process has one of these sockets open, each written as `socket:[INODE]`.
pub(crate) fn has_open_socket(pid: i32, sockets: &[String]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| {
        let Ok(target) = fs::read_link(descriptor.path()) else { return false };
        sockets.iter().any(|socket| Path::new(socket) == target)
    })
}

/// Identifies this run of the machine; empty if the system does not tell.
#[must_use]
pub fn boot_id() -> String {
    // Read once, because the id cannot change while this process runs.
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned());
    BOOT.get_or_init(|| read().unwrap_or_default()).clone()
}

/// Ticks since the machine started, the unit of [`Process::start`].
#[must_use]
pub fn uptime_ticks() -> u64 {
    /// `USER_HZ`, the unit of times in `/proc`. It is 100 on every Linux in practical use.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ticks are small and positive")]
    let ticks = (seconds * TICKS_PER_SECOND) as u64;
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_and_other_bytes_in_program_name_do_not_shift_fields() {
        let line = b"7 (a) b (c\xff) S 1 7 5 34817 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let expected = Process {
            pid: 7,
            parent: 1,
            session: 5,
            terminal: 34817,
            start: 4242,
            name: "a) b (c\u{fffd}".to_owned(),
            has_ended: false,
        };
        assert_eq!(parse_stat(7, line), Some(expected));
        assert_eq!(parse_stat(7, b"7 (x) Z 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn own_process_is_found_with_parent_and_start() {
        let own = std::process::id().cast_signed();
        let process = find(own).unwrap();
        assert_eq!(process.parent.cast_unsigned(), std::os::unix::process::parent_id());
        assert!(process.start > 0 && !process.has_ended && uptime_ticks() >= process.start);
        assert!(find(1).is_none_or(|first| first.start <= process.start));
        assert_eq!(find(i32::MAX), None);
        assert_eq!(executable(own), std::env::current_exe().ok());
        let first = std::env::args().next().unwrap();
        assert_eq!(command_line(own).iter().next(), Some(first.as_bytes()));
    }

    #[test]
    fn descendants_include_roots_and_grandchildren() {
        let process = |pid, parent| {
            let process =
                Process { pid, parent, session: 1, terminal: 0, start: 1, name: String::new(), has_ended: false };
            (pid, process)
        };
        // 7 and 8 are each other's parent: the snapshot saw a recycled pid.
        let table =
            ProcessTable(BTreeMap::from([process(2, 1), process(3, 2), process(4, 3), process(7, 8), process(8, 7)]));
        let pids = |roots: &[i32]| table.descendants(roots).iter().map(|process| process.pid).collect::<Vec<_>>();
        assert_eq!(pids(&[2]), [2, 3, 4]);
        assert_eq!(pids(&[7]), [7, 8]);
        assert_eq!(pids(&[99]), [0; 0]);
    }
}
