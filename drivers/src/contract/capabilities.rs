//! The guarantees of each capability, for the drivers that have it.

use std::net::SocketAddr;

use futures_util::StreamExt;
use plan::observed::RunState;
use plan::runtime::{ObjectChanges, Supervisor};
use plan::step::Action;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{Behaviour, Harness, TestPreview, with_timeout};
use crate::capabilities::Listener;
use crate::driver::RuntimeEvent;
use crate::problem::ProblemKind;

/// Checks the capabilities of a driver whose units run on this machine.
pub(super) async fn check(harness: &dyn Harness) {
    prepared_images_are_current(harness).await;
    foreign_connections_are_not_from_a_unit(harness).await;
    unused_ports_have_no_listener(harness).await;
    absent_previews_have_no_environment_and_gateway(harness).await;
}

async fn prepared_images_are_current(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "images", &[("web", Behaviour::runs_until_stopped())]).await;
    if let Some(inspection) = preview.driver.image_inspection() {
        preview.create("web").await;
        let images = inspection.inspect_images(&preview.scope()).await.expect("images: inspects");
        assert!(!images.stale.contains_key("web"), "images: stale right after it was prepared: {:?}", images.stale);
    }
    preview.close().await;
}

async fn foreign_connections_are_not_from_a_unit(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "peers", &[("web", Behaviour::runs_until_stopped())]).await;
    if let Some(endpoints) = preview.driver.credential_endpoints() {
        preview.create("web").await;
        preview.start("web").await;
        endpoints.endpoint_address().await.expect("peers: the address");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("peers: a port");
        let local = listener.local_addr().expect("peers: bound");
        // Of this test's own process.
        let client = std::net::TcpStream::connect(local).expect("peers: connects");
        let peer: SocketAddr = client.local_addr().expect("peers: connected");
        let is_unit = endpoints.is_connection_from(&preview.name.id, "web", peer, local).await;
        assert!(!is_unit.expect("peers: an answer"), "peers: a connection of another program counts as the unit's");
    }
    preview.close().await;
}

async fn unused_ports_have_no_listener(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "ports", &[("web", Behaviour::runs_until_stopped())]).await;
    if let Some(ports) = preview.driver.host_ports() {
        preview.create("web").await;
        preview.start("web").await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("ports: a port");
        let port = listener.local_addr().expect("ports: bound").port();
        let port_use = |port| ports.port_use(&preview.name.id, "web", port);
        if let Some(found) = port_use(port).await.expect("ports: an answer") {
            assert!(matches!(found.listener, Listener::Other(_)), "ports: another program: {found:?}");
            drop(listener);
            let found = port_use(port).await.expect("ports: an answer").expect("ports: known");
            assert_eq!((found.listener, found.unit_ports), (Listener::Absent, Vec::new()), "ports: closed");
        }
    }
    preview.close().await;
}

async fn absent_previews_have_no_environment_and_gateway(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "nothing", &[]).await;
    let (driver, id, locations) = (preview.driver.clone(), preview.name.id.clone(), preview.locations.clone());
    preview.close().await;
    if let Some(store) = driver.environment_store() {
        assert!(store.shell_environment(&id, &locations).await.expect("nothing: environment").is_none());
    }
    if let Some(gateway) = driver.gateway() {
        assert_eq!(gateway.gateway_address(&id).await.expect("nothing: gateway"), None);
    }
}

/// Runs the cases for a runtime that changes objects in place and supervises its units.
///
/// # Panics
/// When the driver violates a guarantee; the message names the case.
pub async fn check_applying(harness: &dyn Harness) {
    let capabilities = harness.new_driver().runtime().capabilities();
    assert_eq!(capabilities.object_changes, ObjectChanges::Apply, "the runtime changes objects in place");
    assert_eq!(capabilities.supervisor, Supervisor::Runtime, "the runtime supervises its units");
    applied_objects_are_changed_in_place(harness).await;
    health_is_reported(harness).await;
    connections_are_forwarded(harness).await;
}

impl TestPreview<'_> {
    async fn apply(&self, unit: &str) -> String {
        let action = Action::Apply { unit: unit.to_owned(), runtime: self.runtime };
        self.perform_ok(action).await.handle.expect("apply returns a handle")
    }

    async fn delete(&self, unit: &str, handle: &str) {
        let (unit, handle) = (unit.to_owned(), handle.to_owned());
        self.perform_ok(Action::Delete { unit, runtime: self.runtime, handle }).await;
    }
}

async fn applied_objects_are_changed_in_place(harness: &dyn Harness) {
    let mut preview = TestPreview::open(harness, "apply", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = preview.apply("web").await;
    assert_eq!(preview.observe_unit("web").await.state, RunState::Running, "apply: runs");
    assert_eq!(preview.apply("web").await, handle, "apply: unchanged");
    preview.units.get_mut("web").expect("apply: the unit exists").hash = "second".to_owned();
    assert_eq!(preview.apply("web").await, handle, "apply: changed in place");
    assert_eq!(preview.observe_unit("web").await.hash, "second", "apply: the new intent");
    for _ in 0..2 {
        preview.delete("web", &handle).await;
        assert!(preview.observe().await.units.is_empty(), "apply: deleted");
    }
    preview.close().await;
}

async fn health_is_reported(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "health", &[("web", Behaviour::runs_until_stopped())]).await;
    let mut events = preview.driver.follow_events(&preview.name.id, &preview.locations).await.expect("health: follows");
    let handle = preview.apply("web").await;
    loop {
        let health = preview.observe_unit("web").await.health.expect("health: reported");
        if health.is_ready {
            assert_eq!(health.replicas.ready, health.replicas.wanted, "health: all replicas");
            break;
        }
        // Each change of the health is an event, so waiting for events is enough.
        let event = with_timeout("a change of the health", events.next()).await;
        assert!(!matches!(event, None | Some(RuntimeEvent::ConnectionLost { .. })), "health: lost");
    }
    preview.delete("web", &handle).await;
    preview.close().await;
}

async fn connections_are_forwarded(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "forward", &[("web", Behaviour::runs_until_stopped())]).await;
    let forward = preview.driver.port_forward().expect("forward: the driver has the capability");
    let connect = || forward.connect(&preview.name.id, &preview.locations, "web", 80);
    let Err(problem) = connect().await else { panic!("forward: connected to a unit that does not exist") };
    assert_eq!(problem.kind, ProblemKind::NotFound, "forward: kind of the problem");
    let handle = preview.apply("web").await;
    let (first, second) = (connect().await.expect("forward: first"), connect().await.expect("forward: second"));
    for stream in [first, second] {
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        with_timeout("the greeting", stream.read_line(&mut greeting)).await.expect("forward: reads");
        assert_eq!(greeting, "web:80\n", "forward: the unit and port");
        stream.write_all(b"ping").await.expect("forward: writes");
        let mut echoed = [0; 4];
        with_timeout("the echo", stream.read_exact(&mut echoed)).await.expect("forward: reads");
        assert_eq!(&echoed, b"ping", "forward: both directions");
    }
    preview.delete("web", &handle).await;
    preview.close().await;
}
