//! The agent is killed, stopped and started again. Services keep running, and interrupted operations are completed.

use std::process::Stdio;
use std::time::Duration;

use crate::http::get;
use crate::sandbox::{Sandbox, find_unit, send_signal, wait_until};

/// How often the agent is killed during an operation. `PDEV_KILLS` sets it for long runs.
fn kill_rounds(default: u32) -> u32 {
    std::env::var("PDEV_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn killed_agent_leaves_programs_running() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    let before = find_unit(&sandbox.status(&project), "web").clone();
    let (host, port) = sandbox.url(&project, Some("web"));
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["wait"]).ok();
    let after = find_unit(&sandbox.status(&project), "web").clone();
    assert_eq!(before["handle"], after["handle"]);
    assert_eq!(after["state"], "ready", "{after:#}");
    assert_eq!(sandbox.url(&project, Some("web")), (host.clone(), port), "the URL changed");
    assert_eq!(get(&host, port, "/").status, 200);
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
}

#[test]
fn crashed_program_restarts_and_logs_survive_agent() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    let (host, port) = sandbox.url(&project, Some("web"));
    get(&host, port, "/before-the-kill");
    // The program writes its log line after the response.
    wait_until("the request is in the log", Duration::from_secs(10), || {
        sandbox.pdev(&["logs", "web"]).out.contains("before-the-kill")
    });
    let perl = || sandbox.processes().into_iter().find(|(_, command)| command.contains("hello.pl")).map(|(pid, _)| pid);
    let first = perl().unwrap();
    send_signal(first, "KILL");
    wait_until("the program runs again", Duration::from_secs(10), || {
        perl().is_some_and(|pid| pid != first) && get(&host, port, "/").status == 200
    });
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["logs", "web"]).ok().prints("before-the-kill");
}

#[test]
fn stopped_unit_stays_stopped_until_started() {
    let sandbox = Sandbox::without_docker();
    let text = "pdev: 1\napp: pair\nservices:\n  web: { health: none, process: { command: [sleep, '4001'] } }\n  api: { health: none, process: { command: [sleep, '4002'] } }\n";
    sandbox.write("pdev.yaml", text);
    let project = sandbox.project();
    sandbox.pdev(&["up"]).ok();
    let handle = |name: &str| find_unit(&sandbox.status(&project), name)["handle"].clone();
    let state = |name: &str| find_unit(&sandbox.status(&project), name)["state"].clone();
    let runs = |number: &str| sandbox.processes().iter().any(|(_, command)| command.contains(number));
    let api = handle("api");
    sandbox.pdev(&["stop"]).fails_with(2);
    sandbox.pdev(&["stop", "wbe"]).prints("wbe");
    sandbox.pdev(&["stop", "web"]).ok().prints("web stopped");
    assert!(!runs("sleep 4001") && runs("sleep 4002"));
    assert_eq!((state("web"), state("api")), ("stopped".into(), "ready".into()));
    sandbox.pdev(&["stop", "web"]).ok().prints("already stopped");

    // The next agent recovers the preview, but must not start the stopped unit.
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["wait", "api"]).ok();
    assert_eq!((state("web"), state("api")), ("stopped".into(), "ready".into()));
    assert!(!runs("sleep 4001"), "the next agent started the stopped unit");
    assert_eq!(handle("api"), api, "the other unit was restarted");

    sandbox.pdev(&["up", "--service", "web"]).ok();
    assert_eq!((state("web"), state("api")), ("ready".into(), "ready".into()));
    assert_eq!(handle("api"), api);
    // Starting one unit again must not stop the other one.
    sandbox.pdev(&["down"]).ok();
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["stop", "web"]).ok();
    sandbox.pdev(&["restart", "web"]).ok();
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["wait"]).ok();
    assert_eq!((state("web"), state("api")), ("ready".into(), "ready".into()));
    sandbox.pdev(&["stop", "web", "api"]).ok().prints("nothing runs now");
    assert!(!runs("sleep 400"));
    sandbox.pdev(&["up"]).ok();
    assert!(runs("sleep 4001") && runs("sleep 4002"));
}

#[test]
fn stopping_the_agent_leaves_the_preview_running() {
    let sandbox = Sandbox::without_docker();
    sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    assert!(sandbox.processes().iter().any(|(_, command)| command.contains("hello.pl")));
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
}

#[test]
fn down_works_after_manifest_is_deleted() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    std::fs::remove_file(project.join("pdev.yaml")).unwrap();
    send_signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["ls"]).ok().prints("hello/main");
    sandbox.pdev(&["down", "hello/main"]).ok();
    wait_until("the program has ended", Duration::from_secs(10), || {
        !sandbox.processes().iter().any(|(_, command)| command.contains("hello.pl"))
    });
}

#[test]
fn agent_killed_at_any_moment_of_up_and_down_recovers() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    let assert_one_program = |when: &str| {
        let status = sandbox.status(&project);
        assert_eq!(find_unit(&status, "web")["state"], "ready", "{when}: {status:#}");
        // The program forks for each connection, including the agent's health checks.
        let programs = || sandbox.processes().into_iter().filter(|(_, command)| command.contains("hello.pl")).count();
        wait_until(&format!("{when}: one program runs"), Duration::from_secs(5), || programs() == 1);
    };
    kill_agent_repeatedly(&sandbox, kill_rounds(12), 120, assert_one_program);
    sandbox.pdev(&["agent", "stop"]).ok();
    wait_until("no process remains", Duration::from_secs(10), || sandbox.processes().is_empty());
}

