//! The reverse proxy: stable host names for previews on one loopback port.
//!
//! The agent publishes `Routes`; `Proxy` listens and forwards. The proxy never reads a manifest, never starts a
//! service, and never forwards a request to a service of another host.

mod body;
mod forward;
mod headers;
mod host;
mod list_access;
mod listener;
mod messages;
mod page;
mod pool;
mod routes;
mod serve;
mod upgrade;

pub use list_access::{ListToken, TOKEN_FILE};
pub use listener::{BindError, DEFAULT_PORT, Limits, Listeners, Proxy, bind};
pub use routes::{
    PreviewRoutes, RouteLookup, RouteTable, RouteTarget, Routes, STATUS_HOST, SUFFIX, ServiceRoute, ServiceState,
    Upstream,
};
