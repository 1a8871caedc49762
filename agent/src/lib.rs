//! The process that stays: one actor per preview, the journal, the events, the API on the socket, the proxy.
//!
//! It decides nothing that the pure crates can decide, and draws nothing: clients render.

pub mod api;
pub mod approvals;
pub mod boot;
pub mod bus;
pub mod checkout;
pub mod convert;
#[cfg(target_os = "linux")]
pub mod desktop_notification;
pub mod disk;
pub mod endpoint;
pub mod gateway;
pub mod job_inputs;
pub mod journal;
pub mod locations;
mod pidfd;
pub mod preview;
pub mod probe;
pub mod proxy;
pub mod published_status;
pub mod registry;
pub mod routing;
pub mod runtimes;
pub mod session_previews;
pub mod sessions;
mod shared;

pub use boot::{AgentOptions, run};
