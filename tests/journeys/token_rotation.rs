//! A refresh token that works once, and the agent killed at any moment: nobody is signed out.
//!
//! The provider ends the whole login when a spent token comes back, so a single token that is lost shows.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::aws::{TestServer, aws_credential, sign_in_with as sign_in_at_the_center};
use crate::credential_formats::write_identities;
use crate::http::get;
use crate::logins::{Provider, request_token, set_up_vault, sign_in, sign_in_with};
use crate::sandbox::{Sandbox, to_command_output, wait_until};

/// The same sequence for the same seed.
struct SeededRandom(u64);

impl SeededRandom {
    /// `PDEV_SEED` repeats a run.
    fn new() -> Self {
        let given = std::env::var("PDEV_SEED").ok().and_then(|text| text.parse().ok());
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Self(given.unwrap_or_else(clock))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }

    fn duration_below(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(longest.as_micros()).unwrap()))
    }
}

#[derive(Clone, Copy, Debug)]
enum DelayStart {
    /// From when a tool asks and no agent runs.
    HelperStart,
    /// From when the provider gets the old token.
    Exchange,
}

/// The agent that runs, by its file, which one that was killed leaves behind.
fn find_agent(sandbox: &Sandbox) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(sandbox.path("run/agent.pid")).ok()?.parse().ok()?;
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let ours = sandbox.path("run").into_os_string().into_encoded_bytes();
    environment.windows(ours.len()).any(|part| part == ours).then(|| Pid::from_raw(pid)).flatten()
}

/// Every second time with all that is of its process group, as a terminal or a service manager does it.
fn kill_agent(sandbox: &Sandbox, group: bool) -> bool {
    let Some(pid) = find_agent(sandbox) else { return false };
    let done = if group { kill_process_group(pid, Signal::KILL) } else { kill_process(pid, Signal::KILL) };
    done.is_ok()
}

fn wait_until_agent_is_gone(sandbox: &Sandbox) {
    wait_until("the agent is gone", Duration::from_secs(10), || find_agent(sandbox).is_none());
}

fn spawn_token_request(sandbox: &Sandbox) -> Child {
    let mut ask = sandbox.command(&sandbox.project(), &["credential", "token", "idp"]);
    ask.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Answered when the provider is asked for the next token.
fn subscribe_to_exchange(provider: &Provider) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", provider.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /test/requested HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    // The head and the first byte: the provider knows us now.
    let mut heard = Vec::new();
    while !heard.ends_with(b"1\r\n.\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        heard.push(byte[0]);
    }
    stream
}

/// The kernel's keyring holds the vault's key; it is taken out at the end.
struct KernelKey(PathBuf);

impl KernelKey {
    fn if_usable(sandbox: &Sandbox) -> Option<Self> {
        let mut try_it = Command::new("keyctl");
        try_it.args(["show", "@u"]).stdout(Stdio::null()).stderr(Stdio::null());
        let there = try_it.status().is_ok_and(|status| status.success());
        there.then(|| Self(sandbox.path("home/.local/share/pdev/credentials/vault/vault.json")))
    }
}

impl Drop for KernelKey {
    fn drop(&mut self) {
        let head: Value = serde_json::from_slice(&fs::read(&self.0).unwrap_or_default()).unwrap_or_default();
        let name = format!("pdev:vault:{}", head["id"].as_str().unwrap_or("none"));
        let found = Command::new("keyctl").args(["search", "@u", "user", &name]).output().unwrap();
        let key = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        drop(Command::new("keyctl").args(["invalidate", &key]).status());
    }
}

fn exchange_processes(sandbox: &Sandbox) -> Vec<(u32, String)> {
    sandbox.processes().into_iter().filter(|(_, command)| command.contains("exchange")).collect()
}

