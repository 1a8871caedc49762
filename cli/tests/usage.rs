//! What the binary says without any agent: help, near misses, wrong usage.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pdev"))
        .args(arguments)
        .env_clear()
        .env("PDEV_SOCKET_DIR", folder.path().join("none"))
        .current_dir(&folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn misspelt_commands_and_options_get_suggestions() {
    for (arguments, words) in [
        (&["statsu"][..], "'status'"),
        (&["up", "--detatch"], "'--detach'"),
        (&["up", "--runtime", "dokcer"], "'docker'"),
        (&["agent", "statsu"], "'status'"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_is_grouped_and_exits_zero() {
    let (code, stdout, stderr) = run(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let places: Vec<_> = ["Run:\n  up", "Look:\n  ls", "Platform:\n", "Everywhere:\n  -C"]
        .iter()
        .map(|part| stdout.find(part))
        .collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{stdout}");
    let (code, stdout, _) = run(&["up", "--help"]);
    assert!(code == Some(0) && stdout.contains("Examples:\n  pdev up "), "{stdout}");
}

#[test]
fn missing_agent_or_manifest_is_reported() {
    let (code, _, stderr) = run(&["agent", "status"]);
    assert_eq!((code, stderr.as_str()), (Some(3), "error: the agent is not running\ntry: `pdev up` starts it.\n"));
    let (code, _, stderr) = run(&["up"]);
    assert_eq!(code, Some(4));
    assert!(stderr.starts_with("error: no `pdev.yaml` in `/"), "{stderr}");
    let (code, stdout, _) = run(&["up", "--json"]);
    assert_eq!(
        (code, serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["code"].as_str()),
        (Some(4), Some("no_manifest"))
    );
    let (code, _, stderr) = run(&["-C", "/nowhere", "ls"]);
    assert_eq!(
        (code, stderr.as_str()),
        (Some(2), "error: cannot use the folder `/nowhere`: no such file or directory\n")
    );
}

#[test]
fn completions_and_man_pages_are_generated() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, stdout, _) = run(&["completions", shell]);
        assert!(code == Some(0) && stdout.contains("detach"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", folder.path().to_str().unwrap()]).0, Some(0));
    assert!(folder.path().join("pdev-up.1").is_file());
}
