//! Plans `pdev up`: resolves a manifest to the desired state and compares it with the observed state. The result is a
//! list of steps, each with its cause.
//!
//! Pure: no clock, disk, network or environment. Planning never prompts and never fails half-way.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod allow_comments;
pub mod application;
mod broken_units;
mod catalog_modules;
pub mod check;
pub mod codes;
pub mod compare;
mod container_facts;
pub mod container_spec;
pub mod explain;
pub mod guardrails;
pub mod hash;
pub mod lifecycle;
pub mod load;
pub mod module;
pub mod naming;
pub mod observed;
pub mod origin;
mod render;
pub mod resolve;
pub mod runtime;
pub mod shell_environment;
pub mod step;
pub mod target;
pub mod text;

pub use application::Application;
pub use compare::{CompareOptions, TeardownOptions, compare, include_job_inputs, teardown};
pub use load::LoadedManifest;
pub use observed::Observed;
pub use origin::{Origin, Origins};
pub use resolve::{Git, PortRequest, ResolveInputs, ResolvedApplication, required_ports, resolve};
pub use step::{Plan, Step};
