//! Wire protocol between the agent and its clients: requests, replies, events, problems and the version handshake.
//!
//! Wire types only: JSON over HTTP/1.1 in snake_case, versioned by path (`/v1`). Readers ignore unknown fields.
//! Internal types of other crates never appear here; each side converts at its edge.
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

/// Major version of the protocol: the path prefix of every route.
pub const PROTOCOL_VERSION: u32 = 1;

/// The JSON Schema of a wire type, for the published schemas of `--json` and for the OpenAPI document.
#[must_use]
pub fn schema_of<T: schemars::JsonSchema>() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}
