//! The unit of a container by its name, and free names for new engine objects.

use plan::application::{Body, Container, Unit};

use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

/// Number of names to try before a name conflict is reported.
pub(super) const NAME_ATTEMPTS: u32 = 8;

pub(super) fn container_unit<'a>(scope: &'a Scope, unit: &str) -> Result<(&'a Unit, &'a Container), Problem> {
    let unit_entry = scope.application.units.get(unit);
    match unit_entry.map(|unit| (unit, &unit.body)) {
        Some((unit, Body::Container(container))) => Ok((unit, container)),
        Some(_) => Err(Problem::new(ProblemKind::Internal, format!("`{unit}` is not a container"))),
        None => Err(Problem::new(ProblemKind::NotFound, format!("there is no unit `{unit}`"))),
    }
}

pub(super) fn suffixed_name(name: &str, attempt: u32) -> String {
    if attempt == 1 { name.to_owned() } else { format!("{name}-{attempt}") }
}
