//! A repository's first use of an identity. The requesting process and its descendants cannot approve it; the user in
//! another terminal can.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, find_unit, to_command_output};

pub const PDEV: &str = env!("CARGO_BIN_EXE_pdev");

fn sandbox_with_unapproved_identity() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    let manifest = "pdev: 1\napp: a\nidentities: { shop-dev: x }\nservices:\n  web: { identity: shop-dev, health: none, \
                    process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", manifest);
    write_identities(&sandbox, "[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n");
    sandbox
}

/// Starts a command in a new terminal. `answers` has pairs: a text to wait for, and the input to type then.
pub fn spawn_in_terminal(sandbox: &Sandbox, command: &str, answers: &[&str]) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let mut shell = sandbox.command(&sandbox.project(), &[]);
    let mut python = std::process::Command::new("python3");
    python.arg(program).arg(command).args(answers).current_dir(sandbox.project()).env_clear();
    python.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null());
    python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub fn wait_for_output(child: Child) -> CommandOutput {
    to_command_output(&child.wait_with_output().unwrap())
}

/// Runs `up` in a terminal, then a command in which `$code` is the code that `up` printed.
fn run_after_request(sandbox: &Sandbox, command: &str) -> CommandOutput {
    let script = format!(
        "code=$({PDEV} up 2>&1 | sed -n 's/.*identity approve \\([a-z0-9-]*\\).*/\\1/p' | head -n 1); echo \"code <$code>\"; {command}"
    );
    wait_for_output(spawn_in_terminal(sandbox, &script, &["to approve: ", "shop-dev"]))
}

#[test]
fn requester_cannot_approve_own_request() {
    let sandbox = sandbox_with_unapproved_identity();
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let driver = driver.display();
    let attempts = [
        (format!("{PDEV} identity approve $code"), "the request came from this terminal"),
        (
            format!("python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"),
            "this one was started by the requester",
        ),
        (
            format!("setsid python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"),
            "started by the requester",
        ),
        (format!("echo shop-dev | {PDEV} identity approve $code"), "standard input is not a terminal"),
    ];
    for (attempt, refusal) in attempts {
        let output = run_after_request(&sandbox, &attempt);
        assert!(output.transcript().contains(refusal), "{attempt}: {}", output.transcript());
        assert!(
            sandbox.pdev(&["identity", "approvals", "--json"]).ok().json().as_array().unwrap().is_empty(),
            "{attempt}"
        );
    }
    // The socket needs no terminal, but it rejects the requester as well.
    let socket = sandbox.path("run").join("agent.sock");
    let by_hand = format!("curl -s --unix-socket {} -X POST http://pdev/v1/approvals/$code", socket.display());
    let output = run_after_request(&sandbox, &by_hand);
    assert!(output.transcript().contains("not_by_the_asker"), "{}", output.transcript());
    sandbox.pdev(&["audit"]).ok().prints("not_by_the_asker");
    // Listing pending requests is allowed. `plan` creates no request, so it makes no process a requester.
    let list_pending = format!("curl -s --unix-socket {} http://pdev/v1/approvals/waiting", socket.display());
    let output = run_after_request(&sandbox, &list_pending);
    let project = sandbox.project().canonicalize().unwrap();
    assert!(
        output.transcript().contains(&approval_code(&output))
            && output.transcript().contains(project.to_str().unwrap()),
        "{}",
        output.transcript()
    );
    let plan = sandbox.pdev(&["plan"]).ok().prints("Run `pdev up` to request approval");
    assert!(!plan.transcript().contains("identity approve"), "{}", plan.transcript());
}

#[test]
fn user_in_another_terminal_approves_and_revokes() {
    let sandbox = sandbox_with_unapproved_identity();
    let fifo = sandbox.path("code");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open the terminal before the request, because the requester could have opened a later one.
    let approving = format!("read code < {}; {PDEV} identity approve $code", fifo.display());
    let approver = spawn_in_terminal(&sandbox, &approving, &["to approve: ", "shop-dev"]);
    let request = run_after_request(&sandbox, &format!("echo $code > {}", fifo.display()));
    let output = wait_for_output(approver);
    assert!(
        output.transcript().contains("would act as shop-dev") && output.transcript().contains("approved;"),
        "{} {}",
        request.transcript(),
        output.transcript()
    );
    let again = wait_for_output(spawn_in_terminal(
        &sandbox,
        &format!("{PDEV} identity approve {}", approval_code(&request)),
        &[],
    ));
    assert!(again.transcript().contains("there is no request"), "a code is valid only once: {}", again.transcript());
    let up = sandbox.pdev(&["up"]).ok();
    assert!(!up.transcript().contains("without the identity"), "{}", up.transcript());
    assert_eq!(find_unit(&sandbox.status(&sandbox.project()), "web")["identity"], "shop-dev");
    sandbox.pdev(&["identity", "approvals"]).ok().prints("shop-dev").prints("web");
    sandbox.pdev(&["audit"]).ok().prints("approved");
    // A change of the identity's definition invalidates the approval.
    write_identities(&sandbox, "[shop-dev]\nsource = \"exec\"\ncommand = [\"true\"]\n");
    sandbox.pdev(&["up"]).ok().prints("its use in this repository is not approved");
    sandbox.pdev(&["identity", "revoke", "shop-dev", "--service", "other"]).fails_with(4).prints("no approval matches");
    sandbox.pdev(&["identity", "revoke", "shop-dev"]).ok().prints("1 approval revoked");
}

fn approval_code(output: &CommandOutput) -> String {
    let all = output.transcript();
    let (_, rest) = all.split_once("code <").unwrap_or_else(|| panic!("{all}"));
    rest.split('>').next().unwrap_or_default().to_owned()
}
