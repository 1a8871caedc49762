//! Which processes belong to a slot besides its first one, and how they are ended.
//!
//! Nothing leaves the keeper's tree: whoever loses its parent becomes the keeper's own child. Such an orphan is
//! attributed by its session (the slot's first process leads one) or by the marker in its environment.

use std::collections::BTreeSet;

use rustix::process::Signal;

use super::super::kernel::{self, ProcessTable, Stat};

/// One running or ending command: its first process and the marker of all that come from it.
pub(crate) struct ProcessTree<'a> {
    pub leader: i32,
    /// Not reaped yet: its pid is still its own.
    pub is_leader_alive: bool,
    pub marker: &'a str,
    /// First processes of all slots: never orphans themselves.
    pub leaders: &'a BTreeSet<i32>,
    /// No other slot is running, so what cannot be attributed is ours.
    pub is_only_slot: bool,
}

impl ProcessTree<'_> {
    /// Signals everything but the leader, or only what is outside its session, which has had the signal of an orderly
    /// stop already; true when there was nothing.
    pub(crate) fn signal_remaining(&self, told: Option<(Signal, bool)>) -> bool {
        let rest = self.remaining();
        if let Some((signal, outside_only)) = told {
            for stat in rest.iter().filter(|stat| !outside_only || stat.session != self.leader) {
                kernel::signal_process(stat, signal);
            }
        }
        rest.is_empty()
    }

    /// The cheap question comes first: after an ordinary exit the keeper has no child that it does not know.
    fn remaining(&self) -> Vec<Stat> {
        let orphans = kernel::own_children().into_iter().filter(|pid| !self.leaders.contains(pid));
        let mut roots: Vec<i32> = orphans.filter(|pid| self.owns_orphan(*pid)).collect();
        if self.is_leader_alive {
            roots.push(self.leader);
        }
        if roots.is_empty() {
            return Vec::new();
        }
        let mut rest = ProcessTable::read().descendants(&roots);
        rest.retain(|stat| stat.pid != self.leader && stat.state != b'Z');
        rest
    }

    fn owns_orphan(&self, orphan: i32) -> bool {
        let in_session = kernel::stat(orphan).is_some_and(|stat| stat.session == self.leader);
        match kernel::marker(orphan) {
            _ if in_session => true,
            Some(marker) => marker == self.marker,
            None => self.is_only_slot,
        }
    }
}
