//! Exchanges that spend what the vault keeps, such as a refresh token that works once, each in a process of its own.
//!
//! Between a provider's answer and the disk the old token is spent and the new one is in memory only. A process that does
//! nothing but this one exchange is not in the way of who kills the agent. What is asked and kept is the source's to say.

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
use crate::source::SourceProblem;
use crate::vault::Vault;

/// The first argument of such a process; no command of this name exists.
pub const COMMAND_NAME: &str = "exchange";
/// Who asked is told something within this time, whatever the provider does.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Beyond its answer, for the start of the process and for what it writes.
const START_LIMIT: Duration = Duration::from_secs(5);
/// Processes at once; each is for another login.
const PROCESSES_MAX: usize = 8;
const REPLY_BYTES_MAX: u64 = 2 << 20;

/// Makes exchanges for one broker, at most one at a time for each login.
pub struct ExchangeRunner {
    program: PathBuf,
    /// In this process: the program of the tests is no pdev.
    #[cfg(test)]
    is_in_process: bool,
    login_locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    process_slots: Semaphore,
}

impl ExchangeRunner {
    /// By this same program, started with [`NAME`] as its one argument.
    #[must_use]
    pub fn with_child_process() -> Self {
        // Still this build after the file was replaced by another one.
        let own = Path::new("/proc/self/exe");
        let program = if own.exists() { own.to_owned() } else { std::env::current_exe().unwrap_or_default() };
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

    /// Spends what the vault keeps of a login, keeps what the provider gave for it, and tells the provider's answer.
    pub(crate) async fn run(&self, vault: &Vault, errand: &ExchangeRequest) -> Result<HttpResponse, SourceProblem> {
        // Waiting in here costs nothing; a process that waits for the login's lock has megabytes.
        let family = self.login_lock(&errand.item());
        let _alone = family.lock().await;
        let _room = self.process_slots.acquire().await.map_err(|error| SourceProblem::Transient(error.to_string()))?;
        #[cfg(test)]
        if self.is_in_process {
            return token_exchange::exchange_token(vault, &crate::http::HttpClient::new()?, errand, &|| ()).await;
        }
        let order = wire::encode_request(vault, errand);
        let told = tokio::time::timeout(RESPONSE_TIMEOUT + START_LIMIT, run_child_process(&self.program, &order)).await;
        let broken = |error: io::Error| SourceProblem::Transient(format!("its renewal cannot be made: {error}"));
        let told = told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(broken)?;
        wire::decode_reply(&told).unwrap_or_else(|| {
            Err(SourceProblem::Transient("the process of its renewal was ended before it could answer".to_owned()))
        })
    }

    fn login_lock(&self, item: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut families = self.login_locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(families.entry(item.to_owned()).or_default())
    }
}

/// Over a socket and not a pipe: others of this user can open a pipe again by `/proc/PID/fd`, and no socket.
async fn run_child_process(program: &Path, order: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let input = std::os::fd::OwnedFd::from(theirs.try_clone()?);
    let output = std::os::fd::OwnedFd::from(theirs);
    let mut command = Command::new(program);
    command.arg0("pdev").arg(COMMAND_NAME).stdin(input).stdout(output).stderr(Stdio::null());
    // Not ended with this future: it ends by itself, and tokio reaps it.
    let _process = command.spawn()?;
    // Holds the other end of the socket, which would never be seen to close.
    drop(command);
    ours.write_all(order).await?;
    ours.shutdown().await?;
    let mut told = Zeroizing::new(Vec::with_capacity(16 << 10));
    ours.take(REPLY_BYTES_MAX).read_to_end(&mut told).await?;
    Ok(told)
}
