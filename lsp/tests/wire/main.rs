//! The server through its wire, one module a group of methods.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod actions;
mod approving;
mod beside;
mod completing;
mod corpus;
mod documents;
mod editor;
mod hinting;
mod living;
mod navigation;
mod protocol;
mod refactoring;
mod signing_in;
