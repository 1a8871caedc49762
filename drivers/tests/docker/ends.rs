//! How units end and why they do not start, in the engine's facts and in words.

use bollard::models::{NetworkCreateRequest, NetworkDisconnectRequest};
use drivers::driver::ProblemKind;
use plan::application::{PortProtocol, Unit, UnitPort};
use plan::observed::RunState;
use plan::step::Action;
use serde_json::json;

use crate::bench::{Bench, STAYS, engine, missing, shell, start, unit};

#[tokio::test]
async fn signals_and_memory_are_told_apart_from_exit_codes() {
    if missing().await {
        return;
    }
    let memory = json!({ "Memory": 16 << 20, "MemorySwap": 16 << 20 });
    let greedy = json!({ "Entrypoint": ["tail", "/dev/zero"], "HostConfig": memory });
    let units = vec![shell("coded", "exit 143"), shell("plain", "exit 3"), unit("greedy", greedy)];
    let bench = Bench::open("ends", units).await;
    for name in ["coded", "plain", "greedy"] {
        bench.create(name).await;
        bench.done(start(name)).await;
    }
    let plain = bench.exit("plain").await;
    assert_eq!((plain.code, plain.signal), (Some(3), None));
    let coded = bench.exit("coded").await;
    assert_eq!((coded.code, coded.signal, coded.out_of_memory), (None, Some(15), false));
    let greedy = bench.exit("greedy").await;
    assert_eq!((greedy.code, greedy.signal, greedy.out_of_memory), (None, Some(9), true));
    bench.close().await;
}

#[tokio::test]
async fn why_a_unit_does_not_start_is_said_and_kept() {
    if missing().await {
        return;
    }
    let cases: [(&str, serde_json::Value, ProblemKind, &str); 2] = [
        (
            "absent",
            json!({ "Entrypoint": ["no-such-program"] }),
            ProblemKind::ProgramNotFound,
            "services.absent.command",
        ),
        ("closed", json!({ "Entrypoint": ["/etc/passwd"] }), ProblemKind::Denied, "chmod +x"),
    ];
    let units: Vec<Unit> = cases.iter().map(|(name, create, ..)| unit(name, create.clone())).collect();
    let bench = Bench::open("starts", units).await;
    for (name, _, kind, line) in cases {
        bench.create(name).await;
        let problem = bench.perform(start(name)).await.expect_err("does not start");
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(!problem.message.contains("OCI runtime"), "the wrappers are cut: {problem}");
        assert!(problem.hint.as_deref().unwrap_or_default().contains(line), "{problem:?}");
        let RunState::Exited(exit) = bench.unit(name).await.state else { panic!("`{name}`: the reason is lost") };
        assert!(exit.error.is_some_and(|error| problem.message.ends_with(&error)), "{problem}");
    }
    bench.close().await;
}

fn publishes(name: &str, port: u16) -> Unit {
    let mut unit = shell(name, STAYS);
    unit.ports.insert("main".to_owned(), UnitPort { inside: 80, host: port, protocol: PortProtocol::Tcp });
    unit
}

#[tokio::test]
async fn who_holds_a_taken_port_is_named() {
    if missing().await {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("address").port();
    let bench = Bench::open("ports", vec![publishes("web", port), publishes("other", port)]).await;
    bench.create("web").await;
    let problem = bench.perform(start("web")).await.expect_err("taken");
    assert_eq!(problem.kind, ProblemKind::PortTaken, "{problem:?}");
    assert!(problem.message.contains(&format!("port {port} on this machine is taken")), "{problem}");
    assert!(problem.message.contains(&format!("(pid {})", std::process::id())), "{problem}");
    drop(listener);
    bench.done(start("web")).await;
    bench.create("other").await;
    let problem = bench.perform(start("other")).await.expect_err("taken by a container");
    let holder = format!("by the container `{}-web`", bench.name.object_prefix());
    assert!(problem.message.contains(&holder), "{problem}");
    bench.close().await;
}

#[tokio::test]
async fn a_network_made_anew_is_another_one() {
    if missing().await {
        return;
    }
    let bench = Bench::open(
        "anew",
        vec![
            shell("web", STAYS),
            unit(
                "alone",
                json!({
                    "Entrypoint": ["sleep", "600"], "HostConfig": { "NetworkMode": "none" },
                }),
            ),
        ],
    )
    .await;
    let handle = bench.create("web").await;
    assert!(bench.unit("web").await.connected, "before its first start");
    bench.done(start("web")).await;
    let before = bench.unit("web").await;
    assert!(before.connected && before.address.is_some());
    let network = bench.observe().await.networks.into_iter().next().expect("a network");
    let labels = engine().inspect_network(&network, None).await.expect("is there").labels;
    let leave = NetworkDisconnectRequest { container: handle, force: Some(true) };
    engine().disconnect_network(&network, leave).await.expect("leaves");
    assert!(!bench.unit("web").await.connected);
    engine().remove_network(&network).await.expect("removed");
    let again = NetworkCreateRequest { name: network, labels, ..NetworkCreateRequest::default() };
    engine().create_network(again).await.expect("made anew");
    assert!(!bench.unit("web").await.connected, "the name alone is not enough");
    let connect = Action::Connect { unit: "web".to_owned(), runtime: plan::application::RuntimeKind::Docker };
    bench.done(connect).await;
    assert!(bench.unit("web").await.connected);
    bench.close().await;
}
