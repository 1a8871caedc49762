//! Refuses an `up` that would move units to another runtime and leave their data behind, unless the user agreed.

use std::collections::BTreeMap;

use plan::Application;
use plan::application::UnitName;
use plan::observed::Observed;
use plan::step::{Cause, Plan};
use protocol::Problem;

/// # Errors
/// When a unit moves and has data in its present runtime.
pub(super) fn refuse(application: &Application, observed: &Observed, plan: &Plan) -> Result<(), Problem> {
    let moves = moves_with_data(application, observed, plan);
    let Some((unit, volumes)) = moves.first_key_value() else { return Ok(()) };
    let (from, to) = match (observed.units.get(unit), application.units.get(unit)) {
        (Some(old), Some(new)) => (old.runtime, new.runtime),
        _ => return Ok(()),
    };
    let names = moves.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let data = volumes.iter().map(|volume| format!("`{volume}`")).collect::<Vec<_>>().join(", ");
    let title = format!("{names} would move from {from} to {to} and leave data behind ({data})");
    let hint = format!(
        "Run `pdev up --yes` to start without this data. It stays, and `pdev up --runtime {from}` uses it again."
    );
    Err(Problem::new("data_left_behind", 409, title).unit(unit).hint(hint))
}

/// The units that move, with the volumes that they have now.
fn moves_with_data(application: &Application, observed: &Observed, plan: &Plan) -> BTreeMap<UnitName, Vec<String>> {
    let moved =
        plan.steps.iter().filter(|step| step.cause == Cause::RuntimeChanged).filter_map(|step| step.action.unit());
    let mut found = BTreeMap::new();
    for unit in moved {
        let Some(old) = observed.units.get(unit) else { continue };
        let owner = |volume: &str| application.volumes.get(volume).map(|spec| spec.owner.as_str());
        let is_named_after = |volume: &str, name: &str| volume == name || volume.starts_with(&format!("{name}-"));
        let is_of_other =
            |volume: &str| application.units.keys().any(|other| other != unit && is_named_after(volume, other));
        let belongs = |volume: &str| match owner(volume) {
            Some(owner) => owner == unit,
            // The volumes of a container have names of their own, and its new rendering may have none.
            None => is_named_after(volume, unit) || old.runtime.capabilities().has_images && !is_of_other(volume),
        };
        let of_runtime = observed.volumes.iter().filter(|volume| volume.runtime == old.runtime);
        let volumes: Vec<String> =
            of_runtime.filter(|volume| belongs(&volume.name)).map(|volume| volume.name.clone()).collect();
        if !volumes.is_empty() {
            found.insert(unit.clone(), volumes);
        }
    }
    found
}
