//! How units end and why they do not start, in the engine's facts and in words.

use bollard::models::{NetworkCreateRequest, NetworkDisconnectRequest};
use drivers::driver::ProblemKind;
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
    let greedy = json!({ "Entrypoint": ["tail", "/dev/zero"], "HostConfig": memory });
    let units = vec![shell_unit("coded", "exit 143"), shell_unit("plain", "exit 3"), container_unit("greedy", greedy)];
    let bench = TestPreview::open("ends", units).await;
    for name in ["coded", "plain", "greedy"] {
        bench.create(name).await;
        bench.perform_ok(start_action(name)).await;
    }
    let plain = bench.wait_for_exit("plain").await;
    assert_eq!((plain.code, plain.signal), (Some(3), None));
    let coded = bench.wait_for_exit("coded").await;
    assert_eq!((coded.code, coded.signal, coded.out_of_memory), (None, Some(15), false));
    let greedy = bench.wait_for_exit("greedy").await;
    assert_eq!((greedy.code, greedy.signal, greedy.out_of_memory), (None, Some(9), true));
    bench.close().await;
}

#[tokio::test]
async fn start_failure_reason_is_reported_and_kept() {
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
    let bench = TestPreview::open("starts", units).await;
    for (name, _, kind, line) in cases {
        bench.create(name).await;
        let problem = bench.perform(start_action(name)).await.expect_err("does not start");
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(!problem.message.contains("OCI runtime"), "the wrappers are cut: {problem}");
        assert!(problem.hint.as_deref().unwrap_or_default().contains(line), "{problem:?}");
        let RunState::Exited(exit) = bench.observe_unit(name).await.state else {
            panic!("`{name}`: the reason is lost")
        };
        assert!(exit.error.is_some_and(|error| problem.message.ends_with(&error)), "{problem}");
    }
    bench.close().await;
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
    let bench = TestPreview::open("ports", vec![publishing_unit("web", port), publishing_unit("other", port)]).await;
    bench.create("web").await;
    let problem = bench.perform(start_action("web")).await.expect_err("taken");
    assert_eq!(problem.kind, ProblemKind::PortTaken, "{problem:?}");
    assert!(problem.message.contains(&format!("port {port} on this machine is taken")), "{problem}");
    assert!(problem.message.contains(&format!("(pid {})", std::process::id())), "{problem}");
    drop(listener);
    bench.perform_ok(start_action("web")).await;
    bench.create("other").await;
    let problem = bench.perform(start_action("other")).await.expect_err("taken by a container");
    let holder = format!("by the container `{}-web`", bench.name.object_prefix());
    assert!(problem.message.contains(&holder), "{problem}");
    bench.close().await;
}

#[tokio::test]
async fn recreated_network_disconnects_unit() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open(
        "anew",
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
    let handle = bench.create("web").await;
    assert!(bench.observe_unit("web").await.connected, "before its first start");
    bench.perform_ok(start_action("web")).await;
    let before = bench.observe_unit("web").await;
    assert!(before.connected && before.address.is_some());
    let network = bench.observe().await.networks.into_iter().next().expect("a network");
    let labels = engine().inspect_network(&network, None).await.expect("is there").labels;
    let leave = NetworkDisconnectRequest { container: handle, force: Some(true) };
    engine().disconnect_network(&network, leave).await.expect("leaves");
    assert!(!bench.observe_unit("web").await.connected);
    engine().remove_network(&network).await.expect("removed");
    let again = NetworkCreateRequest { name: network, labels, ..NetworkCreateRequest::default() };
    engine().create_network(again).await.expect("made anew");
    assert!(!bench.observe_unit("web").await.connected, "the name alone is not enough");
    let connect = Action::Connect { unit: "web".to_owned(), runtime: plan::application::RuntimeKind::Docker };
    bench.perform_ok(connect).await;
    assert!(bench.observe_unit("web").await.connected);
    bench.close().await;
}
