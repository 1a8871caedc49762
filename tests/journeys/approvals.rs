//! A repository's first use of an identity: whoever asked for it, and what they drive, cannot approve it; a person in
//! another terminal can.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, find_unit, to_command_output};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");

fn sandbox_with_unapproved_identity() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    let manifest = "pdev: 1\napp: a\nidentities: { shop-dev: x }\nservices:\n  web: { identity: shop-dev, health: none, \
                    process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", manifest);
    write_identities(&sandbox, "[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n");
    sandbox
}

/// A shell in a terminal of its own, and what is typed when something appears.
pub fn spawn_in_terminal(sandbox: &Sandbox, command: &str, typed: &[&str]) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let mut shell = sandbox.command(&sandbox.project(), &[]);
    let mut python = std::process::Command::new("python3");
    python.arg(program).arg(command).args(typed).current_dir(sandbox.project()).env_clear();
    python.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null());
    python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub fn wait_for_output(child: Child) -> CommandOutput {
    to_command_output(&child.wait_with_output().unwrap())
}

/// `up` in a terminal, then a command in which CODE stands for what it printed.
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
    let ways = [
        (format!("{PDEV} identity approve $code"), "the request came from this terminal"),
        (
            format!("python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"),
            "this one was started by the requester",
        ),
        (
            format!("setsid python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"),
            "started by the requester",
        ),
        (format!("echo shop-dev | {PDEV} identity approve $code"), "the standard input is no terminal"),
    ];
    for (way, refusal) in ways {
        let said = run_after_request(&sandbox, &way);
        assert!(said.transcript().contains(refusal), "{way}: {}", said.transcript());
        assert!(sandbox.pdev(&["identity", "approvals", "--json"]).ok().json().as_array().unwrap().is_empty(), "{way}");
    }
    // Not by the socket either, which asks for no terminal.
    let socket = sandbox.path("run").join("agent.sock");
    let by_hand = format!("curl -s --unix-socket {} -X POST http://pdev/v1/approvals/$code", socket.display());
    let said = run_after_request(&sandbox, &by_hand);
    assert!(said.transcript().contains("not_by_the_asker"), "{}", said.transcript());
    sandbox.pdev(&["audit"]).ok().prints("not_by_the_asker");
    // What waits can be read by whoever shows it; a look at the plan asks nobody, and so makes nobody an asker.
    let waiting = format!("curl -s --unix-socket {} http://pdev/v1/approvals/waiting", socket.display());
    let said = run_after_request(&sandbox, &waiting);
    let own = sandbox.project().canonicalize().unwrap();
    assert!(
        said.transcript().contains(&approval_code(&said)) && said.transcript().contains(own.to_str().unwrap()),
        "{}",
        said.transcript()
    );
    let plan = sandbox.pdev(&["plan"]).ok().prints("Run `pdev up` to request approval");
    assert!(!plan.transcript().contains("identity approve"), "{}", plan.transcript());
}

#[test]
fn user_in_another_terminal_approves_and_revokes() {
    let sandbox = sandbox_with_unapproved_identity();
    let fifo = sandbox.path("code");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open before the request: what is opened later could have been opened by the asker.
    let approving = format!("read code < {}; {PDEV} identity approve $code", fifo.display());
    let person = spawn_in_terminal(&sandbox, &approving, &["to approve: ", "shop-dev"]);
    let asked = run_after_request(&sandbox, &format!("echo $code > {}", fifo.display()));
    let said = wait_for_output(person);
    assert!(
        said.transcript().contains("would act as shop-dev") && said.transcript().contains("approved;"),
        "{} {}",
        asked.transcript(),
        said.transcript()
    );
    let again = wait_for_output(spawn_in_terminal(
        &sandbox,
        &format!("{PDEV} identity approve {}", approval_code(&asked)),
        &[],
    ));
    assert!(again.transcript().contains("there is no request"), "a code opens one door once: {}", again.transcript());
    let up = sandbox.pdev(&["up"]).ok();
    assert!(!up.transcript().contains("without the identity"), "{}", up.transcript());
    assert_eq!(find_unit(&sandbox.status(&sandbox.project()), "web")["identity"], "shop-dev");
    sandbox.pdev(&["identity", "approvals"]).ok().prints("shop-dev").prints("web");
    sandbox.pdev(&["audit"]).ok().prints("approved");
    // What the identity is has changed: that was not approved.
    write_identities(&sandbox, "[shop-dev]\nsource = \"exec\"\ncommand = [\"true\"]\n");
    sandbox.pdev(&["up"]).ok().prints("is not approved");
    sandbox
        .pdev(&["identity", "revoke", "shop-dev", "--service", "other"])
        .fails_with(4)
        .prints("nothing approved fits");
    sandbox.pdev(&["identity", "revoke", "shop-dev"]).ok().prints("1 approval taken back");
}

fn approval_code(said: &CommandOutput) -> String {
    let all = said.transcript();
    let (_, rest) = all.split_once("code <").unwrap_or_else(|| panic!("{all}"));
    rest.split('>').next().unwrap_or_default().to_owned()
}
