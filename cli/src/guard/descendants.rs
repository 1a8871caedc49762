//! Finds and ends all descendants of this process. Linux only, like sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use host::processes::ProcessTable;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::Signal as Signals;
use tokio::time::{Instant, timeout};

/// The time between SIGTERM and SIGKILL, in which programs can clean up.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// The limit of the termination. If it expires, a program starts processes faster than they can be killed, or a process
/// hangs in disk access.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// All descendants of this process. It is a subreaper, so detached descendants remain in the list.
fn list_descendants() -> Vec<Pid> {
    let own_pid = rustix::process::getpid();
    let all = ProcessTable::read().descendants(&[own_pid.as_raw_nonzero().get()]);
    all.iter().filter_map(|process| Pid::from_raw(process.pid)).filter(|pid| *pid != own_pid).collect()
}

/// Reaps all children that have ended, including adopted ones. Returns the status of `child` if it is one of them.
pub(super) fn reap_children(child: Pid) -> Option<WaitStatus> {
    let mut child_status = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            child_status = Some(status);
        }
    }
    child_status
}

/// Ends all descendants of this process: SIGTERM first, SIGKILL after a grace period.
pub(super) async fn terminate_all(child: Pid, child_signals: &mut Signals) {
    let started_at = Instant::now();
    let mut terminated = BTreeSet::new();
    // The list is read again in each round, because the programs may start others until they end.
    while started_at.elapsed() < KILL_TIMEOUT {
        let _already_known = reap_children(child);
        let remaining = list_descendants();
        if remaining.is_empty() {
            return;
        }
        let in_grace_period = started_at.elapsed() < TERM_GRACE;
        // Errors are ignored: the process has already ended.
        for pid in remaining {
            if !in_grace_period {
                let _has_ended = kill_process(pid, Signal::KILL);
            } else if terminated.insert(pid.as_raw_nonzero()) {
                let _has_ended = kill_process(pid, Signal::TERM);
                // A stopped process handles SIGTERM only after it continues.
                let _has_ended = kill_process(pid, Signal::CONT);
            }
        }
        drop(timeout(POLL_INTERVAL, child_signals.recv()).await);
    }
}
