//! What agent and clients say to one another: requests, replies, events, problems, the version greeting.
//!
//! Wire types only: JSON over HTTP/1.1, snake_case, unknown fields ignored by readers, versioned by path (`/v1`).
//! Inner types of other crates never appear here; each edge converts.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod agent_info;
pub mod approval;
pub mod event;
pub mod exec;
pub mod identity;
pub mod plan;
pub mod problem;
pub mod request;
pub mod session;
pub mod status;

pub use event::{Event, EventKind};
pub use problem::Problem;

/// The wire's major version: the path prefix of every route.
pub const PROTOCOL_VERSION: u32 = 1;

/// A JSON Schema of any wire type, for the published schemas of `--json` and the OpenAPI document.
#[must_use]
pub fn schema_of<T: schemars::JsonSchema>() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}
