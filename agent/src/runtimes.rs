//! The drivers of the runtimes that are available on this machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use drivers::driver::{Driver, Problem, ProblemKind};
use plan::application::RuntimeKind;

#[derive(Clone, Default)]
pub struct RuntimeDrivers {
    by_runtime: BTreeMap<RuntimeKind, Arc<dyn Driver>>,
}

impl RuntimeDrivers {
    #[must_use]
    pub fn new(drivers: impl IntoIterator<Item = Arc<dyn Driver>>) -> Self {
        Self { by_runtime: drivers.into_iter().map(|driver| (driver.runtime(), driver)).collect() }
    }

    /// # Errors
    /// When this build has no such runtime.
    pub fn driver(&self, runtime: RuntimeKind) -> Result<Arc<dyn Driver>, Problem> {
        self.by_runtime.get(&runtime).cloned().ok_or_else(|| {
            Problem::new(ProblemKind::Unavailable, format!("the runtime `{runtime}` is not available here"))
        })
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Driver>> {
        self.by_runtime.values().cloned().collect()
    }

    /// The drivers among which to choose when the user chose none, the preferred one first.
    #[must_use]
    pub fn default_candidates(&self) -> Vec<Arc<dyn Driver>> {
        let rank = |driver: &Arc<dyn Driver>| driver.runtime().capabilities().default_rank;
        let mut candidates: Vec<_> = self.all().into_iter().filter(|driver| rank(driver).is_some()).collect();
        candidates.sort_by_key(rank);
        candidates
    }
}
