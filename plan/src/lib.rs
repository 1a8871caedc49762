//! What should happen: resolve -> desired -> compare with observed -> steps, each with its cause.
//!
//! Pure: no clock, disk, network or environment. Planning never asks and never fails half-way.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod application;
pub mod compare;
pub mod hash;
pub mod naming;
pub mod observed;
pub mod step;
pub mod text;

pub use application::Application;
pub use compare::{CompareOptions, TeardownOptions, compare, fold_job_inputs, teardown};
pub use observed::Observed;
pub use step::{Plan, Step};
