//! Two facts of the process table: whose child a process is, and when it began.

/// The fields of `/proc/PID/stat` after the name, which may hold spaces and brackets; the first is the state.
fn field(pid: i32, number: usize) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(number)?.parse().ok()
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    field(pid, 1).and_then(|pid| i32::try_from(pid).ok())
}

/// In ticks since the kernel booted; with the pid it names a process for good.
pub(crate) fn started(pid: i32) -> Option<u64> {
    field(pid, 19)
}
