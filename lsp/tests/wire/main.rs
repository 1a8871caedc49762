//! Tests of the server over the protocol, one module per group of methods.
#![expect(clippy::unwrap_used, reason = "a panic is the failure of a test")]

mod action_safety;
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
