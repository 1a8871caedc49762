//! Requests to answers: each takes a moment of a document, asks the analysis and converts. Nothing here waits.

pub mod code_actions;
pub mod completion;
pub mod hints;
pub mod hover;
pub mod identities;
pub mod live;
pub mod navigation;
pub mod standalone_files;
pub mod structure;
