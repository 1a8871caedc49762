//! Containers with an identity reach this machine at the address that SDKs use, and are distinguished from all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use drivers::capabilities::CredentialEndpoints;
use plan::application::Unit;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};

use crate::test_preview::{TIMEOUT, TestPreview, container_unit, create_action, should_skip, start_action};

/// Listens on an address that no interface has before the first container with an identity exists.
fn listen(address: IpAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    rustix::net::sockopt::set_ip_freebind(&socket, true).expect("may bind a future address");
    socket.bind(SocketAddr::new(address, 0)).expect("a port");
    socket.listen(16).expect("listens")
}

/// A unit that sends its name to an address and keeps the connection open.
fn caller_unit(name: &str, address: SocketAddr, identity: bool) -> Unit {
    let line = format!("exec 3<>/dev/tcp/{}/{}; echo {name} >&3; read -r _ <&3", address.ip(), address.port());
    let identity = identity.then(|| "x".to_owned());
    Unit { identity, ..container_unit(name, json!({ "Entrypoint": ["/bin/bash", "-c"], "Cmd": [line] })) }
}

#[tokio::test]
async fn connections_are_attributed_to_units_by_address() {
    if should_skip().await {
        return;
    }
    let address = TestPreview::with_docker_env(drivers::docker::DockerEnv::from_env(), "ask", Vec::new())
        .driver
        .endpoint_address()
        .await;
    let Some(address) = address.expect("an engine") else { return };
    let listener = listen(address);
    let local = listener.local_addr().expect("an address");
    let units =
        vec![caller_unit("one", local, true), caller_unit("two", local, true), caller_unit("plain", local, false)];
    let preview = TestPreview::open("endpoint", units).await;
    // Create concurrently: the network must be created only once.
    let (first, second, plain) = tokio::join!(preview.create("one"), preview.create("two"), preview.create("plain"));
    assert!(![first, second, plain].iter().any(String::is_empty));
    for name in ["one", "two", "plain"] {
        preview.perform_ok(start_action(name)).await;
    }
    let mut callers = BTreeMap::new();
    for _ in 0..3 {
        let accepted = tokio::time::timeout(TIMEOUT, listener.accept()).await.expect("a call in time");
        let (mut stream, peer) = accepted.expect("a connection");
        let mut buffer = [0; 16];
        let length = stream.read(&mut buffer).await.expect("a name");
        let name = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        drop(callers.insert(name, (peer, stream)));
    }
    for (caller, (peer, _)) in &callers {
        for unit in ["one", "two", "plain"] {
            let is_caller =
                preview.driver.is_connection_from(&preview.name.id, unit, *peer, local).await.expect("an answer");
            assert_eq!(is_caller, caller == unit && caller != "plain", "`{caller}` from {peer} as `{unit}`");
        }
    }
    drop(callers);
    preview.close().await;
}

#[tokio::test]
async fn raw_network_mode_reports_missing_credential_endpoint() {
    if should_skip().await {
        return;
    }
    let create_body = json!({ "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
    let unit = Unit { identity: Some("x".to_owned()), ..container_unit("alone", create_body) };
    let preview = TestPreview::open("endpoint-none", vec![unit]).await;
    let notes = preview.perform_ok(create_action("alone")).await.notes;
    assert!(notes.iter().any(|note| note.contains("no endpoint for its identity")), "{notes:?}");
    preview.close().await;
}
