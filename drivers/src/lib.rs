//! Drivers for the runtimes: one trait, one driver per runtime, and one contract test that every driver passes.

pub mod capabilities;
pub mod contract;
pub mod docker;
pub mod driver;
pub mod factory;
pub mod fake;
mod image_build;
pub mod problem;
pub mod process;
pub mod scope;

use std::path::PathBuf;
use std::sync::Arc;

pub use driver::Driver;
pub use factory::{DriverFactory, TargetSource};
pub use problem::{Problem, ProblemKind};
pub use scope::{Locations, Scope};

/// The settings of this machine that drivers need. Each driver reads the configuration of its own runtime itself.
#[derive(Clone, Debug)]
pub struct DriverSettings {
    /// The program to run as the keeper of local processes.
    pub keeper_program: PathBuf,
    /// The folder with the state of all previews.
    pub previews_folder: PathBuf,
    /// Names this agent among the users and machines that share an engine.
    pub owner: String,
    /// The soft limit of open files for programs, if this process raised its own.
    pub descriptor_limit: Option<u64>,
}

/// Creates the drivers of all runtimes.
#[must_use]
pub fn driver_factories(settings: DriverSettings) -> Vec<Arc<dyn DriverFactory>> {
    vec![Arc::new(docker::DockerFactory::new(settings.owner.clone())), Arc::new(process::ProcessFactory::new(settings))]
}
