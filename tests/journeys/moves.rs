//! A checkout that is moved keeps its preview and its data; a copy is another preview.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::sandbox::{Sandbox, copy_folder, find_unit, wait_until};

const MANIFEST: &str = "pdev: 1\napp: moves\nservices:\n  one: { health: none, process: { command: 'pwd >> $PDEV_LOG; exec sleep 1000' } }\n";

fn manifest(sandbox: &Sandbox) -> String {
    MANIFEST.replace("$PDEV_LOG", sandbox.path("starts").to_str().unwrap())
}

#[test]
fn moved_checkout_keeps_its_preview() {
    for with_git in [false, true] {
        let sandbox = Sandbox::without_docker();
        sandbox.write("pdev.yaml", &manifest(&sandbox));
        if with_git {
            sandbox.git_init(&sandbox.project());
        }
        sandbox.pdev(&["up"]).ok();
        let before = sandbox.status(&sandbox.project());
        let moved = sandbox.path("moved");
        fs::rename(sandbox.project(), &moved).unwrap();
        // Each command finds it, before and after the next `up`.
        let after = sandbox.status(&moved);
        assert_eq!((&after["id"], &after["state"]), (&before["id"], &before["state"]), "git: {with_git}");
        sandbox.pdev_in(&moved, &["up"]).ok().prints("nothing changed");
        assert_eq!(sandbox.status(&moved)["folder"], moved.to_str().unwrap());
        sandbox.pdev_in(&moved, &["restart", "one"]).ok();
        let starts = || fs::read_to_string(sandbox.path("starts")).unwrap_or_default();
        wait_until("it is restarted", Duration::from_secs(10), || starts().lines().count() == 2);
        assert!(starts().trim().ends_with("/moved"), "{}", starts());
        sandbox.pdev_in(&moved, &["agent", "stop"]).ok();
        assert_eq!(sandbox.status(&moved)["id"], before["id"]);

        // A new checkout at the old path is another preview.
        sandbox.write("pdev.yaml", &manifest(&sandbox));
        sandbox.pdev(&["up", "--name", "second"]).ok();
        assert_ne!(sandbox.status(&sandbox.project())["id"], before["id"]);
        assert_eq!(sandbox.status(&moved)["id"], before["id"]);
        assert_eq!(sandbox.status(&moved)["state"], "ready");
        sandbox.pdev(&["down"]).ok();
        sandbox.pdev_in(&moved, &["down"]).ok();
    }
}

#[test]
fn copied_checkout_is_another_preview() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", &manifest(&sandbox));
    sandbox.pdev(&["up"]).ok();
    let copy = sandbox.path("copy");
    copy_folder(&sandbox.project(), &copy);
    sandbox.pdev_in(&copy, &["status"]).fails_with(4);
    sandbox.pdev_in(&copy, &["up", "--name", "copy"]).ok();
    assert_ne!(sandbox.status(&copy)["id"], sandbox.status(&sandbox.project())["id"]);
    // Also if the original is removed afterwards.
    sandbox.pdev_in(&copy, &["down"]).ok();
    fs::remove_dir_all(sandbox.project()).unwrap();
    sandbox.pdev_in(&copy, &["status"]).fails_with(4);
    sandbox.pdev_in(&copy, &["down", "moves/main"]).ok();
}

/// The engine stores absolute paths, so a container that mounts the project is created again. Its data stays.
#[test]
fn moved_checkout_gets_new_bind_mounts() {
    let Some(sandbox) = Sandbox::with_docker("bind mounts of a moved checkout") else { return };
    let service = |name: &str, volumes: &str| {
        format!(
            "  {name}: {{ image: \"debian:stable-slim\", command: [sleep, \"100000\"], stop: {{ grace: 0s }}, volumes: {volumes} }}\n"
        )
    };
    let mounted = service("mounted", "{ code: { path: ./code, target: /code }, data: /data }");
    let plain = service("plain", "{ data: /data }");
    sandbox.write("pdev.yaml", &format!("pdev: 1\napp: moves\nservices:\n{mounted}{plain}"));
    sandbox.write("code/file", "first");
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["exec", "mounted", "--", "sh", "-c", "echo data > /data/x"]).ok();
    let handle = |folder: &std::path::Path, unit: &str| find_unit(&sandbox.status(folder), unit)["handle"].clone();
    let before = (handle(&sandbox.project(), "mounted"), handle(&sandbox.project(), "plain"));
    let moved = sandbox.path("moved");
    fs::rename(sandbox.project(), &moved).unwrap();
    sandbox.pdev_in(&moved, &["plan"]).ok().prints("changed: the path of the project");
    sandbox.pdev_in(&moved, &["up"]).ok();
    assert_ne!(handle(&moved, "mounted"), before.0);
    assert_eq!(handle(&moved, "plain"), before.1, "it mounts nothing of the project");
    fs::write(moved.join("code/file"), "second").unwrap();
    let read = sandbox.pdev_in(&moved, &["exec", "mounted", "--", "sh", "-c", "cat /code/file /data/x"]).ok();
    assert_eq!(read.out, "seconddata\n");
    assert!(!sandbox.project().exists(), "the engine did not create the old folder again");
    sandbox.pdev_in(&moved, &["up"]).ok().prints("nothing changed");
    sandbox.pdev_in(&moved, &["down", "--volumes"]).ok();
    let left = Command::new("docker").args(["ps", "-aq", "--filter", "label=dev.pdev.app=moves"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}
