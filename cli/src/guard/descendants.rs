//! The programs below this process: who they are, and their end. Linux only, as sessions are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use credentials::approval::ancestry::{ProcessTable, SystemProcesses};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::Signal as Signals;
use tokio::time::{Instant, timeout};

/// A program may take this long to put its things away.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// Beyond it somebody starts programs faster than they can be ended, or the disk hangs.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// All below this process. What was let go is adopted, so none of them gets out of sight.
fn list_descendants() -> Vec<Pid> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in pids.filter_map(|pid| SystemProcesses.process(pid)) {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let (mut found, mut next) = (Vec::new(), vec![rustix::process::getpid().as_raw_nonzero().get()]);
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(below.iter().filter_map(|pid| Pid::from_raw(*pid)));
        next.extend(below);
    }
    found
}

/// Takes note of children that ended; how `wanted` did, if it is among them.
pub(super) fn reap_children(wanted: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == wanted {
            ended = Some(status);
        }
    }
    ended
}

/// Ends everything below this process: asked first, then without asking.
pub(super) async fn terminate_all(wanted: Pid, children: &mut Signals) {
    let begun = Instant::now();
    let mut told = BTreeSet::new();
    while begun.elapsed() < KILL_TIMEOUT {
        let _known = reap_children(wanted);
        let left = list_descendants();
        if left.is_empty() {
            return;
        }
        let asks = begun.elapsed() < TERM_GRACE;
        for pid in left {
            if !asks {
                let _gone_is_fine = kill_process(pid, Signal::KILL);
            } else if told.insert(pid.as_raw_nonzero()) {
                let _gone_is_fine = kill_process(pid, Signal::TERM);
                // Stopped, it would not hear.
                let _gone_is_fine = kill_process(pid, Signal::CONT);
            }
        }
        drop(timeout(POLL_INTERVAL, children.recv()).await);
    }
}