#[test]
fn agent_killed_at_any_moment_of_a_rotation_keeps_login() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = Provider::start("rotations", &sandbox) else { return };
    let passphrase = set_up_vault(&sandbox, &provider);
    let key = KernelKey::if_usable(&sandbox);
    match &key {
        // Of most rounds the time would be the derivation from a passphrase, which is slow on purpose.
        Some(_) => sign_in_with(&sandbox, ("PDEV_VAULT", "kernel"), "device"),
        None => sign_in(&sandbox, &passphrase, "device"),
    }
    let wanted: u64 = std::env::var("PDEV_ROTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let mut numbers = SeededRandom::new();
    let seed = numbers.0;
    println!("rotations: PDEV_SEED={seed}");
    kill_agent(&sandbox, false);
    wait_until_agent_is_gone(&sandbox);
    let started = Instant::now();
    request_token(&sandbox).ok();
    let whole = started.elapsed();
    // Polls before the person had typed the code are among them.
    let refused = provider.refusals();

    let (mut round, mut kills, mut inside) = (0_u64, 0_u64, 0_u64);
    while provider.renewals() < wanted {
        round += 1;
        kills += u64::from(kill_agent(&sandbox, false));
        wait_until_agent_is_gone(&sandbox);
        let before = provider.renewals();
        let pause = numbers.below(20);
        get("127.0.0.1", provider.port, &format!("/test/pause?ms={pause}"));
        let from = if round % 2 == 0 { DelayStart::HelperStart } else { DelayStart::Exchange };
        let mut asked = subscribe_to_exchange(&provider);
        let child = spawn_token_request(&sandbox);
        let wait = match from {
            DelayStart::HelperStart => numbers.duration_below(whole),
            DelayStart::Exchange => {
                asked.read_to_end(&mut Vec::new()).unwrap();
                numbers.duration_below(Duration::from_millis(pause + 8))
            }
        };
        std::thread::sleep(wait);
        kills += u64::from(kill_agent(&sandbox, round % 4 < 2));
        let mut told = to_command_output(&child.wait_with_output().unwrap());
        if told.err.contains("the agent did not start") {
            // Killed before it could answer at all, which is told as it is.
            told = request_token(&sandbox);
        }
        assert!(
            told.code == 0 && told.out.len() > 20,
            "signed out: PDEV_SEED={seed}, round {round}, {wait:?} from {from:?}, pause {pause} ms\n{}",
            told.transcript()
        );
        inside += u64::from(provider.renewals() > before + 1);
    }
    assert_eq!(provider.refusals(), refused, "a spent token came back: PDEV_SEED={seed}");
    wait_until("no exchange is left", Duration::from_secs(10), || exchange_processes(&sandbox).is_empty());
    let vault = sandbox.path("home/.local/share/pdev/credentials/vault");
    let left: Vec<_> = fs::read_dir(vault).unwrap().flatten().filter(|entry| entry.path().ends_with("next")).collect();
    assert!(left.is_empty(), "{left:?}");
    println!(
        "rotations: {} in {round} rounds, {kills} kills, {inside} between the provider and the answer, 0 sign-outs, {:.0} s",
        provider.renewals(),
        started.elapsed().as_secs_f64()
    );
}

#[test]
fn exchange_survives_signals_that_end_the_agent() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = Provider::start("an exchange on its own", &sandbox) else { return };
    let passphrase = set_up_vault(&sandbox, &provider);
    sign_in(&sandbox, &passphrase, "device");
    get("127.0.0.1", provider.port, "/test/pause?ms=1500");
    let mut asked = subscribe_to_exchange(&provider);
    let child = spawn_token_request(&sandbox);
    asked.read_to_end(&mut Vec::new()).unwrap();
    let all = exchange_processes(&sandbox);
    let [(pid, command)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(command.trim(), "pdev exchange", "its arguments tell nothing");
    let pid = Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid, "a session of its own");
    for polite in [Signal::TERM, Signal::HUP, Signal::INT] {
        kill_process(pid, polite).unwrap();
    }
    assert!(kill_agent(&sandbox, true));
    // The helper starts another agent, whose exchange waits for this one, and goes on from what that left.
    let told = to_command_output(&child.wait_with_output().unwrap()).ok();
    assert!(told.out.len() > 20, "{}", told.transcript());
    assert_eq!(provider.renewals(), 2);
}

/// The protocol server ends the session when a spent token comes back, as it may; AWS's own allows it for a while.
#[test]
fn identity_center_session_survives_killed_agents() {
    let sandbox = Sandbox::without_docker();
    let center = TestServer::start_identity_center(&sandbox, 7_776_000);
    let url = format!("http://127.0.0.1:{}", center.port);
    write_identities(
        &sandbox,
        &format!(
            "[dev]\nsource = \"aws-sso\"\nstart_url = \"https://x.awsapps.com/start\"\nregion = \"eu-central-1\"\naccount = \"111111111111\"\n\
             role = \"Developer\"\noidc_endpoint = \"{url}\"\nportal_endpoint = \"{url}\"\n"
        ),
    );
    let key = KernelKey::if_usable(&sandbox);
    let vault = key.as_ref().map(|_| ("PDEV_VAULT", "kernel"));
    sign_in_at_the_center(&sandbox, "dev", "device", vault);
    let wanted = std::env::var("PDEV_ROTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut numbers = SeededRandom::new();
    println!("rotations at Identity Center: PDEV_SEED={}", numbers.0);
    aws_credential(&sandbox, "dev").ok();
    let mut whole = Duration::ZERO;
    let mut kills = 0;
    while center.stat("refreshed") < wanted {
        kill_agent(&sandbox, false);
        wait_until_agent_is_gone(&sandbox);
        get("127.0.0.1", center.port, "/test/expire");
        let started = Instant::now();
        let mut command = sandbox.command(&sandbox.project(), &["credential", "aws", "dev"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if whole > Duration::ZERO {
            std::thread::sleep(numbers.duration_below(whole));
            kills += u64::from(kill_agent(&sandbox, true));
        }
        let mut told = to_command_output(&child.wait_with_output().unwrap());
        if told.err.contains("the agent did not start") {
            told = aws_credential(&sandbox, "dev");
        }
        assert!(told.ok().out.contains("ASIA111111111111"));
        whole = if whole.is_zero() { started.elapsed() } else { whole };
    }
    assert_eq!(center.stat("reuse"), 0, "a spent token came back");
    println!("rotations at Identity Center: {}, {kills} kills, 0 sign-outs", center.stat("refreshed"));
}
