//! Commands from shells with other variables than the shell that started the agent, and after a logout or reboot has
//! removed the user's runtime folder.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, to_command_output, wait_until};

const SERVICE: &str = "pdev: 1\napp: shells\nservices:\n  one: { health: none, process: { command: [sleep, '1000'] } }\n  two: { health: none, process: { command: [sleep, '1001'] } }\n";

/// A shell of the sandbox's user: with this runtime folder, or without one.
fn shell_command(sandbox: &Sandbox, runtime: Option<&Path>, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(&sandbox.project(), arguments);
    command.env_remove("PDEV_SOCKET_DIR").env("TMPDIR", sandbox.path("tmp"));
    match runtime {
        Some(runtime) => command.env("XDG_RUNTIME_DIR", runtime),
        None => command.env_remove("XDG_RUNTIME_DIR"),
    };
    command
}

#[track_caller]
fn pdev_in_shell(sandbox: &Sandbox, runtime: Option<&Path>, arguments: &[&str]) -> CommandOutput {
    run_with_timeout(shell_command(sandbox, runtime, arguments), Duration::from_secs(60))
}

fn create_runtime_folder(sandbox: &Sandbox, name: &str) -> PathBuf {
    let folder = sandbox.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    folder
}

fn sandbox_with_temporary_folder() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    std::fs::create_dir(sandbox.path("tmp")).unwrap();
    sandbox
}

#[track_caller]
fn agent_pid(sandbox: &Sandbox, runtime: Option<&Path>) -> u64 {
    pdev_in_shell(sandbox, runtime, &["agent", "status", "--json"]).ok().json()["pid"].as_u64().unwrap()
}

#[test]
fn shells_with_and_without_runtime_folder_share_one_agent() {
    let sandbox = sandbox_with_temporary_folder();
    let (login, other) = (create_runtime_folder(&sandbox, "login"), create_runtime_folder(&sandbox, "other"));
    sandbox.write("pdev.yaml", SERVICE);
    for first in [Some(login.as_path()), None] {
        pdev_in_shell(&sandbox, first, &["up"]).ok();
        let pid = agent_pid(&sandbox, first);
        for second in [Some(login.as_path()), Some(other.as_path()), None] {
            assert_eq!(agent_pid(&sandbox, second), pid, "{second:?} after {first:?}");
            pdev_in_shell(&sandbox, second, &["restart", "one"]).ok();
        }
        // An agent of its own would start and stop the same programs.
        let conflict = || {
            let mut command = shell_command(&sandbox, None, &["status"]);
            command.env("PDEV_SOCKET_DIR", sandbox.path("run"));
            run_with_timeout(command, Duration::from_secs(60))
        };
        conflict().fails_with(3).prints("PDEV_SOCKET_DIR").prints(sandbox.path("run").to_str().unwrap());
        pdev_in_shell(&sandbox, None, &["down"]).ok();
        pdev_in_shell(&sandbox, None, &["agent", "stop"]).ok();
    }
}

#[test]
fn killed_agent_is_replaced_from_another_shell() {
    let sandbox = sandbox_with_temporary_folder();
    let login = create_runtime_folder(&sandbox, "login");
    sandbox.write("pdev.yaml", SERVICE);
    pdev_in_shell(&sandbox, Some(&login), &["up"]).ok();
    let programs = || sandbox.processes().iter().filter(|(_, command)| command.contains("sleep 100")).count();
    assert_eq!(programs(), 2);
    crate::sandbox::send_signal(u32::try_from(agent_pid(&sandbox, Some(&login))).unwrap(), "KILL");
    // The keeper of the programs has its socket in the folder of the first agent, and must follow the second one.
    pdev_in_shell(&sandbox, None, &["status"]).ok();
    pdev_in_shell(&sandbox, None, &["restart", "one"]).ok();
    assert_eq!(programs(), 2);
    pdev_in_shell(&sandbox, Some(&login), &["exec", "two", "--", "true"]).ok();
    pdev_in_shell(&sandbox, None, &["down"]).ok();
    assert_eq!(programs(), 0);
    pdev_in_shell(&sandbox, None, &["agent", "stop"]).ok();
}

#[test]
fn preview_survives_loss_of_runtime_folder() {
    let sandbox = sandbox_with_temporary_folder();
    let login = create_runtime_folder(&sandbox, "login");
    sandbox.write("pdev.yaml", SERVICE);
    pdev_in_shell(&sandbox, Some(&login), &["up"]).ok();
    let pid = agent_pid(&sandbox, Some(&login));
    std::fs::remove_dir_all(&login).unwrap();
    wait_until("the agent stops", Duration::from_secs(10), || !Path::new(&format!("/proc/{pid}")).exists());
    // After a logout, the folder is gone although the variable may still name it.
    pdev_in_shell(&sandbox, Some(&login), &["restart", "one"]).ok();
    let status = pdev_in_shell(&sandbox, None, &["status", "--json"]).ok().json();
    assert_eq!(status["state"], "ready", "{status}");
    pdev_in_shell(&sandbox, None, &["down"]).ok();
    pdev_in_shell(&sandbox, None, &["agent", "stop"]).ok();
}

