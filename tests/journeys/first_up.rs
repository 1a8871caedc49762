//! The first use of pdev: `up` in a clone, status, a change, `down`; without a container engine.

use std::time::Duration;

use crate::http::get;
use crate::sandbox::{Sandbox, find_unit, run_with_timeout, wait_until};

#[test]
fn hello_example_serves_its_url_and_stops_completely() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok().prints(".main.hello.localhost:");
    let (host, port) = sandbox.url(&project, Some("web"));
    assert_eq!(host, "web.main.hello.localhost");
    let response = get(&host, port, "/");
    assert_eq!(response.status, 200, "{}", response.head);
    assert!(response.body.contains("world"), "{}", response.body);
    assert_eq!(get("main.hello.localhost", port, "/").status, 200);
    assert_eq!(get("hello.localhost", port, "/").status, 200);
    sandbox.pdev(&["down"]).ok();
    assert_eq!(get(&host, port, "/").status, 404);
    sandbox.pdev(&["agent", "stop"]).ok();
    wait_until("no process remains", Duration::from_secs(10), || sandbox.processes().is_empty());
}

/// A script runs one command after another, so nothing of the previous one may still be in progress.
#[test]
fn command_returns_after_its_results_are_visible() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    for _ in 0..8 {
        sandbox.pdev(&["up"]).ok();
        let (host, port) = sandbox.url(&project, Some("web"));
        sandbox.pdev(&["restart"]).ok();
        sandbox.pdev(&["restart"]).ok();
        assert_eq!(get(&host, port, "/").status, 200);
        sandbox.pdev(&["down"]).ok();
        assert_eq!(get(&host, port, "/").status, 404);
        let listed = sandbox.pdev(&["ls", "--json"]).ok().json();
        assert_eq!(listed.as_array().map(Vec::len), Some(0), "{listed}");
    }
}

#[test]
fn second_up_reports_no_change() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    let status_before = sandbox.status(&project);
    let before = find_unit(&status_before, "web").clone();
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
    let status_after = sandbox.status(&project);
    let after = find_unit(&status_after, "web").clone();
    assert_eq!(status_before["ready_at"], status_after["ready_at"], "an unchanged `up` made the preview ready again");
    assert_eq!(before["handle"], after["handle"], "web was replaced");
    assert_eq!(before["started_at"], after["started_at"], "web was restarted");
}

#[test]
fn change_replaces_only_changed_unit() {
    let sandbox = Sandbox::without_docker();
    let program = "import http.server,os\nhttp.server.ThreadingHTTPServer(('127.0.0.1',int(os.environ['PORT'])),http.server.SimpleHTTPRequestHandler).serve_forever()";
    sandbox.write("serve.py", program);
    let manifest = |level: &str| {
        format!(
            "pdev: 1\napp: two\nservices:\n  a: {{ port: 8000, env: {{ LEVEL: {level} }}, process: {{ command: [python3, serve.py] }} }}\n  \
             b: {{ port: 8001, process: {{ command: [python3, serve.py] }} }}\n"
        )
    };
    sandbox.write("pdev.yaml", &manifest("one"));
    sandbox.pdev(&["up"]).ok();
    let before = sandbox.status(&sandbox.project());
    sandbox.write("pdev.yaml", &manifest("two"));
    sandbox.pdev(&["plan"]).ok().prints("env.LEVEL");
    sandbox.pdev(&["up"]).ok();
    let after = sandbox.status(&sandbox.project());
    assert_eq!(find_unit(&before, "b")["started_at"], find_unit(&after, "b")["started_at"], "b was restarted");
    assert_ne!(find_unit(&before, "a")["started_at"], find_unit(&after, "a")["started_at"], "a was not replaced");
}

#[test]
fn commands_find_preview_from_subfolder() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    let deep = project.join("some/where");
    std::fs::create_dir_all(&deep).unwrap();
    sandbox.pdev_in(&deep, &["wait"]).ok();
    let (host, port) = sandbox.url(&project, Some("web"));
    get(&host, port, "/remember-this-line");
    // The program writes its log line after the response.
    wait_until("the request is in the logs", Duration::from_secs(10), || {
        sandbox.pdev_in(&deep, &["logs", "web"]).ok().out.contains("remember-this-line")
    });
    sandbox
        .pdev_in(&deep, &["exec", "web", "--", "sh", "-c", "echo name is $NAME; exit 7"])
        .fails_with(7)
        .prints("name is world");
    sandbox.pdev_in(&deep, &["ls"]).ok().prints("hello/main");
}

#[test]
fn a_finished_job_runs_again_only_when_its_inputs_change() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: jobs\nservices:\n  web: { process: { command: [sleep, '1000'] }, health: none }\njobs:\n  \
         once: { process: { command: [sh, -c, 'echo ran >> ran.txt'] }, inputs: [data.sql] }\n",
    );
    sandbox.write("data.sql", "1");
    let runs = || std::fs::read_to_string(sandbox.project().join("ran.txt")).unwrap_or_default().lines().count();
    sandbox.pdev(&["up"]).ok();
    assert_eq!(runs(), 1);
    sandbox.pdev(&["up"]).ok();
    assert_eq!(runs(), 1, "the job ran again although nothing changed");
    sandbox.write("data.sql", "2");
    sandbox.pdev(&["up"]).ok();
    assert_eq!(runs(), 2, "the job did not run although its inputs changed");
}

