//! Drivers for the runtimes: one trait, one driver per runtime, and one contract test that every driver passes.

pub mod contract;
pub mod docker;
pub mod driver;
pub mod fake;
pub mod ports;
pub mod process;

pub use driver::{Driver, Locations, Problem, ProblemKind, Scope};
