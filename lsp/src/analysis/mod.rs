//! What an editor asks, answered in offsets: texts, trees and manifests in, values out. Knows nothing of the protocol.

pub mod actions;
pub mod completion;
pub mod cursor;
pub mod hover;
pub mod language;
pub mod names;
pub mod tree;
