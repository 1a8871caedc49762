//! The customs office of the editor: bytes to the client's positions and back, findings to its types.
//!
//! The only place that knows UTF-16.

pub mod diagnostics;
pub mod edits;
pub mod position;

pub use position::Encoding;
