//! Finds the processes of a slot other than its first one, and signals them.
//!
//! No process leaves the keeper's tree: a process that loses its parent becomes the keeper's own child. Such an orphan
//! is attributed to a slot by its session (the slot's first process leads one) or by the marker in its environment.

use std::collections::BTreeSet;

use host::processes::{Process, ProcessTable, own_children};
use rustix::process::Signal;

use super::super::kernel;

/// The processes of one running or ending command: its first process, and all its descendants by their marker.
pub(crate) struct ProcessTree<'a> {
    pub leader: i32,
    /// The leader is not reaped yet, so its pid still belongs to it.
    pub is_leader_alive: bool,
    pub marker: &'a str,
    /// The first processes of all slots; these are never orphans.
    pub leaders: &'a BTreeSet<i32>,
    /// No other slot is running, so orphans without a marker belong to this one.
    pub is_only_slot: bool,
}

impl ProcessTree<'_> {
    /// Signals all processes but the leader. With `outside_only`, skips the leader's session, which already received
    /// the signal of an orderly stop. Returns true if no process was left.
    pub(crate) fn signal_remaining(&self, signal: Option<(Signal, bool)>) -> bool {
        let remaining = self.remaining();
        if let Some((signal, outside_only)) = signal {
            for process in remaining.iter().filter(|process| !outside_only || process.session != self.leader) {
                kernel::signal_process(process, signal);
            }
        }
        remaining.is_empty()
    }

    /// Checks the keeper's own children first, which is cheap: after an ordinary exit there are no unknown ones.
    fn remaining(&self) -> Vec<Process> {
        let orphans = own_children().into_iter().filter(|pid| !self.leaders.contains(pid));
        let mut roots: Vec<i32> = orphans.filter(|pid| self.owns_orphan(*pid)).collect();
        if self.is_leader_alive {
            roots.push(self.leader);
        }
        if roots.is_empty() {
            return Vec::new();
        }
        let mut remaining = ProcessTable::read().descendants(&roots);
        // Zombies need no signal: their parent or the keeper reaps them.
        remaining.retain(|process| process.pid != self.leader && !process.has_ended);
        remaining
    }

    fn owns_orphan(&self, orphan: i32) -> bool {
        let in_session = kernel::find(orphan).is_some_and(|process| process.session == self.leader);
        match kernel::marker(orphan) {
            // The session is the best evidence: a program can clear its environment, but it cannot join another
            // session.
            _ if in_session => true,
            Some(marker) => marker == self.marker,
            // Without a marker, the orphan can be attributed only if there is no other slot.
            None => self.is_only_slot,
        }
    }
}
