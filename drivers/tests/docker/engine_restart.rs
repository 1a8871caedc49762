//! Engines that go away and come back.

use std::io::Write;

use drivers::docker::DockerEnv;
use drivers::driver::{Driver, ProblemKind, RuntimeEvent};
use futures_util::StreamExt;
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
        Err(why) => {
            writeln!(std::io::stderr(), "skipped: {why}").expect("standard error is open");
            None
        }
    }
}

#[tokio::test]
async fn driver_reconnects_after_engine_restart() {
    let Some(mut engine) = start_private_engine().await else { return };
    let around = DockerEnv { docker_host: Some(engine.host()), ..DockerEnv::default() };
    let bench = TestPreview::with_docker_env(around, "restart", vec![shell_unit("web", RUN_UNTIL_STOPPED)]);
    bench.perform_ok(Action::CreateNetwork).await;
    let handle = bench.create("web").await;
    bench.perform_ok(start_action("web")).await;
    let mut events = bench.driver.follow_events(&bench.name.id, &bench.locations()).await.expect("follows");
    // The first poll sends the request.
    let lost = async {
        loop {
            match events.next().await {
                Some(RuntimeEvent::ConnectionLost { .. }) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    };
    let restarting = tokio::task::spawn_blocking(move || {
        engine.stop();
        engine
    });
    let (lost, engine) = tokio::join!(tokio::time::timeout(TIMEOUT, lost), restarting);
    assert!(lost.expect("in time"), "the stream says that the engine went away");
    let mut engine = engine.expect("no panic");
    let problem = bench.driver.observe(&bench.name.id, &bench.locations()).await.expect_err("nobody answers");
    assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem:?}");
    let engine = tokio::task::spawn_blocking(move || engine.start_daemon().map(|()| engine)).await.expect("no panic");
    let engine = engine.expect("comes up again");
    // The same driver, without being told.
    let seen = bench.observe_unit("web").await;
    assert_eq!(seen.handle, handle);
    assert!(matches!(seen.state, RunState::Exited(_)), "an engine's stop ends its containers: {seen:?}");
    let mut events = bench.driver.follow_events(&bench.name.id, &bench.locations()).await.expect("follows again");
    bench.perform_ok(start_action("web")).await;
    assert_eq!(bench.observe_unit("web").await.state, RunState::Running);
    let seen = bench.observe_unit("web").await;
    assert!(seen.connected && seen.address.is_none(), "its network is not this machine's: {seen:?}");
    let event = tokio::time::timeout(TIMEOUT, events.next()).await.expect("in time");
    assert!(matches!(&event, Some(RuntimeEvent::Started { unit, .. }) if unit == "web"), "{event:?}");
    bench.close().await;
    tokio::task::spawn_blocking(move || drop(engine)).await.expect("no panic");
}
