//! The text output of commands. Only [`terminal`] writes it; the other modules return strings.

pub(crate) mod diagnostic;
pub(crate) mod doc_page;
pub(crate) mod logs;
pub(crate) mod plan;
pub(crate) mod problem;
pub(crate) mod progress;
pub(crate) mod sarif;
pub(crate) mod schema_field;
pub(crate) mod status;
pub(crate) mod table;
