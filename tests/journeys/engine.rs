//! The engine restarts while a preview runs.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::private_engine::PrivateEngine;
use crate::sandbox::{Sandbox, find_unit, wait_until};

const IMAGE: &str = "debian:stable-slim";
const MANIFEST: &str = r#"
pdev: 1
app: engines
services:
  polite:
    image: "debian:stable-slim"
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done"]
  rude:
    image: "debian:stable-slim"
    command: [sleep, "100000"]
    stop: { grace: 1s }
"#;

#[test]
fn preview_recovers_after_engine_restart() {
    if Sandbox::with_docker("engine").is_none() {
        return;
    }
    let mut engine = match PrivateEngine::start(IMAGE) {
        Ok(engine) => engine,
        Err(reason) => return println!("skipped: engine: {reason}"),
    };
    let sandbox = Sandbox::with_engine(&engine.host());
    let project = sandbox.project();
    sandbox.write("pdev.yaml", MANIFEST);
    sandbox.git_init(&project);
    sandbox.pdev(&["up"]).ok();
    let ready = || {
        let status = sandbox.status(&project);
        ["polite", "rude"].iter().all(|name| find_unit(&status, name)["state"] == "ready")
    };
    assert!(ready());
    engine.stop();
    wait_until("the loss of the engine is reported", Duration::from_secs(20), || !ready());
    wait_until("the cause is reported", Duration::from_secs(20), || {
        let status = sandbox.pdev(&["status"]).ok();
        ["polite", "rude"].iter().all(|name| find_unit(&sandbox.status(&project), name)["state"] == "unhealthy")
            && status.out.contains("the container engine is gone; this unit recovers when the engine is back")
    });
    // A container that ended with its engine is not a problem, and missing logs are an error, not empty logs.
    assert_eq!(sandbox.status(&project).get("problems"), None);
    sandbox.pdev(&["logs"]).fails_with(1).prints("cannot reach the Docker engine");
    // `up` must not start the services as processes, because that would be a second copy.
    sandbox.pdev(&["up"]).fails_with(1).prints("cannot reach the Docker engine").prints("--runtime process");
    engine.start_daemon().unwrap();
    // The agent recovers without a request.
    wait_until("the preview is ready again", Duration::from_secs(60), ready);
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
    let handle = find_unit(&sandbox.status(&project), "rude")["handle"].as_str().unwrap().to_owned();
    let mut kill = Command::new("docker");
    kill.args(["-H", &engine.host(), "kill", &handle]).stdout(Stdio::null());
    assert!(kill.status().unwrap().success());
    let restarted = || {
        let status = sandbox.status(&project);
        let rude = find_unit(&status, "rude");
        rude["state"] == "ready" && rude["restarts"].as_u64() > Some(0)
    };
    wait_until("the killed container is restarted", Duration::from_secs(20), restarted);
    sandbox.pdev(&["down"]).ok();
}
