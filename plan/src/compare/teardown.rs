//! Plans the removal of a preview. Reads only the observed state, because the manifest may have changed or be gone.

use super::steps::{Steps, removal_action};
use super::{applies_changes, is_alive};
use crate::observed::{Observed, RuntimeObject};
use crate::step::{Action, Cause, Plan, StepId};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TeardownOptions {
    /// Remove volumes and their data too.
    pub remove_volumes: bool,
}

/// Removes all units in parallel, then networks and, if requested, volumes.
#[must_use]
pub fn teardown(observed: &Observed, options: &TeardownOptions) -> Plan {
    let mut steps = Steps::default();
    let mut removals: Vec<StepId> = Vec::new();
    for stray in &observed.strays {
        removals.push(steps.add(removal_action(stray), Vec::new(), Cause::Stray));
    }
    for unit in observed.units.values() {
        let stop = Action::Stop { unit: unit.name.clone(), runtime: unit.runtime };
        removals.push(if is_alive(&unit.state) && !applies_changes(unit.runtime) {
            let stop = steps.add(stop, Vec::new(), Cause::DownRequested);
            steps.add(removal_action(unit), vec![stop], Cause::Follows)
        } else {
            steps.add(removal_action(unit), Vec::new(), Cause::DownRequested)
        });
    }
    for RuntimeObject { name, runtime } in &observed.networks {
        let removal = Action::RemoveNetwork { runtime: *runtime, name: name.clone() };
        steps.add(removal, removals.clone(), Cause::DownRequested);
    }
    for RuntimeObject { name, runtime } in observed.volumes.iter().filter(|_| options.remove_volumes) {
        let removal = Action::RemoveVolume { runtime: *runtime, volume: name.clone() };
        let id = steps.add(removal, removals.clone(), Cause::DownRequested);
        steps.mark_destructive(id, format!("volume {name}"));
    }
    steps.into_plan()
}
