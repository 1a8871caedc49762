//! A requesting process cannot approve its own request: not in a terminal that it drives, not through a child or a
//! service, not with a used code, not by a race. Each test covers `session allow` and `identity approve`.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::approvals::{spawn_in_terminal, wait_for_output};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, wait_until};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
const SESSION_REFUSAL: &str = "coding agent's session, which approves nothing";
const PREVIEW_REFUSAL: &str = "reaches its own preview only";
/// The commands of the user, each with the answer to its prompt.
const APPROVAL_COMMANDS: [(&str, &str); 2] =
    [("session allow $raise", "prod"), ("identity approve $first", "shop-dev")];

/// `prod` is production. `web` requests `shop-dev`, which is not approved. `climber` runs a script that a test writes.
fn sandbox_with_service_and_identities() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    let climb = format!(
        "export HOME={} PDEV_SOCKET_DIR={}\nuntil [ -e go ]; do sleep 0.05; done\n. ./go\necho > went\nexec sleep 1000\n",
        sandbox.path("home").display(),
        sandbox.path("run").display()
    );
    sandbox.write("climb.sh", &climb);
    let manifest = "pdev: 1\napp: a\nidentities: { shop-dev: x }\nservices:\n  web: { identity: shop-dev, health: none, \
                    process: { command: [sleep, '1000'] } }\n  climber: { health: none, process: { command: [sh, climb.sh] } }\n";
    sandbox.write("pdev.yaml", manifest);
    let prod = "[prod]\nsource = \"exec\"\ncommand = [\"echo\", '{\"token\":\"canary-tok\"}']\nproduction = true\n";
    write_identities(&sandbox, &format!("{prod}[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n"));
    sandbox
}

/// Starts a session in a new terminal. It requests both approvals and then runs `then` with the codes `$raise` and
/// `$first`.
fn spawn_requesting_session(sandbox: &Sandbox, then: &str, answer: &str) -> Child {
    let script = sandbox.path("requests.sh");
    let code = |command: &str, word: &str| {
        format!("$({PDEV} {command} 2>&1 | sed -n 's/.*{word} \\([a-z0-9-]*\\).*/\\1/p' | head -n 1)")
    };
    let (raise, first) = (code("credential token prod", "session allow"), code("up", "identity approve"));
    fs::write(&script, format!("raise={raise}\nfirst={first}\necho \"codes <$raise> <$first>\"\n{then}\n")).unwrap();
    let command = format!("{PDEV} session run --name robot -- sh {}", script.display());
    spawn_in_terminal(sandbox, &command, &["to approve: ", answer])
}

/// A command in a terminal that the requester controls and types into.
fn driven_terminal_command((command, answer): (&str, &str)) -> String {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    format!("python3 {} \"{PDEV} {command}\" 'to approve: ' {answer}", driver.display())
}

/// A command that sends the approval to the agent's socket, without pdev.
fn approval_request_command(sandbox: &Sandbox, code: &str) -> String {
    let socket = sandbox.path("run").join("agent.sock");
    format!("curl -s --unix-socket {} -X POST http://pdev/v1/approvals/{code}", socket.display())
}

fn approval_count(sandbox: &Sandbox) -> usize {
    sandbox.pdev(&["identity", "approvals", "--json"]).ok().json().as_array().unwrap().len()
}

#[track_caller]
fn assert_refused(sandbox: &Sandbox, attempt: &str, output: &CommandOutput, refusal: &str, times: usize) {
    let all = output.transcript();
    assert!(!all.contains("<>"), "a request has no code: {all}");
    assert_eq!(all.matches(refusal).count(), times, "{attempt}: {all}");
    assert!(!all.contains("canary"), "{attempt}: {all}");
    assert_eq!(approval_count(sandbox), 0, "{attempt}");
}

#[test]
fn driven_terminal_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    for approval in APPROVAL_COMMANDS {
        let attempt = driven_terminal_command(approval);
        assert_refused(
            &sandbox,
            &attempt,
            &wait_for_output(spawn_requesting_session(&sandbox, &attempt, approval.1)),
            SESSION_REFUSAL,
            1,
        );
    }
    sandbox.pdev(&["audit"]).ok().prints("not_by_the_asker");
}

#[test]
fn descendant_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    for approval in APPROVAL_COMMANDS {
        let child = format!("{PDEV} {}", approval.0);
        let detached = format!(
            "rm -f out; ( ( setsid {} > out 2>&1 & ) & ); until grep -q error out; do sleep 0.05; done; cat out",
            driven_terminal_command(approval)
        );
        for attempt in [child, detached] {
            assert_refused(
                &sandbox,
                &attempt,
                &wait_for_output(spawn_requesting_session(&sandbox, &attempt, approval.1)),
                SESSION_REFUSAL,
                1,
            );
        }
    }
    let both =
        format!("{}; {}", approval_request_command(&sandbox, "$raise"), approval_request_command(&sandbox, "$first"));
    assert_refused(
        &sandbox,
        &both,
        &wait_for_output(spawn_requesting_session(&sandbox, &both, "")),
        "not_by_the_asker",
        2,
    );
}

