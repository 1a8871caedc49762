//! The background process: one actor per preview, the journal, the event bus, the API on the socket, the proxy.
//!
//! It leaves every decision that needs no I/O to the pure crates, and it renders nothing: clients render.

pub mod api;
pub mod approvals;
pub mod boot;
pub mod bus;
pub mod convert;
#[cfg(target_os = "linux")]
pub mod desktop_notification;
pub mod disk;
pub mod endpoint;
pub mod forwards;
pub mod job_inputs;
pub mod journal;
pub mod locations;
#[cfg(target_os = "linux")]
pub mod password_prompt;
pub mod peer;
mod pidfd;
pub mod preview;
mod preview_programs;
pub mod probe;
pub mod proxy;
pub mod published_status;
pub mod registry;
pub mod retained_options;
pub mod routing;
pub mod runtimes;
pub mod session_previews;
pub mod sessions;
mod shared;

pub use boot::{AgentOptions, run};
