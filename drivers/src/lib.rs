//! Drivers for the runtimes: one trait, one driver per runtime, and one contract test that every driver passes.

pub mod contract;
pub mod docker;
pub mod driver;
pub mod fake;
pub mod process;

use std::path::PathBuf;
use std::sync::Arc;

pub use driver::{Driver, Locations, Problem, ProblemKind, Scope};

/// The settings of this machine that drivers need. Each driver reads the configuration of its own runtime itself.
#[derive(Clone, Debug)]
pub struct DriverSettings {
    /// The program to run as the keeper of local processes.
    pub keeper_program: PathBuf,
    /// The folder with the state of all previews.
    pub previews_folder: PathBuf,
    /// The soft limit of open files for programs, if this process raised its own.
    pub descriptor_limit: Option<u64>,
}

/// The drivers of all runtimes. It connects to none of them.
#[must_use]
pub fn build_drivers(settings: DriverSettings) -> Vec<Arc<dyn Driver>> {
    let DriverSettings { keeper_program, previews_folder, descriptor_limit } = settings;
    let docker = docker::DockerDriver::new(docker::DockerEnv::from_env());
    let process = process::ProcessDriver::new(keeper_program, previews_folder).with_descriptor_limit(descriptor_limit);
    vec![Arc::new(docker), Arc::new(process)]
}
