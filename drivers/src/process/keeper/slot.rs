//! One command under the keeper, from its start until nothing of it is left. Values and decisions only: the signals go
//! out here, everything else is done by the keeper.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, WaitStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::kernel;
use super::super::record::{ExitRecord, StopRecord, UnitRecord};
use super::super::wire::Reply;
use super::orphans::ProcessTree;
use super::output::{Log, now_milliseconds};

/// How long killed processes may take to be gone (one stuck in the kernel cannot be waited for).
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// After the first signal the rest gets it once more, not again and again: programs take a second one for "hurry".
const SECOND_SIGNAL_DELAY: Duration = Duration::from_millis(250);
/// How long the last output may take once every process is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// One command from its start until nothing of it is left.
pub(super) struct Slot {
    pub(super) pid: i32,
    pub(super) marker: String,
    pub(super) role: Role,
    pub(super) phase: Phase,
    /// Pipes still being copied.
    pub(super) open_pipes: usize,
    /// Asked to stop: everything still there is killed then.
    pub(super) kill_deadline: Option<Instant>,
    /// That time has come; its death will announce itself.
    pub(super) was_killed: bool,
    /// For those outside the group, who have not heard the signal; said when the first process is gone.
    pub(super) pending_signal_outside_group: Option<Signal>,
    /// For everything that is still there a moment later: what a shell was forking when the group was signalled may
    /// have come into being too late to hear it.
    pub(super) pending_second_signal: Option<(Instant, Signal)>,
    pub(super) waiters: Vec<oneshot::Sender<Reply>>,
    pub(super) should_remove: bool,
}

pub(super) enum Role {
    Unit { record: Box<UnitRecord>, log: Arc<Log>, started_at: i64 },
    Exec { reply: mpsc::Sender<Reply> },
}

pub(super) enum Phase {
    Running,
    /// The first process is reaped; the rest is being ended and the output read to its end.
    Ending {
        exit: ExitRecord,
        since: Instant,
        empty_since: Option<Instant>,
    },
}

impl Slot {
    pub(super) fn new(pid: i32, marker: String, role: Role, pipes: usize) -> Self {
        Self {
            pid,
            marker,
            role,
            phase: Phase::Running,
            open_pipes: pipes,
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

    /// Signal and grace of an orderly stop.
    pub(super) fn stop_signal_and_grace(&self, asked: Option<&StopRecord>) -> (Signal, Duration) {
        let stop = match (&self.role, asked) {
            (_, Some(stop)) => stop,
            (Role::Unit { record, .. }, None) => &record.stop,
            (Role::Exec { .. }, None) => return (Signal::HUP, Duration::from_secs(1)),
        };
        (kernel::parse_signal(&stop.signal).unwrap_or(Signal::TERM), Duration::from_millis(stop.grace_milliseconds))
    }

    /// A second request may shorten the grace, never extend it.
    pub(super) fn request_stop(&mut self, signal: Signal, grace: Duration) {
        let at = Instant::now() + grace;
        self.kill_deadline = Some(self.kill_deadline.map_or(at, |before| before.min(at)));
        if matches!(self.phase, Phase::Running) {
            kernel::signal_group(self.pid, signal);
            self.pending_signal_outside_group = Some(signal);
            self.pending_second_signal = Some((Instant::now() + SECOND_SIGNAL_DELAY, signal));
        }
    }

    /// The signal that what is left gets now, while it may still end by itself, and whether all of it gets it or only
    /// what stands outside the group.
    pub(super) fn take_due_signal(&mut self, now: Instant) -> Option<(Signal, bool)> {
        if let Some(signal) = self.pending_signal_outside_group.take() {
            return Some((signal, true));
        }
        let (_, signal) = self.pending_second_signal.take_if(|(at, _)| *at <= now)?;
        Some((signal, false))
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Running) && !self.was_killed && self.kill_deadline.is_some_and(|at| at <= now)
    }

    pub(super) fn process_tree<'a>(&'a self, leaders: &'a BTreeSet<i32>, alone: bool) -> ProcessTree<'a> {
        let lives = matches!(self.phase, Phase::Running);
        ProcessTree { leader: self.pid, is_leader_alive: lives, marker: &self.marker, leaders, is_only_slot: alone }
    }

    pub(super) fn check_finished(&mut self, empty: bool, now: Instant) -> bool {
        let pipes = self.open_pipes;
        let Phase::Ending { since, empty_since, .. } = &mut self.phase else { return false };
        if !empty {
            *empty_since = None;
            // Only counts once the killing has begun.
            let from = self.kill_deadline.map_or(*since, |at| at.max(*since));
            return now >= from + KILL_TIMEOUT;
        }
        let empty_since = *empty_since.get_or_insert(now);
        pipes == 0 || now >= empty_since + DRAIN_TIMEOUT
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
