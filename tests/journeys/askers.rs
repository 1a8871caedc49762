//! Many ask at once, at the moment when a lease has ended: one renewal, one answer for all, and no person is disturbed.
//!
//! The agent is stopped (SIGSTOP) while the lease ends and while all of them ask, so that they are there together when it
//! goes on: nothing depends on who is faster.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::logins::{Provider, sign_in, with_vault};
use crate::outlets::identities;
use crate::sandbox::{Sandbox, eventually, signal};
use crate::search;

const ASKERS: usize = 200;

/// Lets an agent go on that this test stopped, also after a failure: nobody could end it otherwise.
struct Stopped(u32);

impl Stopped {
    fn now(pid: u32) -> Self {
        signal(pid, "STOP");
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        eventually("the agent is stopped", Duration::from_secs(10), || {
            state().rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
        });
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

/// What a helper sends; the answer is read later.
fn ask(socket: &Path, identity: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = format!("{{\"identity\":\"{identity}\",\"form\":\"token\"}}");
    let head = "POST /v1/credentials HTTP/1.1\r\nhost: pdev\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    drop(stream.shutdown(Shutdown::Both));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
    body.to_owned()
}

/// When the lease that is held ends, in Unix milliseconds.
fn end_of(sandbox: &Sandbox, identity: &str) -> u128 {
    let all = sandbox.pdev(&["identity", "--json"]).ok().json();
    let one = all.as_array().unwrap().iter().find(|one| one["name"] == identity).unwrap().clone();
    u128::from(one["expires_at"].as_u64().unwrap_or_else(|| panic!("no lease is held: {one}")))
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

/// A lease of a few seconds is held; `prepare` makes the next one long.
fn all_at_its_end(sandbox: &Sandbox, identity: &str, renewals: &dyn Fn() -> u64, prepare: &dyn Fn()) {
    let socket = sandbox.path("run/agent.sock");
    let (before, end) = (renewals(), end_of(sandbox, identity));
    let events = search::events(&socket);
    let stopped = Stopped::now(sandbox.agent_pid().unwrap());
    assert!(now() < end, "the lease ended before the agent was stopped: this machine is too slow for it");
    assert_eq!(renewals(), before, "it was renewed before its end");
    prepare();
    let askers: Vec<UnixStream> = (0..ASKERS).map(|_| ask(&socket, identity)).collect();
    eventually("the lease has ended", Duration::from_secs(60), || now() > end);
    drop(stopped);
    let answers: Vec<String> = askers.into_iter().map(answer).collect();
    assert!(answers.iter().all(|one| *one == answers[0] && !one.is_empty()), "not one lease for all");
    assert_eq!(renewals(), before + 1, "renewals for {ASKERS} askers");
    let told = || String::from_utf8_lossy(&events.lock().unwrap()).into_owned();
    eventually("the renewal is told", Duration::from_secs(10), || told().contains("renewed"));
    assert!(!told().contains("needs_login") && !told().contains("expiring"), "a person was disturbed: {}", told());
    sandbox.pdev(&["identity"]).ok().says("ready");
}

#[test]
fn two_hundred_askers_at_the_end_of_a_lease_are_one_run_of_its_source() {
    let sandbox = Sandbox::bare();
    let (script, runs, long) = (sandbox.path("source.sh"), sandbox.path("runs"), sandbox.path("long"));
    let text = format!(
        "#!/bin/sh\necho run >> {runs}\nif [ -e {long} ]; then end=4070908800; else end=$(($(date +%s) + 10)); fi\n\
         printf '{{\"token\":\"lease-%s\",\"expires_at\":%s}}' $(wc -l < {runs}) $end\n",
        runs = runs.display(),
        long = long.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    identities(&sandbox, &format!("[hub]\nsource = \"exec\"\ncommand = [\"{}\"]\n", script.display()));
    assert_eq!(sandbox.pdev(&["credential", "token", "hub"]).ok().out, "lease-1");
    let count = || fs::read_to_string(&runs).unwrap().lines().count() as u64;
    all_at_its_end(&sandbox, "hub", &count, &|| fs::write(&long, "").unwrap());
    assert_eq!(sandbox.pdev(&["credential", "token", "hub"]).ok().out, "lease-2");
}

#[test]
fn two_hundred_askers_at_the_end_of_a_login_s_token_are_one_refresh() {
    let sandbox = Sandbox::bare();
    let Some(provider) = Provider::start("200 askers at a provider", &sandbox) else { return };
    let life = |seconds: u32| {
        let path = format!("/test/life?seconds={seconds}");
        assert_eq!(crate::http::get("127.0.0.1", provider.port, &path).status, 200);
    };
    let passphrase = with_vault(&sandbox, &provider);
    life(10);
    sign_in(&sandbox, &passphrase, "device");
    sandbox.pdev(&["credential", "token", "idp"]).ok();
    all_at_its_end(&sandbox, "idp", &|| provider.renewals(), &|| life(3600));
}
