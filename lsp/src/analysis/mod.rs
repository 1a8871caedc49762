//! What an editor asks, answered in offsets: texts, trees and manifests in, values out. Knows nothing of the protocol.

pub mod actions;
pub mod tree;
