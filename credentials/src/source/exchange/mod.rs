//! Exchanges a stored login, such as a single-use refresh token, in a separate process.
//!
//! Between the response of the provider and the write to disk, the old token is spent and the new one is only in
//! memory. A process that makes only this exchange survives if the agent is killed. The source defines the request and
//! the stored data.

mod process;
#[cfg(test)]
mod tests;
mod token_exchange;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

pub use process::main;
pub(crate) use wire::ExchangeRequest;

use crate::http::HttpResponse;
use crate::problem::SourceProblem;
use crate::vault::Vault;

/// The first argument of such a process. It is internal and not in the help.
pub const COMMAND_NAME: &str = "exchange";
/// The requester gets a result within this time, even if the provider does not respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Additional time for the start of the process and for its writes.
const START_LIMIT: Duration = Duration::from_secs(5);
/// Limit of parallel processes. Each one is for another login.
const PROCESSES_MAX: usize = 8;
/// A body of at most 1 MiB, and the line of JSON.
const REPLY_BYTES_MAX: u64 = 2 << 20;

/// Runs exchanges for one broker, at most one at a time for each login.
pub struct ExchangeRunner {
    program: PathBuf,
    /// Runs exchanges in this process, because the test binary has no `exchange` command.
    #[cfg(test)]
    is_in_process: bool,
    login_locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    process_slots: Semaphore,
}

impl ExchangeRunner {
    /// Runs each exchange in a process of this same binary, started with [`COMMAND_NAME`] as its only argument.
    #[must_use]
    pub fn with_child_process() -> Self {
        // This link still means the running build after the file was replaced by another version.
        let own_binary = Path::new("/proc/self/exe");
        let program =
            if own_binary.exists() { own_binary.to_owned() } else { std::env::current_exe().unwrap_or_default() };
        Self {
            program,
            #[cfg(test)]
            is_in_process: false,
            login_locks: Mutex::default(),
            process_slots: Semaphore::new(PROCESSES_MAX),
        }
    }

    #[cfg(test)]
    pub(crate) fn in_process() -> Self {
        Self { is_in_process: true, ..Self::with_child_process() }
    }

    /// Exchanges a stored login, stores its successor, and returns the response of the provider.
    pub(crate) async fn run(&self, vault: &Vault, request: &ExchangeRequest) -> Result<HttpResponse, SourceProblem> {
        // Wait here for the login, because a task costs less than a waiting process with megabytes of memory.
        let login_lock = self.login_lock(&request.item());
        let _login_guard = login_lock.lock().await;
        let _slot = self.process_slots.acquire().await.map_err(|error| SourceProblem::Transient(error.to_string()))?;
        #[cfg(test)]
        if self.is_in_process {
            return token_exchange::exchange_token(vault, &crate::http::HttpClient::new()?, request, &|| ()).await;
        }
        let message = wire::encode_request(vault, request);
        let reply =
            tokio::time::timeout(RESPONSE_TIMEOUT + START_LIMIT, run_child_process(&self.program, &message)).await;
        let to_problem = |error: io::Error| SourceProblem::Transient(format!("the renewal process failed: {error}"));
        let reply = reply.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(to_problem)?;
        wire::decode_reply(&reply).unwrap_or_else(|| {
            Err(SourceProblem::Transient("the renewal process ended before it could respond".to_owned()))
        })
    }

    fn login_lock(&self, item: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.login_locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(item.to_owned()).or_default())
    }
}

/// Uses a socket instead of a pipe: other processes of this user can reopen a pipe through `/proc/PID/fd`, but not a
/// socket.
async fn run_child_process(program: &Path, message: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    let (parent_end, child_end) = std::os::unix::net::UnixStream::pair()?;
    parent_end.set_nonblocking(true)?;
    let mut parent_end = tokio::net::UnixStream::from_std(parent_end)?;
    let input = std::os::fd::OwnedFd::from(child_end.try_clone()?);
    let output = std::os::fd::OwnedFd::from(child_end);
    let mut command = Command::new(program);
    // Without `arg0`, process lists would show `/proc/self/exe`.
    command.arg0("pdev").arg(COMMAND_NAME).stdin(input).stdout(output).stderr(Stdio::null());
    // The child is not killed if this future is dropped. It ends on its own, and tokio reaps it.
    let _child = command.spawn()?;
    // `command` owns the child's end of the socket. While it is open, the read below would never see the end of the
    // stream.
    drop(command);
    parent_end.write_all(message).await?;
    parent_end.shutdown().await?;
    let mut reply = Zeroizing::new(Vec::with_capacity(16 << 10));
    parent_end.take(REPLY_BYTES_MAX).read_to_end(&mut reply).await?;
    Ok(reply)
}
