//! Forwards connections between this machine and runtimes.
//!
//! [`PortForwards`] lets containers reach local processes: it listens on the preview network's gateway and forwards to the
//! loopback address. Only containers of that network can reach its gateway address. [`UnitForwards`] lets this machine
//! reach units that have no address here: it listens on their host ports of the loopback address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drivers::Scope;
use drivers::capabilities::ByteStream;
use drivers::driver::Driver;
use plan::application::Unit;
use tasks::OwnedTask;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections forwarded per port at the same time; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 512;
/// The time limit for a connection through a runtime.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// The forwards of one preview. Dropping it closes all of them.
#[derive(Default)]
pub struct PortForwards {
    by_address: Mutex<BTreeMap<SocketAddr, OwnedTask>>,
}

impl PortForwards {
    /// Forwards exactly these ports of `gateway` to the same ports of the loopback address; all other forwards close.
    ///
    /// # Errors
    /// When an address cannot be listened on; the message names it.
    pub async fn set(&self, gateway: IpAddr, ports: &[u16]) -> Result<(), String> {
        let addresses: Vec<SocketAddr> = ports.iter().map(|port| SocketAddr::new(gateway, *port)).collect();
        let missing: Vec<SocketAddr> = match self.by_address.lock() {
            Ok(mut listening) => {
                listening.retain(|address, _| addresses.contains(address));
                addresses.into_iter().filter(|address| !listening.contains_key(address)).collect()
            }
            Err(_) => addresses,
        };
        for address in missing {
            let listener = TcpListener::bind(address).await.map_err(|error| {
                format!(
                    "cannot listen on {address}, the network's gateway, through which containers reach local processes: \
                     {error}"
                )
            })?;
            let forward = OwnedTask::spawn(accept_connections(listener, move || dial_loopback(address.port())));
            if let Ok(mut listening) = self.by_address.lock() {
                listening.insert(address, forward);
            }
        }
        Ok(())
    }

    pub fn clear(&self) {
        if let Ok(mut listening) = self.by_address.lock() {
            listening.clear();
        }
    }
}

/// The host ports of one preview's units that the agent forwards through a runtime. Dropping it closes all of them.
#[derive(Default)]
pub struct UnitForwards {
    by_port: Mutex<BTreeMap<u16, UnitForward>>,
}

struct UnitForward {
    unit: String,
    listen_port: u16,
    _listener: OwnedTask,
}

impl UnitForwards {
    /// Forwards exactly the ports of these units, each through its driver; all other forwards close.
    ///
    /// # Errors
    /// When a port cannot be listened on; the message names it.
    pub async fn set(&self, scope: &Scope, units: &[(&Unit, Arc<dyn Driver>)]) -> Result<(), String> {
        let ports = units.iter().flat_map(|(unit, driver)| unit.ports.values().map(move |port| (*unit, driver, port)));
        let wanted: Vec<_> = ports.collect();
        let is_wanted = |host_port: u16, forward: &UnitForward| {
            wanted.iter().any(|(unit, _, port)| {
                unit.name == forward.unit && port.host_port == host_port && port.listen_port == forward.listen_port
            })
        };
        self.lock().retain(|host_port, forward| is_wanted(*host_port, forward));
        for (unit, driver, port) in wanted {
            if self.has_port(port.host_port) {
                continue;
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.host_port));
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| format!("cannot listen on {address} to forward it to `{}`: {error}", unit.name))?;
            let (scope, driver) = (scope.clone(), Arc::clone(driver));
            let (name, listen_port) = (unit.name.clone(), port.listen_port);
            let dial = move || dial_unit(Arc::clone(&driver), scope.clone(), name.clone(), listen_port);
            let task = OwnedTask::spawn(accept_connections(listener, dial));
            let forward = UnitForward { unit: unit.name.clone(), listen_port, _listener: task };
            self.lock().insert(port.host_port, forward);
        }
        Ok(())
    }

    pub fn has_port(&self, host_port: u16) -> bool {
        self.lock().contains_key(&host_port)
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, UnitForward>> {
        self.by_port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects again for each connection, so that a unit that was replaced meanwhile is reached too.
async fn dial_unit(
    driver: Arc<dyn Driver>,
    scope: Scope,
    unit: String,
    listen_port: u16,
) -> Option<Box<dyn ByteStream>> {
    let forward = driver.port_forward()?;
    let connecting = forward.connect(&scope.preview.id, &scope.locations, &unit, listen_port);
    match tokio::time::timeout(DIAL_LIMIT, connecting).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(problem)) => {
            tracing::debug!(unit, port = listen_port, %problem, "cannot forward a connection");
            None
        }
        Err(_) => None,
    }
}

async fn accept_connections<Stream, Dialing>(listener: TcpListener, dial: impl Fn() -> Dialing + Send + Sync)
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Dialing: Future<Output = Option<Stream>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Take the slot before accepting, so that connections above the limit stay in the kernel's backlog.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((mut inbound, _)) = listener.accept().await else {
            // Out of descriptors: wait for a connection to end instead of spinning.
            connections.join_next().await;
            continue;
        };
        let dialing = dial();
        connections.spawn(async move {
            if let Some(mut outbound) = dialing.await {
                let _ended = copy_bidirectional(&mut inbound, &mut outbound).await;
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Tries IPv4 first. Some programs listen on only one of the two loopback addresses.
async fn dial_loopback(port: u16) -> Option<TcpStream> {
    if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        return Some(stream);
    }
    TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn forward_passes_bytes_and_removed_port_closes() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                let mut buffer = [0u8; 4];
                let _ = stream.read_exact(&mut buffer).await;
                let _ = stream.write_all(&buffer).await;
            }
        });
        let gateway: IpAddr = "127.0.0.2".parse().unwrap();
        let forwards = PortForwards::default();
        forwards.set(gateway, &[port]).await.unwrap();
        let mut client = TcpStream::connect((gateway, port)).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut echoed = [0u8; 4];
        client.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"ping");
        forwards.set(gateway, &[port]).await.unwrap();
        forwards.set(gateway, &[]).await.unwrap();
        tokio::task::yield_now().await;
        assert!(TcpStream::connect((gateway, port)).await.is_err());
    }
}
