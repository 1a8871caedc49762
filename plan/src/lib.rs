//! What should happen: resolve -> desired -> compare with observed -> steps, each with its cause.
//!
//! Pure: no clock, disk, network or environment. Planning never asks and never fails half-way.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod allow;
pub mod application;
pub mod check;
pub mod codes;
pub mod compare;
pub mod explain;
pub mod guardrails;
pub mod hash;
pub mod load;
pub mod module;
pub mod naming;
mod nearest;
pub mod observed;
pub mod origin;
mod render;
pub mod rerun;
pub mod resolve;
pub mod step;
mod supply;
pub mod text;

pub use application::Application;
pub use compare::{CompareOptions, TeardownOptions, compare, fold_job_inputs, teardown};
pub use load::Loaded;
pub use observed::Observed;
pub use origin::{Origin, Origins};
pub use resolve::{Context, Git, PortWish, Resolved, required_ports, resolve};
pub use step::{Plan, Step};
