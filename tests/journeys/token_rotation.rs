//! Refresh tokens that work only once: killing the agent at any moment must not sign the user out.
//!
//! The provider ends the login when it receives a spent token, so a single lost token fails the test.

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
    /// `PDEV_SEED` sets the seed, to repeat a run.
    fn new() -> Self {
        let seed = std::env::var("PDEV_SEED").ok().and_then(|text| text.parse().ok());
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Self(seed.unwrap_or_else(clock))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }

    fn duration_below(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).unwrap()))
    }
}

/// The event from which the delay until the kill is counted.
#[derive(Clone, Copy, Debug)]
enum DelayStart {
    /// A helper starts while no agent runs.
    HelperStart,
    /// The provider receives the old token.
    Exchange,
}

/// The running agent, by its pid file. Checks the environment, because a killed agent leaves its file behind.
fn find_agent(sandbox: &Sandbox) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(sandbox.path("run/agent.pid")).ok()?.parse().ok()?;
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let folder = sandbox.path("run").into_os_string().into_encoded_bytes();
    environment.windows(folder.len()).any(|part| part == folder).then(|| Pid::from_raw(pid)).flatten()
}

/// Kills the agent, optionally with its process group, as a terminal or a service manager does.
fn kill_agent(sandbox: &Sandbox, group: bool) -> bool {
    let Some(pid) = find_agent(sandbox) else { return false };
    let result = if group { kill_process_group(pid, Signal::KILL) } else { kill_process(pid, Signal::KILL) };
    result.is_ok()
}

fn wait_until_agent_is_gone(sandbox: &Sandbox) {
    wait_until("the agent has ended", Duration::from_secs(10), || find_agent(sandbox).is_none());
}

