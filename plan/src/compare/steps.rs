//! Builds the list of steps: numbers them and keeps predecessors sorted and unique.

use super::applies_changes;
use crate::observed::ObservedUnit;
use crate::step::{Action, Cause, Plan, Step, StepId};

#[derive(Default)]
pub(super) struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    /// All predecessors must already be in the list, so the graph has no cycle by construction.
    pub(super) fn add(&mut self, action: Action, mut after: Vec<StepId>, cause: Cause) -> StepId {
        let id = self.steps.len();
        after.sort_unstable();
        after.dedup();
        debug_assert!(after.iter().all(|&earlier| earlier < id));
        self.steps.push(Step { id, action, after, cause, destroys: None });
        id
    }

    pub(super) fn mark_destructive(&mut self, id: StepId, data: String) {
        if let Some(step) = self.steps.get_mut(id) {
            step.destroys = Some(data);
        }
    }

    pub(super) fn into_plan(self) -> Plan {
        Plan { steps: self.steps }
    }
}

pub(super) fn removal_action(old: &ObservedUnit) -> Action {
    let (unit, runtime, handle) = (old.name.clone(), old.runtime, old.handle.clone());
    if applies_changes(runtime) {
        Action::Delete { unit, runtime, handle }
    } else {
        Action::Remove { unit, runtime, handle }
    }
}
