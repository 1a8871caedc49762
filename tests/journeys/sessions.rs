//! A coding agent's session: its restrictions, and its end in all circumstances.

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

/// Runs `sh -c SCRIPT` in a session, with options for `session run`.
fn run_session(sandbox: &Sandbox, options: &[&str], script: &str) -> CommandOutput {
    let arguments = [&["session", "run"], options, &["--", "sh", "-c", script]].concat();
    run_with_timeout(sandbox.command(&sandbox.project(), &arguments), TIMEOUT)
}

/// Starts a session that keeps running, and waits until its program has created the file `ready`.
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

/// Checks that no program of the session remains, and that the agent lists no session.
fn assert_session_ended(sandbox: &Sandbox, cause: &str) {
    wait_until(&format!("{cause}: its programs end"), TIMEOUT, || count_sleepers(sandbox) == 0);
    let none = || sandbox.pdev(&["session", "list", "--json"]).ok().json().as_array().unwrap().is_empty();
    wait_until(&format!("{cause}: the session ends"), TIMEOUT, none);
    sandbox.pdev(&["audit"]).ok().prints("session_over").prints("session robot");
}

#[test]
fn session_programs_get_restricted_credentials() {
    let sandbox = sandbox_with_token_identities();
    let token = |name: &str| format!("{PDEV} credential token {name}");
    for (command, message) in [
        (token("all"), "canary-tok"),
        (token("plain"), "`exec`, which has no reduced credentials"),
        (token("prod"), "`prod` is production, and a coding agent's session (`sh`) gets no such credentials"),
        // A detached child without the session's variable in its environment.
        (
            format!(
                "setsid -f env -u PDEV_SESSION {} > out 2>&1; while ! grep -q . out; do :; done; cat out",
                token("prod")
            ),
            "is production",
        ),
        (format!("{PDEV} run --as prod -- true"), "is production"),
        (format!("{PDEV} session run -- true"), "sessions cannot be nested"),
        // A private agent, in folders that contain no data of the session.
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
        let output = run_session(&sandbox, &[], &command);
        assert!(output.transcript().contains(message), "{command}: {}", output.transcript());
        assert_eq!(output.transcript().contains("canary"), message.contains("canary"), "{command}");
    }
    run_session(&sandbox, &["--identity", "plain"], &token("all"))
        .prints("none of the identities that the session `sh` was");
    run_session(&sandbox, &["--identity", "unknown"], "true").fails_with(4).prints("there is no identity `unknown`");
    run_session(&sandbox, &[], "exit 7").fails_with(7);
    // The user still gets the credential.
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
    for cause in ["kill -9 of `session run`", "kill -9 of the guard", "SIGTERM", "session end"] {
        drop(fs::remove_file(&ready));
        let mut child = spawn_session(&sandbox, &[], "setsid -f sleep 1000; trap '' TERM; (exec sleep 1000) &");
        // The shell creates `ready` before its child has started `sleep`, so wait for the child.
        wait_until("three programs of the session sleep", Duration::from_secs(20), || count_sleepers(&sandbox) == 3);
        match cause {
            "kill -9 of the guard" => send_signal(guard(), "KILL"),
            "session end" => drop(sandbox.pdev(&["session", "end", "robot"]).ok()),
            "SIGTERM" => send_signal(child.id(), "TERM"),
            _ => send_signal(child.id(), "KILL"),
        }
        child.wait().unwrap();
        assert_session_ended(&sandbox, cause);
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
    assert!(status["session"].is_null(), "the user's preview belongs to a session: {status}");
    send_signal(child.id(), "TERM");
    child.wait().unwrap();
    assert_session_ended(&sandbox, "SIGTERM");
    assert_eq!(sandbox.agent_pid(), Some(agent), "the agent ended with the session");
    let after = sandbox.status(&sandbox.project());
    let run = |status: &serde_json::Value| {
        let web = find_unit(status, "web");
        (web["state"].clone(), web["restarts"].clone(), web["handle"].clone())
    };
    assert_eq!(run(&after), run(&status), "the user's service did not keep running");
    assert_eq!(run(&after).0, "ready");
}

#[test]
fn session_expires_across_agent_restart() {
    let sandbox = sandbox_with_token_identities();
    let file = |name: &str| sandbox.path(name);
    let request = format!("{PDEV} credential token all");
    let script = format!(
        "({request} > {first}; until {request} 2> {last} > /dev/null && false || grep -q over {last}; do :; done; echo > {done}) &",
        first = file("first").display(),
        last = file("last").display(),
        done = file("done").display()
    );
    let mut child = spawn_session(&sandbox, &["--for", "3s"], &script);
    // The agent is replaced before the session expires.
    sandbox.pdev(&["agent", "stop"]).ok();
    wait_until("the session has expired", TIMEOUT, || file("done").exists());
    let last = fs::read_to_string(file("last")).unwrap();
    assert!(last.contains("the session `robot` of this program is over"), "{last}");
    assert_eq!(fs::read_to_string(file("first")).unwrap().trim(), "canary-tok");
    send_signal(child.id(), "TERM");
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    child.wait().unwrap();
    assert!(stderr.contains("its programs keep running, but get no more credentials"), "{stderr}");
    assert_session_ended(&sandbox, "expiry");
}

/// Requests `prod` in a session that a terminal started, then runs `then` with the `$code` of the refusal.
fn run_after_refusal(sandbox: &Sandbox, then: &str) -> CommandOutput {
    let script = sandbox.path("requests.sh");
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
    let allow = format!(
        "read code < {}; {PDEV} session allow $code; {PDEV} session allow $code; echo > {}",
        fifo.display(),
        done.display()
    );
    let approver = spawn_in_terminal(&sandbox, &allow, &["to approve: ", "prod"]);
    let then = format!(
        "echo $code > {}; while ! [ -e {} ]; do :; done; {PDEV} credential token prod",
        fifo.display(),
        done.display()
    );
    let session = run_after_refusal(&sandbox, &then);
    let output = wait_for_output(approver);
    assert!(
        output.transcript().contains("would get full access to prod")
            && output.transcript().contains("the session `robot` has access"),
        "{} {}",
        session.transcript(),
        output.transcript()
    );
    assert!(output.transcript().contains("there is no request"), "a code is valid only once: {}", output.transcript());
    assert!(session.transcript().contains("canary-tok"), "{}", session.transcript());
    run_session(&sandbox, &[], &format!("{PDEV} credential token prod")).fails_with(1).prints("is production");
    sandbox.pdev(&["audit"]).ok().prints("approved");
}

/// Servers outside of the session that start programs for their clients, or answer them.
#[test]
fn session_cannot_reach_servers_of_the_user() {
    if std::process::Command::new("tmux").arg("-V").output().is_err() {
        println!("skipped: servers of the user in a session: `tmux` is not installed");
        return;
    }
    let sandbox = sandbox_with_token_identities();
    let uid = rustix::process::getuid().as_raw();
    let (servers, project) = (sandbox.path("servers"), sandbox.project());
    fs::create_dir_all(servers.join(format!("tmux-{uid}"))).unwrap();
    let mux = servers.join(format!("tmux-{uid}/default"));
    let tmux =
        |arguments: &[&str]| std::process::Command::new("tmux").arg("-S").arg(&mux).args(arguments).output().unwrap();
    assert!(tmux(&["new-session", "-d", "-s", "user", "sh"]).status.success());
    let (engine, bus) = (servers.join("engine.sock"), servers.join("bus"));
    let listeners = [&engine, &bus].map(|path| std::os::unix::net::UnixListener::bind(path).unwrap());
    let run = |options: &[&str], mark: &str| {
        let connect = |path: &std::path::Path| {
            format!(
                "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{}\")' 2>/dev/null && echo open",
                path.display()
            )
        };
        let script = format!(
            "tmux -S {} new-window 'echo > {}/{mark}'; {}; {}; ls -l /proc/self/ns/mnt > /dev/null; {PDEV} session list",
            mux.display(),
            project.display(),
            connect(&engine),
            connect(&bus),
        );
        let arguments = [&["session", "run", "--name", "robot"], options, &["--", "sh", "-c", &script]].concat();
        let mut command = sandbox.command(&project, &arguments);
        command.env("TMUX_TMPDIR", &servers).env("DOCKER_HOST", format!("unix://{}", engine.display()));
        command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display()));
        run_with_timeout(command, TIMEOUT).ok()
    };
    let hidden = run(&[], "hidden");
    // The session still reaches the agent.
    assert!(!hidden.transcript().contains("open") && hidden.out.contains("current"), "{}", hidden.transcript());
    assert!(!project.join("hidden").exists());
    let open = run(&["--open-sockets"], "open");
    assert_eq!(open.out.matches("open\n").count(), 2, "{}", open.transcript());
    wait_until("the window of the server runs", TIMEOUT, || project.join("open").exists());
    assert!(tmux(&["kill-server"]).status.success(), "the server is untouched outside of the session");
    drop(listeners);
}
