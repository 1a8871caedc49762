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
use super::super::wire::Answer;
use super::orphans::Family;
use super::output::{Log, now_milliseconds};

/// How long killed processes may take to be gone (one stuck in the kernel cannot be waited for).
const DYING_MAX: Duration = Duration::from_secs(5);
/// After the first signal the rest gets it once more, not again and again: programs take a second one for "hurry".
const AGAIN: Duration = Duration::from_millis(250);
/// How long the last output may take once every process is gone.
const DRAINING_MAX: Duration = Duration::from_millis(500);
/// One command from its start until nothing of it is left.
pub(super) struct Slot {
    pub(super) pid: i32,
    pub(super) marker: String,
    pub(super) role: Role,
    pub(super) phase: Phase,
    /// Pipes still being copied.
    pub(super) pipes: usize,
    /// Asked to stop: everything still there is killed then.
    pub(super) kill_at: Option<Instant>,
    /// That time has come; its death will announce itself.
    pub(super) killed: bool,
    /// For those outside the group, who have not heard the signal; said when the first process is gone.
    pub(super) farewell_to_rest: Option<Signal>,
    /// For everything that is still there a moment later: what a shell was forking when the group was signalled may
    /// have come into being too late to hear it.
    pub(super) farewell_again: Option<(Instant, Signal)>,
    pub(super) waiters: Vec<oneshot::Sender<Answer>>,
    pub(super) remove: bool,
}

pub(super) enum Role {
    Unit { record: Box<UnitRecord>, log: Arc<Log>, started_at: i64 },
    Exec { reply: mpsc::Sender<Answer> },
}

pub(super) enum Phase {
    Up,
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
            phase: Phase::Up,
            pipes,
            kill_at: None,
            killed: false,
            farewell_to_rest: None,
            farewell_again: None,
            waiters: Vec::new(),
            remove: false,
        }
    }

    pub(super) fn is_unit(&self, name: &str) -> bool {
        matches!(&self.role, Role::Unit { record, .. } if record.unit == name)
    }

    /// Signal and grace of an orderly stop.
    pub(super) fn farewell(&self, asked: Option<&StopRecord>) -> (Signal, Duration) {
        let stop = match (&self.role, asked) {
            (_, Some(stop)) => stop,
            (Role::Unit { record, .. }, None) => &record.stop,
            (Role::Exec { .. }, None) => return (Signal::HUP, Duration::from_secs(1)),
        };
        (kernel::signal_named(&stop.signal).unwrap_or(Signal::TERM), Duration::from_millis(stop.grace_milliseconds))
    }

    /// A second request may shorten the grace, never extend it.
    pub(super) fn ask_to_end(&mut self, signal: Signal, grace: Duration) {
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        if matches!(self.phase, Phase::Up) {
            kernel::signal_group(self.pid, signal);
            self.farewell_to_rest = Some(signal);
            self.farewell_again = Some((Instant::now() + AGAIN, signal));
        }
    }

    /// The signal that what is left gets now, while it may still end by itself, and whether all of it gets it or only
    /// what stands outside the group.
    pub(super) fn farewell_now(&mut self, now: Instant) -> Option<(Signal, bool)> {
        if let Some(signal) = self.farewell_to_rest.take() {
            return Some((signal, true));
        }
        let (_, signal) = self.farewell_again.take_if(|(at, _)| *at <= now)?;
        Some((signal, false))
    }

    pub(super) fn overdue(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Up) && !self.killed && self.kill_at.is_some_and(|at| at <= now)
    }

    pub(super) fn family<'a>(&'a self, leaders: &'a BTreeSet<i32>, alone: bool) -> Family<'a> {
        let lives = matches!(self.phase, Phase::Up);
        Family { leader: self.pid, lives, marker: &self.marker, leaders, alone }
    }

    pub(super) fn over(&mut self, empty: bool, now: Instant) -> bool {
        let pipes = self.pipes;
        let Phase::Ending { since, empty_since, .. } = &mut self.phase else { return false };
        if !empty {
            *empty_since = None;
            // Only counts once the killing has begun.
            let from = self.kill_at.map_or(*since, |at| at.max(*since));
            return now >= from + DYING_MAX;
        }
        let empty_since = *empty_since.get_or_insert(now);
        pipes == 0 || now >= empty_since + DRAINING_MAX
    }
}

pub(super) fn exit_of(status: WaitStatus) -> ExitRecord {
    ExitRecord {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        error: None,
        at: Some(now_milliseconds()),
    }
}
