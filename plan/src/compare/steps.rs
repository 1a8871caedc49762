//! The growing list of steps: numbers them and keeps their predecessors sorted.

use crate::step::{Action, Cause, Plan, Step, StepId};

#[derive(Default)]
pub(super) struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    /// Predecessors must have been added before, so the graph has no cycle by construction.
    pub(super) fn add(&mut self, action: Action, mut after: Vec<StepId>, cause: Cause) -> StepId {
        let id = self.steps.len();
        after.sort_unstable();
        after.dedup();
        debug_assert!(after.iter().all(|&earlier| earlier < id));
        self.steps.push(Step { id, action, after, cause, destroys: None });
        id
    }

    pub(super) fn mark_destructive(&mut self, id: StepId, what: String) {
        if let Some(step) = self.steps.get_mut(id) {
            step.destroys = Some(what);
        }
    }

    pub(super) fn into_plan(self) -> Plan {
        Plan { steps: self.steps }
    }
}
