//! The agent is killed, stopped and started again; what runs goes on and what was under way is finished.

use std::process::Stdio;
use std::time::Duration;

use crate::http::get;
use crate::sandbox::{Sandbox, eventually, signal, unit};

/// How often the agent is killed in the middle; `PDEV_KILLS` for the long run.
fn kills() -> u32 {
    std::env::var("PDEV_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[test]
fn killing_the_agent_touches_no_program_and_the_next_command_heals() {
    let sandbox = Sandbox::bare();
    let project = sandbox.example("hello");
    sandbox.pdev(&["up"]).ok();
    let before = unit(&sandbox.status(&project), "web").clone();
    let (host, port) = sandbox.url(&project, Some("web"));
    signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["wait"]).ok();
    let after = unit(&sandbox.status(&project), "web").clone();
    assert_eq!(before["handle"], after["handle"]);
    assert_eq!(after["state"], "ready", "{after:#}");
    assert_eq!(sandbox.url(&project, Some("web")), (host.clone(), port), "the URL moved");
    assert_eq!(get(&host, port, "/").status, 200);
    sandbox.pdev(&["up"]).ok().says("nothing changed");
}

#[test]
fn a_crashed_program_is_started_again_and_logs_survive_the_agent() {
    let sandbox = Sandbox::bare();
    let project = sandbox.example("hello");
    sandbox.pdev(&["up"]).ok();
    let (host, port) = sandbox.url(&project, Some("web"));
    get(&host, port, "/before-the-kill");
    // Its line is written after the answer.
    eventually("the request is in the log", Duration::from_secs(10), || {
        sandbox.pdev(&["logs", "web"]).out.contains("before-the-kill")
    });
    let perl = || sandbox.processes().into_iter().find(|(_, command)| command.contains("hello.pl")).map(|(pid, _)| pid);
    let first = perl().unwrap();
    signal(first, "KILL");
    eventually("it runs again", Duration::from_secs(10), || {
        perl().is_some_and(|pid| pid != first) && get(&host, port, "/").status == 200
    });
    signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["logs", "web"]).ok().says("before-the-kill");
}

#[test]
fn stopping_the_agent_leaves_the_preview_running() {
    let sandbox = Sandbox::bare();
    sandbox.example("hello");
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    assert!(sandbox.processes().iter().any(|(_, command)| command.contains("hello.pl")));
    sandbox.pdev(&["up"]).ok().says("nothing changed");
}

#[test]
fn the_manifest_may_be_deleted_and_the_folder_too() {
    let sandbox = Sandbox::bare();
    let project = sandbox.example("hello");
    sandbox.pdev(&["up"]).ok();
    std::fs::remove_file(project.join("pdev.yaml")).unwrap();
    signal(sandbox.agent_pid().unwrap(), "KILL");
    sandbox.pdev(&["ls"]).ok().says("hello/main");
    sandbox.pdev(&["down", "hello/main"]).ok();
    eventually("its program is gone", Duration::from_secs(10), || {
        !sandbox.processes().iter().any(|(_, command)| command.contains("hello.pl"))
    });
}

#[test]
fn the_agent_may_be_killed_at_any_moment_of_up_and_down() {
    let sandbox = Sandbox::bare();
    let project = sandbox.example("hello");
    sandbox.pdev(&["up"]).ok();
    // Spread over the length of a whole `up`, and a little more; the numbers repeat from run to run.
    let mut pause = 1u64;
    for round in 0..kills() {
        let what = if round % 2 == 0 { ["down", "--json"] } else { ["up", "--json"] };
        let mut command = sandbox.command(&project, &what);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pause = (pause * 37 + 11) % 120;
        std::thread::park_timeout(Duration::from_millis(pause));
        if let Some(pid) =
            std::fs::read_to_string(sandbox.path("run/agent.pid")).ok().and_then(|text| text.trim().parse().ok())
        {
            signal(pid, "KILL");
        }
        drop(child.wait());
        // Whatever was under way, the next command finds a preview that settles.
        sandbox.pdev(&["up"]).ok();
        let status = sandbox.status(&project);
        assert_eq!(unit(&status, "web")["state"], "ready", "round {round}: {status:#}");
        let programs = sandbox.processes().into_iter().filter(|(_, command)| command.contains("hello.pl")).count();
        assert_eq!(programs, 1, "round {round}: {:?}", sandbox.processes());
    }
    sandbox.pdev(&["down"]).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    eventually("nothing is orphaned", Duration::from_secs(10), || sandbox.processes().is_empty());
}

#[test]
fn two_hundred_copies_share_nothing() {
    let copies: u32 = std::env::var("PDEV_COPIES").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let sandbox = Sandbox::bare();
    let project = sandbox.example("hello");
    let folders: Vec<_> =
        (0..copies).map(|n| sandbox.worktree(&format!("feature/copy-{n}"), &format!("w{n}"))).collect();
    let mut urls = std::collections::BTreeSet::new();
    for (n, folder) in folders.iter().enumerate() {
        sandbox.pdev_in(folder, &["up"]).ok();
        let (host, port) = sandbox.url(folder, Some("web"));
        assert!(get(&host, port, "/").body.contains(&format!("feature-copy-{n}")), "copy {n} answers as another");
        assert!(urls.insert(host));
    }
    let listed = sandbox.pdev_in(&project, &["ls", "--json"]).ok().json();
    assert_eq!(listed.as_array().map_or(0, Vec::len), copies as usize);
    sandbox.pdev(&["down", "--all"]).ok();
}
