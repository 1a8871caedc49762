//! A coding agent's session: what its programs are refused, and that it ends however it is ended.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::approvals::{ended, terminal};
use crate::outlets::identities;
use crate::sandbox::{Said, Sandbox, eventually, finish, signal, unit};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
const LIMIT: Duration = Duration::from_secs(60);

fn stage() -> Sandbox {
    let sandbox = Sandbox::bare();
    let token = r#"source = "exec"
command = ["echo", "{\"token\":\"canary-tok\",\"expires_at\":\"2099-01-01T00:00:00Z\"}"]
"#;
    identities(
        &sandbox,
        &format!(
            "[all]\n{token}sessions = \"full\"\n[plain]\n{token}[prod]\n{token}sessions = \"full\"\nproduction = true\n"
        ),
    );
    sandbox
}

/// `sh -c SCRIPT` in a session, with further options of `session run`.
fn session(sandbox: &Sandbox, options: &[&str], script: &str) -> Said {
    let arguments = [&["session", "run"], options, &["--", "sh", "-c", script]].concat();
    finish(sandbox.command(&sandbox.project(), &arguments), LIMIT)
}

/// A session that goes on, once its program has written to `ready`.
fn running(sandbox: &Sandbox, options: &[&str], script: &str) -> Child {
    let ready = sandbox.path("ready");
    let script = format!("{script}\necho > {}\nexec sleep 1000", ready.display());
    let arguments = [&["session", "run", "--name", "robot"], options, &["--", "sh", "-c", &script]].concat();
    let mut command = sandbox.command(&sandbox.project(), &arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the session's program runs", LIMIT, || ready.exists());
    child
}

fn sleepers(sandbox: &Sandbox) -> usize {
    sandbox.processes().iter().filter(|(_, command)| command.starts_with("sleep 1000")).count()
}

/// Nothing of the session is left, and the agent knows it.
fn all_is_over(sandbox: &Sandbox, how: &str) {
    eventually(&format!("{how}: its programs end"), LIMIT, || sleepers(sandbox) == 0);
    let none = || sandbox.pdev(&["session", "list", "--json"]).ok().json().as_array().unwrap().is_empty();
    eventually(&format!("{how}: the session ends"), LIMIT, none);
    sandbox.pdev(&["audit"]).ok().says("session_over").says("session robot");
}

#[test]
fn programs_of_a_session_get_less() {
    let sandbox = stage();
    let token = |name: &str| format!("{PDEV} credential token {name}");
    for (way, words) in [
        (token("all"), "canary-tok"),
        (token("plain"), "`exec`, which cannot give less than everything"),
        (token("prod"), "`prod` is production, and a coding agent's session (`sh`) gets none of that"),
        // A child that was let go, with nothing of the session in its environment.
        (
            format!(
                "setsid -f env -u PDEV_SESSION {} > out 2>&1; while ! grep -q . out; do :; done; cat out",
                token("prod")
            ),
            "is production",
        ),
        (format!("{PDEV} run --as prod -- true"), "is production"),
        (format!("{PDEV} session run -- true"), "a session has none of its own"),
        // An agent of its own, in folders where nothing is known of the session.
        (
            format!(
                "mkdir -m 700 r; export PDEV_SOCKET_DIR=$PWD/r XDG_STATE_HOME=$PWD/s XDG_DATA_HOME=$PWD/d; {}",
                token("prod")
            ),
            "does not start an agent of its own",
        ),
        (
            format!("sed -i s/production.*// $HOME/.config/pdev/identities.toml; {}", token("prod")),
            "`prod` was changed after the session `sh` began",
        ),
    ] {
        let said = session(&sandbox, &[], &way);
        assert!(said.all().contains(words), "{way}: {}", said.all());
        assert_eq!(said.all().contains("canary"), words.contains("canary"), "{way}");
    }
    session(&sandbox, &["--identity", "plain"], &token("all")).says("none of the identities that the session `sh` was");
    session(&sandbox, &["--identity", "nobody"], "true").fails_with(4).says("there is no identity `nobody`");
    session(&sandbox, &[], "exit 7").fails_with(7);
    // A person gets what they got before.
    sandbox.pdev(&["credential", "token", "plain"]).ok().says("canary-tok");
    sandbox.pdev(&["audit"]).ok().says("session_began").says("session sh: `prod` is production");
}

#[test]
fn however_a_session_is_ended_nothing_of_it_is_left() {
    let sandbox = stage();
    let ready = sandbox.path("ready");
    let guard = || {
        let all = sandbox.pdev(&["session", "list", "--json"]).ok().json();
        u32::try_from(all[0]["pid"].as_u64().unwrap()).unwrap()
    };
    for how in ["kill -9 of `session run`", "kill -9 of the guard", "SIGTERM", "session end"] {
        drop(fs::remove_file(&ready));
        let mut child = running(&sandbox, &[], "setsid -f sleep 1000; trap '' TERM; (exec sleep 1000) &");
        // A shell's child is a sleeper some time after the shell said that it is ready.
        eventually("three programs of the session sleep", Duration::from_secs(20), || sleepers(&sandbox) == 3);
        match how {
            "kill -9 of the guard" => signal(guard(), "KILL"),
            "session end" => drop(sandbox.pdev(&["session", "end", "robot"]).ok()),
            "SIGTERM" => signal(child.id(), "TERM"),
            _ => signal(child.id(), "KILL"),
        }
        child.wait().unwrap();
        all_is_over(&sandbox, how);
    }
}

#[test]
fn an_agent_that_a_session_needs_is_nobodys_child() {
    let sandbox = stage();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: a\nservices:\n  web: { health: none, process: { command: [sleep, '1001'] } }\n",
    );
    assert!(sandbox.agent_pid().is_none());
    let mut child = running(&sandbox, &[], "true");
    let agent = sandbox.agent_pid().unwrap();
    sandbox.pdev(&["up"]).ok();
    let status = sandbox.status(&sandbox.project());
    assert!(status["session"].is_null(), "a person's preview: {status}");
    signal(child.id(), "TERM");
    child.wait().unwrap();
    all_is_over(&sandbox, "its end");
    assert_eq!(sandbox.agent_pid(), Some(agent), "the agent stays");
    let after = sandbox.status(&sandbox.project());
    let run = |status: &serde_json::Value| {
        let web = unit(status, "web");
        (web["state"].clone(), web["restarts"].clone(), web["handle"].clone())
    };
    assert_eq!(run(&after), run(&status), "and so does what a person had it start");
    assert_eq!(run(&after).0, "ready");
}

