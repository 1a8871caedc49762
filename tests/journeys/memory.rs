//! Secrets in the agent's memory: no core file contains them, and other programs of the user cannot read them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, send_signal, wait_until};

const CANARY: &str = "canary-in-memory";

fn sandbox_with_token_source() -> Sandbox {
    let sandbox = Sandbox::without_docker();
    fs::create_dir(sandbox.path("bin")).unwrap();
    let script = sandbox.path("token.sh");
    fs::write(
        &script,
        format!("#!/bin/sh\necho '{{\"token\":\"{CANARY}\",\"expires_at\":\"2099-01-01T00:00:00Z\"}}'\n"),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    write_identities(&sandbox, &format!("[hub]\nsource = \"exec\"\ncommand = [\"{}\"]\n", script.display()));
    sandbox
}

#[test]
fn crashing_agent_leaves_no_core_file() {
    let sandbox = sandbox_with_token_source();
    let mut other = Command::new("sh");
    other.args(["-c", "ulimit -c unlimited; sleep 60 & kill -ABRT $!; wait $!; ls"]).current_dir(sandbox.path("bin"));
    if !run_with_timeout(other, Duration::from_secs(30)).out.contains("core") {
        println!("skipped: core files: this machine puts them elsewhere");
        return;
    }
    // Enable core files, as on some developer machines. The kernel would write one to the agent's folder.
    let mut start = Command::new("sh");
    start.args(["-c", "ulimit -c unlimited; exec \"$0\" credential token hub", env!("CARGO_BIN_EXE_pdev")]);
    let plain = sandbox.command(&sandbox.project(), &[]);
    start.env_clear().current_dir(sandbox.project());
    start.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_with_timeout(start, Duration::from_secs(60)).ok().prints(CANARY);
    let pid = sandbox.agent_pid().unwrap();
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    // Not SEGV: Rust's handler treats the first one as a possible stack overflow.
    send_signal(pid, "ABRT");
    wait_until("the agent has ended", Duration::from_secs(10), || !Path::new(&format!("/proc/{pid}/exe")).exists());
    for name in ["core".to_owned(), format!("core.{pid}")] {
        assert!(!folder.join(&name).exists(), "`{name}` is in {}", folder.display());
    }
}

#[test]
fn same_user_cannot_read_agent_memory() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the agent's memory: changing the user needs root");
        return;
    }
    let sandbox = sandbox_with_token_source();
    for name in ["home", "run", "p"] {
        let mut chown = Command::new("chown");
        chown.args(["-R", "65534:65534"]).arg(sandbox.path(name));
        run_with_timeout(chown, Duration::from_secs(10)).ok();
    }
    let pdev = sandbox.path("pdev");
    fs::copy(env!("CARGO_BIN_EXE_pdev"), &pdev).unwrap();
    let run_unprivileged = |program: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).args(program);
        let plain = sandbox.command(&sandbox.project(), &[]);
        command.env_clear().current_dir(sandbox.project());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run_with_timeout(command, Duration::from_secs(60))
    };
    let pdev = pdev.to_str().unwrap();
    run_unprivileged(&[pdev, "credential", "token", "hub"]).ok().prints(CANARY);
    let status = run_unprivileged(&[pdev, "agent", "status", "--json"]).ok().json();
    let pid = status["pid"].as_u64().unwrap();
    // An ordinary process can be read in the same way, so this test can fail.
    run_unprivileged(&["sh", "-c", "sleep 20 & dd if=/proc/$!/environ of=/dev/null 2>&1; kill $!"]).ok();
    for file in ["mem", "environ", "maps"] {
        let read = run_unprivileged(&["dd", &format!("if=/proc/{pid}/{file}"), "of=/dev/null", "count=1"]);
        assert!(read.code != 0 && read.err.contains("Permission denied"), "{file}: {}", read.transcript());
    }
    assert_gcore_is_refused(&sandbox, pid, &run_unprivileged);
    run_unprivileged(&[pdev, "agent", "stop"]).ok();
    // Test the limit without root, because root may lock any amount of memory.
    run_unprivileged(&["sh", "-c", "ulimit -l 0; exec $0 credential token hub", pdev]).ok().prints(CANARY);
    let output = run_unprivileged(&[pdev, "doctor", "credentials"]).ok();
    output.prints("the lease of `hub` could not be locked into memory");
    run_unprivileged(&[pdev, "agent", "stop"]).ok();
}

fn proc_line(pid: u64, file: &str, start: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
}

#[test]
fn cached_lease_is_locked_into_memory() {
    let sandbox = sandbox_with_token_source();
    sandbox.pdev(&["credential", "token", "hub"]).ok().prints(CANARY);
    let locked = proc_line(u64::from(sandbox.agent_pid().unwrap()), "status", "VmLck:");
    if locked.ends_with(" 0 kB") {
        println!("skipped: locked memory: this machine's limit allows none");
        return;
    }
    sandbox.pdev(&["doctor", "credentials"]).ok().prints("are locked into memory");
}

