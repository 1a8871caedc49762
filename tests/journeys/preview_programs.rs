//! Attacks by programs of a preview: they run as the user, but are the repository's code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::credential_formats::write_identities;
use crate::sandbox::{Sandbox, find_unit, wait_until};

/// An identity that everyone of the user may use, and a copy of pdev that containers can run.
fn prepare(sandbox: &Sandbox) -> String {
    let script = sandbox.path("token.sh");
    fs::write(&script, "#!/bin/sh\necho '{\"token\":\"canary-tok\",\"expires_at\":\"2099-01-01T00:00:00Z\"}'\n")
        .unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    write_identities(sandbox, &format!("[reg]\nsource = \"exec\"\ncommand = [\"{}\"]\n", script.display()));
    sandbox.pdev(&["credential", "token", "reg"]).ok().prints("canary-tok");
    let pdev = sandbox.path("pdev");
    fs::copy(env!("CARGO_BIN_EXE_pdev"), &pdev).unwrap();
    pdev.display().to_string()
}

fn manifest(services: &str) -> String {
    format!("pdev: 1\napp: attack\nservices:\n{services}")
}

/// Runs shell commands as a service and returns what they wrote.
fn run_in_service(sandbox: &Sandbox, lines: &[String]) -> String {
    let script = lines.iter().map(|line| format!("({line}) >> result.txt 2>&1\n")).collect::<String>();
    sandbox.write("attack.sh", &format!("{script}echo end >> result.txt\nexec sleep 1000\n"));
    sandbox.write("pdev.yaml", &manifest("  web: { health: none, process: { command: [sh, attack.sh] } }\n"));
    sandbox.pdev(&["up"]).ok();
    let result = sandbox.project().join("result.txt");
    let read = || fs::read_to_string(&result).unwrap_or_default();
    wait_until("the attack has ended", Duration::from_secs(30), || read().ends_with("end\n"));
    read()
}

#[test]
fn process_of_preview_gets_no_credentials() {
    let sandbox = Sandbox::without_docker();
    let pdev = prepare(&sandbox);
    let home = format!("HOME={} PDEV_SOCKET_DIR={}", sandbox.path("home").display(), sandbox.path("run").display());
    let attacks = [
        format!("{home} {pdev} credential token reg"),
        // Without the marks of its unit, and detached from its parent.
        format!("env -i {home} {pdev} credential token reg"),
        format!("env -i {home} setsid -f {pdev} credential token reg; sleep 1"),
        format!("{home} {pdev} run --as reg -- sh -c 'echo $PDEV_TOKEN'"),
        format!(
            "curl -s --unix-socket {}/agent.sock -X POST -H 'content-type: application/json' -d '{{\"identity\":\"reg\",\"form\":\"token\"}}' http://pdev/v1/credentials",
            sandbox.path("run").display()
        ),
    ];
    let result = run_in_service(&sandbox, &attacks);
    assert!(!result.contains("canary-tok"), "{result}");
    assert!(result.matches("reaches its own preview only").count() >= 4, "{result}");
    let audit = sandbox.pdev(&["audit", "--json"]).ok().out;
    assert!(audit.contains("not_for_previews: attack/main/web: POST /v1/credentials"), "{audit}");
    // The user still gets them.
    sandbox.pdev(&["credential", "token", "reg"]).ok().prints("canary-tok");
}

#[test]
fn process_of_preview_reaches_its_own_preview_only() {
    let sandbox = Sandbox::without_docker();
    let pdev = prepare(&sandbox);
    let other = sandbox.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("pdev.yaml"), "pdev: 1\napp: victim\nsecrets: { key: {} }\nservices:\n  box: { health: none, process: { command: [sleep, '999'] } }\n").unwrap();
    sandbox.pdev_in(&other, &["up", "-s", "box"]).ok();
    let id = sandbox.status(&other)["id"].as_str().unwrap().to_owned();
    let home = format!("HOME={} PDEV_SOCKET_DIR={}", sandbox.path("home").display(), sandbox.path("run").display());
    let socket = format!("curl -s --unix-socket {}/agent.sock", sandbox.path("run").display());
    let result = run_in_service(
        &sandbox,
        &[
            format!("{home} {pdev} status"),
            format!("{home} {pdev} down victim/main"),
            format!("{socket} -X POST http://pdev/v1/previews/{id}/down -d '{{}}' -H 'content-type: application/json'"),
            format!("{socket} -X PUT http://pdev/v1/previews/{id}/secrets/key -d stolen"),
            format!("{socket} http://pdev/v1/previews"),
            format!("{socket} http://pdev/v1/events"),
            format!("{socket} -X POST http://pdev/v1/agent/stop"),
            format!("{home} {pdev} logs -n 1 web"),
        ],
    );
    assert!(result.contains("attack/main"), "its own status: {result}");
    assert!(result.matches("not_for_previews").count() >= 5, "{result}");
    assert!(!result.contains("victim"), "{result}");
    assert_eq!(find_unit(&sandbox.status(&other), "box")["state"], "ready");
}

#[test]
fn container_with_the_socket_gets_no_credentials() {
    let Some(sandbox) = Sandbox::with_docker("containers with the agent's socket") else { return };
    let pdev = prepare(&sandbox);
    let root = sandbox.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let service = |host_config: &str, command: &str| {
        manifest(&format!(
            "  web:\n    image: \"debian:stable-slim\"\n    health: none\n    stop: {{ grace: 0s }}\n    env: {{ HOME: {root}/home, PDEV_SOCKET_DIR: {root}/run }}\n    command: [sh, -c, '{command}']\n    security: {{ user: \"0\", read_only: false }}\n    raw: {{ docker: {{ HostConfig: {{ {host_config} }} }} }}\n"
        ))
    };
    // The folder itself is refused, through `raw` and through a symbolic link too.
    std::os::unix::fs::symlink(sandbox.path("run"), sandbox.project().join("link")).unwrap();
    let volume = format!(
        "Mounts: [{{ Type: volume, Target: /x, VolumeOptions: {{ DriverConfig: {{ Name: local, Options: {{ type: none, o: bind, device: {root}/run }} }} }} }}]"
    );
    let bind = |source: &str| format!("Binds: [\"{source}\"]");
    for mount in
        [bind(&format!("{root}/run:/x")), bind(&format!("{root}/run/agent.sock:/x")), bind("./link:/x"), volume]
    {
        sandbox.write("pdev.yaml", &service(&mount, "sleep 1000"));
        sandbox.pdev(&["up"]).fails_with(1).prints("which belongs to pdev");
    }
    // A folder above it is not, and the agent refuses the container.
    sandbox.write(
        "pdev.yaml",
        &service(&bind(&format!("{root}:{root}")), &format!("{pdev} credential token reg; sleep 1000")),
    );
    sandbox.pdev(&["up"]).ok();
    let logs = || sandbox.pdev(&["logs", "web"]).transcript();
    wait_until("the container has asked", Duration::from_secs(30), || {
        logs().contains("try:") || logs().contains("canary")
    });
    assert!(logs().contains("reaches its own preview only") && !logs().contains("canary-tok"), "{}", logs());
    sandbox.pdev(&["audit", "--json"]).ok().prints("not_for_previews: attack/main/web");
    sandbox.pdev(&["down"]).ok();
}
