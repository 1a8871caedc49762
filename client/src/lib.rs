//! Client of the agent: finds its socket, starts it if absent, checks the protocol version, calls, follows events.
//!
//! Uses only the types of `protocol`. It prints nothing, reads no manifest and decides nothing about previews; the CLI
//! and the language server do. One connection serves one command, on the caller's tokio runtime. A single-threaded
//! runtime is enough.

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
