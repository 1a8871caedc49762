//! What some runtimes offer beyond the core of [`Driver`](crate::Driver). A caller asks a driver for a capability, and
//! does without it if the answer is `None`. `contract.rs` tests each capability of the drivers that have it.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
pub use host::ports::Listener;
use plan::application::PreviewId;
use plan::observed::Images;
use plan::shell_environment::ShellEnvironment;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::problem::Problem;
use crate::scope::{Locations, Scope};

/// For runtimes whose units are started from something that is built or fetched before: images, or build commands.
#[async_trait]
pub trait ImageInspection: Send + Sync {
    /// Reports the current image of each unit of this driver, or why it is stale. Builds nothing.
    async fn inspect_images(&self, scope: &Scope) -> Result<Images, Problem>;
}

/// For runtimes whose units can request credentials from the agent on this machine.
#[async_trait]
pub trait CredentialEndpoints: Send + Sync {
    /// The address of this machine where units request credentials. The agent listens there, on one port per unit.
    /// `None` if units cannot reach this machine at an address that SDKs accept.
    async fn endpoint_address(&self) -> Result<Option<IpAddr>, Problem>;

    /// Whether this unit opened the connection from `peer` to `local`, according to the kernel or the engine.
    async fn is_connection_from(
        &self,
        preview: &PreviewId,
        unit: &str,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<bool, Problem>;
}

/// For runtimes whose units bind ports of this machine themselves, so that another program can have them. Runtimes that
/// publish the ports of their units do not need it.
#[async_trait]
pub trait HostPorts: Send + Sync {
    /// Whether this unit listens on a port of this machine, and on which other ports it does. `None` if the unit does not
    /// run, or the system does not tell.
    async fn port_use(&self, preview: &PreviewId, unit: &str, port: u16) -> Result<Option<PortUse>, Problem>;
}

/// Who listens on a port of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortUse {
    pub listener: Listener,
    /// The ports on which programs of the unit listen.
    pub unit_ports: Vec<u16>,
}

/// For runtimes that hold the environment of the shell that ran the last `pdev up`, for an agent that was restarted.
#[async_trait]
pub trait EnvironmentStore: Send + Sync {
    async fn shell_environment(
        &self,
        preview: &PreviewId,
        locations: &Locations,
    ) -> Result<Option<ShellEnvironment>, Problem>;
}

/// For runtimes whose units reach this machine through a gateway of their network.
#[async_trait]
pub trait Gateway: Send + Sync {
    /// The address at which this preview's units reach local processes; the agent forwards from there.
    async fn gateway_address(&self, preview: &PreviewId) -> Result<Option<IpAddr>, Problem>;
}

/// For runtimes whose units have no address or port that this machine can connect to. The agent listens on the units'
/// host ports, and forwards each connection through the runtime.
#[async_trait]
pub trait PortForward: Send + Sync {
    /// Connects to the port on which a running unit listens.
    async fn connect(
        &self,
        preview: &PreviewId,
        locations: &Locations,
        unit: &str,
        listen_port: u16,
    ) -> Result<Box<dyn ByteStream>, Problem>;
}

/// A connection in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}
