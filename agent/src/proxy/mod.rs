//! The reverse proxy: stable names for previews on one loopback port.
//!
//! `Routes` says which host leads where and is replaced by the agent; `Proxy` listens. It never reads a manifest, never
//! starts a service and never answers with a service that was not asked for.

mod body;
mod forward;
mod headers;
mod host;
mod listener;
mod messages;
mod page;
mod pool;
mod routes;
mod serve;
mod upgrade;

pub use listener::{BindError, DEFAULT_PORT, Limits, Listeners, Proxy, bind};
pub use routes::{
    PreviewRoutes, RouteLookup, RouteTable, RouteTarget, Routes, STATUS_HOST, SUFFIX, ServiceRoute, ServiceState,
    Upstream,
};
