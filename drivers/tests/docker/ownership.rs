//! Only the preview's own objects are changed, and removals handle objects that are in use.

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

/// Creates and starts a container that pdev does not own.
async fn create_foreign_container(name: &str, binds: Option<Vec<String>>) -> String {
    let host_config = bollard::models::HostConfig { binds, ..Default::default() };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["sleep".to_owned(), "600".to_owned()]),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let handle = engine().create_container(Some(options), body).await.expect("a foreign container is created").id;
    engine().start_container(&handle, None).await.expect("a foreign container starts");
    handle
}

async fn remove_container(handle: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    engine().remove_container(handle, Some(options)).await.expect("removed");
}

async fn is_running(handle: &str) -> bool {
    let inspection = engine().inspect_container(handle, None::<InspectContainerOptions>).await;
    inspection.is_ok_and(|inspection| inspection.state.is_some_and(|state| state.running == Some(true)))
}

#[tokio::test]
async fn foreign_container_with_same_name_is_left_alone() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open("foreign", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    let name = format!("{}-web", preview.name.object_prefix());
    let foreign = create_foreign_container(&name, None).await;
    preview.perform_ok(stop_action("web")).await;
    for handle in [&foreign, &name] {
        let action = Action::Remove { unit: "web".to_owned(), runtime: RuntimeKind::DOCKER, handle: handle.clone() };
        let notes = preview.perform_ok(action).await.notes;
        assert!(notes.iter().any(|note| note.contains("left alone")), "{notes:?}");
    }
    let own = preview.create("web").await;
    assert_ne!(own, foreign);
    assert!(is_running(&foreign).await, "the foreign container keeps running");
    remove_container(&foreign).await;
    preview.close().await;
}

#[tokio::test]
async fn outdated_container_is_replaced() {
    if should_skip().await {
        return;
    }
    let mut preview = TestPreview::open("life", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    let old = preview.create("web").await;
    preview.perform_ok(start_action("web")).await;
    preview.units.get_mut("web").expect("the unit exists").hash = "second".to_owned();
    let new = preview.create("web").await;
    assert_ne!(new, old);
    let found = engine().inspect_container(&new, None::<InspectContainerOptions>).await.expect("the container exists");
    assert_eq!(found.name, Some(format!("/{}-web", preview.name.object_prefix())), "the name has no suffix");
    assert!(preview.observe().await.strays.is_empty(), "the older one is gone");
    preview.close().await;
}

#[tokio::test]
async fn network_with_foreign_container_stays_and_is_reported() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open("guest", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    preview.create("web").await;
    preview.perform_ok(start_action("web")).await;
    let network = preview.observe().await.networks.into_iter().next().expect("a network").name;
    let foreign = create_foreign_container(&format!("{}-guest", preview.name.object_prefix()), None).await;
    let request = NetworkConnectRequest { container: foreign.clone(), endpoint_config: None };
    engine().connect_network(&network, request).await.expect("attached");
    let remove = Action::RemoveNetwork { runtime: RuntimeKind::DOCKER, name: network };
    let notes = preview.perform_ok(remove.clone()).await.notes;
    assert!(notes.iter().any(|note| note.contains("-guest")), "{notes:?}");
    assert!(is_running(&foreign).await);
    remove_container(&foreign).await;
    // Without the foreign container, the preview's own containers do not block the removal.
    assert!(preview.perform_ok(remove).await.notes.is_empty());
    assert!(preview.observe().await.networks.is_empty());
    preview.close().await;
}

#[tokio::test]
async fn volume_removal_waits_and_names_user() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open("volume", Vec::new()).await;
    let remove = Action::RemoveVolume { runtime: RuntimeKind::DOCKER, volume: "data".to_owned() };
    let create = Action::CreateVolume { runtime: RuntimeKind::DOCKER, volume: "data".to_owned() };
    let name = preview.perform_ok(create).await.handle.expect("a name");
    let user = create_foreign_container(&format!("{name}-user"), Some(vec![format!("{name}:/data")])).await;
    let problem = preview.perform(remove.clone()).await.expect_err("is in use");
    assert!(problem.message.contains(&format!("{name}-user")), "{problem:?}");
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        remove_container(&user).await;
    };
    tokio::join!(preview.perform_ok(remove), release);
    assert!(preview.observe().await.volumes.is_empty());
    preview.close().await;
}

#[tokio::test]
async fn paused_unit_can_be_resumed_or_stopped() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open("paused", vec![shell_unit("web", RUN_UNTIL_STOPPED)]).await;
    let handle = preview.create("web").await;
    preview.perform_ok(start_action("web")).await;
    engine().pause_container(&handle).await.expect("pauses");
    assert_eq!(preview.observe_unit("web").await.state, RunState::Paused);
    let notes = preview.perform_ok(start_action("web")).await.notes;
    assert!(notes.iter().any(|note| note.contains("`web` was paused")), "{notes:?}");
    assert_eq!(preview.observe_unit("web").await.state, RunState::Running);
    engine().pause_container(&handle).await.expect("pauses");
    preview.perform_ok(stop_action("web")).await;
    let RunState::Exited(exit) = preview.observe_unit("web").await.state else { panic!("not stopped") };
    assert_eq!(exit.code, Some(0), "stopped by its signal, not killed: {exit:?}");
    preview.close().await;
}

#[tokio::test]
async fn container_carries_stop_signal_and_timeout() {
    if should_skip().await {
        return;
    }
    let mut web = shell_unit("web", RUN_UNTIL_STOPPED);
    web.stop.signal = "SIGINT".to_owned();
    web.stop.grace = Duration::from_millis(2500);
    let preview = TestPreview::open("stopping", vec![web]).await;
    let handle = preview.perform_ok(create_action("web")).await.handle.expect("a handle");
    let found =
        engine().inspect_container(&handle, None::<InspectContainerOptions>).await.expect("the container exists");
    let config = found.config.expect("a configuration");
    assert_eq!((config.stop_signal.as_deref(), config.stop_timeout), (Some("SIGINT"), Some(3)));
    preview.close().await;
}
