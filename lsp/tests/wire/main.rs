//! The server through its wire, one module a group of methods.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod approvals;
mod code_actions;
mod completion;
mod corpus;
mod documents;
mod editor;
mod inlay_hints;
mod live_state;
mod login;
mod navigation;
mod protocol;
mod refactoring;
mod standalone_files;
