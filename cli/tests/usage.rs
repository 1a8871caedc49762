//! Output of the binary without an agent: help, suggestions for misspelt names, usage errors.
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
    for (arguments, suggestion) in [
        (&["statsu"][..], "'status'"),
        (&["up", "--detatch"], "'--detach'"),
        (&["up", "--runtime", "dokcer"], "'docker'"),
        (&["agent", "statsu"], "'status'"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(suggestion), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_is_grouped_and_exits_zero() {
    let (code, stdout, stderr) = run(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let positions: Vec<_> = ["Previews:\n  up", "Manifest:\n  plan", "Other commands:\n", "Global options:\n  -C"]
        .iter()
        .map(|part| stdout.find(part))
        .collect();
    assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{stdout}");
    let (code, stdout, _) = run(&["up", "--help"]);
    assert!(code == Some(0) && stdout.contains("Examples:\n  pdev up "), "{stdout}");
}

#[test]
fn help_command_prints_same_pages_as_help_option() {
    for path in [&[][..], &["up"], &["ps"], &["identity", "add"], &["help"]] {
        let (code, stdout, stderr) = run(&[&["help"][..], path].concat());
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{path:?}");
        assert_eq!(stdout, run(&[path, &["--help"]].concat()).1, "{path:?}");
    }
    let (code, stdout, _) = run(&["help", "--all"]);
    assert!(code == Some(0) && stdout.contains("\n  vault        Show or reset the vault"), "{stdout}");
    assert!(stdout.contains("\n      --color <WHEN>  When to color the output; NO_COLOR"), "{stdout}");
}

#[test]
fn help_of_unknown_command_suggests_nearest() {
    for (arguments, expected) in [
        (&["help", "statsu"][..], "error: `pdev` has no command `statsu`\ntry: Did you mean `status`?\n"),
        (
            &["help", "zzzzzz"],
            "error: `pdev` has no command `zzzzzz`\ntry: Run `pdev help --all` to list all commands.\n",
        ),
        (
            &["help", "vault", "zzzzzz"],
            "error: `pdev vault` has no command `zzzzzz`\ntry: Run `pdev vault --help` to see its commands and options.\n",
        ),
    ] {
        assert_eq!(run(arguments), (Some(2), String::new(), expected.to_owned()));
    }
}

#[test]
fn missing_agent_or_manifest_is_reported() {
    let (code, _, stderr) = run(&["agent", "status"]);
    assert_eq!(
        (code, stderr.as_str()),
        (Some(3), "error: the agent is not running\ntry: Run `pdev up` to start it.\n")
    );
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
