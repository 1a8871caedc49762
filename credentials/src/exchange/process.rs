//! The process of one exchange: hears its order, makes the exchange, answers, ends. Nobody's death but its own stops it, and a
//! deadline does.

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
use crate::source::SourceProblem;
use crate::vault::Vault;

/// The agent writes at once; one that was killed has closed its end.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// Longer than who asked is kept waiting: an answer that comes late has spent the token all the same.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(45);
/// From the start to the end, whatever hangs.
const LIFETIME_MAX: Duration = Duration::from_secs(85);

/// The exit code.
#[must_use]
pub fn main() -> u8 {
    // Before the key arrives.
    crate::memory::make_undumpable();
    // Who ends the agent's group or terminal does not mean this.
    let _own_session = rustix::process::setsid();
    let Ok(stream) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return 1 };
    let Some((vault, errand)) = read_request(&stream) else { return 1 };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    let done =
        runtime.block_on(async { tokio::time::timeout(LIFETIME_MAX, run_exchange(&vault, &errand, &stream)).await });
    // A thread that waits for a lock must not keep this process.
    runtime.shutdown_background();
    u8::from(done.is_err())
}

fn read_request(stream: &UnixStream) -> Option<(Vault, ExchangeRequest)> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT)).ok()?;
    let mut order = Zeroizing::new(Vec::with_capacity(64 << 10));
    stream.take(REQUEST_BYTES_MAX).read_to_end(&mut order).ok()?;
    wire::decode_request(&order)
}

async fn run_exchange(vault: &Vault, errand: &ExchangeRequest, stream: &UnixStream) {
    // A logout or a stopped service asks nicely first, and seconds later is early enough to end.
    let _unheard = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let http = match HttpClient::with_timeout(PROVIDER_TIMEOUT) {
        Ok(http) => http,
        Err(problem) => return write_reply(stream, &Err(problem)),
    };
    let is_sent = AtomicBool::new(false);
    let sent = || is_sent.store(true, Ordering::Relaxed);
    let mut spending = std::pin::pin!(exchange_token(vault, &http, errand, &sent));
    tokio::select! {
        outcome = &mut spending => return write_reply(stream, &outcome),
        () = tokio::time::sleep(RESPONSE_TIMEOUT) => {}
    }
    let is_sent = is_sent.load(Ordering::Relaxed);
    write_reply(stream, &Err(timeout_problem(is_sent)));
    if is_sent {
        // Nobody is there to be told any more; what comes is kept.
        drop(spending.await);
    }
}

fn timeout_problem(is_sent: bool) -> SourceProblem {
    let seconds = RESPONSE_TIMEOUT.as_secs();
    SourceProblem::Transient(match is_sent {
        true => format!("its provider did not answer within {seconds} s"),
        false => format!("an earlier renewal of this login still waits for its provider, {seconds} s later"),
    })
}

/// The agent may be gone; what matters is on the disk.
fn write_reply(mut stream: &UnixStream, outcome: &Result<HttpResponse, SourceProblem>) {
    let _nobody_listens = stream.write_all(&wire::encode_reply(outcome));
    let _nobody_listens = stream.shutdown(Shutdown::Both);
}
