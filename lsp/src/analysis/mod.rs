//! The analyses behind an editor's requests: pure functions from texts, trees and manifests to values with byte
//! offsets.
//!
//! They do not know the protocol.

pub mod actions;
pub mod completion;
pub mod cursor;
pub mod format;
pub mod hints;
pub mod hover;
pub mod language;
pub mod links;
pub mod lock_file;
pub mod module_file;
pub mod names;
pub mod on_type;
pub mod organise;
pub mod outline;
pub mod refactors;
pub mod references;
pub mod tokens;
pub mod tree;
