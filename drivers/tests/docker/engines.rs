//! Engines that go away and come back.

use std::io::Write;

use drivers::docker::Surroundings;
use drivers::driver::{Driver, ProblemKind, RuntimeEvent};
use futures_util::StreamExt;
use plan::observed::RunState;
use plan::step::Action;

use crate::bench::{Bench, IMAGE, PATIENCE, STAYS, missing, shell, start};
use crate::private::Private;

async fn private() -> Option<Private> {
    if missing().await {
        return None;
    }
    let engine = tokio::task::spawn_blocking(|| Private::start(IMAGE)).await.expect("no panic");
    match engine {
        Ok(engine) => Some(engine),
        Err(why) => {
            writeln!(std::io::stderr(), "skipped: {why}").expect("standard error is open");
            None
        }
    }
}

#[tokio::test]
async fn an_engine_that_was_restarted_is_found_again() {
    let Some(mut engine) = private().await else { return };
    let around = Surroundings { docker_host: Some(engine.host()), ..Surroundings::default() };
    let bench = Bench::at(around, "restart", vec![shell("web", STAYS)]);
    bench.done(Action::CreateNetwork).await;
    let handle = bench.create("web").await;
    bench.done(start("web")).await;
    let mut events = bench.driver.follow(&bench.name.id, &bench.places()).await.expect("follows");
    // The first poll sends the request.
    let lost = async {
        loop {
            match events.next().await {
                Some(RuntimeEvent::Lost { .. }) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    };
    let restarting = tokio::task::spawn_blocking(move || {
        engine.stop();
        engine
    });
    let (lost, engine) = tokio::join!(tokio::time::timeout(PATIENCE, lost), restarting);
    assert!(lost.expect("in time"), "the stream says that the engine went away");
    let mut engine = engine.expect("no panic");
    let problem = bench.driver.observe(&bench.name.id, &bench.places()).await.expect_err("nobody answers");
    assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem:?}");
    let engine = tokio::task::spawn_blocking(move || engine.resume().map(|()| engine)).await.expect("no panic");
    let engine = engine.expect("comes up again");
    // The same driver, without being told.
    let seen = bench.unit("web").await;
    assert_eq!(seen.handle, handle);
    assert!(matches!(seen.state, RunState::Exited(_)), "an engine's stop ends its containers: {seen:?}");
    let mut events = bench.driver.follow(&bench.name.id, &bench.places()).await.expect("follows again");
    bench.done(start("web")).await;
    assert_eq!(bench.unit("web").await.state, RunState::Running);
    let seen = bench.unit("web").await;
    assert!(seen.connected && seen.address.is_none(), "its network is not this machine's: {seen:?}");
    let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time");
    assert!(matches!(&event, Some(RuntimeEvent::Started { unit, .. }) if unit == "web"), "{event:?}");
    bench.close().await;
    tokio::task::spawn_blocking(move || drop(engine)).await.expect("no panic");
}
