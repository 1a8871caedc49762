//! Where a preview runs and which preview a command means: the engine of the caller, kept options, environments, and
//! `down` without an engine.

use std::process::Command;
use std::time::Duration;

use crate::private_engine::PrivateEngine;
use crate::sandbox::{CommandOutput, Sandbox, find_unit, run_with_timeout, wait_until};

const IMAGE: &str = "debian:stable-slim";
const CONTAINER: &str = "  box: { image: \"debian:stable-slim\", command: [sleep, \"100000\"], stop: { grace: 0s } }\n";
const PROCESS: &str = "  prog: { runtime: process, process: { command: [sleep, \"100000\"] } }\n";

fn start_engine(journey: &str) -> Option<PrivateEngine> {
    Sandbox::with_docker(journey)?;
    PrivateEngine::start(IMAGE).map_err(|reason| println!("skipped: {journey}: {reason}")).ok()
}

fn write_manifest(sandbox: &Sandbox, services: &[&str]) {
    sandbox.write("pdev.yaml", &format!("pdev: 1\napp: places\nservices:\n{}", services.concat()));
}

fn containers(host: &str) -> usize {
    let mut command = Command::new("docker");
    command.args(["-H", host, "ps", "-q", "--filter", "label=dev.pdev.service=box"]);
    String::from_utf8_lossy(&command.output().unwrap().stdout).lines().count()
}

fn pdev_with_host(sandbox: &Sandbox, host: &str, arguments: &[&str]) -> CommandOutput {
    let mut command = sandbox.command(&sandbox.project(), arguments);
    command.env("DOCKER_HOST", host);
    run_with_timeout(command, Duration::from_secs(120))
}

/// The agent is started with one engine and then used from a shell that selects another one.
#[test]
fn preview_runs_on_engine_of_caller_and_stays_there() {
    let Some(engine) = start_engine("engine of the caller") else { return };
    // No command of the sandbox itself can reach an engine.
    let sandbox = Sandbox::without_docker();
    write_manifest(&sandbox, &[CONTAINER]);
    sandbox.pdev(&["ls"]).ok();
    let host = engine.host();
    pdev_with_host(&sandbox, &host, &["up"]).ok();
    assert_eq!(containers(&host), 1);
    sandbox.pdev(&["exec", "box", "--", "true"]).ok();
    let mut unset = sandbox.command(&sandbox.project(), &["up"]);
    unset.env_remove("DOCKER_HOST");
    run_with_timeout(unset, Duration::from_secs(120)).ok().prints("nothing changed");
    // The variable of the sandbox selects another engine.
    sandbox
        .pdev(&["up"])
        .fails_with(1)
        .prints("this preview runs on the engine")
        .prints("DOCKER_HOST selects the engine `unix:///nonexistent/docker.sock`")
        .prints("pdev down");
    assert_eq!(containers(&host), 1);
    // The agent remembers the engine when it is started again.
    sandbox.pdev(&["agent", "stop"]).ok();
    sandbox.pdev(&["status"]).ok().prints("box");
    sandbox.pdev(&["down"]).ok();
    assert_eq!(containers(&host), 0);
    // Without data, nothing binds the preview to the engine any more.
    sandbox.pdev(&["up", "--runtime", "docker"]).fails_with(1).prints("/nonexistent/docker.sock");
}

#[test]
fn down_of_process_preview_asks_no_engine() {
    let sandbox = Sandbox::without_docker();
    write_manifest(&sandbox, &[PROCESS]);
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["down"]).ok();
    assert!(sandbox.processes().iter().all(|(_, command)| !command.contains("100000")), "{:?}", sandbox.processes());
}

