//! Description of the agent that answers on the socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/agent`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentInfo {
    /// pdev's own version.
    pub version: String,
    pub protocol: u32,
    pub pid: u32,
    /// Unix milliseconds.
    pub started_at: i64,
    /// The port of the proxy on 127.0.0.1 and ::1; absent if no port could be bound.
    pub proxy_port: Option<u16>,
    pub executable: String,
    pub previews: usize,
    /// False after the first stop signal: the agent finishes running operations and starts no new ones.
    pub accepting: bool,
}
