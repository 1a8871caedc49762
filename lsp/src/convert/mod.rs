//! The conversion layer: byte offsets to the client's positions and back, diagnostics and edits to protocol types.
//!
//! No other module knows UTF-16.

pub mod diagnostics;
pub mod edits;
pub mod position;

pub use position::Encoding;
