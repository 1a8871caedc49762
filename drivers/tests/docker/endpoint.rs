//! Containers with an identity: they reach this machine where SDKs look for it, and are told from all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use drivers::driver::Driver;
use plan::application::Unit;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};

use crate::bench::{Bench, PATIENCE, create, missing, start, unit};

/// On an address that no interface has before the first container with an identity.
fn listen(address: IpAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    rustix::net::sockopt::set_ip_freebind(&socket, true).expect("may bind ahead");
    socket.bind(SocketAddr::new(address, 0)).expect("a port");
    socket.listen(16).expect("listens")
}

/// Says its name at an address, and keeps the connection.
fn caller(name: &str, at: SocketAddr, identity: bool) -> Unit {
    let line = format!("exec 3<>/dev/tcp/{}/{}; echo {name} >&3; read -r _ <&3", at.ip(), at.port());
    let identity = identity.then(|| "x".to_owned());
    Unit { identity, ..unit(name, json!({ "Entrypoint": ["/bin/bash", "-c"], "Cmd": [line] })) }
}

#[tokio::test]
async fn units_are_told_apart_by_their_address() {
    if missing().await {
        return;
    }
    let address = Bench::at(drivers::docker::Surroundings::from_env(), "ask", Vec::new()).driver.endpoint().await;
    let Some(address) = address.expect("an engine") else { return };
    let listener = listen(address);
    let local = listener.local_addr().expect("an address");
    let units = vec![caller("one", local, true), caller("two", local, true), caller("plain", local, false)];
    let bench = Bench::open("endpoint", units).await;
    // At the same time: the network is made once.
    let (one, two, plain) = tokio::join!(bench.create("one"), bench.create("two"), bench.create("plain"));
    assert!(![one, two, plain].iter().any(String::is_empty));
    for name in ["one", "two", "plain"] {
        bench.done(start(name)).await;
    }
    let mut callers = BTreeMap::new();
    for _ in 0..3 {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("a call in time");
        let (mut stream, peer) = accepted.expect("a connection");
        let mut said = [0; 16];
        let length = stream.read(&mut said).await.expect("a name");
        let name = String::from_utf8_lossy(&said[..length]).trim().to_owned();
        drop(callers.insert(name, (peer, stream)));
    }
    for (caller, (peer, _)) in &callers {
        for unit in ["one", "two", "plain"] {
            let made = bench.driver.made_by(&bench.name.id, unit, *peer, local).await.expect("an answer");
            assert_eq!(made, caller == unit && caller != "plain", "`{caller}` from {peer} as `{unit}`");
        }
    }
    drop(callers);
    bench.close().await;
}

#[tokio::test]
async fn a_network_of_the_users_own_is_said_to_have_no_endpoint() {
    if missing().await {
        return;
    }
    let create_body = json!({ "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
    let alone = Unit { identity: Some("x".to_owned()), ..unit("alone", create_body) };
    let bench = Bench::open("endpoint-none", vec![alone]).await;
    let notes = bench.done(create("alone")).await.notes;
    assert!(notes.iter().any(|note| note.contains("no endpoint for its identity")), "{notes:?}");
    bench.close().await;
}
