//! What the platform offers: the module format, its loader, the lock; built-ins as data in the public format.
//!
//! Built-in modules are loaded by the same loader as anybody's: there are no private hooks.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod builtin;
mod check;
pub mod codes;
mod find;
mod inputs;
mod lock;
mod module;
mod render;

pub use builtin::list;
pub use check::check;
pub use find::{Found, find};
pub use inputs::Input;
pub use lock::{Lock, LockEntry};
pub use module::{Module, Output, Owner, Source};
pub use render::{Body, Context, EnvText, RenderProblem, Target};
