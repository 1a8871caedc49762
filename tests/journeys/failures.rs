//! Failures of manifests, programs, ports and disks: pdev reports the cause, the place and the fix.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use crate::sandbox::{Sandbox, wait_until};

fn manifest(service: &str) -> String {
    format!("pdev: 1\napp: bad\nservices:\n  web: {service}\n")
}

#[test]
fn invalid_manifest_starts_no_agent() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", "pdev: 1\napp: x\nservices:\n  web: { port: 80800, helth: /, process: [true] }\n");
    let output = sandbox.pdev(&["up"]).fails_with(2);
    assert!(output.err.contains("helth") && output.err.contains("80800"), "{}", output.transcript());
    assert!(!sandbox.path("run/agent.sock").exists(), "an agent was started");
}

#[test]
fn missing_manifest_error_names_the_file() {
    let sandbox = Sandbox::without_docker();
    sandbox.pdev(&["up"]).fails_with(4).prints("pdev.yaml");
}

#[test]
fn exited_program_shows_last_lines_and_exit_code() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", &manifest("{ port: 8080, restart: never, process: { command: [sh, -c, 'echo reading config; echo no such table >&2; exit 3'] } }"));
    sandbox.pdev(&["up"]).fails_with(1).prints("exit code 3").prints("no such table").prints("pdev logs web");
}

#[test]
fn crash_of_replaced_program_is_reported() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", &manifest("{ health: none, process: { command: [sleep, '1000'] } }"));
    sandbox.pdev(&["up"]).ok();
    // The keeper ends with the last unit of the old hash. The exits of the next keeper must be followed, too.
    sandbox.write("pdev.yaml", &manifest("{ port: 8080, process: { command: [sh, -c, 'echo gone wrong; exit 4'] } }"));
    sandbox.pdev(&["up"]).fails_with(1).prints("exit code 4").prints("gone wrong");
}

#[test]
fn crash_loop_fails_after_five_restarts() {
    let sandbox = Sandbox::without_docker();
    sandbox
        .write("pdev.yaml", &manifest("{ port: 8080, process: { command: [sh, -c, 'echo try >> tries; exit 1'] } }"));
    sandbox.pdev(&["up"]).fails_with(1).prints("exit code 1");
    let tries = std::fs::read_to_string(sandbox.project().join("tries")).unwrap().lines().count();
    assert_eq!(tries, 6, "the first start and five restarts");
}

#[test]
fn failed_health_check_shows_probe_result() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        &manifest("{ port: 8080, health: { ready: /healthz, start_limit: 1s }, process: { command: [python3, -m, http.server, --bind, 127.0.0.1, '${services.web.port}'] } }"),
    );
    sandbox.pdev(&["up"]).fails_with(1).prints("GET /healthz answered 404");
}

#[test]
fn missing_program_is_named_in_error() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", &manifest("{ port: 8080, process: { command: [no-such-program-here] } }"));
    sandbox.pdev(&["up"]).fails_with(1).prints("no-such-program-here");
}

#[test]
fn port_conflict_names_owning_process() {
    let sandbox = Sandbox::without_docker();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    sandbox.write(
        "pdev.yaml",
        &manifest(&format!("{{ port: {{ port: 8080, host: {port} }}, process: {{ command: [sleep, '100'] }} }}")),
    );
    sandbox.pdev(&["up"]).fails_with(1).prints(&port.to_string()).prints(&std::process::id().to_string());
}