#[test]
fn agent_killed_at_any_moment_with_containers_recovers() {
    let Some(sandbox) = Sandbox::with_docker("agent killed with containers") else { return };
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: kills\nservices:\n  \
         db: { image: 'debian:stable-slim', command: [sleep, infinity], health: none, stop: { signal: SIGKILL }, volumes: { data: /data } }\n  \
         web: { image: 'debian:stable-slim', command: [sleep, infinity], health: none, stop: { signal: SIGKILL }, needs: [db] }\n",
    );
    let assert_two_containers = |when: &str| {
        let status = sandbox.status(&sandbox.project());
        for name in ["db", "web"] {
            assert_eq!(find_unit(&status, name)["state"], "ready", "{when}: {status:#}");
        }
        // Two containers, one network, one volume.
        assert_eq!(sandbox.docker_objects().len(), 4, "{when}: {:?}", sandbox.docker_objects());
    };
    kill_agent_repeatedly(&sandbox, kill_rounds(6), 900, assert_two_containers);
    sandbox.pdev(&["down", "--volumes"]).ok();
    assert!(sandbox.docker_objects().is_empty(), "{:?}", sandbox.docker_objects());
}

/// Kills the agent during `up` and `down`, `rounds` times. After each kill, the next `up` must succeed, and
/// `assert_recovered` checks the preview. The kills are spread over `span` milliseconds and are the same in every run.
fn kill_agent_repeatedly(sandbox: &Sandbox, rounds: u32, span: u64, assert_recovered: impl Fn(&str)) {
    let project = sandbox.project();
    sandbox.pdev(&["up"]).ok();
    let mut pause = 1u64;
    for round in 0..rounds {
        let arguments = if round % 2 == 0 { ["down", "--json"] } else { ["up", "--json"] };
        let mut command = sandbox.command(&project, &arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pause = (pause * 37 + 11) % span;
        std::thread::park_timeout(Duration::from_millis(pause));
        if let Some(pid) =
            std::fs::read_to_string(sandbox.path("run/agent.pid")).ok().and_then(|text| text.trim().parse().ok())
        {
            send_signal(pid, "KILL");
        }
        drop(child.wait());
        sandbox.pdev(&["up"]).ok();
        assert_recovered(&format!("round {round}"));
    }
    sandbox.pdev(&["down"]).ok();
}

#[test]
fn up_after_agent_restart_uses_current_manifest() {
    let sandbox = Sandbox::without_docker();
    let web = |health: &str| {
        format!(
            "pdev: 1\napp: now\nservices:\n  web: {{ port: 8000, health: {health}, process: {{ command: [sleep, '1000'] }} }}\n"
        )
    };
    // No program listens on the port, so the interrupted `up` would take a minute. The next agent resumes it.
    sandbox.write("pdev.yaml", &web("/"));
    sandbox.pdev(&["up", "--detach"]).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    sandbox.write("pdev.yaml", &web("none"));
    let started = std::time::Instant::now();
    sandbox.pdev(&["up"]).ok();
    assert!(started.elapsed() < Duration::from_secs(20), "`up` waited for the operation of the old manifest");
}

#[test]
fn many_copies_share_no_host() {
    let copies: u32 = std::env::var("PDEV_COPIES").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    let folders: Vec<_> =
        (0..copies).map(|n| sandbox.add_worktree(&format!("feature/copy-{n}"), &format!("w{n}"))).collect();
    let mut urls = std::collections::BTreeSet::new();
    for (n, folder) in folders.iter().enumerate() {
        sandbox.pdev_in(folder, &["up"]).ok();
        let (host, port) = sandbox.url(folder, Some("web"));
        assert!(
            get(&host, port, "/").body.contains(&format!("feature-copy-{n}")),
            "another copy answers at the URL of copy {n}"
        );
        assert!(urls.insert(host));
    }
    let listed = sandbox.pdev_in(&project, &["ls", "--json"]).ok().json();
    assert_eq!(listed.as_array().map_or(0, Vec::len), copies as usize);
    sandbox.pdev(&["down", "--all"]).ok();
}

#[test]
fn agent_exits_when_its_socket_is_deleted() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: swept\nservices:\n  web: { process: { command: [sleep, '1000'] }, health: none }\n",
    );
    sandbox.pdev(&["up"]).ok();
    let old = sandbox.agent_pid().unwrap();
    std::fs::remove_dir_all(sandbox.path("run/pdev"))
        .or_else(|_| std::fs::remove_file(sandbox.path("run/agent.sock")))
        .unwrap();
    wait_until("the old agent exits", Duration::from_secs(10), || {
        !std::path::Path::new(&format!("/proc/{old}")).exists()
    });
    sandbox.pdev(&["wait"]).ok();
    let programs = sandbox.processes().into_iter().filter(|(_, command)| command.contains("sleep 1000")).count();
    assert_eq!(programs, 1, "{:?}", sandbox.processes());
    assert_ne!(sandbox.agent_pid(), Some(old));
}

#[test]
fn programs_inherit_shell_open_file_limit() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: files\njobs:\n  limit: { process: { command: [sh, -c, 'ulimit -Sn'] } }\nservices:\n  \
         web: { process: { command: [sleep, '1000'] }, health: none }\n",
    );
    let shell = std::process::Command::new("sh").args(["-c", "ulimit -Sn"]).output().unwrap();
    let output = sandbox.pdev(&["run", "limit"]).ok();
    assert_eq!(output.out.trim(), String::from_utf8_lossy(&shell.stdout).trim(), "{}", output.transcript());
}
