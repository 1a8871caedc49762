//! The request handlers. Each reads a snapshot and an analysis, and converts the result. No handler here awaits.

pub mod code_actions;
pub mod completion;
pub mod hints;
pub mod hover;
pub mod identities;
pub mod live;
pub mod navigation;
pub mod standalone_files;
pub mod structure;
