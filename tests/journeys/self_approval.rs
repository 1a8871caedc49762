//! What asks cannot give itself the approval: by a terminal that it drives, by what it starts, by a code that was used, by
//! being quick. Each for both words of a person: `session allow` and `identity approve`.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::approvals::{spawn_in_terminal, wait_for_output};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, wait_until};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
const SESSION_REFUSAL: &str = "coding agent's session, which approves nothing";
/// What a person would type, with the answer to its question.
const APPROVAL_COMMANDS: [(&str, &str); 2] =
    [("session allow $raise", "prod"), ("identity approve $first", "shop-dev")];

/// `prod` is production; `web` wants to act as `shop-dev`, which nobody has approved; `climber` runs what a test writes.
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

/// A session in a terminal of its own, which asks for both and then does something with `$raise` and `$first`.
fn spawn_requesting_session(sandbox: &Sandbox, then: &str, answer: &str) -> Child {
    let script = sandbox.path("asks.sh");
    let code = |command: &str, word: &str| {
        format!("$({PDEV} {command} 2>&1 | sed -n 's/.*{word} \\([a-z0-9-]*\\).*/\\1/p' | head -n 1)")
    };
    let (raise, first) = (code("credential token prod", "session allow"), code("up", "identity approve"));
    fs::write(&script, format!("raise={raise}\nfirst={first}\necho \"codes <$raise> <$first>\"\n{then}\n")).unwrap();
    let command = format!("{PDEV} session run --name robot -- sh {}", script.display());
    spawn_in_terminal(sandbox, &command, &["to approve: ", answer])
}

/// A terminal that the asker holds the other end of, and types in.
fn driven_terminal_command((words, answer): (&str, &str)) -> String {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    format!("python3 {} \"{PDEV} {words}\" 'to approve: ' {answer}", driver.display())
}

/// Without the program, at the agent's socket.
fn approval_request_command(sandbox: &Sandbox, code: &str) -> String {
    let socket = sandbox.path("run").join("agent.sock");
    format!("curl -s --unix-socket {} -X POST http://pdev/v1/approvals/{code}", socket.display())
}

fn approval_count(sandbox: &Sandbox) -> usize {
    sandbox.pdev(&["identity", "approvals", "--json"]).ok().json().as_array().unwrap().len()
}

#[track_caller]
fn assert_refused(sandbox: &Sandbox, way: &str, said: &CommandOutput, refusal: &str, times: usize) {
    let all = said.transcript();
    assert!(!all.contains("<>"), "it was asked for: {all}");
    assert_eq!(all.matches(refusal).count(), times, "{way}: {all}");
    assert!(!all.contains("canary"), "{way}: {all}");
    assert_eq!(approval_count(sandbox), 0, "{way}");
}

#[test]
fn driven_terminal_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    for words in APPROVAL_COMMANDS {
        let way = driven_terminal_command(words);
        assert_refused(
            &sandbox,
            &way,
            &wait_for_output(spawn_requesting_session(&sandbox, &way, words.1)),
            SESSION_REFUSAL,
            1,
        );
    }
    sandbox.pdev(&["audit"]).ok().prints("not_by_the_asker");
}

