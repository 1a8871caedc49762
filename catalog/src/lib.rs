//! What the platform offers: the module format, its loader, the lock; built-ins as data in the public format.
//!
//! Built-in modules are loaded by the same loader as anybody's: there are no private hooks.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod builtin;
mod check;
pub mod codes;
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