/// Every way to get a credential starts the agent, even if the folder of its socket does not exist.
#[test]
fn credential_helpers_start_agent_after_reboot() {
    let sandbox = sandbox_with_temporary_folder();
    let bin = sandbox.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for link in ["pdev", "docker-credential-pdev", "git-credential-pdev", "cargo-credential-pdev"] {
        symlink(env!("CARGO_BIN_EXE_pdev"), bin.join(link)).unwrap();
    }
    let script = |name: &str, json: &str| {
        let path = sandbox.path(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{json}'\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let token = script("token.sh", r#"{"token":"canary-tok","expires_at":"2099-01-01T00:00:00Z"}"#);
    let keys = r#"{"Version":1,"AccessKeyId":"AKIACANARY","SecretAccessKey":"s","SessionToken":"t","Expiration":"2099-01-01T00:00:00Z"}"#;
    let aws = script("aws.sh", keys);
    write_identities(
        &sandbox,
        &format!(
            "[reg]\nsource = \"exec\"\ncommand = [\"{token}\"]\nhosts = [\"git.example.org\"]\nusername = \"robot\"\nvariable = \"TOKEN\"\n[dev]\nsource = \"exec\"\ncommand = [\"{aws}\"]\n"
        ),
    );
    let cases: [(&str, &[&str], &str, &str); 6] = [
        ("pdev", &["credential", "token", "reg"], "", "canary-tok"),
        ("pdev", &["credential", "aws", "dev"], "", "AKIACANARY"),
        ("pdev", &["run", "--as", "dev", "--", "true"], "", ""),
        ("git-credential-pdev", &["get"], "protocol=https\nhost=git.example.org\n\n", "canary-tok"),
        ("docker-credential-pdev", &["get"], "git.example.org", "canary-tok"),
        ("pdev", &["credential", "git", "get"], "protocol=https\nhost=git.example.org\n\n", "canary-tok"),
    ];
    for (program, arguments, input, expected) in cases {
        let run = |runtime: Option<&Path>| {
            let template = shell_command(&sandbox, runtime, arguments);
            let mut command = Command::new(bin.join(program));
            command.args(arguments).current_dir(sandbox.project()).env_clear();
            command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            to_command_output(&child.wait_with_output().unwrap())
        };
        for runtime in [Some(sandbox.path("gone")), None] {
            run(runtime.as_deref()).ok().prints(expected);
            pdev_in_shell(&sandbox, None, &["agent", "stop"]).ok();
            std::fs::remove_dir_all(sandbox.path("tmp")).unwrap();
            std::fs::create_dir(sandbox.path("tmp")).unwrap();
        }
    }
}

/// The paths of sockets are limited to 108 bytes, those of folders are not.
#[test]
fn long_runtime_folders_work() {
    for length in [78, 120] {
        let sandbox = sandbox_with_temporary_folder();
        let root = sandbox.path("").display().to_string().len();
        let runtime = create_runtime_folder(&sandbox, &"r".repeat(length - root - 1));
        sandbox.write("pdev.yaml", SERVICE);
        pdev_in_shell(&sandbox, Some(&runtime), &["up"]).ok();
        pdev_in_shell(&sandbox, Some(&runtime), &["exec", "one", "--", "true"]).ok();
        pdev_in_shell(&sandbox, Some(&runtime), &["down"]).ok();
        pdev_in_shell(&sandbox, Some(&runtime), &["agent", "stop"]).ok();
    }
}

/// Writes a program to a folder that only this shell has on its PATH. It records its variable and waits.
fn write_tool(sandbox: &Sandbox) -> String {
    let folder = sandbox.path("bin2");
    std::fs::create_dir(&folder).unwrap();
    let tool = folder.join("mytool");
    std::fs::write(&tool, "#!/bin/sh\necho \"$TOOL_MODE ${AWS_PROFILE-none}\" >> \"$1\"\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

const TOOLS: &str = "pdev: 1\napp: shells\nidentities: { cloud: cloud }\nservices:\n  one: { health: none, process: { command: [mytool, one.txt] } }\n  two: { health: none, process: { command: [mytool, two.txt] }, identity: cloud }\n";

#[test]
fn processes_have_the_environment_of_the_shell() {
    let sandbox = sandbox_with_temporary_folder();
    let path = write_tool(&sandbox);
    write_identities(&sandbox, "[cloud]\nsource = \"exec\"\ncommand = [\"true\"]\n");
    sandbox.write("pdev.yaml", TOOLS);
    let shell = |mode: &str, arguments: &[&str]| {
        let mut command = shell_command(&sandbox, None, arguments);
        command.env("PATH", &path).env("TOOL_MODE", mode).env("AWS_PROFILE", "canary-profile");
        run_with_timeout(command, Duration::from_secs(60))
    };
    let starts = |file: &str| std::fs::read_to_string(sandbox.project().join(file)).unwrap_or_default();
    // The agent's own environment knows neither the folder nor the variables.
    pdev_in_shell(&sandbox, None, &["up"]).fails_with(1).prints("program `mytool` not found");
    shell("canary-first", &["up"]).ok();
    wait_until("both run", Duration::from_secs(10), || !starts("one.txt").is_empty() && !starts("two.txt").is_empty());
    assert_eq!(starts("one.txt"), "canary-first canary-profile\n");
    assert_eq!(starts("two.txt"), "canary-first none\n", "its credentials come from pdev only");

    // Another shell restarts nothing, and learns what differs.
    shell("canary-second", &["plan"]).ok().prints("other values of `TOOL_MODE`").prints("pdev restart");
    shell("canary-second", &["up"]).ok().prints("other values of `TOOL_MODE`").prints("nothing changed");
    assert_eq!(starts("one.txt").lines().count(), 1);
    pdev_in_shell(&sandbox, None, &["restart", "one"]).ok();
    wait_until("it is restarted", Duration::from_secs(10), || starts("one.txt").lines().count() == 2);
    assert!(starts("one.txt").ends_with("canary-second canary-profile\n"));

    // The environment outlives the agent, but is in no file.
    crate::sandbox::send_signal(u32::try_from(agent_pid(&sandbox, None)).unwrap(), "KILL");
    pdev_in_shell(&sandbox, None, &["restart", "two"]).ok();
    wait_until("it is restarted", Duration::from_secs(10), || starts("two.txt").lines().count() == 2);
    assert!(starts("two.txt").ends_with("canary-second none\n"));
    assert_eq!(status_of_shell(&sandbox)["process_environment"], "shell");
    let mut search = Command::new("grep");
    search.args(["-rl", "canary-second"]).args(["home", "tmp"].map(|folder| sandbox.path(folder)));
    let found = search.stderr(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "no file contains it");

    // With the keeper, the recorded environment is lost.
    pdev_in_shell(&sandbox, None, &["agent", "stop"]).ok();
    let keepers: Vec<u32> = sandbox
        .processes()
        .into_iter()
        .filter(|(_, command)| command.contains(" keeper "))
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(keepers.len(), 1);
    crate::sandbox::send_signal(keepers[0], "KILL");
    wait_until("the preview is recovered without it", Duration::from_secs(20), || {
        status_of_shell(&sandbox)["process_environment"] == "agent"
    });
    pdev_in_shell(&sandbox, None, &["status"]).ok().prints("the environment of the agent");
    pdev_in_shell(&sandbox, None, &["down"]).ok();
    pdev_in_shell(&sandbox, None, &["agent", "stop"]).ok();
}

/// Variables of one `pdev run` are for its job only.
#[test]
fn job_run_from_a_shell_uses_its_environment_once() {
    let sandbox = sandbox_with_temporary_folder();
    sandbox.write("pdev.yaml", "pdev: 1\napp: shells\nservices:\n  one: { health: none, process: { command: 'echo $MODE >> one.txt; exec sleep 1000' } }\njobs:\n  show: { when: manual, process: { command: 'echo job-$MODE' } }\n");
    let shell = |mode: &str, arguments: &[&str]| {
        let mut command = shell_command(&sandbox, None, arguments);
        command.env("MODE", mode);
        run_with_timeout(command, Duration::from_secs(60)).ok()
    };
    shell("first", &["up"]);
    shell("second", &["run", "show"]).prints("job-second");
    shell("third", &["restart", "one"]);
    let written = || std::fs::read_to_string(sandbox.project().join("one.txt")).unwrap_or_default();
    wait_until("it is restarted", Duration::from_secs(10), || written().lines().count() == 2);
    assert_eq!(written(), "first\nfirst\n");
    shell("first", &["down"]);
    shell("first", &["agent", "stop"]);
}

fn status_of_shell(sandbox: &Sandbox) -> serde_json::Value {
    pdev_in_shell(sandbox, None, &["status", "--json"]).ok().json()
}
