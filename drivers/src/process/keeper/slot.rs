//! The state of one command under the keeper, until none of its processes is left. Only values and decisions, apart
//! from sending signals; the keeper does everything else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use host::clock::now_milliseconds;
use rustix::process::{Signal, WaitStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::kernel;
use super::super::record::{ExitRecord, StopRecord, UnitRecord};
use super::super::wire::Reply;
use super::orphans::ProcessTree;
use super::output::Log;

/// How long killed processes may take to disappear. A process that is stuck in the kernel must not block the slot
/// forever.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The remaining processes get the stop signal a second time, but not more: many programs treat it as "hurry".
const SECOND_SIGNAL_DELAY: Duration = Duration::from_millis(250);
/// How long the last output may take after every process is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// One command, from its start until none of its processes is left.
pub(super) struct Slot {
    pub(super) pid: i32,
    pub(super) marker: String,
    pub(super) role: Role,
    pub(super) phase: Phase,
    /// Number of pipes that are still copied to the log.
    pub(super) open_pipes: usize,
    /// Set by a stop request: when the remaining processes are killed.
    pub(super) kill_deadline: Option<Instant>,
    /// The deadline has passed and the kill was sent; the death of the first process arrives as SIGCHLD.
    pub(super) was_killed: bool,
    /// For processes outside the group, which have not received the signal. Sent when the first process has exited.
    pub(super) pending_signal_outside_group: Option<Signal>,
    /// For all processes that are left a moment later. A child that a shell was forking while the group was signalled
    /// may not have received the signal.
    pub(super) pending_second_signal: Option<(Instant, Signal)>,
    pub(super) waiters: Vec<oneshot::Sender<Reply>>,
    pub(super) should_remove: bool,
}

pub(super) enum Role {
    Unit {
        record: Box<UnitRecord>,
        log: Arc<Log>,
        started_at: i64,
    },
    Exec {
        reply: mpsc::Sender<Reply>,
        /// At most one command with this key runs.
        exclusive: Option<String>,
    },
}

pub(super) enum Phase {
    Running,
    /// The first process is reaped; the remaining ones are being ended, and the output is read to its end.
    Ending {
        exit: ExitRecord,
        since: Instant,
        empty_since: Option<Instant>,
    },
}

impl Slot {
    pub(super) fn new(pid: i32, marker: String, role: Role, open_pipes: usize) -> Self {
        Self {
            pid,
            marker,
            role,
            phase: Phase::Running,
            open_pipes,
            kill_deadline: None,
            was_killed: false,
            pending_signal_outside_group: None,
            pending_second_signal: None,
            waiters: Vec::new(),
            should_remove: false,
        }
    }

    pub(super) fn is_unit(&self, name: &str) -> bool {
        matches!(&self.role, Role::Unit { record, .. } if record.unit == name)
    }

    pub(super) fn has_exclusive_key(&self, key: &str) -> bool {
        matches!(&self.role, Role::Exec { exclusive: Some(own), .. } if own == key)
    }

    /// Signal and grace period of an orderly stop.
    pub(super) fn stop_signal_and_grace(&self, requested: Option<&StopRecord>) -> (Signal, Duration) {
        let stop = match (&self.role, requested) {
            (_, Some(stop)) => stop,
            (Role::Unit { record, .. }, None) => &record.stop,
            // A command has no stop settings; SIGHUP is what a closed terminal would send.
            (Role::Exec { .. }, None) => return (Signal::HUP, Duration::from_secs(1)),
        };
        (kernel::parse_signal(&stop.signal).unwrap_or(Signal::TERM), Duration::from_millis(stop.grace_milliseconds))
    }

    /// Starts an orderly stop. A second request may shorten the grace period but not extend it.
    pub(super) fn request_stop(&mut self, signal: Signal, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.kill_deadline = Some(self.kill_deadline.map_or(deadline, |previous| previous.min(deadline)));
        // Once the first process is reaped, its group number may be reused, so the group must not be signalled any
        // more.
        if matches!(self.phase, Phase::Running) {
            kernel::signal_group(self.pid, signal);
            self.pending_signal_outside_group = Some(signal);
            self.pending_second_signal = Some((Instant::now() + SECOND_SIGNAL_DELAY, signal));
        }
    }

    /// The signal to send now to processes that may still exit within the grace period. The flag limits it to processes
    /// outside the group.
    pub(super) fn take_due_signal(&mut self, now: Instant) -> Option<(Signal, bool)> {
        if let Some(signal) = self.pending_signal_outside_group.take() {
            return Some((signal, true));
        }
        let (_, signal) = self.pending_second_signal.take_if(|(at, _)| *at <= now)?;
        Some((signal, false))
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Running)
            && !self.was_killed
            && self.kill_deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn process_tree<'a>(&'a self, leaders: &'a BTreeSet<i32>, is_only_slot: bool) -> ProcessTree<'a> {
        let is_alive = matches!(self.phase, Phase::Running);
        ProcessTree { leader: self.pid, is_leader_alive: is_alive, marker: &self.marker, leaders, is_only_slot }
    }

    pub(super) fn check_finished(&mut self, is_empty: bool, now: Instant) -> bool {
        let open_pipes = self.open_pipes;
        let Phase::Ending { since, empty_since, .. } = &mut self.phase else { return false };
        if !is_empty {
            *empty_since = None;
            // The limit counts from the kill: until then, the processes may use their grace period.
            let kill_start = self.kill_deadline.map_or(*since, |deadline| deadline.max(*since));
            return now >= kill_start + KILL_TIMEOUT;
        }
        let empty_since = *empty_since.get_or_insert(now);
        // A process of another slot may hold a pipe open, so the wait for the last output is bounded.
        open_pipes == 0 || now >= empty_since + DRAIN_TIMEOUT
    }
}

pub(super) fn to_exit_record(status: WaitStatus) -> ExitRecord {
    ExitRecord {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        error: None,
        at: Some(now_milliseconds()),
    }
}
