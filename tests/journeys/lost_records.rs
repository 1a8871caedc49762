//! Previews that run although the agent's records of them were lost are listed, taken over and taken down.

use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, find_unit};

fn lose_records(sandbox: &Sandbox) {
    sandbox.pdev(&["agent", "stop"]).ok();
    let registry = sandbox.path("home/.local/state/pdev/registry");
    assert!(fs::read_dir(&registry).expect("the registry's folder").count() > 0);
    fs::remove_dir_all(&registry).unwrap();
}

fn check_restored(sandbox: &Sandbox, title: &str) -> Value {
    let previews = sandbox.pdev(&["ls", "--json"]).ok().json();
    let preview = &previews[0];
    assert_eq!((&preview["title"], &preview["state"]), (&title.into(), &"degraded".into()), "{previews}");
    assert_eq!(preview["folder"], sandbox.project().to_str().unwrap());
    preview.clone()
}

fn check_lost_records(sandbox: &Sandbox, manifest: &str) {
    sandbox.write("pdev.yaml", manifest);
    sandbox.pdev(&["up"]).ok();
    let before = sandbox.status(&sandbox.project());
    let title = before["title"].as_str().unwrap().to_owned();

    lose_records(sandbox);
    let restored = check_restored(sandbox, &title);
    assert_eq!(find_unit(&restored, "one")["handle"], find_unit(&before, "one")["handle"]);
    sandbox.pdev(&["status"]).prints("the agent's record of this preview was lost");
    // An agent that is restarted meanwhile still knows it.
    sandbox.pdev(&["agent", "stop"]).ok();
    sandbox.pdev(&["status"]).prints("the agent's record of this preview was lost");
    // It continues with the same ports, so nothing is replaced.
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
    let after = sandbox.status(&sandbox.project());
    assert_eq!(after["state"], "ready");
    assert_eq!(find_unit(&after, "one")["handle"], find_unit(&before, "one")["handle"]);
    assert_eq!(find_unit(&after, "one")["ports"], find_unit(&before, "one")["ports"]);

    lose_records(sandbox);
    // By name, from another folder.
    let elsewhere = sandbox.path("home");
    sandbox.pdev_in(&elsewhere, &["down", &title, "--volumes"]).ok();
    assert_eq!(sandbox.pdev(&["ls", "--json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn processes_without_records_are_found() {
    let sandbox = Sandbox::without_docker();
    let service = "{ port: 8000, health: none, process: { command: [sleep, \"100000\"] } }";
    check_lost_records(&sandbox, &format!("pdev: 1\napp: lost\nservices:\n  one: {service}\n"));
    assert!(sandbox.processes().iter().all(|(_, line)| !line.contains("sleep")), "{:?}", sandbox.processes());
}

#[test]
fn containers_without_records_are_found() {
    let Some(sandbox) = Sandbox::with_docker("containers without records") else { return };
    let service = |name: &str| {
        format!(
            "  {name}: {{ image: \"debian:stable-slim\", port: 8000, health: none, command: [sleep, \"100000\"], stop: {{ grace: 0s }}, volumes: {{ data: /data }} }}\n"
        )
    };
    let manifest = format!("pdev: 1\napp: lost\nservices:\n{}", service("one"));
    check_lost_records(&sandbox, &manifest);
    assert_eq!(sandbox.docker_objects(), Vec::<String>::new());
}

/// Another user's previews on the same engine are neither listed nor removed.
#[test]
fn previews_of_other_owners_are_left_alone() {
    let Some(first) = Sandbox::with_docker("previews of other owners") else { return };
    let Some(second) = Sandbox::with_docker("previews of other owners") else { return };
    first.write(
        "pdev.yaml",
        "pdev: 1\napp: owned\nservices:\n  one: { image: \"debian:stable-slim\", health: none, command: [sleep, \"100000\"], stop: { grace: 0s } }\n",
    );
    first.pdev(&["up"]).ok();
    let title = first.status(&first.project())["title"].as_str().unwrap().to_owned();
    assert_eq!(second.pdev(&["ls", "--json"]).ok().json(), serde_json::json!([]));
    second.pdev(&["down", &title]).fails_with(4);
    assert_eq!(first.status(&first.project())["state"], "ready");
    first.pdev(&["down"]).ok();
}
