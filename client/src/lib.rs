//! How to reach the agent: find its socket, start it if absent, greet, call, follow events.
//!
//! Speaks only the types of `protocol`. It prints nothing, reads no manifest and decides nothing about previews:
//! the command line and the language server do. One connection serves one command, on whatever runtime the caller
//! has; nothing here needs more than one thread.

mod call;
mod connection;
mod error;
mod exec;
mod socket_location;
mod start;
mod stream;
mod subscription;

pub use call::Client;
pub use error::{ClientError, Denial};
pub use exec::{ExecReader, ExecWriter};
pub use socket_location::SocketLocation;
pub use start::{Launch, READY_WORD};
pub use stream::{EventStream, LineStream, SseReader};
pub use subscription::Subscription;
