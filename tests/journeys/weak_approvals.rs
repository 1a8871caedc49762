//! Approvals that a program of the user gives for its own request: marked as weak, and refused by `approval = "strict"`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::approvals::PDEV;
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout};

const WEAK: &str = "this approval is weak";
const STRICT: &str = "`approval = \"strict\"` refuses weak ones";

fn new_sandbox(policy: &str) -> Sandbox {
    let sandbox = Sandbox::without_docker();
    let manifest = "pdev: 1\napp: a\nidentities: { shop-dev: x }\nservices:\n  web: { identity: shop-dev, health: none, \
                    process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", manifest);
    write_identities(&sandbox, &format!("{policy}[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n"));
    sandbox.pdev(&["ls"]).ok();
    sandbox
}

/// Runs a shell script as a program of the user, outside of any session and preview.
fn run_script(sandbox: &Sandbox, script: &str) -> CommandOutput {
    let plain = sandbox.command(&sandbox.project(), &[]);
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(sandbox.project()).env_clear().stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_with_timeout(command, Duration::from_secs(60))
}

/// Requests in a detached process, so that it has no common ancestor with the terminal that the program then drives.
fn detached_request() -> String {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let driver = driver.display();
    format!(
        "setsid -f sh -c '{PDEV} up > up.out 2>&1; echo > up.done'; until [ -e up.done ]; do sleep 0.05; done; {CODE}
         python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"
    )
}

const CODE: &str =
    "code=$(sed -n 's/.*identity approve \\([a-z0-9-]*\\).*/\\1/p' up.out | head -n 1); echo \"<$code>\";";

/// Requests in one window of a server that ran before, and types into another one.
fn multiplexer_request() -> String {
    format!(
        "tmux -S ./mux new-session -d -s one sh; tmux -S ./mux send-keys -t one '{PDEV} up > up.out 2>&1; echo > up.done' Enter
         until [ -e up.done ]; do sleep 0.05; done; {CODE}
         tmux -S ./mux new-window -t one 'exec sh'; tmux -S ./mux send-keys -t one:1 \"{PDEV} identity approve $code > approve.out 2>&1; echo > approve.done\" Enter
         until grep -q 'to approve' approve.out 2>/dev/null; do sleep 0.05; done; tmux -S ./mux send-keys -t one:1 shop-dev Enter
         until [ -e approve.done ]; do sleep 0.05; done; cat approve.out; tmux -S ./mux kill-server"
    )
}

fn check_attack(attack: &str) {
    let strict = new_sandbox("approval = \"strict\"\n\n");
    run_script(&strict, attack).prints(STRICT);
    assert_eq!(strict.pdev(&["identity", "approvals", "--json"]).ok().out.trim(), "[]");
    strict.pdev(&["audit"]).ok().prints("approval_too_weak");

    let normal = new_sandbox("");
    run_script(&normal, attack).prints(WEAK);
    normal.pdev(&["audit"]).ok().prints("weak: ");
    assert!(!normal.pdev(&["up"]).ok().transcript().contains("without the identity"));
    // The stricter rule applies to what was approved before.
    write_identities(&normal, "approval = \"strict\"\n[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n");
    normal.pdev(&["up"]).ok().prints("without the identity");
}

#[test]
fn detached_request_and_driven_terminal_are_weak() {
    check_attack(&detached_request());
}

#[test]
fn window_of_a_multiplexer_is_weak() {
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("skipped: windows of a multiplexer: `tmux` is not installed");
        return;
    }
    check_attack(&multiplexer_request());
}
