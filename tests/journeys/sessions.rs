//! A coding agent's session: what its programs are refused, and that it ends however it is ended.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::approvals::{spawn_in_terminal, wait_for_output};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, find_unit, run_with_timeout, send_signal, wait_until};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
const TIMEOUT: Duration = Duration::from_secs(60);

fn sandbox_with_token_identities() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    let token = r#"source = "exec"
command = ["echo", "{\"token\":\"canary-tok\",\"expires_at\":\"2099-01-01T00:00:00Z\"}"]
"#;
    write_identities(
        &sandbox,
        &format!(
            "[all]\n{token}sessions = \"full\"\n[plain]\n{token}[prod]\n{token}sessions = \"full\"\nproduction = true\n"
        ),
    );
    sandbox
}

/// `sh -c SCRIPT` in a session, with further options of `session run`.
fn run_session(sandbox: &Sandbox, options: &[&str], script: &str) -> CommandOutput {
    let arguments = [&["session", "run"], options, &["--", "sh", "-c", script]].concat();
    run_with_timeout(sandbox.command(&sandbox.project(), &arguments), TIMEOUT)
}

/// A session that goes on, once its program has written to `ready`.
fn spawn_session(sandbox: &Sandbox, options: &[&str], script: &str) -> Child {
    let ready = sandbox.path("ready");
    let script = format!("{script}\necho > {}\nexec sleep 1000", ready.display());
    let arguments = [&["session", "run", "--name", "robot"], options, &["--", "sh", "-c", &script]].concat();
    let mut command = sandbox.command(&sandbox.project(), &arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the session's program runs", TIMEOUT, || ready.exists());
    child
}

fn count_sleepers(sandbox: &Sandbox) -> usize {
    sandbox.processes().iter().filter(|(_, command)| command.starts_with("sleep 1000")).count()
}

/// Nothing of the session is left, and the agent knows it.
fn assert_session_ended(sandbox: &Sandbox, how: &str) {
    wait_until(&format!("{how}: its programs end"), TIMEOUT, || count_sleepers(sandbox) == 0);
    let none = || sandbox.pdev(&["session", "list", "--json"]).ok().json().as_array().unwrap().is_empty();
    wait_until(&format!("{how}: the session ends"), TIMEOUT, none);
    sandbox.pdev(&["audit"]).ok().prints("session_over").prints("session robot");
}

#[test]
fn session_programs_get_restricted_credentials() {
    let sandbox = sandbox_with_token_identities();
    let token = |name: &str| format!("{PDEV} credential token {name}");
    for (way, words) in [
        (token("all"), "canary-tok"),
        (token("plain"), "`exec`, which has no reduced credentials"),
        (token("prod"), "`prod` is production, and a coding agent's session (`sh`) gets no such credentials"),
        // A child that was let go, with nothing of the session in its environment.
        (
            format!(
                "setsid -f env -u PDEV_SESSION {} > out 2>&1; while ! grep -q . out; do :; done; cat out",
                token("prod")
            ),
            "is production",
        ),
        (format!("{PDEV} run --as prod -- true"), "is production"),
        (format!("{PDEV} session run -- true"), "sessions cannot be nested"),
        // An agent of its own, in folders where nothing is known of the session.
        (
            format!(
                "mkdir -m 700 r; export PDEV_SOCKET_DIR=$PWD/r XDG_STATE_HOME=$PWD/s XDG_DATA_HOME=$PWD/d; {}",
                token("prod")
            ),
            "cannot start its own agent",
        ),
        (
            format!("sed -i s/production.*// $HOME/.config/pdev/identities.toml; {}", token("prod")),
            "`prod` was changed after the session `sh` began",
        ),
    ] {
        let said = run_session(&sandbox, &[], &way);
        assert!(said.transcript().contains(words), "{way}: {}", said.transcript());
        assert_eq!(said.transcript().contains("canary"), words.contains("canary"), "{way}");
    }
    run_session(&sandbox, &["--identity", "plain"], &token("all"))
        .prints("none of the identities that the session `sh` was");
    run_session(&sandbox, &["--identity", "nobody"], "true").fails_with(4).prints("there is no identity `nobody`");
    run_session(&sandbox, &[], "exit 7").fails_with(7);
    // A person gets what they got before.
    sandbox.pdev(&["credential", "token", "plain"]).ok().prints("canary-tok");
    sandbox.pdev(&["audit"]).ok().prints("session_began").prints("session sh: `prod` is production");
}

#[test]
fn ended_session_leaves_no_programs() {
    let sandbox = sandbox_with_token_identities();
    let ready = sandbox.path("ready");
    let guard = || {
        let all = sandbox.pdev(&["session", "list", "--json"]).ok().json();
        u32::try_from(all[0]["pid"].as_u64().unwrap()).unwrap()
    };
    for how in ["kill -9 of `session run`", "kill -9 of the guard", "SIGTERM", "session end"] {
        drop(fs::remove_file(&ready));
        let mut child = spawn_session(&sandbox, &[], "setsid -f sleep 1000; trap '' TERM; (exec sleep 1000) &");
        // A shell's child is a sleeper some time after the shell said that it is ready.
        wait_until("three programs of the session sleep", Duration::from_secs(20), || count_sleepers(&sandbox) == 3);
        match how {
            "kill -9 of the guard" => send_signal(guard(), "KILL"),
            "session end" => drop(sandbox.pdev(&["session", "end", "robot"]).ok()),
            "SIGTERM" => send_signal(child.id(), "TERM"),
            _ => send_signal(child.id(), "KILL"),
        }
        child.wait().unwrap();
        assert_session_ended(&sandbox, how);
    }
}

#[test]
fn agent_started_for_session_outlives_it() {
    let sandbox = sandbox_with_token_identities();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: a\nservices:\n  web: { health: none, process: { command: [sleep, '1001'] } }\n",
    );
    assert!(sandbox.agent_pid().is_none());
    let mut child = spawn_session(&sandbox, &[], "true");
    let agent = sandbox.agent_pid().unwrap();
    sandbox.pdev(&["up"]).ok();
    let status = sandbox.status(&sandbox.project());
    assert!(status["session"].is_null(), "a person's preview: {status}");
    send_signal(child.id(), "TERM");
    child.wait().unwrap();
    assert_session_ended(&sandbox, "its end");
    assert_eq!(sandbox.agent_pid(), Some(agent), "the agent stays");
    let after = sandbox.status(&sandbox.project());
    let run = |status: &serde_json::Value| {
        let web = find_unit(status, "web");
        (web["state"].clone(), web["restarts"].clone(), web["handle"].clone())
    };
    assert_eq!(run(&after), run(&status), "and so does what a person had it start");
    assert_eq!(run(&after).0, "ready");
}

