//! Whose objects are touched, and what removals do when something is in the way.

use std::time::Duration;

use bollard::models::{ContainerCreateBody, NetworkConnectRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, RemoveContainerOptionsBuilder,
};
use plan::application::RuntimeKind;
use plan::observed::RunState;
use plan::step::Action;

use crate::bench::{Bench, IMAGE, STAYS, create, engine, missing, shell, start, stop};

/// A container that pdev did not make.
async fn stranger(name: &str, binds: Option<Vec<String>>) -> String {
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

async fn gone(handle: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    engine().remove_container(handle, Some(options)).await.expect("removed");
}

async fn runs(handle: &str) -> bool {
    let found = engine().inspect_container(handle, None::<InspectContainerOptions>).await;
    found.is_ok_and(|found| found.state.is_some_and(|state| state.running == Some(true)))
}

#[tokio::test]
async fn a_stranger_of_the_same_name_is_left_alone() {
    if missing().await {
        return;
    }
    let bench = Bench::open("stranger", vec![shell("web", STAYS)]).await;
    let name = format!("{}-web", bench.name.object_prefix());
    let other = stranger(&name, None).await;
    bench.done(stop("web")).await;
    for handle in [&other, &name] {
        let action = Action::Remove { unit: "web".to_owned(), runtime: RuntimeKind::Docker, handle: handle.clone() };
        let notes = bench.done(action).await.notes;
        assert!(notes.iter().any(|note| note.contains("left alone")), "{notes:?}");
    }
    let mine = bench.create("web").await;
    assert_ne!(mine, other);
    assert!(runs(&other).await, "the stranger goes on");
    gone(&other).await;
    bench.close().await;
}

#[tokio::test]
async fn a_container_of_another_life_gives_way() {
    if missing().await {
        return;
    }
    let mut bench = Bench::open("life", vec![shell("web", STAYS)]).await;
    let old = bench.create("web").await;
    bench.done(start("web")).await;
    bench.units.get_mut("web").expect("is there").hash = "second".to_owned();
    let new = bench.create("web").await;
    assert_ne!(new, old);
    let found = engine().inspect_container(&new, None::<InspectContainerOptions>).await.expect("is there");
    assert_eq!(found.name, Some(format!("/{}-web", bench.name.object_prefix())), "the name has no suffix");
    assert!(bench.observe().await.strays.is_empty(), "the older one is gone");
    bench.close().await;
}

#[tokio::test]
async fn a_network_with_a_guest_stays_and_says_so() {
    if missing().await {
        return;
    }
    let bench = Bench::open("guest", vec![shell("web", STAYS)]).await;
    bench.create("web").await;
    bench.done(start("web")).await;
    let network = bench.observe().await.networks.into_iter().next().expect("a network");
    let guest = stranger(&format!("{}-guest", bench.name.object_prefix()), None).await;
    let request = NetworkConnectRequest { container: guest.clone(), endpoint_config: None };
    engine().connect_network(&network, request).await.expect("attached");
    let remove = Action::RemoveNetwork { name: network };
    let notes = bench.done(remove.clone()).await.notes;
    assert!(notes.iter().any(|note| note.contains("-guest")), "{notes:?}");
    assert!(runs(&guest).await);
    gone(&guest).await;
    // What is ours does not hold it.
    assert!(bench.done(remove).await.notes.is_empty());
    assert!(bench.observe().await.networks.is_empty());
    bench.close().await;
}

#[tokio::test]
async fn a_volume_in_use_is_waited_for_and_its_user_named() {
    if missing().await {
        return;
    }
    let bench = Bench::open("volume", Vec::new()).await;
    let remove = Action::RemoveVolume { volume: "data".to_owned() };
    let name = bench.done(Action::CreateVolume { volume: "data".to_owned() }).await.handle.expect("a name");
    let user = stranger(&format!("{name}-user"), Some(vec![format!("{name}:/data")])).await;
    let problem = bench.perform(remove.clone()).await.expect_err("is in use");
    assert!(problem.message.contains(&format!("{name}-user")), "{problem:?}");
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        gone(&user).await;
    };
    tokio::join!(bench.done(remove), freeing);
    assert!(bench.observe().await.volumes.is_empty());
    bench.close().await;
}

#[tokio::test]
async fn a_paused_unit_goes_on_or_is_stopped() {
    if missing().await {
        return;
    }
    let bench = Bench::open("paused", vec![shell("web", STAYS)]).await;
    let handle = bench.create("web").await;
    bench.done(start("web")).await;
    engine().pause_container(&handle).await.expect("pauses");
    assert_eq!(bench.unit("web").await.state, RunState::Paused);
    let notes = bench.done(start("web")).await.notes;
    assert!(notes.iter().any(|note| note.contains("`web` was paused")), "{notes:?}");
    assert_eq!(bench.unit("web").await.state, RunState::Running);
    engine().pause_container(&handle).await.expect("pauses");
    bench.done(stop("web")).await;
    let RunState::Exited(exit) = bench.unit("web").await.state else { panic!("not stopped") };
    assert_eq!(exit.code, Some(0), "it was asked to end, not killed: {exit:?}");
    bench.close().await;
}

#[tokio::test]
async fn the_engine_knows_how_a_unit_is_stopped() {
    if missing().await {
        return;
    }
    let mut web = shell("web", STAYS);
    web.stop.signal = "SIGINT".to_owned();
    web.stop.grace = Duration::from_millis(2500);
    let bench = Bench::open("stopping", vec![web]).await;
    let handle = bench.done(create("web")).await.handle.expect("a handle");
    let found = engine().inspect_container(&handle, None::<InspectContainerOptions>).await.expect("is there");
    let config = found.config.expect("a configuration");
    assert_eq!((config.stop_signal.as_deref(), config.stop_timeout), (Some("SIGINT"), Some(3)));
    bench.close().await;
}
