//! The module format, its loader and the lock, and the built-in modules as data in the public format.
//!
//! The same loader loads built-in modules and users' modules; built-in modules have no private hooks.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod builtin;
mod check;
pub mod codes;
mod input_values;
mod inputs;
mod lock;
mod module;
mod render;
mod resolve;

pub use builtin::built_in_modules;
pub use check::check_module;
pub use inputs::Input;
pub use lock::{Lock, LockEntry};
pub use module::{Module, Output, Owner, Source};
pub use render::{EnvValue, RenderContext, RenderProblem, RenderTarget, RenderedModule};
pub use resolve::{ResolvedModule, resolve_module};
