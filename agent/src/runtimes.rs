//! The drivers of this machine, looked up by target. Each target has one driver, created at its first use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use drivers::driver::Driver;
use drivers::problem::{Problem, ProblemKind};
use drivers::{DriverFactory, TargetSource};
use plan::application::RuntimeKind;
use plan::target::{Target, Targets};

/// A user has few engines. Drivers that no preview uses are dropped beyond this number.
const CACHED_DRIVERS_MAX: usize = 16;

pub struct RuntimeDrivers {
    factories: BTreeMap<RuntimeKind, Arc<dyn DriverFactory>>,
    drivers: Mutex<Vec<(Target, Arc<dyn Driver>)>>,
}

impl RuntimeDrivers {
    #[must_use]
    pub fn new(factories: impl IntoIterator<Item = Arc<dyn DriverFactory>>) -> Self {
        let factories = factories.into_iter().map(|factory| (factory.runtime(), factory)).collect();
        Self { factories, drivers: Mutex::default() }
    }

    /// # Errors
    /// When this build has no such runtime, or the target cannot be used with it.
    pub fn driver(&self, target: &Target) -> Result<Arc<dyn Driver>, Problem> {
        let factory = self.factory(target.runtime)?;
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        // Without `chosen_by`: two ways to select an engine lead to the same connection.
        let is_same = |known: &Target| known.runtime == target.runtime && known.place == target.place;
        if let Some((_, driver)) = drivers.iter().find(|(known, _)| is_same(known)) {
            return Ok(Arc::clone(driver));
        }
        if drivers.len() >= CACHED_DRIVERS_MAX {
            drivers.retain(|(_, driver)| Arc::strong_count(driver) > 1);
        }
        let driver = factory.create_driver(target)?;
        drivers.push((target.clone(), Arc::clone(&driver)));
        Ok(driver)
    }

    /// The driver for the units of a preview in this runtime.
    ///
    /// # Errors
    /// See [`Self::driver`]; also when the preview does not use this runtime.
    pub fn driver_of(&self, targets: &Targets, runtime: RuntimeKind) -> Result<Arc<dyn Driver>, Problem> {
        let target = targets.get(runtime).ok_or_else(|| {
            Problem::new(ProblemKind::Unavailable, format!("this preview does not use the runtime `{runtime}`"))
        })?;
        self.driver(target)
    }

    /// The target that `source` selects for this runtime; `None` if it selects none.
    ///
    /// # Errors
    /// When a setting is wrong, for example the name of a context.
    pub fn select_target(
        &self,
        runtime: RuntimeKind,
        variables: &BTreeMap<String, String>,
        source: TargetSource<'_>,
    ) -> Result<Option<Target>, Problem> {
        self.factory(runtime)?.select_target(variables, source)
    }

    pub fn runtimes(&self) -> impl Iterator<Item = RuntimeKind> {
        self.factories.keys().copied()
    }

    /// The runtimes that may be chosen for a user who chose none, the preferred one first.
    #[must_use]
    pub fn default_candidates(&self) -> Vec<RuntimeKind> {
        let rank = |runtime: &RuntimeKind| runtime.capabilities().default_rank;
        let mut candidates: Vec<RuntimeKind> = self.runtimes().filter(|runtime| rank(runtime).is_some()).collect();
        candidates.sort_by_key(rank);
        candidates
    }

    fn factory(&self, runtime: RuntimeKind) -> Result<&Arc<dyn DriverFactory>, Problem> {
        self.factories.get(&runtime).ok_or_else(|| {
            Problem::new(ProblemKind::Unavailable, format!("the runtime `{runtime}` is not available here"))
        })
    }
}
