//! Whose objects are touched, and what removals do when something is in the way.

use std::time::Duration;

use bollard::models::{ContainerCreateBody, NetworkConnectRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, RemoveContainerOptionsBuilder,
};
use plan::application::RuntimeKind;
use plan::observed::RunState;
use plan::step::Action;

use crate::test_preview::{
    IMAGE, RUN_UNTIL_STOPPED, TestPreview, create_action, engine, shell_unit, should_skip, start_action, stop_action,
};

/// A container that pdev did not make.
async fn create_foreign_container(name: &str, binds: Option<Vec<String>>) -> String {
    let host = bollard::models::HostConfig { binds, ..Default::default() };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["sleep".to_owned(), "600".to_owned()]),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let made = engine().create_container(Some(options), body).await.expect("a stranger is made").id;
    engine().start_container(&made, None).await.expect("a stranger starts");
    made
}

async fn remove_container(handle: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    engine().remove_container(handle, Some(options)).await.expect("removed");
}

async fn is_running(handle: &str) -> bool {
    let found = engine().inspect_container(handle, None::<InspectContainerOptions>).await;
    found.is_ok_and(|found| found.state.is_some_and(|state| state.running == Some(true)))
}

#[tokio::test]
async fn foreign_container_with_same_name_is_kept() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("stranger", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    let name = format!("{}-web", bench.name.object_prefix());
    let other = create_foreign_container(&name, None).await;
    bench.perform_ok(stop_action("web")).await;
    for handle in [&other, &name] {
        let action = Action::Remove { unit: "web".to_owned(), runtime: RuntimeKind::Docker, handle: handle.clone() };
        let notes = bench.perform_ok(action).await.notes;
        assert!(notes.iter().any(|note| note.contains("left alone")), "{notes:?}");
    }
    let mine = bench.create("web").await;
    assert_ne!(mine, other);
    assert!(is_running(&other).await, "the stranger goes on");
    remove_container(&other).await;
    bench.close().await;
}

#[tokio::test]
async fn outdated_container_is_replaced() {
    if should_skip().await {
        return;
    }
    let mut bench = TestPreview::open("life", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    let old = bench.create("web").await;
    bench.perform_ok(start_action("web")).await;
    bench.units.get_mut("web").expect("is there").hash = "second".to_owned();
    let new = bench.create("web").await;
    assert_ne!(new, old);
    let found = engine().inspect_container(&new, None::<InspectContainerOptions>).await.expect("is there");
    assert_eq!(found.name, Some(format!("/{}-web", bench.name.object_prefix())), "the name has no suffix");
    assert!(bench.observe().await.strays.is_empty(), "the older one is gone");
    bench.close().await;
}

#[tokio::test]
async fn network_with_foreign_container_is_kept_and_reported() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("guest", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    bench.create("web").await;
    bench.perform_ok(start_action("web")).await;
    let network = bench.observe().await.networks.into_iter().next().expect("a network");
    let guest = create_foreign_container(&format!("{}-guest", bench.name.object_prefix()), None).await;
    let request = NetworkConnectRequest { container: guest.clone(), endpoint_config: None };
    engine().connect_network(&network, request).await.expect("attached");
    let remove = Action::RemoveNetwork { name: network };
    let notes = bench.perform_ok(remove.clone()).await.notes;
    assert!(notes.iter().any(|note| note.contains("-guest")), "{notes:?}");
    assert!(is_running(&guest).await);
    remove_container(&guest).await;
    // What is ours does not hold it.
    assert!(bench.perform_ok(remove).await.notes.is_empty());
    assert!(bench.observe().await.networks.is_empty());
    bench.close().await;
}

#[tokio::test]
async fn volume_removal_waits_and_names_user() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("volume", Vec::new()).await;
    let remove = Action::RemoveVolume { volume: "data".to_owned() };
    let name = bench.perform_ok(Action::CreateVolume { volume: "data".to_owned() }).await.handle.expect("a name");
    let user = create_foreign_container(&format!("{name}-user"), Some(vec![format!("{name}:/data")])).await;
    let problem = bench.perform(remove.clone()).await.expect_err("is in use");
    assert!(problem.message.contains(&format!("{name}-user")), "{problem:?}");
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        remove_container(&user).await;
    };
    tokio::join!(bench.perform_ok(remove), freeing);
    assert!(bench.observe().await.volumes.is_empty());
    bench.close().await;
}

#[tokio::test]
async fn paused_unit_can_be_resumed_or_stopped() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("paused", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    let handle = bench.create("web").await;
    bench.perform_ok(start_action("web")).await;
    engine().pause_container(&handle).await.expect("pauses");
    assert_eq!(bench.observe_unit("web").await.state, RunState::Paused);
    let notes = bench.perform_ok(start_action("web")).await.notes;
    assert!(notes.iter().any(|note| note.contains("`web` was paused")), "{notes:?}");
    assert_eq!(bench.observe_unit("web").await.state, RunState::Running);
    engine().pause_container(&handle).await.expect("pauses");
    bench.perform_ok(stop_action("web")).await;
    let RunState::Exited(exit) = bench.observe_unit("web").await.state else { panic!("not stopped") };
    assert_eq!(exit.code, Some(0), "it was asked to end, not killed: {exit:?}");
    bench.close().await;
}

#[tokio::test]
async fn container_carries_stop_signal_and_timeout() {
    if should_skip().await {
        return;
    }
    let mut web = shell_unit("web", RUN_UNTIL_STOPPED);
    web.stop.signal = "SIGINT".to_owned();
    web.stop.grace = Duration::from_millis(2500);
    let bench = TestPreview::open("stopping", vec![web]).await;
    let handle = bench.perform_ok(create_action("web")).await.handle.expect("a handle");
    let found = engine().inspect_container(&handle, None::<InspectContainerOptions>).await.expect("is there");
    let config = found.config.expect("a configuration");
    assert_eq!((config.stop_signal.as_deref(), config.stop_timeout), (Some("SIGINT"), Some(3)));
    bench.close().await;
}
