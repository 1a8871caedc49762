//! The context of a command: its working folder, its output, and the connection to the agent.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use client::{Client, Launch, SocketLocation};

use crate::exit::{Failure, Outcome, UNREACHABLE};
use crate::terminal::Terminal;

/// How long to wait for a stopping agent, which first finishes its running operations.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

pub(crate) struct Context {
    /// The working folder of the command (absolute, `-C` applied).
    pub(crate) folder: PathBuf,
    pub(crate) terminal: Terminal,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
}

impl Context {
    /// Runs the asynchronous part of a command on this thread only: starting a worker pool costs more than most
    /// commands.
    pub(crate) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
        Self::block_on_value(command)?
    }

    pub(crate) fn block_on_value<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let value = runtime.block_on(future);
        // A thread may still wait for the start lock or for standard input. It must not delay the exit.
        runtime.shutdown_background();
        Ok(value)
    }

    /// Asks a question on the terminal. Without a terminal, the answer is no: a script must decide in advance.
    pub(crate) fn confirm(&self, question: &str) -> std::io::Result<bool> {
        if !self.terminal.is_interactive || self.json {
            return Ok(false);
        }
        self.terminal.eprint_bytes(format!("{question} [y/N] ").as_bytes());
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Connects to the agent and starts it if it does not run. Queries start it too, because previews outlive the
    /// agent.
    pub(crate) async fn connect() -> Result<Client, Failure> {
        let (socket, launch) = (SocketLocation::from_environment(), Launch::this_program()?);
        let client = Client::connect_or_start(&socket, &launch).await?;
        if client.info().accepting {
            return Ok(client);
        }
        // The agent is stopping and finishes its running operations. Its event stream ends when its process ends.
        let mut events = client.events(None).await?;
        let gone = async { while let Ok(Some(_)) = events.next().await {} };
        if tokio::time::timeout(DRAIN_LIMIT, gone).await.is_err() {
            let message = format!("the agent is stopping, but has not ended within {} s", DRAIN_LIMIT.as_secs());
            return Err(Failure::new(UNREACHABLE, "agent_stopping", message)
                .hint("Run `pdev agent stop` again to end it immediately."));
        }
        Ok(Client::connect_or_start(&socket, &launch).await?)
    }
}