#[test]
fn session_expires_across_agent_restart() {
    let sandbox = sandbox_with_token_identities();
    let marks = |name: &str| sandbox.path(name);
    let ask = format!("{PDEV} credential token all");
    let script = format!(
        "({ask} > {first}; until {ask} 2> {last} > /dev/null && false || grep -q over {last}; do :; done; echo > {done}) &",
        first = marks("first").display(),
        last = marks("last").display(),
        done = marks("done").display()
    );
    let mut child = spawn_session(&sandbox, &["--for", "3s"], &script);
    // In the middle the agent is another one.
    sandbox.pdev(&["agent", "stop"]).ok();
    wait_until("the time is over", TIMEOUT, || marks("done").exists());
    let last = fs::read_to_string(marks("last")).unwrap();
    assert!(last.contains("the session `robot` of this program is over"), "{last}");
    assert_eq!(fs::read_to_string(marks("first")).unwrap().trim(), "canary-tok");
    send_signal(child.id(), "TERM");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("its programs go on, and are given no credentials any more"), "{said}");
    assert_session_ended(&sandbox, "the end of its time");
}

/// Asks for `prod` in a session that a terminal started, then does something with the CODE that the refusal named.
fn run_after_refusal(sandbox: &Sandbox, then: &str) -> CommandOutput {
    let script = sandbox.path("asks.sh");
    let text = format!(
        "code=$({PDEV} credential token prod 2>&1 | sed -n 's/.*session allow \\([a-z0-9-]*\\).*/\\1/p' | head -n 1)\n\
         echo \"code <$code>\"\n{then}\n"
    );
    fs::write(&script, text).unwrap();
    let command = format!("{PDEV} session run --name robot -- sh {}", script.display());
    wait_for_output(spawn_in_terminal(sandbox, &command, &["to approve: ", "prod"]))
}

#[test]
fn user_raises_one_session_once() {
    let sandbox = sandbox_with_token_identities();
    let fifo = sandbox.path("code");
    let done = sandbox.path("allowed");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let allowing = format!(
        "read code < {}; {PDEV} session allow $code; {PDEV} session allow $code; echo > {}",
        fifo.display(),
        done.display()
    );
    let person = spawn_in_terminal(&sandbox, &allowing, &["to approve: ", "prod"]);
    let then = format!(
        "echo $code > {}; while ! [ -e {} ]; do :; done; {PDEV} credential token prod",
        fifo.display(),
        done.display()
    );
    let asked = run_after_refusal(&sandbox, &then);
    let said = wait_for_output(person);
    assert!(
        said.transcript().contains("would have all of prod")
            && said.transcript().contains("allowed to the session `robot`"),
        "{} {}",
        asked.transcript(),
        said.transcript()
    );
    assert!(said.transcript().contains("there is no request"), "a code opens one door once: {}", said.transcript());
    assert!(asked.transcript().contains("canary-tok"), "{}", asked.transcript());
    run_session(&sandbox, &[], &format!("{PDEV} credential token prod")).fails_with(1).prints("is production");
    sandbox.pdev(&["audit"]).ok().prints("approved");
}
