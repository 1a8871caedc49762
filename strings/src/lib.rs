//! Functions on strings that several crates share: spelling suggestions, path patterns and hexadecimal digits.
//!
//! This crate is pure and has no dependencies. Everything that knows manifests, paths on disk or runtimes is elsewhere.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod glob;
mod hex;
mod nearest;

pub use hex::to_hex;
pub use nearest::{edit_distance, nearest};
