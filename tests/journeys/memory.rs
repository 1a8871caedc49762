//! What the agent holds in memory stays there: no core file when it crashes, no look into it by programs of its user.

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
    // The shell asks for core files, as a developer's machine may; they would lie in the agent's folder.
    let mut start = Command::new("sh");
    start.args(["-c", "ulimit -c unlimited; exec \"$0\" credential token hub", env!("CARGO_BIN_EXE_pdev")]);
    let asked = sandbox.command(&sandbox.project(), &[]);
    start.env_clear().current_dir(sandbox.project());
    start.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_with_timeout(start, Duration::from_secs(60)).ok().prints(CANARY);
    let pid = sandbox.agent_pid().unwrap();
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    // Not SEGV: Rust's handler for it takes the first one for a full stack's.
    send_signal(pid, "ABRT");
    wait_until("the agent is gone", Duration::from_secs(10), || !Path::new(&format!("/proc/{pid}/exe")).exists());
    for name in ["core".to_owned(), format!("core.{pid}")] {
        assert!(!folder.join(&name).exists(), "`{name}` lies in {}", folder.display());
    }
}

#[test]
fn same_user_cannot_read_agent_memory() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the agent's memory: changing the user wants root");
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
    let as_nobody = |program: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).args(program);
        let like = sandbox.command(&sandbox.project(), &[]);
        command.env_clear().current_dir(sandbox.project());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run_with_timeout(command, Duration::from_secs(60))
    };
    let pdev = pdev.to_str().unwrap();
    as_nobody(&[pdev, "credential", "token", "hub"]).ok().prints(CANARY);
    let status = as_nobody(&[pdev, "agent", "status", "--json"]).ok().json();
    let pid = status["pid"].as_u64().unwrap();
    // A process that hides nothing can be read in the same way: the test is able to fail.
    as_nobody(&["sh", "-c", "sleep 20 & dd if=/proc/$!/environ of=/dev/null 2>&1; kill $!"]).ok();
    for file in ["mem", "environ", "maps"] {
        let read = as_nobody(&["dd", &format!("if=/proc/{pid}/{file}"), "of=/dev/null", "count=1"]);
        assert!(read.code != 0 && read.err.contains("Permission denied"), "{file}: {}", read.transcript());
    }
    assert_gcore_is_refused(&sandbox, pid, &as_nobody);
    as_nobody(&[pdev, "agent", "stop"]).ok();
    // Here and not as root, who may lock as much as it likes.
    as_nobody(&["sh", "-c", "ulimit -l 0; exec $0 credential token hub", pdev]).ok().prints(CANARY);
    let said = as_nobody(&[pdev, "doctor", "credentials"]).ok();
    said.prints("the lease of `hub` could not be locked into memory");
    as_nobody(&[pdev, "agent", "stop"]).ok();
}

fn proc_line(pid: u64, file: &str, start: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
}

#[test]
fn held_lease_is_locked_into_memory() {
    let sandbox = sandbox_with_token_source();
    sandbox.pdev(&["credential", "token", "hub"]).ok().prints(CANARY);
    let locked = proc_line(u64::from(sandbox.agent_pid().unwrap()), "status", "VmLck:");
    if locked.ends_with(" 0 kB") {
        println!("skipped: locked memory: this machine's limit allows none");
        return;
    }
    sandbox.pdev(&["doctor", "credentials"]).ok().prints("are locked into memory");
}

/// How often these bytes stand in what a process may write to.
fn count_copies(sandbox: &Sandbox, pid: u32, needle: &str) -> usize {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut image = fs::File::create(sandbox.path("image")).unwrap();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut piece = vec![0; 1 << 20];
        for at in (from..to).step_by(piece.len()) {
            let length = usize::try_from(to - at).unwrap().min(piece.len());
            // What the kernel keeps for itself cannot be read.
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
        println!("skipped: what is forgotten: only root can look into the agent's memory");
        return;
    }
    let sandbox = sandbox_with_token_source();
    for form in ["token", "kubectl", "token"] {
        sandbox.pdev(&["credential", form, "hub"]).ok().prints(CANARY);
    }
    let pid = sandbox.agent_pid().unwrap();
    assert_eq!(count_copies(&sandbox, pid, CANARY), 1, "copies of a lease that is held");
    // What a person types comes by the API, whose library keeps its buffers as they are; a lease of a source does not.
    write_identities(&sandbox, "");
    sandbox.pdev(&["identity"]).ok();
    assert_eq!(count_copies(&sandbox, pid, CANARY), 0, "copies after it was forgotten");
}

/// Limits as the person who started the agent has them, in everything that it starts.
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
    let said = sandbox.project().join("said");
    let script = format!("{limits} > {}; exec sleep 1000", said.display());
    sandbox.write("service.sh", &script);
    sandbox.write(
        "pdev.yaml",
        "pdev: 1\napp: limits\nservices:\n  web: { health: none, process: { command: [sh, service.sh] } }\n",
    );
    let as_person = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        // Unlike any default, and within what everybody may set.
        command
            .args(["-c", "ulimit -Sc 4; ulimit -Sn 777; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_pdev")])
            .args(arguments);
        let asked = sandbox.command(&sandbox.project(), &[]);
        command.env_clear().current_dir(sandbox.project());
        command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run_with_timeout(command, Duration::from_secs(60)).ok()
    };
    let mut hard = Command::new("sh");
    hard.args(["-c", "ulimit -Hn; ulimit -Sl"]);
    let hard = run_with_timeout(hard, Duration::from_secs(10)).ok().out.replace('\n', " ");
    let own = format!("4 777 {hard}");
    as_person(&["up", "--runtime", "process"]);
    assert_eq!(as_person(&["credential", "token", "own"]).out, own, "an `exec` source");
    sandbox.pdev(&["credential", "token", "absent"]).fails_with(1).prints("cannot start `/no/such`: ");
    let agent = u64::from(sandbox.agent_pid().unwrap());
    assert!(!proc_line(agent, "limits", "Max open files").contains(" 777 "), "the agent's own limit was never raised");
    wait_until("the service said its limits", Duration::from_secs(20), || said.exists());
    wait_until("all of them", Duration::from_secs(20), || fs::read_to_string(&said).unwrap() == own);
    let all = format!("{limits}; exit 0");
    assert_eq!(as_person(&["run", "--as", "own", "--", "sh", "-c", &all]).out, own, "`run --as`");
    assert_eq!(as_person(&["exec", "web", "--", "sh", "-c", &all]).out, own, "`exec`");
}

/// A debugger's way to a core file; what it takes of a process that hides nothing shows that it could.
fn assert_gcore_is_refused(sandbox: &Sandbox, agent: u64, as_nobody: &dyn Fn(&[&str]) -> CommandOutput) {
    let core = sandbox.path("run/core");
    let take = |what: &str| format!("gcore -o {} {what} </dev/null", core.display());
    let of_sleeper = format!("sleep 20 & {}; taken=$?; kill $!; exit $taken", take("$!"));
    let taken = as_nobody(&["sh", "-c", &of_sleeper]);
    if taken.code != 0 {
        println!("skipped: a core file by gcore: it takes none of any process here: {}", taken.err.trim());
        return;
    }
    let refused = as_nobody(&["sh", "-c", &take(&agent.to_string())]);
    assert!(refused.transcript().contains("Operation not permitted"), "{}", refused.transcript());
    assert!(!sandbox.path(&format!("run/core.{agent}")).exists(), "{}", refused.transcript());
}
