//! How units exit and why they fail to start, compared with the engine's facts.

use bollard::models::{NetworkCreateRequest, NetworkDisconnectRequest};
use drivers::problem::ProblemKind;
use plan::application::{PortProtocol, Unit, UnitPort};
use plan::observed::RunState;
use plan::step::Action;
use serde_json::json;

use crate::test_preview::{
    RUN_UNTIL_STOPPED, TestPreview, container_unit, engine, shell_unit, should_skip, start_action,
};

#[tokio::test]
async fn signals_and_oom_are_distinguished_from_exit_codes() {
    if should_skip().await {
        return;
    }
    let memory = json!({ "Memory": 16 << 20, "MemorySwap": 16 << 20 });
    let memory_hog = json!({ "Entrypoint": ["tail", "/dev/zero"], "HostConfig": memory });
    let units =
        vec![shell_unit("coded", "exit 143"), shell_unit("plain", "exit 3"), container_unit("greedy", memory_hog)];
    let preview = TestPreview::open("ends", units).await;
    for name in ["coded", "plain", "greedy"] {
        preview.create(name).await;
        preview.perform_ok(start_action(name)).await;
    }
    let plain = preview.wait_for_exit("plain").await;
    assert_eq!((plain.code, plain.signal), (Some(3), None));
    let exit_143 = preview.wait_for_exit("coded").await;
    assert_eq!((exit_143.code, exit_143.signal, exit_143.out_of_memory), (None, Some(15), false));
    let memory_hog = preview.wait_for_exit("greedy").await;
    assert_eq!((memory_hog.code, memory_hog.signal, memory_hog.out_of_memory), (None, Some(9), true));
    preview.close().await;
}

#[tokio::test]
async fn start_failure_reason_is_reported_and_recorded() {
    if should_skip().await {
        return;
    }
    let cases: [(&str, serde_json::Value, ProblemKind, &str); 2] = [
        (
            "absent",
            json!({ "Entrypoint": ["no-such-program"] }),
            ProblemKind::ProgramNotFound,
            "services.absent.command",
        ),
        ("closed", json!({ "Entrypoint": ["/etc/passwd"] }), ProblemKind::PermissionDenied, "chmod +x"),
    ];
    let units: Vec<Unit> = cases.iter().map(|(name, create, ..)| container_unit(name, create.clone())).collect();
    let preview = TestPreview::open("starts", units).await;
    for (name, _, kind, hint_part) in cases {
        preview.create(name).await;
        let problem = preview.perform(start_action(name)).await.expect_err("does not start");
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(!problem.message.contains("OCI runtime"), "the wrappers are stripped: {problem}");
        assert!(problem.hint.as_deref().unwrap_or_default().contains(hint_part), "{problem:?}");
        let RunState::Exited(exit) = preview.observe_unit(name).await.state else {
            panic!("`{name}`: the reason is not recorded")
        };
        assert!(exit.error.is_some_and(|error| problem.message.ends_with(&error)), "{problem}");
    }
    preview.close().await;
}

fn publishing_unit(name: &str, port: u16) -> Unit {
    let mut unit = shell_unit(name, RUN_UNTIL_STOPPED);
    unit.ports.insert("main".to_owned(), UnitPort { listen_port: 80, host_port: port, protocol: PortProtocol::Tcp });
    unit
}

#[tokio::test]
async fn port_conflict_names_owner() {
    if should_skip().await {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("address").port();
    let preview = TestPreview::open("ports", vec![publishing_unit("web", port), publishing_unit("other", port)]).await;
    preview.create("web").await;
    let problem = preview.perform(start_action("web")).await.expect_err("taken");
    assert_eq!(problem.kind, ProblemKind::PortTaken, "{problem:?}");
    assert!(problem.message.contains(&format!("port {port} on this machine is taken")), "{problem}");
    assert!(problem.message.contains(&format!("(pid {})", std::process::id())), "{problem}");
    drop(listener);
    preview.perform_ok(start_action("web")).await;
    preview.create("other").await;
    let problem = preview.perform(start_action("other")).await.expect_err("taken by a container");
    let owner = format!("by the container `{}-web`", preview.name.object_prefix());
    assert!(problem.message.contains(&owner), "{problem}");
    preview.close().await;
}

#[tokio::test]
async fn recreated_network_disconnects_unit() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open(
        "recreated",
        vec![
            shell_unit("web", RUN_UNTIL_STOPPED),
            container_unit(
                "alone",
                json!({
                    "Entrypoint": ["sleep", "600"], "HostConfig": { "NetworkMode": "none" },
                }),
            ),
        ],
    )
    .await;
    let handle = preview.create("web").await;
    assert!(preview.observe_unit("web").await.connected, "connected before its first start");
    preview.perform_ok(start_action("web")).await;
    let observed = preview.observe_unit("web").await;
    assert!(observed.connected && observed.address.is_some());
    let network = preview.observe().await.networks.into_iter().next().expect("a network").name;
    let labels = engine().inspect_network(&network, None).await.expect("the network exists").labels;
    let disconnect = NetworkDisconnectRequest { container: handle, force: Some(true) };
    engine().disconnect_network(&network, disconnect).await.expect("disconnects");
    assert!(!preview.observe_unit("web").await.connected);
    engine().remove_network(&network).await.expect("removed");
    let recreate = NetworkCreateRequest { name: network, labels, ..NetworkCreateRequest::default() };
    engine().create_network(recreate).await.expect("created again");
    assert!(!preview.observe_unit("web").await.connected, "the name alone is not enough");
    let connect = Action::Connect { unit: "web".to_owned(), runtime: plan::application::RuntimeKind::DOCKER };
    preview.perform_ok(connect).await;
    assert!(preview.observe_unit("web").await.connected);
    preview.close().await;
}