#[test]
fn down_stops_what_it_can_and_completes_when_engine_answers() {
    let Some(mut engine) = start_engine("down without its engine") else { return };
    let sandbox = Sandbox::with_engine(&engine.host());
    write_manifest(&sandbox, &[CONTAINER, PROCESS]);
    sandbox.pdev(&["up"]).ok();
    let status = sandbox.status(&sandbox.project());
    let handle = find_unit(&status, "box")["handle"].as_str().unwrap().to_owned();
    engine.stop();
    sandbox.pdev(&["down"]).fails_with(1).prints("cannot stop `box`").prints("cannot reach the Docker engine");
    assert!(sandbox.processes().iter().all(|(_, command)| !command.contains("100000")), "{:?}", sandbox.processes());
    engine.start_daemon().unwrap();
    let mut inspect = Command::new("docker");
    inspect.args(["-H", &engine.host(), "inspect", &handle]);
    wait_until("the container is removed", Duration::from_secs(60), || {
        inspect.output().is_ok_and(|output| !output.status.success())
    });
    wait_until("the preview is removed", Duration::from_secs(10), || {
        sandbox.pdev(&["ls", "--json"]).ok().json().as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn options_of_up_hold_until_reset() {
    let Some(sandbox) = Sandbox::with_docker("options that a preview keeps") else { return };
    let project = sandbox.project();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: kept\nvars: { level: low }\nservices:\n  box:\n    image: \"debian:stable-slim\"\n    \
         command: [sleep, \"100000\"]\n    env: { LEVEL: \"${vars.level}\" }\n    stop: { grace: 0s }\n\
         jobs:\n  show: { when: manual, runtime: process, process: { command: [\"true\"] } }\n",
    );
    let runtime = || find_unit(&sandbox.status(&project), "box")["runtime"].as_str().unwrap().to_owned();
    sandbox.pdev(&["up", "--runtime", "process", "--set", "vars.level=high"]).ok().prints("--runtime process");
    assert_eq!(runtime(), "process");
    let note = "keeps the options `--runtime process --set vars.level=high`";
    sandbox.pdev(&["up"]).ok().prints("nothing changed").prints(note);
    sandbox.pdev(&["plan"]).ok().prints(note);
    sandbox.pdev(&["run", "show"]).ok();
    // Options of `plan` are not recorded.
    sandbox.pdev(&["plan", "--set", "vars.level=mid"]).ok().prints("env.LEVEL");
    sandbox.pdev(&["agent", "stop"]).ok();
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
    assert_eq!(runtime(), "process");
    let reset = sandbox.pdev(&["up", "--reset"]).ok();
    assert!(!reset.transcript().contains("keeps the options"), "{}", reset.transcript());
    assert_eq!(runtime(), "docker");
}

#[test]
fn commands_use_only_preview_of_folder() {
    let sandbox = Sandbox::without_docker();
    let environments = "environments: { e5: {}, e6: {} }\n";
    sandbox.write("pdev.yaml", &format!("pdev: 1\napp: several\n{environments}services:\n{PROCESS}"));
    sandbox.pdev(&["up", "-e", "e5"]).ok();
    sandbox.pdev(&["logs"]).ok();
    sandbox.pdev(&["status"]).ok().prints("e5");
    sandbox.pdev(&["up", "-e", "e6"]).ok();
    for command in ["status", "logs", "down"] {
        sandbox.pdev(&[command]).fails_with(4).prints("several previews").prints("`-e e5` or `-e e6`");
    }
    sandbox.pdev(&["down", "-e", "e6"]).ok();
    // `up` and `plan` use the environment `local`, whatever else is up.
    sandbox.pdev(&["plan"]).ok().prints("prog");
    sandbox.pdev(&["status"]).ok().prints("e5");
    sandbox.pdev(&["down"]).ok();
}

/// The manifest's `context` selects an engine after the caller's variables and the recorded engine.
#[test]
fn context_of_manifest_selects_engine() {
    let Some(engine) = start_engine("context of the manifest") else { return };
    let sandbox = Sandbox::without_docker();
    let config = sandbox.path("docker");
    for (name, host) in [("one", engine.host()), ("two", "unix:///nonexistent/two.sock".to_owned())] {
        let digest = Command::new("sh").args(["-c", &format!("printf %s {name} | sha256sum")]).output().unwrap();
        let digest = String::from_utf8_lossy(&digest.stdout[..64]).into_owned();
        let folder = config.join("contexts/meta").join(digest);
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("{{\"Name\":\"{name}\",\"Endpoints\":{{\"docker\":{{\"Host\":\"{host}\"}}}}}}");
        std::fs::write(folder.join("meta.json"), text).unwrap();
    }
    let write = |context: &str| {
        let environments = format!("environments: {{ local: {{ context: {context} }} }}\n");
        sandbox.write("pdev.yaml", &format!("pdev: 1\napp: places\n{environments}services:\n{CONTAINER}"));
    };
    let pdev = |host: Option<&str>, arguments: &[&str]| {
        let mut command = sandbox.command(&sandbox.project(), arguments);
        command.env_remove("DOCKER_HOST").env("DOCKER_CONFIG", &config);
        if let Some(host) = host {
            command.env("DOCKER_HOST", host);
        }
        run_with_timeout(command, Duration::from_secs(120))
    };
    write("one");
    pdev(None, &["up"]).ok();
    assert_eq!(containers(&engine.host()), 1);
    pdev(None, &["up"]).ok().prints("nothing changed");
    write("two");
    pdev(None, &["up"]).fails_with(1).prints("`context` in the manifest selects").prints("pdev down");
    assert_eq!(containers(&engine.host()), 1);
    // The recorded engine stays in use.
    pdev(None, &["restart"]).ok();
    pdev(None, &["down"]).ok();
    assert_eq!(containers(&engine.host()), 0);
    pdev(None, &["up", "--runtime", "docker"]).fails_with(1).prints("/nonexistent/two.sock");
    pdev(Some(&engine.host()), &["up"]).ok();
    assert_eq!(containers(&engine.host()), 1);
    pdev(None, &["down"]).ok();
    write("absent");
    pdev(None, &["up", "--runtime", "docker"]).fails_with(1).prints("the Docker context `absent`");
}

/// A unit that moves to another runtime starts without its data, so the user must agree.
#[test]
fn units_with_data_move_only_on_request() {
    let Some(sandbox) = Sandbox::with_docker("units that leave their data") else { return };
    let project = sandbox.project();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: leave\nservices:\n  box:\n    image: \"debian:stable-slim\"\n    command: [sleep, \"100000\"]\n    stop: { grace: 0s }\n    volumes: { data: /data }\n    process: { command: [sleep, \"100000\"] }\n",
    );
    let runtime = || find_unit(&sandbox.status(&project), "box")["runtime"].as_str().unwrap().to_owned();
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["exec", "box", "--", "sh", "-c", "echo first > /data/x"]).ok();
    sandbox
        .pdev(&["up", "--runtime", "process"])
        .fails_with(1)
        .prints("would move from docker to process and leave data behind (`data`)")
        .prints("pdev up --yes");
    assert_eq!(runtime(), "docker");
    // A refused option is not kept.
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
    sandbox.pdev(&["up", "--runtime", "process", "--yes"]).ok();
    assert_eq!(runtime(), "process");
    sandbox.pdev(&["up", "--runtime", "docker"]).ok();
    assert_eq!(sandbox.pdev(&["exec", "box", "--", "cat", "/data/x"]).ok().out, "first\n");
    sandbox.pdev(&["down", "--volumes"]).ok();
}
