//! The driver survives an engine that stops and starts again.

use std::io::Write;

use drivers::docker::DockerEnv;
use drivers::driver::{Driver, RuntimeEvent};
use drivers::problem::ProblemKind;
use futures_util::StreamExt;
use plan::application::RuntimeKind;
use plan::observed::RunState;
use plan::step::Action;

use crate::private_engine::PrivateEngine;
use crate::test_preview::{IMAGE, RUN_UNTIL_STOPPED, TIMEOUT, TestPreview, shell_unit, should_skip, start_action};

async fn start_private_engine() -> Option<PrivateEngine> {
    if should_skip().await {
        return None;
    }
    let engine = tokio::task::spawn_blocking(|| PrivateEngine::start(IMAGE)).await.expect("no panic");
    match engine {
        Ok(engine) => Some(engine),
        Err(reason) => {
            writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error is open");
            None
        }
    }
}

#[tokio::test]
async fn driver_reconnects_after_engine_restart() {
    let Some(mut engine) = start_private_engine().await else { return };
    let docker_env = DockerEnv { docker_host: Some(engine.host()), ..DockerEnv::default() };
    let preview = TestPreview::with_docker_env(docker_env, "restart", vec![shell_unit("web", RUN_UNTIL_STOPPED)]);
    preview.perform_ok(Action::CreateNetwork { runtime: RuntimeKind::DOCKER }).await;
    let handle = preview.create("web").await;
    preview.perform_ok(start_action("web")).await;
    let mut events = preview.driver.follow_events(&preview.name.id, &preview.locations()).await.expect("follows");
    // The stream sends its request when it is first polled.
    let connection_lost = async {
        loop {
            match events.next().await {
                Some(RuntimeEvent::ConnectionLost { .. }) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    };
    let stop_task = tokio::task::spawn_blocking(move || {
        engine.stop();
        engine
    });
    let (connection_lost, engine) = tokio::join!(tokio::time::timeout(TIMEOUT, connection_lost), stop_task);
    assert!(connection_lost.expect("in time"), "the stream reports the lost connection");
    let mut engine = engine.expect("no panic");
    let problem = preview.driver.observe(&preview.name.id, &preview.locations()).await.expect_err("no engine answers");
    assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem:?}");
    let engine = tokio::task::spawn_blocking(move || engine.start_daemon().map(|()| engine)).await.expect("no panic");
    let engine = engine.expect("starts again");
    // The same driver reconnects on its own.
    let observed = preview.observe_unit("web").await;
    assert_eq!(observed.handle, handle);
    assert!(matches!(observed.state, RunState::Exited(_)), "an engine's stop ends its containers: {observed:?}");
    let mut events = preview.driver.follow_events(&preview.name.id, &preview.locations()).await.expect("follows again");
    preview.perform_ok(start_action("web")).await;
    assert_eq!(preview.observe_unit("web").await.state, RunState::Running);
    let observed = preview.observe_unit("web").await;
    assert!(observed.connected && observed.address.is_none(), "its network is not on this machine: {observed:?}");
    let event = tokio::time::timeout(TIMEOUT, events.next()).await.expect("in time");
    assert!(matches!(&event, Some(RuntimeEvent::Started { unit, .. }) if unit == "web"), "{event:?}");
    preview.close().await;
    tokio::task::spawn_blocking(move || drop(engine)).await.expect("no panic");
}
