//! The reverse proxy: stable names for previews on one loopback port.
//!
//! `Routes` says which host leads where and is replaced by the agent; `Proxy` listens. It never reads a manifest, never
//! starts a service and never answers with a service that was not asked for.

mod answers;
mod body;
mod forward;
mod headers;
mod host;
mod listen;
mod pages;
mod pool;
mod routes;
mod serve;
mod upgrade;

pub use listen::{BindError, Limits, Listeners, PORT, Proxy, bind};
pub use routes::{Found, PreviewRoutes, Routes, STATUS_HOST, SUFFIX, ServiceRoute, State, Table, Target, Upstream};
