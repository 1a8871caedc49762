//! What should happen: resolve -> desired -> compare with observed -> steps, each with its cause.
//!
//! Pure: no clock, disk, network or environment. Planning never asks and never fails half-way.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod application;
pub mod observed;
pub mod step;

pub use application::Application;
pub use observed::Observed;
pub use step::{Plan, Step};