#[test]
fn run_starts_manual_job_each_time_and_no_other_unit() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: jobs\nservices:\n  web: { process: { command: [sleep, '1000'] }, health: none }\n  \
         db: { process: { command: [sleep, '1001'] }, health: none }\njobs:\n  \
         seed: { when: manual, needs: [db], process: { command: [sh, -c, 'echo seeded; echo why >&2; exit ${env.CODE:-0}'] } }\n",
    );
    let started = |name: &str| find_unit(&sandbox.status(&sandbox.project()), name)["started_at"].clone();
    sandbox.pdev(&["up"]).ok();
    let before = (started("web"), started("db"));
    for _ in 0..2 {
        let output = sandbox.pdev(&["run", "seed"]).ok();
        assert_eq!((output.out.as_str(), output.err.contains("why")), ("seeded\n", true), "{}", output.transcript());
    }
    assert_eq!((started("web"), started("db")), before, "other units were restarted");
    let mut command = sandbox.command(&sandbox.project(), &["run", "seed"]);
    command.env("CODE", "7");
    run_with_timeout(command, Duration::from_secs(60)).fails_with(7).prints("job `seed` ended with exit code 7");
    sandbox.pdev(&["run", "sead"]).fails_with(4).prints("Did you mean `seed`?");
    sandbox.pdev(&["run", "web"]).fails_with(4).prints("It is a service");
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
}

#[test]
fn up_service_starts_only_it_and_its_dependencies() {
    let sandbox = Sandbox::without_docker();
    let manifest = |level: &str| {
        format!(
            "pdev: 1\napp: two\nservices:\n  a: {{ process: {{ command: [sleep, '1001'] }}, health: none, needs: [b] }}\n  \
             b: {{ process: {{ command: [sleep, '1002'] }}, health: none }}\n  \
             c: {{ process: {{ command: [sleep, '1003'] }}, health: none, env: {{ LEVEL: {level} }} }}\n"
        )
    };
    sandbox.write("pdev.yaml", &manifest("one"));
    let names = || {
        let status = sandbox.status(&sandbox.project());
        let units = status["units"].as_array().unwrap().iter();
        units
            .map(|unit| format!("{} {}", unit["name"].as_str().unwrap(), unit["state"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    sandbox.pdev(&["up", "--service", "a"]).ok();
    assert_eq!(names(), ["a ready", "b ready"]);
    sandbox.pdev(&["up"]).ok();
    assert_eq!(names(), ["a ready", "b ready", "c ready"]);
    let before = find_unit(&sandbox.status(&sandbox.project()), "c")["started_at"].clone();
    sandbox.write("pdev.yaml", &manifest("two"));
    sandbox.pdev(&["up", "--service", "a"]).ok().prints("nothing changed");
    assert_eq!(names(), ["a ready", "b ready", "c ready"]);
    assert_eq!(
        find_unit(&sandbox.status(&sandbox.project()), "c")["started_at"],
        before,
        "c was replaced although it was not selected"
    );
    sandbox.pdev(&["plan"]).ok().prints("env.LEVEL");
}

#[test]
fn concurrent_ups_start_one_program() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    std::thread::scope(|scope| {
        let ups: Vec<_> = (0..4).map(|_| scope.spawn(|| sandbox.pdev_in(&project, &["up"]))).collect();
        for up in ups {
            up.join().unwrap().ok();
        }
    });
    let perl = || sandbox.processes().into_iter().filter(|(_, command)| command.contains("hello.pl")).count();
    // The program forks for each connection, so more processes may exist for a moment.
    wait_until("one program runs", Duration::from_secs(5), || perl() == 1);
}

#[test]
fn secrets_are_files_removed_by_down() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: hush\nsecrets: { token: { description: t } }\nservices:\n  web:\n    health: none\n    \
         env: { TOKEN_FILE: '${secrets.token.path}' }\n    process: { command: [sh, -c, 'cat $TOKEN_FILE > seen.txt; exec sleep 1000'] }\n",
    );
    sandbox.pdev(&["up"]).fails_with(1).prints("no value for the secret `token`").prints("--secret token=@FILE");
    sandbox.write("value.txt", "canary-1234");
    sandbox.pdev(&["up", "--secret", "token=@value.txt"]).ok();
    let received = sandbox.project().join("seen.txt");
    wait_until("the program has read its secret", Duration::from_secs(10), || {
        std::fs::read_to_string(&received).is_ok_and(|text| text == "canary-1234")
    });
    let status = sandbox.pdev(&["status", "--json"]).ok();
    assert!(!status.transcript().contains("canary-1234"));
    for (_, command) in sandbox.processes() {
        assert!(!command.contains("canary-1234"), "{command}");
    }
    sandbox.pdev(&["down", "--volumes"]).ok();
    let grep = std::process::Command::new("grep")
        .args(["-rls", "canary-1234"])
        .arg(sandbox.path("run"))
        .arg(sandbox.path("home"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "the secret is still on disk");
}
