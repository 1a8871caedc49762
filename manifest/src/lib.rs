//! What the user wrote: text -> spanned tree -> [`Manifest`] + diagnostics.
//!
//! Reading never fails: half-typed, empty and hostile files give a (perhaps empty) manifest and the reasons.
//! This crate has no clock, disk, network or environment; files come through the [`Files`] trait it is handed.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod diagnostic;
pub mod model;
pub mod template;
pub mod text;

pub use diagnostic::{Code, Diagnostic, Fix, Severity};
pub use model::Manifest;
pub use text::{FileId, FileProblem, Files, Sources, Span, Spanned};