/// Counts these bytes in the writable memory of a process.
fn count_copies(sandbox: &Sandbox, pid: u32, needle: &str) -> usize {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut image = fs::File::create(sandbox.path("image")).unwrap();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut piece = vec![0; 1 << 20];
        for at in (from..to).step_by(piece.len()) {
            let length = usize::try_from(to - at).unwrap().min(piece.len());
            // Some mappings of the kernel cannot be read.
            if memory.read_exact_at(&mut piece[..length], at).is_ok() {
                image.write_all(&piece[..length]).unwrap();
            }
        }
    }
    let mut grep = Command::new("grep");
    grep.args(["-aoF", needle]).arg(sandbox.path("image"));
    run_with_timeout(grep, Duration::from_secs(30)).out.lines().count()
}

#[test]
fn removed_lease_is_wiped_from_memory() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: removed leases: only root can read the agent's memory");
        return;
    }
    let sandbox = sandbox_with_token_source();
    for form in ["token", "kubectl", "token"] {
        sandbox.pdev(&["credential", form, "hub"]).ok().prints(CANARY);
    }
    let pid = sandbox.agent_pid().unwrap();
    assert_eq!(count_copies(&sandbox, pid, CANARY), 1, "copies of a cached lease");
    // This applies to leases of a source. A typed secret arrives through the API, whose library does not wipe its
    // buffers.
    write_identities(&sandbox, "");
    sandbox.pdev(&["identity"]).ok();
    assert_eq!(count_copies(&sandbox, pid, CANARY), 0, "copies of a removed lease");
}

/// Programs that the agent starts have the limits of the user who started the agent.
#[test]
fn programs_inherit_user_limits() {
    let sandbox = Sandbox::without_docker();
    let limits = "{ ulimit -c; ulimit -Sn; ulimit -Hn; ulimit -Sl; } | tr '\\n' ' '";
    let source = sandbox.path("source.sh");
    fs::write(&source, format!("#!/bin/sh\nprintf '{{\"token\":\"%s\"}}' \"$({limits})\"\n")).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    write_identities(
        &sandbox,
        &format!(
            "[own]\nsource = \"exec\"\ncommand = [\"{}\"]\n[absent]\nsource = \"exec\"\ncommand = [\"/no/such\"]\n",
            source.display()
        ),
    );
    let limits_file = sandbox.project().join("limits");
    let script = format!("{limits} > {}; exec sleep 1000", limits_file.display());
    sandbox.write("service.sh", &script);
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: limits\nservices:\n  web: { health: none, process: { command: [sh, service.sh] } }\n",
    );
    let run_with_limits = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        // These values differ from all defaults, and no user needs privileges to set them.
        command
            .args(["-c", "ulimit -Sc 4; ulimit -Sn 777; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_pdev")])
            .args(arguments);
        let plain = sandbox.command(&sandbox.project(), &[]);
        command.env_clear().current_dir(sandbox.project());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run_with_timeout(command, Duration::from_secs(60)).ok()
    };
    let mut hard = Command::new("sh");
    hard.args(["-c", "ulimit -Hn; ulimit -Sl"]);
    let hard = run_with_timeout(hard, Duration::from_secs(10)).ok().out.replace('\n', " ");
    let expected = format!("4 777 {hard}");
    run_with_limits(&["up", "--runtime", "process"]);
    assert_eq!(run_with_limits(&["credential", "token", "own"]).out, expected, "an `exec` source");
    sandbox.pdev(&["credential", "token", "absent"]).fails_with(1).prints("cannot start `/no/such`: ");
    let agent = u64::from(sandbox.agent_pid().unwrap());
    assert!(!proc_line(agent, "limits", "Max open files").contains(" 777 "), "the agent did not raise its own limit");
    wait_until("the service writes its limits", Duration::from_secs(20), || limits_file.exists());
    wait_until("the file is complete", Duration::from_secs(20), || {
        fs::read_to_string(&limits_file).unwrap() == expected
    });
    let all = format!("{limits}; exit 0");
    assert_eq!(run_with_limits(&["run", "--as", "own", "--", "sh", "-c", &all]).out, expected, "`run --as`");
    assert_eq!(run_with_limits(&["exec", "web", "--", "sh", "-c", &all]).out, expected, "`exec`");
}

/// Checks that gcore cannot write a core file of the agent. Skips if it cannot write one of an ordinary process either.
fn assert_gcore_is_refused(sandbox: &Sandbox, agent: u64, run_unprivileged: &dyn Fn(&[&str]) -> CommandOutput) {
    let core = sandbox.path("run/core");
    let gcore = |pid: &str| format!("gcore -o {} {pid} </dev/null", core.display());
    let of_sleeper = format!("sleep 20 & {}; code=$?; kill $!; exit $code", gcore("$!"));
    let ordinary = run_unprivileged(&["sh", "-c", &of_sleeper]);
    if ordinary.code != 0 {
        println!("skipped: a core file by gcore: gcore fails for every process here: {}", ordinary.err.trim());
        return;
    }
    let refused = run_unprivileged(&["sh", "-c", &gcore(&agent.to_string())]);
    assert!(refused.transcript().contains("Operation not permitted"), "{}", refused.transcript());
    assert!(!sandbox.path(&format!("run/core.{agent}")).exists(), "{}", refused.transcript());
}