/// A program takes the port after the unit was started and before the unit listens. Its answers must not count.
#[test]
fn listener_of_other_program_does_not_make_unit_ready() {
    let sandbox = Sandbox::without_docker();
    let program =
        "echo $PORT > port; while [ ! -e go ]; do sleep 0.05; done; exec python3 -m http.server --bind 127.0.0.1 $PORT";
    sandbox.write("pdev.yaml", &manifest(&format!("{{ port: 8080, process: {{ command: '{program}' }} }}")));
    sandbox.pdev(&["up", "--detach"]).ok();
    let written = || std::fs::read_to_string(sandbox.project().join("port")).unwrap_or_default().trim().parse().ok();
    wait_until("the unit knows its port", Duration::from_secs(20), || written().is_some());
    let port: u16 = written().unwrap();
    let stranger = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let unit = || sandbox.status(&sandbox.project())["units"][0].clone();
    wait_until("the owner of the port is named", Duration::from_secs(20), || {
        let reason = unit()["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains(&format!("port {port} is taken by"))
            && reason.contains(&format!("(pid {}), which does not belong to this unit", std::process::id()))
    });
    assert_eq!(unit()["state"], "starting");
    drop(stranger);
    std::fs::write(sandbox.project().join("go"), "").unwrap();
    sandbox.pdev(&["wait"]).ok();
    assert_eq!(unit()["state"], "ready");
}

#[test]
fn ignored_port_error_names_where_program_listens() {
    let sandbox = Sandbox::without_docker();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let service = format!(
        "{{ port: 8080, health: {{ start_limit: 2s }}, process: {{ command: [python3, -m, http.server, --bind, 127.0.0.1, '{free}'] }} }}"
    );
    sandbox.write("pdev.yaml", &manifest(&service));
    sandbox
        .pdev(&["up"])
        .fails_with(1)
        .prints(&format!("it listens on port {free}, not on port"))
        .prints("variable `PORT`");
}

#[test]
fn down_during_up_stops_all_programs() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", &manifest("{ port: 8080, process: { command: [sleep, '1000'] } }"));
    let mut up = sandbox.command(&sandbox.project(), &["up"]);
    let mut up = up.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the program runs", Duration::from_secs(20), || {
        sandbox.processes().iter().any(|(_, command)| command.contains("sleep 1000"))
    });
    sandbox.pdev(&["down"]).ok();
    assert_ne!(up.wait().unwrap().code(), Some(0), "`up` reports success");
    wait_until("the program has ended", Duration::from_secs(10), || {
        !sandbox.processes().iter().any(|(_, command)| command.contains("sleep 1000"))
    });
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", &manifest("{ health: none, stop: { grace: 300ms }, process: { command: [sh, -c, 'trap \"\" TERM; while :; do sleep 1000; done'] } }"));
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["down"]).ok();
    wait_until("the program has been killed", Duration::from_secs(5), || {
        !sandbox.processes().iter().any(|(_, command)| command.contains("sleep 1000"))
    });
}

#[test]
fn detached_grandchildren_are_stopped_by_down() {
    let sandbox = Sandbox::without_docker();
    sandbox.write(
        "pdev.yaml",
        &manifest("{ health: none, process: { command: [sh, -c, 'setsid sleep 4242 & exec sleep 4243'] } }"),
    );
    sandbox.pdev(&["up"]).ok();
    let alive = |needle: &str| sandbox.processes().iter().any(|(_, command)| command.contains(needle));
    wait_until("the grandchild runs", Duration::from_secs(10), || alive("sleep 4242"));
    sandbox.pdev(&["down"]).ok();
    wait_until("the grandchild has ended", Duration::from_secs(5), || !alive("sleep 4242") && !alive("sleep 4243"));
}

/// A home of one megabyte that can be filled. Dropping it unmounts it, also after a failure.
pub struct FullDisk<'a>(&'a Sandbox);

impl<'a> FullDisk<'a> {
    pub fn mount_at_home(sandbox: &'a Sandbox) -> Option<Self> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(sandbox.path("home")).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(sandbox))
    }

    pub fn fill(&self) {
        let file = std::fs::File::create(self.0.path("home/fill")).unwrap();
        // The copy must fail: it fills the disk.
        drop(std::io::copy(&mut std::io::repeat(0).take(4 << 20), &mut &file));
    }

    pub fn free_space(&self) {
        std::fs::remove_file(self.0.path("home/fill")).unwrap();
    }
}

impl Drop for FullDisk<'_> {
    fn drop(&mut self) {
        drop(self.0.pdev(&["agent", "stop"]));
        drop(Command::new("umount").arg("-l").arg(self.0.path("home")).status());
    }
}

#[test]
fn full_disk_is_reported_and_nothing_is_lost() {
    let sandbox = Sandbox::without_docker();
    let Some(disk) = FullDisk::mount_at_home(&sandbox) else {
        println!("skipped: a full disk: mounting a tmpfs is not allowed here");
        return;
    };
    let sleeps = |number: u32| {
        format!(
            "pdev: 1\napp: full\nservices:\n  web: {{ process: {{ command: [sleep, '{number}'] }}, health: none }}\n"
        )
    };
    let running = |number: u32| {
        let command = format!("sleep {number}");
        sandbox.processes().into_iter().filter(|(_, line)| line.trim().ends_with(&command)).count()
    };
    sandbox.write("pdev.yaml", &sleeps(4001));
    disk.fill();
    sandbox.pdev(&["up"]).fails_with(1).prints("No space left on device").prints("pdev doctor");
    disk.free_space();
    sandbox.pdev(&["up"]).ok();
    disk.fill();
    // A change is not started if it cannot be written to the journal. The old program keeps running.
    sandbox.write("pdev.yaml", &sleeps(4002));
    sandbox.pdev(&["up"]).fails_with(1).prints("No space left on device");
    assert_eq!((running(4001), running(4002)), (1, 0));
    // `down` works, although the journal may not record it.
    drop(sandbox.pdev(&["down"]));
    assert_eq!(running(4001), 0);
    disk.free_space();
    sandbox.pdev(&["up"]).ok();
    assert_eq!(running(4002), 1, "`up` assumed that the stopped program runs");
    sandbox.pdev(&["down"]).ok();
}

