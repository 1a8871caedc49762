//! The status of one preview as clients see it. Only its actor and the tasks of that actor write it.
//!
//! The lock is held for a few field accesses, never across an `await`. Waiting uses a version channel.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::EventKind;
use protocol::Problem;
use protocol::status::{PreviewRef, PreviewState, PreviewStatus, UnitState, UnitStatus};
use tokio::sync::watch;

use crate::bus::Bus;

pub struct PublishedStatus {
    bus: Bus,
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Clone, Default)]
struct Inner {
    status: PreviewStatus,
    units: BTreeMap<String, UnitStatus>,
    problems: BTreeMap<String, Problem>,
    operation: Option<u64>,
    /// The state that a running operation sets. Without it, the state is derived from the units.
    phase: Option<PreviewState>,
}

impl PublishedStatus {
    #[must_use]
    pub fn new(bus: Bus, preview: PreviewRef, folder: String) -> Self {
        let status = PreviewStatus { preview, folder, folder_present: true, ..PreviewStatus::default() };
        Self { bus, inner: Mutex::new(Inner { status, ..Inner::default() }), version: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump_version(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    #[must_use]
    pub fn preview(&self) -> PreviewRef {
        self.lock().status.preview.clone()
    }

    #[must_use]
    pub fn status(&self) -> PreviewStatus {
        let inner = self.lock();
        let mut status = inner.status.clone();
        status.units = inner.units.values().cloned().collect();
        status.problems = inner.problems.values().cloned().collect();
        status.state = inner.phase.unwrap_or_else(|| overall_state(&inner.units));
        status
    }

    #[must_use]
    pub fn unit_status(&self, name: &str) -> Option<UnitStatus> {
        self.lock().units.get(name).cloned()
    }

    pub fn edit_preview(&self, change: impl FnOnce(&mut PreviewStatus)) {
        change(&mut self.lock().status);
        self.bump_version();
    }

    /// Begins an operation on these units; on all if the list is empty. Events carry its id until it ends. The problems of
    /// other units stay, because nothing changes for them.
    pub fn begin_operation(&self, operation: u64, phase: PreviewState, units: &[String]) {
        let mut inner = self.lock();
        inner.operation = Some(operation);
        inner.phase = Some(phase);
        inner.problems.retain(|unit, _| !unit.is_empty() && !units.is_empty() && !units.contains(unit));
        drop(inner);
        self.bump_version();
    }

    /// Ends the operation. Pass a `phase` only if the state cannot be derived from the units (a failed `up` that
    /// started none).
    pub fn end_operation(&self, phase: Option<PreviewState>) {
        let mut inner = self.lock();
        inner.operation = None;
        inner.phase = phase;
        drop(inner);
        self.bump_version();
    }

    #[must_use]
    pub fn is_operation_running(&self) -> bool {
        self.lock().operation.is_some()
    }

    /// Replaces the set of units. A unit that was in the set before keeps its live state.
    pub fn replace_units(&self, units: &[UnitStatus]) {
        let mut inner = self.lock();
        let mut next = BTreeMap::new();
        for unit in units {
            let merged = match inner.units.remove(&unit.name) {
                Some(old) => UnitStatus {
                    state: old.state,
                    reason: old.reason,
                    restarts: old.restarts,
                    exit_code: old.exit_code,
                    started_at: old.started_at,
                    ready_at: old.ready_at,
                    handle: old.handle,
                    ..unit.clone()
                },
                None => unit.clone(),
            };
            next.insert(unit.name.clone(), merged);
        }
        inner.units = next;
        drop(inner);
        self.bump_version();
    }

    /// Changes a unit, and publishes an event if its status is different afterwards.
    pub fn edit_unit(&self, name: &str, change: impl FnOnce(&mut UnitStatus)) {
        let mut inner = self.lock();
        let Some(unit) = inner.units.get_mut(name) else { return };
        let before = unit.clone();
        change(unit);
        if *unit == before {
            return;
        }
        let after = unit.clone();
        if matches!(after.state, UnitState::Ready | UnitState::Done | UnitState::Starting) {
            inner.problems.remove(name);
        }
        let (preview, operation) = (inner.status.preview.clone(), inner.operation);
        // The bus has its own lock; never hold both.
        drop(inner);
        self.bus.publish(preview, operation, EventKind::UnitChanged { unit: after });
        self.bump_version();
    }

    pub fn set_problem(&self, unit: &str, problem: Problem) {
        self.lock().problems.insert(unit.to_owned(), problem);
        self.bump_version();
    }

    /// Removes the problem of a unit, for example because the observation has another cause.
    pub fn clear_problem(&self, unit: &str) {
        self.lock().problems.remove(unit);
        self.bump_version();
    }

    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.lock().problems.values().cloned().collect()
    }

    pub fn publish_event(&self, kind: EventKind) {
        let (preview, operation) = {
            let inner = self.lock();
            (inner.status.preview.clone(), inner.operation)
        };
        self.bus.publish(preview, operation, kind);
    }

    /// Publishes an event of the given operation, even if another one is current.
    pub fn publish_operation_event(&self, operation: u64, kind: EventKind) {
        let preview = self.preview();
        self.bus.publish(preview, Some(operation), kind);
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until `select` returns a value for the status. The caller sets the deadline.
    pub async fn wait_for<T>(&self, mut select: impl FnMut(&PreviewStatus) -> Option<T>) -> Option<T> {
        let mut version = self.subscribe();
        loop {
            // Mark the version as seen before reading the status: a change in between then wakes this loop again.
            version.borrow_and_update();
            if let Some(selected) = select(&self.status()) {
                return Some(selected);
            }
            if version.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until `select` returns a value for one unit's status. Unlike [`Self::wait_for`], it does not copy the
    /// status.
    pub async fn wait_for_unit<T>(
        &self,
        name: &str,
        mut select: impl FnMut(Option<&UnitStatus>) -> Option<T>,
    ) -> Option<T> {
        let mut version = self.subscribe();
        loop {
            version.borrow_and_update();
            // In a block, so that the lock is released before the `await`.
            let selected = {
                let inner = self.lock();
                select(inner.units.get(name))
            };
            if selected.is_some() {
                return selected;
            }
            if version.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// The state of a preview without a running operation, derived from its units. A unit that the user stopped is as the
/// user wants it.
fn overall_state(units: &BTreeMap<String, UnitStatus>) -> PreviewState {
    let any = |states: &[UnitState]| units.values().any(|unit| states.contains(&unit.state));
    let running = any(&[UnitState::Ready, UnitState::Starting, UnitState::Unhealthy, UnitState::Restarting]);
    if any(&[UnitState::Failed]) {
        PreviewState::Failed
    } else if !running {
        PreviewState::Down
    } else if any(&[UnitState::Unhealthy, UnitState::Restarting, UnitState::Starting]) {
        PreviewState::Degraded
    } else {
        PreviewState::Ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_status(name: &str, state: UnitState) -> UnitStatus {
        UnitStatus { name: name.into(), state, ..UnitStatus::default() }
    }

    #[test]
    fn worst_unit_determines_preview_state() {
        let cases: &[(&[UnitState], PreviewState)] = &[
            (&[], PreviewState::Down),
            (&[UnitState::Ready, UnitState::Done], PreviewState::Ready),
            (&[UnitState::Ready, UnitState::Restarting], PreviewState::Degraded),
            (&[UnitState::Ready, UnitState::Stopped], PreviewState::Ready),
            (&[UnitState::Ready, UnitState::Failed], PreviewState::Failed),
            (&[UnitState::Stopped, UnitState::Done], PreviewState::Down),
        ];
        for (states, expected) in cases {
            let units = states
                .iter()
                .enumerate()
                .map(|(n, state)| (n.to_string(), unit_status(&n.to_string(), *state)))
                .collect();
            assert_eq!(overall_state(&units), *expected, "{states:?}");
        }
    }

    #[tokio::test]
    async fn wait_returns_for_earlier_and_later_changes() {
        let published = PublishedStatus::new(Bus::new(1), PreviewRef::default(), String::new());
        published.replace_units(&[unit_status("a", UnitState::Ready)]);
        let ready = |unit: Option<&UnitStatus>| unit.filter(|unit| unit.state == UnitState::Ready).map(|_| ());
        assert!(published.wait_for_unit("a", ready).await.is_some());
        published.edit_unit("a", |unit| unit.state = UnitState::Starting);
        let (found, ()) = tokio::join!(published.wait_for_unit("a", ready), async {
            published.edit_unit("a", |unit| unit.state = UnitState::Ready);
        });
        assert!(found.is_some());
    }
}