#[test]
fn descendant_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    for words in APPROVAL_COMMANDS {
        let child = format!("{PDEV} {}", words.0);
        let let_go = format!(
            "rm -f out; ( ( setsid {} > out 2>&1 & ) & ); until grep -q error out; do sleep 0.05; done; cat out",
            driven_terminal_command(words)
        );
        for way in [child, let_go] {
            assert_refused(
                &sandbox,
                &way,
                &wait_for_output(spawn_requesting_session(&sandbox, &way, words.1)),
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

/// A service is a child of its keeper, which is no child of the session; nor is what `exec` starts there.
#[test]
fn service_of_own_preview_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    let [raise, first] = APPROVAL_COMMANDS.map(driven_terminal_command);
    let climb = format!("{raise}\n{first}\n{PDEV} credential token prod\n{PDEV} session run -- true\n");
    sandbox.write("climbing.sh", &climb);
    let codes = "(echo \"raise=$raise first=$first\"; echo '. ./climbing.sh > out 2>&1') > go.new; mv go.new go";
    let through = format!("{codes}; until [ -e went ]; do sleep 0.05; done; cat out");
    let said = wait_for_output(spawn_requesting_session(&sandbox, &through, ""));
    assert_refused(&sandbox, "a service", &said, SESSION_REFUSAL, 2);
    assert!(
        said.transcript().contains("`prod` is production") && said.transcript().contains("cannot be nested"),
        "{}",
        said.transcript()
    );

    let place = format!("HOME={} PDEV_SOCKET_DIR={}", sandbox.path("home").display(), sandbox.path("run").display());
    let through = format!("{PDEV} exec climber -- env {place} raise=$raise first=$first sh climbing.sh");
    let said = wait_for_output(spawn_requesting_session(&sandbox, &through, ""));
    assert_refused(&sandbox, "exec", &said, SESSION_REFUSAL, 2);
    assert!(
        said.transcript().contains("`prod` is production") && said.transcript().contains("cannot be nested"),
        "{}",
        said.transcript()
    );
    // After the session nothing of it is taken for a person either.
    let ask = format!("{place} {PDEV} credential token prod");
    sandbox.pdev(&["exec", "climber", "--", "sh", "-c", &ask]).prints("is over");
}

/// A person in another terminal, who reads the codes from a pipe that was there before.
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
    let approving = spawn_user_terminal(&sandbox, &format!("{PDEV} session allow $raise; echo > {}", done.display()));
    let until = |path: &Path| format!("until [ -e {} ]; do sleep 0.05; done", path.display());
    let then = format!(
        "echo $raise $first > {}; {}; {PDEV} credential token prod; echo revoked; {}; {}; {PDEV} session allow $raise; {PDEV} credential token prod",
        sandbox.path("codes").display(),
        until(&done),
        until(&revoked),
        approval_request_command(&sandbox, "$raise"),
    );
    let asked = spawn_requesting_session(&sandbox, &then, "");
    wait_for_output(approving).prints("allowed to the session `robot`");
    wait_until("the session may", Duration::from_secs(20), || {
        sandbox.pdev(&["audit"]).ok().transcript().contains("issued")
    });
    sandbox.pdev(&["identity", "revoke", "prod"]).ok();
    fs::write(&revoked, "").unwrap();
    let said = wait_for_output(asked);
    let (before, after) = said.transcript().split_once("revoked").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(before.contains("canary-tok"), "a person's word counts: {before}");
    assert!(after.contains("not_by_the_asker") && after.contains("`prod` is production"), "{after}");
    assert!(!after.contains("canary"), "{after}");
    assert_eq!(approval_count(&sandbox), 0);
    // Nor does a code that was used open the door to another session, whoever types it.
    let code = said.transcript().split_once("codes <").unwrap().1.split_once('>').unwrap().0.to_owned();
    wait_for_output(spawn_in_terminal(&sandbox, &format!("{PDEV} session allow {code}"), &[]))
        .prints("there is no request");
}

#[test]
fn racing_session_cannot_approve() {
    let sandbox = sandbox_with_service_and_identities();
    // Two persons and eight of the session's own programs, all at once.
    let allow = format!("{PDEV} session allow $raise & {PDEV} session allow $raise; wait");
    let approving = spawn_user_terminal(
        &sandbox,
        &allow.replace(&format!("{PDEV} session allow $raise"), &approval_request_command(&sandbox, "$raise")),
    );
    let own = approval_request_command(&sandbox, "$raise");
    let crowd = vec![format!("{own} &"); 8].join(" ");
    let then = format!("echo $raise $first > {} & {crowd} wait", sandbox.path("codes").display());
    let said = wait_for_output(spawn_requesting_session(&sandbox, &then, ""));
    let persons = wait_for_output(approving);
    let refusals = said.transcript().matches("not_by_the_asker").count();
    assert_eq!(refusals, 8, "{}", said.transcript());
    let won = persons.transcript().matches("\"at\":").count();
    assert_eq!(won, 1, "{}", persons.transcript());
    assert_eq!(approval_count(&sandbox), 1);
    let audit = sandbox.pdev(&["audit", "--json"]).ok().transcript();
    assert_eq!(audit.matches("\"not_approved\"").count(), 9, "{audit}");
    assert_eq!(audit.matches("\"approved\"").count(), 1, "{audit}");
}