/// A frequent mistake: the program is fine on the developer's machine, but its container cannot be reached.
#[test]
fn container_that_listens_on_its_loopback_is_explained() {
    let Some(sandbox) = Sandbox::with_docker("listening addresses of containers") else { return };
    let listen = |address: &str, port: u16| {
        format!(
            "{{ image: \"debian:stable-slim\", port: 8080, stop: {{ grace: 0s }}, health: {{ start_limit: 1s }}, command: [perl, -MSocket, -e, 'socket(S, 2, 1, 6); bind(S, sockaddr_in({port}, inet_aton(\"{address}\"))) || die; listen(S, 5); sleep 1000'] }}"
        )
    };
    sandbox.write("pdev.yaml", &manifest(&listen("127.0.0.1", 8080)));
    sandbox
        .pdev(&["up"])
        .fails_with(1)
        .prints("it listens on port 8080 of 127.0.0.1 inside its container only")
        .prints("listen on 0.0.0.0");
    sandbox.write("pdev.yaml", &manifest(&listen("0.0.0.0", 3000)));
    sandbox
        .pdev(&["up"])
        .fails_with(1)
        .prints("it listens on port 3000, not on port 8080")
        .prints("services.web.port: 3000");
    sandbox.write("pdev.yaml", &manifest(&listen("0.0.0.0", 8080)));
    sandbox.pdev(&["up"]).ok();
}

#[test]
fn program_that_goes_to_the_background_is_explained() {
    let sandbox = Sandbox::without_docker();
    sandbox
        .write("pdev.yaml", &manifest("{ port: 8080, restart: never, process: { command: 'sleep 1000 & exit 0' } }"));
    sandbox.pdev(&["up"]).fails_with(1).prints("exit code 0").prints("must stay in the foreground");
    let left = sandbox.processes().into_iter().filter(|(_, command)| command.contains("sleep 1000")).count();
    assert_eq!(left, 0, "its children are ended");
}

/// A module that needs a certain version of an installed program refuses others before it creates data.
#[test]
fn other_version_of_installed_program_is_refused_or_named() {
    let sandbox = Sandbox::without_docker();
    for version in ["15", "17"] {
        let tool = sandbox.path(&format!("opt/{version}/bin/journey-db"));
        std::fs::create_dir_all(tool.parent().unwrap()).unwrap();
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 'journey-db (Journey) {version}.4' && exit\nexec sleep 1000\n"
        );
        std::fs::write(&tool, script).unwrap();
        std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let folder = sandbox.path("opt").display().to_string();
    sandbox.write(
        "modules/db/module.yaml",
        &format!(
            "module: db\nversion: 16.0.0\nversions: [\"15\", \"16\"]\nowner: {{ team: t, contact: c }}\nsummary: s\ndocs: docs.md\noutputs: {{ x: {{ value: x, description: d }} }}\nrenders:\n  process:\n    search: \"{{{{ ['{folder}/' ~ (constraint if pinned else '*') ~ '/bin'] }}}}\"\n    version: {{ software: Journey, command: [journey-db, --version], accept: \"{{{{ [constraint] if pinned else [] }}}}\", minimum: 13, package: \"journey-{{{{ constraint }}}}\" }}\n    init: [[sh, -c, 'echo made >> made']]\n    command: [journey-db]\n"
        ),
    );
    sandbox.write("modules/db/docs.md", "# db\n");
    let write = |uses: &str| {
        sandbox.write("pdev.yaml", &format!("pdev: 1\napp: bad\nresources:\n  db: {{ uses: {uses} }}\n"));
    };
    write("./modules/db@16");
    sandbox
        .pdev(&["up"])
        .fails_with(1)
        .prints("journey-db")
        .prints("Installed: 17.4")
        .prints("15.4")
        .prints("the package `journey-16`")
        .prints("write `uses` without a version");
    write("./modules/db@15");
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev(&["down", "--volumes"]).ok();
    write("./modules/db");
    sandbox.pdev(&["up"]).ok().prints("`db` uses Journey 17.4");
}