fn spawn_token_request(sandbox: &Sandbox) -> Child {
    let mut request = sandbox.command(&sandbox.project(), &["credential", "token", "idp"]);
    request.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns a stream that ends when the provider receives the next token request.
fn subscribe_to_exchange(provider: &Provider) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", provider.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /test/requested HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    // After the head and the first byte, the provider has registered the subscription.
    let mut received = Vec::new();
    while !received.ends_with(b"1\r\n.\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    stream
}

/// The vault's key in the kernel's keyring. Dropping it removes the key.
struct KernelKey(PathBuf);

impl KernelKey {
    fn if_usable(sandbox: &Sandbox) -> Option<Self> {
        let mut keyctl = Command::new("keyctl");
        keyctl.args(["show", "@u"]).stdout(Stdio::null()).stderr(Stdio::null());
        let is_usable = keyctl.status().is_ok_and(|status| status.success());
        is_usable.then(|| Self(sandbox.path("home/.local/share/pdev/credentials/vault/vault.json")))
    }
}

impl Drop for KernelKey {
    fn drop(&mut self) {
        let header: Value = serde_json::from_slice(&fs::read(&self.0).unwrap_or_default()).unwrap_or_default();
        let name = format!("pdev:vault:{}", header["id"].as_str().unwrap_or("none"));
        let search = Command::new("keyctl").args(["search", "@u", "user", &name]).output().unwrap();
        let key = String::from_utf8_lossy(&search.stdout).trim().to_owned();
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
        // Deriving the key from a passphrase is slow on purpose and would take most of each round.
        Some(_) => sign_in_with(&sandbox, ("PDEV_VAULT", "kernel"), "device"),
        None => sign_in(&sandbox, &passphrase, "device"),
    }
    let rotations: u64 = std::env::var("PDEV_ROTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let mut numbers = SeededRandom::new();
    let seed = numbers.0;
    println!("rotations: PDEV_SEED={seed}");
    kill_agent(&sandbox, false);
    wait_until_agent_is_gone(&sandbox);
    let started = Instant::now();
    request_token(&sandbox).ok();
    let full_duration = started.elapsed();
    // This includes the polls before the user confirmed the login.
    let refused = provider.refusals();

    let (mut round, mut kills, mut kills_in_exchange) = (0_u64, 0_u64, 0_u64);
    while provider.renewals() < rotations {
        round += 1;
        kills += u64::from(kill_agent(&sandbox, false));
        wait_until_agent_is_gone(&sandbox);
        let before = provider.renewals();
        let pause = numbers.below(20);
        get("127.0.0.1", provider.port, &format!("/test/pause?ms={pause}"));
        let delay_start = if round % 2 == 0 { DelayStart::HelperStart } else { DelayStart::Exchange };
        let mut exchange = subscribe_to_exchange(&provider);
        let child = spawn_token_request(&sandbox);
        let wait = match delay_start {
            DelayStart::HelperStart => numbers.duration_below(full_duration),
            DelayStart::Exchange => {
                exchange.read_to_end(&mut Vec::new()).unwrap();
                numbers.duration_below(Duration::from_millis(pause + 8))
            }
        };
        std::thread::sleep(wait);
        kills += u64::from(kill_agent(&sandbox, round % 4 < 2));
        let mut output = to_command_output(&child.wait_with_output().unwrap());
        if output.err.contains("the agent did not start") {
            // The agent was killed before its first response. The helper reports this, and the next request must work.
            output = request_token(&sandbox);
        }
        assert!(
            output.code == 0 && output.out.len() > 20,
            "signed out: PDEV_SEED={seed}, round {round}, {wait:?} from {delay_start:?}, pause {pause} ms\n{}",
            output.transcript()
        );
        kills_in_exchange += u64::from(provider.renewals() > before + 1);
    }
    assert_eq!(provider.refusals(), refused, "a spent token came back: PDEV_SEED={seed}");
    wait_until("no exchange runs", Duration::from_secs(10), || exchange_processes(&sandbox).is_empty());
    let vault = sandbox.path("home/.local/share/pdev/credentials/vault");
    let remaining: Vec<_> =
        fs::read_dir(vault).unwrap().flatten().filter(|entry| entry.path().ends_with("next")).collect();
    assert!(remaining.is_empty(), "{remaining:?}");
    println!(
        "rotations: {} in {round} rounds, {kills} kills, {kills_in_exchange} between exchange and response, 0 sign-outs, {:.0} s",
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
    let mut exchange = subscribe_to_exchange(&provider);
    let child = spawn_token_request(&sandbox);
    exchange.read_to_end(&mut Vec::new()).unwrap();
    let all = exchange_processes(&sandbox);
    let [(pid, command)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(command.trim(), "pdev exchange", "the arguments must contain no data");
    let pid = Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid, "the exchange does not run in its own session");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        kill_process(pid, signal).unwrap();
    }
    assert!(kill_agent(&sandbox, true));
    // The helper starts another agent. Its exchange waits for the running one and continues with the stored token.
    let output = to_command_output(&child.wait_with_output().unwrap()).ok();
    assert!(output.out.len() > 20, "{}", output.transcript());
    assert_eq!(provider.renewals(), 2);
}

/// The protocol server ends the session when it receives a spent token. AWS's own server accepts it for a while.
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
    let rotations = std::env::var("PDEV_ROTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut numbers = SeededRandom::new();
    println!("rotations at Identity Center: PDEV_SEED={}", numbers.0);
    aws_credential(&sandbox, "dev").ok();
    let mut full_duration = Duration::ZERO;
    let mut kills = 0;
    while center.stat("refreshed") < rotations {
        kill_agent(&sandbox, false);
        wait_until_agent_is_gone(&sandbox);
        get("127.0.0.1", center.port, "/test/expire");
        let started = Instant::now();
        let mut command = sandbox.command(&sandbox.project(), &["credential", "aws", "dev"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if full_duration > Duration::ZERO {
            std::thread::sleep(numbers.duration_below(full_duration));
            kills += u64::from(kill_agent(&sandbox, true));
        }
        let mut output = to_command_output(&child.wait_with_output().unwrap());
        if output.err.contains("the agent did not start") {
            output = aws_credential(&sandbox, "dev");
        }
        assert!(output.ok().out.contains("ASIA111111111111"));
        full_duration = if full_duration.is_zero() { started.elapsed() } else { full_duration };
    }
    assert_eq!(center.stat("reuse"), 0, "a spent token came back");
    println!("rotations at Identity Center: {}, {kills} kills, 0 sign-outs", center.stat("refreshed"));
}
