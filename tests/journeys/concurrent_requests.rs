//! Many requests arrive at the moment when a lease has expired: one renewal, one response for all, and no prompt.
//!
//! The agent is paused (SIGSTOP) while the lease expires and while the requests are sent. When it continues, all
//! requests are waiting, so the result does not depend on timing.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::credential_formats::write_identities;
use crate::leak_search;
use crate::logins::{Provider, set_up_vault, sign_in};
use crate::sandbox::{Sandbox, send_signal, wait_until};

const REQUESTERS: usize = 200;

/// Continues the paused agent on drop, also after a failure, because a paused agent cannot be ended.
struct PausedAgent(u32);

impl PausedAgent {
    fn pause(pid: u32) -> Self {
        send_signal(pid, "STOP");
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        wait_until("the agent is paused", Duration::from_secs(10), || {
            state().rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
        });
        Self(pid)
    }
}

impl Drop for PausedAgent {
    fn drop(&mut self) {
        send_signal(self.0, "CONT");
    }
}

/// Sends the request of a credential helper. [`read_response`] reads the response later.
fn send_request(socket: &Path, identity: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = format!("{{\"identity\":\"{identity}\",\"form\":\"token\"}}");
    let head = "POST /v1/credentials HTTP/1.1\r\nhost: pdev\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

fn read_response(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    drop(stream.shutdown(Shutdown::Both));
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
    body.to_owned()
}

/// The expiry of the cached lease, in Unix milliseconds.
fn lease_expiry(sandbox: &Sandbox, identity: &str) -> u128 {
    let all = sandbox.pdev(&["identity", "--json"]).ok().json();
    let entry = all.as_array().unwrap().iter().find(|entry| entry["name"] == identity).unwrap().clone();
    u128::from(entry["expires_at"].as_u64().unwrap_or_else(|| panic!("no lease: {entry}")))
}

fn unix_milliseconds() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

/// Needs a cached lease of a few seconds. `prepare` makes the next lease long.
fn request_at_lease_expiry(sandbox: &Sandbox, identity: &str, renewals: &dyn Fn() -> u64, prepare: &dyn Fn()) {
    let socket = sandbox.path("run/agent.sock");
    let (before, end) = (renewals(), lease_expiry(sandbox, identity));
    let events = leak_search::record_events(&socket);
    let paused = PausedAgent::pause(sandbox.agent_pid().unwrap());
    assert!(unix_milliseconds() < end, "the lease expired before the agent was paused: this machine is too slow");
    assert_eq!(renewals(), before, "the lease was renewed before its expiry");
    prepare();
    let streams: Vec<UnixStream> = (0..REQUESTERS).map(|_| send_request(&socket, identity)).collect();
    wait_until("the lease has expired", Duration::from_secs(60), || unix_milliseconds() > end);
    drop(paused);
    let leases: Vec<String> = streams.into_iter().map(read_response).collect();
    assert!(leases.iter().all(|lease| *lease == leases[0] && !lease.is_empty()), "the responses differ");
    assert_eq!(renewals(), before + 1, "renewals for {REQUESTERS} requests");
    let events = || String::from_utf8_lossy(&events.lock().unwrap()).into_owned();
    wait_until("an event reports the renewal", Duration::from_secs(10), || events().contains("renewed"));
    assert!(!events().contains("needs_login") && !events().contains("expiring"), "the user was notified: {}", events());
    sandbox.pdev(&["identity"]).ok().prints("ready");
}

#[test]
fn requests_at_lease_expiry_run_source_once() {
    let sandbox = Sandbox::without_docker();
    let (script, runs, long) = (sandbox.path("source.sh"), sandbox.path("runs"), sandbox.path("long"));
    let text = format!(
        "#!/bin/sh\necho run >> {runs}\nif [ -e {long} ]; then end=4070908800; else end=$(($(date +%s) + 10)); fi\n\
         printf '{{\"token\":\"lease-%s\",\"expires_at\":%s}}' $(wc -l < {runs}) $end\n",
        runs = runs.display(),
        long = long.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    write_identities(&sandbox, &format!("[hub]\nsource = \"exec\"\ncommand = [\"{}\"]\n", script.display()));
    assert_eq!(sandbox.pdev(&["credential", "token", "hub"]).ok().out, "lease-1");
    let count = || fs::read_to_string(&runs).unwrap().lines().count() as u64;
    request_at_lease_expiry(&sandbox, "hub", &count, &|| fs::write(&long, "").unwrap());
    assert_eq!(sandbox.pdev(&["credential", "token", "hub"]).ok().out, "lease-2");
}

#[test]
fn requests_at_login_token_expiry_refresh_once() {
    let sandbox = Sandbox::without_docker();
    let Some(provider) = Provider::start("200 requests at a provider", &sandbox) else { return };
    let set_lifetime = |seconds: u32| {
        let path = format!("/test/life?seconds={seconds}");
        assert_eq!(crate::http::get("127.0.0.1", provider.port, &path).status, 200);
    };
    let passphrase = set_up_vault(&sandbox, &provider);
    set_lifetime(10);
    sign_in(&sandbox, &passphrase, "device");
    sandbox.pdev(&["credential", "token", "idp"]).ok();
    request_at_lease_expiry(&sandbox, "idp", &|| provider.renewals(), &|| set_lifetime(3600));
}
