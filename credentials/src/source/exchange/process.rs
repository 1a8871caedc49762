//! The process of one exchange: reads the request, exchanges the token, writes the reply, and exits. Only its own
//! failure or its deadline stops it, not the end of the agent.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::token_exchange::exchange_token;
use super::{ExchangeRequest, RESPONSE_TIMEOUT, wire};
use crate::http::{HttpClient, HttpResponse};
use crate::problem::SourceProblem;
use crate::vault::Vault;

/// The agent writes at once, and the socket of a killed agent is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// Longer than the requester waits: a late response has spent the token too, so its successor must be stored.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(45);
/// Total lifetime of the process, even if something hangs.
const LIFETIME_MAX: Duration = Duration::from_secs(85);

/// Runs the process. Returns its exit code.
#[must_use]
pub fn main() -> u8 {
    // Before the key of the vault arrives.
    crate::memory::make_undumpable();
    // A new session, so that a signal to the agent's process group or terminal does not reach this process.
    let _own_session = rustix::process::setsid();
    let Ok(stream) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return 1 };
    let Some((vault, request)) = read_request(&stream) else { return 1 };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    let finished =
        runtime.block_on(async { tokio::time::timeout(LIFETIME_MAX, run_exchange(&vault, &request, &stream)).await });
    // Do not wait for a thread that is blocked on a lock.
    runtime.shutdown_background();
    u8::from(finished.is_err())
}

fn read_request(stream: &UnixStream) -> Option<(Vault, ExchangeRequest)> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    let mut message = Zeroizing::new(Vec::with_capacity(64 << 10));
    stream.take(REQUEST_BYTES_MAX).read_to_end(&mut message).ok()?;
    wire::decode_request(&message)
}

async fn run_exchange(vault: &Vault, request: &ExchangeRequest, stream: &UnixStream) {
    // Ignore these signals: at a logout or a stop of a service, SIGKILL follows seconds later, and the exchange is
    // usually done by then.
    let _signal_streams = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let http = match HttpClient::with_timeout(PROVIDER_TIMEOUT) {
        Ok(http) => http,
        Err(problem) => return write_reply(stream, &Err(problem)),
    };
    let is_sent = AtomicBool::new(false);
    let mark_sent = || is_sent.store(true, Ordering::Relaxed);
    let mut exchange = std::pin::pin!(exchange_token(vault, &http, request, &mark_sent));
    tokio::select! {
        outcome = &mut exchange => return write_reply(stream, &outcome),
        () = tokio::time::sleep(RESPONSE_TIMEOUT) => {}
    }
    let is_sent = is_sent.load(Ordering::Relaxed);
    write_reply(stream, &Err(timeout_problem(is_sent)));
    if is_sent {
        // The agent already has its reply. Continue only to store the new token.
        drop(exchange.await);
    }
}

fn timeout_problem(is_sent: bool) -> SourceProblem {
    let seconds = RESPONSE_TIMEOUT.as_secs();
    SourceProblem::Transient(match is_sent {
        true => format!("its provider did not answer within {seconds} s"),
        false => format!("an earlier renewal of this login still waits for its provider, {seconds} s later"),
    })
}

/// Writes the reply. Errors are ignored: if the agent is gone, the token is already on disk.
fn write_reply(mut stream: &UnixStream, outcome: &Result<HttpResponse, SourceProblem>) {
    let _agent_may_be_gone = stream.write_all(&wire::encode_reply(outcome));
    let _agent_may_be_gone = stream.shutdown(Shutdown::Both);
}
