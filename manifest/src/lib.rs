//! Parses the user's manifest: text -> spanned tree -> [`Manifest`] and diagnostics.
//!
//! Parsing never fails: half-typed, empty and hostile files give a (possibly empty) manifest and diagnostics.
//! This crate uses no clock, disk, network or environment; it reads files through the caller's [`Files`].
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod check;
pub mod codes;
pub mod date;
mod decode;
pub mod diagnostic;
pub mod fix;
pub mod layers;
pub mod model;
mod paths;
pub mod quantities;
mod read;
pub mod reference_page;
pub mod schema;
pub mod spec;
pub mod syntax;
pub mod template;
pub mod text;
mod validate;

pub use diagnostic::{Code, Diagnostic, Fix, Severity};
pub use model::Manifest;
pub use read::{
    EffectiveManifest, ParsedManifest, SetOverride, read, read_incremental, runtime_name, sort_and_limit_diagnostics,
};
pub use text::{FileId, FileProblem, Files, Sources, Span, Spanned};
