//! Reads the parent and the start time of a process from the process table (Linux only).

use std::fs::File;
use std::io::Read;

/// Reads a field of `/proc/PID/stat`. Field 0 is the state, the first field after the process name. The name may
/// contain spaces and brackets, so the search starts at its last closing bracket.
fn stat_field(pid: i32, number: usize) -> Option<u64> {
    // Larger than any `stat` file with its 52 fields, so that a single read is enough: a credential helper waits for
    // it.
    let mut stat = [0; 2048];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    let name_end = stat[..length].iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..length]).ok()?;
    fields.split_ascii_whitespace().nth(number)?.parse().ok()
}

pub(crate) fn parent_pid(pid: i32) -> Option<i32> {
    stat_field(pid, 1).and_then(|pid| i32::try_from(pid).ok())
}

/// The start time in ticks since the kernel booted. Together with the pid it identifies the process uniquely.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    stat_field(pid, 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_start_of_this_process_are_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent_pid(own).map(i32::unsigned_abs), Some(std::os::unix::process::parent_id()));
        assert!(start_ticks(own).is_some_and(|ticks| ticks > 0) && start_ticks(own) >= start_ticks(1));
        assert_eq!(parent_pid(i32::MAX), None);
    }
}