/// A service is a child of its keeper, not of the session. Neither are programs that `exec` starts in it.
#[test]
fn service_of_own_preview_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    let [raise, first] = APPROVAL_COMMANDS.map(driven_terminal_command);
    let climb = format!("{raise}\n{first}\n{PDEV} credential token prod\n{PDEV} session run -- true\n");
    sandbox.write("climbing.sh", &climb);
    let codes = "(echo \"raise=$raise first=$first\"; echo '. ./climbing.sh > out 2>&1') > go.new; mv go.new go";
    let through = format!("{codes}; until [ -e went ]; do sleep 0.05; done; cat out");
    let output = wait_for_output(spawn_requesting_session(&sandbox, &through, ""));
    assert_refused(&sandbox, "a service", &output, PREVIEW_REFUSAL, 4);

    let folders = format!("HOME={} PDEV_SOCKET_DIR={}", sandbox.path("home").display(), sandbox.path("run").display());
    let through = format!("{PDEV} exec climber -- env {folders} raise=$raise first=$first sh climbing.sh");
    let output = wait_for_output(spawn_requesting_session(&sandbox, &through, ""));
    assert_refused(&sandbox, "exec", &output, PREVIEW_REFUSAL, 4);
    // After the session has ended, its services are not treated as the user.
    let request = format!("{folders} {PDEV} credential token prod");
    sandbox.pdev(&["exec", "climber", "--", "sh", "-c", &request]).prints(PREVIEW_REFUSAL);
}

/// The user in another terminal. The terminal is older than the request, so the codes arrive through a pipe.
fn spawn_user_terminal(sandbox: &Sandbox, command: &str) -> Child {
    let fifo = sandbox.path("codes");
    if !fifo.exists() {
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    }
    spawn_in_terminal(sandbox, &format!("read raise first < {}; {command}", fifo.display()), &["to approve: ", "prod"])
}

#[test]
fn replayed_code_is_refused() {
    let sandbox = sandbox_with_service_and_identities();
    let (done, revoked) = (sandbox.path("allowed"), sandbox.path("revoked"));
    let approver = spawn_user_terminal(&sandbox, &format!("{PDEV} session allow $raise; echo > {}", done.display()));
    let until = |path: &Path| format!("until [ -e {} ]; do sleep 0.05; done", path.display());
    let then = format!(
        "echo $raise $first > {}; {}; {PDEV} credential token prod; echo revoked; {}; {}; {PDEV} session allow $raise; {PDEV} credential token prod",
        sandbox.path("codes").display(),
        until(&done),
        until(&revoked),
        approval_request_command(&sandbox, "$raise"),
    );
    let requester = spawn_requesting_session(&sandbox, &then, "");
    wait_for_output(approver).prints("the session `robot` has access");
    wait_until("the session gets a credential", Duration::from_secs(20), || {
        sandbox.pdev(&["audit"]).ok().transcript().contains("issued")
    });
    sandbox.pdev(&["identity", "revoke", "prod"]).ok();
    fs::write(&revoked, "").unwrap();
    let output = wait_for_output(requester);
    let (before, after) = output.transcript().split_once("revoked").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(before.contains("canary-tok"), "the user's approval has no effect: {before}");
    assert!(after.contains("not_by_the_asker") && after.contains("`prod` is production"), "{after}");
    assert!(!after.contains("canary"), "{after}");
    assert_eq!(approval_count(&sandbox), 0);
    // A used code is not valid for another session either, even in the user's terminal.
    let code = output.transcript().split_once("codes <").unwrap().1.split_once('>').unwrap().0.to_owned();
    wait_for_output(spawn_in_terminal(&sandbox, &format!("{PDEV} session allow {code}"), &[]))
        .prints("there is no request");
}

#[test]
fn racing_session_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    // The user sends two approvals, and eight programs of the session send one each, concurrently.
    let allow = format!("{PDEV} session allow $raise & {PDEV} session allow $raise; wait");
    let approver = spawn_user_terminal(
        &sandbox,
        &allow.replace(&format!("{PDEV} session allow $raise"), &approval_request_command(&sandbox, "$raise")),
    );
    let attempt = approval_request_command(&sandbox, "$raise");
    let attempts = vec![format!("{attempt} &"); 8].join(" ");
    let then = format!("echo $raise $first > {} & {attempts} wait", sandbox.path("codes").display());
    let output = wait_for_output(spawn_requesting_session(&sandbox, &then, ""));
    let approvals = wait_for_output(approver);
    let refusals = output.transcript().matches("not_by_the_asker").count();
    assert_eq!(refusals, 8, "{}", output.transcript());
    let accepted = approvals.transcript().matches("\"at\":").count();
    assert_eq!(accepted, 1, "{}", approvals.transcript());
    assert_eq!(approval_count(&sandbox), 1);
    let audit = sandbox.pdev(&["audit", "--json"]).ok().transcript();
    assert_eq!(audit.matches("\"not_approved\"").count(), 9, "{audit}");
    assert_eq!(audit.matches("\"approved\"").count(), 1, "{audit}");
}
