//! Units that end, and units that pdev stops: which exits are crashes, and what follows from them.

use std::time::Duration;

use crate::http::get;
use crate::sandbox::{Sandbox, find_unit, wait_until};

fn manifest(services: &str) -> String {
    format!("pdev: 1\napp: ends\nservices:\n{services}")
}

/// The keeper ends with its last unit, so each `up` needs the next keeper, whose events must be followed too.
#[test]
fn changed_job_runs_again_when_it_is_the_only_unit() {
    let sandbox = Sandbox::without_docker();
    let gen_job = "  gen: { process: { command: 'date >> runs' }, inputs: [in.txt] }\n";
    let variants = [
        gen_job.to_owned(),
        format!("{gen_job}  two: {{ process: {{ command: ['true'] }}, inputs: [in.txt] }}\n"),
        format!("{gen_job}  two: {{ process: {{ command: ['true'] }}, needs: [gen], inputs: [in.txt] }}\n"),
    ];
    for round in 1..=24_usize {
        sandbox.write("pdev.yaml", &format!("pdev: 1\napp: ends\njobs:\n{}", variants[round % variants.len()]));
        sandbox.write("in.txt", &round.to_string());
        let arguments: &[&str] = if round % 5 == 0 { &["up", "--force"] } else { &["up"] };
        sandbox.pdev(arguments).ok();
        let runs = std::fs::read_to_string(sandbox.project().join("runs")).unwrap().lines().count();
        assert_eq!(runs, round, "each `up` runs the job once");
    }
}

#[test]
fn restarts_in_quick_succession_are_no_crashes() {
    let sandbox = Sandbox::without_docker();
    let program = "{ health: none, process: { command: [sleep, '1000'] } }";
    sandbox.write("pdev.yaml", &manifest(&format!("  one: {program}\n  two: {program}\n")));
    sandbox.pdev(&["up"]).ok();
    for round in 0..40 {
        let arguments: &[&str] = if round % 2 == 0 { &["restart", "one"] } else { &["restart"] };
        sandbox.pdev(arguments).ok();
    }
    let status = sandbox.status(&sandbox.project());
    for name in ["one", "two"] {
        let unit = find_unit(&status, name);
        assert_eq!((unit["state"].as_str(), unit["restarts"].as_u64()), (Some("ready"), Some(0)), "{status}");
    }
}

#[test]
fn command_that_is_not_found_is_not_restarted() {
    let sandbox = Sandbox::without_docker();
    let service =
        "  web: { port: 8080, restart: always, process: { command: 'echo try >> tries; no-such-program' } }\n";
    sandbox.write("pdev.yaml", &manifest(service));
    sandbox.pdev(&["up"]).fails_with(1).prints("exit code 127").prints("was not found");
    assert_eq!(std::fs::read_to_string(sandbox.project().join("tries")).unwrap(), "try\n");
}

#[test]
fn failed_live_probe_restarts_unit() {
    let sandbox = Sandbox::without_docker();
    let service = "  web:\n    health:\n      ready: { exec: [test, -e, started] }\n      live: { exec: [test, '!', -e, broken], interval: 100ms, failures: 2 }\n    process: { command: 'echo start >> started; exec sleep 1000' }\n";
    sandbox.write("pdev.yaml", &manifest(service));
    sandbox.pdev(&["up"]).ok();
    let starts = || std::fs::read_to_string(sandbox.project().join("started")).unwrap().lines().count();
    let unit = || find_unit(&sandbox.status(&sandbox.project()), "web").clone();
    assert_eq!(starts(), 1);
    sandbox.write("broken", "");
    wait_until("the unit is restarted", Duration::from_secs(20), || starts() == 2);
    std::fs::remove_file(sandbox.project().join("broken")).unwrap();
    wait_until("the unit is ready again", Duration::from_secs(20), || unit()["state"] == "ready");
    assert_eq!(unit()["restarts"].as_u64(), Some((starts() - 1) as u64), "it counts as a crash");

    sandbox.write("broken", "");
    wait_until("the unit fails", Duration::from_secs(60), || unit()["state"] == "failed");
    let reason = unit()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("its live probe failed: `test ! -e broken` ended with exit code 1"), "{reason}");
    assert!(reason.contains("6 times within 10 minutes"), "{reason}");
    assert_eq!(starts(), 6);
}