#[test]
fn its_time_ends_and_a_new_agent_knows_it() {
    let sandbox = stage();
    let marks = |name: &str| sandbox.path(name);
    let ask = format!("{PDEV} credential token all");
    let script = format!(
        "({ask} > {first}; until {ask} 2> {last} > /dev/null && false || grep -q over {last}; do :; done; echo > {done}) &",
        first = marks("first").display(),
        last = marks("last").display(),
        done = marks("done").display()
    );
    let mut child = running(&sandbox, &["--for", "3s"], &script);
    // In the middle the agent is another one.
    sandbox.pdev(&["agent", "stop"]).ok();
    eventually("the time is over", LIMIT, || marks("done").exists());
    let last = fs::read_to_string(marks("last")).unwrap();
    assert!(last.contains("the session `robot` of this program is over"), "{last}");
    assert_eq!(fs::read_to_string(marks("first")).unwrap().trim(), "canary-tok");
    signal(child.id(), "TERM");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("its programs go on, and are given no credentials any more"), "{said}");
    all_is_over(&sandbox, "the end of its time");
}

/// Asks for `prod` in a session that a terminal started, then does something with the CODE that the refusal named.
fn after_refusal(sandbox: &Sandbox, then: &str) -> Said {
    let script = sandbox.path("asks.sh");
    let text = format!(
        "code=$({PDEV} credential token prod 2>&1 | sed -n 's/.*session allow \\([a-z0-9-]*\\).*/\\1/p' | head -n 1)\n\
         echo \"code <$code>\"\n{then}\n"
    );
    fs::write(&script, text).unwrap();
    let command = format!("{PDEV} session run --name robot -- sh {}", script.display());
    ended(terminal(sandbox, &command, &["to approve: ", "prod"]))
}

#[test]
fn a_person_elsewhere_raises_one_session_once() {
    let sandbox = stage();
    let fifo = sandbox.path("code");
    let done = sandbox.path("allowed");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let allowing = format!(
        "read code < {}; {PDEV} session allow $code; {PDEV} session allow $code; echo > {}",
        fifo.display(),
        done.display()
    );
    let person = terminal(&sandbox, &allowing, &["to approve: ", "prod"]);
    let then = format!(
        "echo $code > {}; while ! [ -e {} ]; do :; done; {PDEV} credential token prod",
        fifo.display(),
        done.display()
    );
    let asked = after_refusal(&sandbox, &then);
    let said = ended(person);
    assert!(
        said.all().contains("would have all of prod") && said.all().contains("allowed to the session `robot`"),
        "{} {}",
        asked.all(),
        said.all()
    );
    assert!(said.all().contains("there is no request"), "a code opens one door once: {}", said.all());
    assert!(asked.all().contains("canary-tok"), "{}", asked.all());
    session(&sandbox, &[], &format!("{PDEV} credential token prod")).fails_with(1).says("is production");
    sandbox.pdev(&["audit"]).ok().says("approved");
}
