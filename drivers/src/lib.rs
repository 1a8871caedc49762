//! Who does the work: one trait, a driver per runtime, one contract that all of them pass.

pub mod contract;
pub mod docker;
pub mod driver;
pub mod fake;
pub mod ports;
pub mod process;

pub use driver::{Driver, Locations, Problem, ProblemKind, Scope};