/// A request for a unit that will not be started any more is answered at once, with the cause.
#[test]
fn request_for_unit_with_failed_dependency_is_answered_at_once() {
    let sandbox = Sandbox::without_docker();
    let services = "  db: { restart: never, port: 1, process: { command: 'echo no disk left; exit 3' } }\n  api: { health: none, needs: [db], process: { command: [sleep, '1000'] } }\n  web: { needs: [api], port: 8080, process: { command: [python3, -m, http.server, '${services.web.port}'] } }\n  slow: { port: 2, health: { ready: { exec: [test, -e, go] } }, process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", &manifest(services));
    sandbox.pdev(&["up", "--detach"]).ok();
    let unit = |name: &str| find_unit(&sandbox.status(&sandbox.project()), name).clone();
    wait_until("db fails", Duration::from_secs(20), || unit("db")["state"] == "failed");
    assert_eq!(unit("slow")["state"], "starting", "the operation still runs");
    let (host, port) = sandbox.url(&sandbox.project(), Some("web"));
    let begun = std::time::Instant::now();
    let response = get(&host, port, "/");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(response.status, 502);
    assert!(response.body.contains("`db` failed: it ended with exit code 3"), "{}", response.body);
    assert!(response.body.contains("no disk left"), "{}", response.body);
    sandbox.write("go", "");
    sandbox.pdev(&["wait"]).fails_with(1);
    assert_eq!(get(&host, port, "/").status, 502, "also after the operation");
}

#[test]
fn stopped_unit_does_not_degrade_its_preview() {
    let sandbox = Sandbox::without_docker();
    let program = "{ health: none, process: { command: [sleep, '1000'] } }";
    sandbox.write("pdev.yaml", &manifest(&format!("  one: {program}\n  two: {program}\n")));
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["stop", "two"]).ok();
    sandbox.pdev(&["wait"]).ok().prints("is ready");
    sandbox.pdev(&["wait", "two"]).fails_with(1);
    assert_eq!(sandbox.status(&sandbox.project())["state"], "ready");
    sandbox.pdev(&["agent", "stop"]).ok();
    sandbox.pdev(&["wait"]).ok();
    assert_eq!(find_unit(&sandbox.status(&sandbox.project()), "two")["state"], "stopped");
}

/// The explanation of a failure stays until that unit changes.
#[test]
fn restart_of_one_unit_preserves_problems_of_others() {
    let sandbox = Sandbox::without_docker();
    let services = "  bad: { restart: never, port: 1, process: { command: 'echo no disk left; exit 3' } }\n  one: { health: none, process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", &manifest(services));
    sandbox.pdev(&["up"]).fails_with(1);
    for arguments in [&["restart", "one"][..], &["stop", "one"], &["up", "-s", "one"]] {
        sandbox.pdev(arguments).ok();
        sandbox.pdev(&["status"]).ok().prints("bad: it ended with exit code 3").prints("no disk left");
    }
    sandbox.pdev(&["restart", "bad"]).fails_with(1);
    let problems = sandbox.status(&sandbox.project())["problems"].as_array().unwrap().len();
    assert_eq!(problems, 1, "the problem of the first start is replaced");
}

#[test]
fn removed_and_manual_units_are_not_shown_as_waiting() {
    let sandbox = Sandbox::without_docker();
    let jobs =
        "jobs:\n  gen: { process: { command: ['true'] } }\n  load: { when: manual, process: { command: ['true'] } }\n";
    let program = "{ health: none, process: { command: [sleep, '1000'] } }";
    sandbox.write("pdev.yaml", &(manifest(&format!("  one: {program}\n  two: {program}\n")) + jobs));
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["status"]).ok().prints("runs with `pdev run load`");
    sandbox.write("pdev.yaml", &(manifest(&format!("  one: {program}\n")) + jobs));
    let up = sandbox.pdev(&["up"]).ok().prints("two: removed");
    assert!(!up.transcript().contains("one:"), "{}", up.transcript());
    let down = sandbox.pdev(&["down"]).ok().prints("gen: removed").prints("one: stopped");
    assert!(!down.transcript().contains("waiting"), "{}", down.transcript());
}
