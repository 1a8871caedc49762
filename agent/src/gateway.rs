//! Lets containers reach local processes: listens on the preview network's gateway and forwards to the loopback
//! address.
//!
//! Only containers of that network can reach its gateway address. No other interface is opened.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;

use tasks::OwnedTask;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections forwarded per port at the same time; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 512;

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
            let forward = OwnedTask::spawn(accept_connections(listener, address.port()));
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

async fn accept_connections(listener: TcpListener, port: u16) {
    let slots = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Take the slot before accepting, so that connections above the limit stay in the kernel's backlog.
        let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((mut inbound, _)) = listener.accept().await else {
            // Out of descriptors: wait for a connection to end instead of spinning.
            connections.join_next().await;
            continue;
        };
        connections.spawn(async move {
            if let Some(mut outbound) = dial_loopback(port).await {
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
