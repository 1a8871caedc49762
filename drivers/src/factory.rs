//! Creates the drivers of a runtime. Each driver works on one target: an engine, a cluster, or this machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use plan::application::RuntimeKind;
use plan::target::Target;

use crate::driver::Driver;
use crate::problem::Problem;

/// What selects a target. Callers ask for one after another, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetSource<'a> {
    /// The variables of the caller's environment.
    Variables,
    /// A context with this name, as in the manifest.
    Context(&'a str),
    /// What the runtime's own tools would use without variables.
    Default,
}

pub trait DriverFactory: Send + Sync {
    fn runtime(&self) -> RuntimeKind;

    /// The target that `source` selects; `None` if it selects none. `variables` are those of the caller's environment
    /// that [`plan::runtime::RuntimeCapabilities::target_variables`] lists. Reads configuration files, but connects to
    /// nothing.
    fn select_target(
        &self,
        variables: &BTreeMap<String, String>,
        source: TargetSource<'_>,
    ) -> Result<Option<Target>, Problem>;

    /// Creates a driver, which connects at its first call.
    fn create_driver(&self, target: &Target) -> Result<Arc<dyn Driver>, Problem>;
}
