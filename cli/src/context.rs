//! What every command is given: where the user stands, how to write, and how to reach the agent.

use std::path::PathBuf;
use std::time::Duration;

use client::{Client, Launch, SocketLocation};

use crate::exit::{Failure, Outcome, UNREACHABLE};
use crate::render::terminal::Terminal;

/// An agent that was told to stop may finish what is under way for some seconds.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

pub(crate) struct Context {
    /// Where the user stands (`-C` applied), absolute.
    pub(crate) folder: PathBuf,
    pub(crate) terminal: Terminal,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
}

impl Context {
    /// Runs a command's asynchronous part on this thread alone: a worker pool would cost more than most answers.
    pub(crate) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
        Self::block_on_value(command)?
    }

    pub(crate) fn block_on_value<T>(question: impl Future<Output = T>) -> std::io::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(question);
        // A thread that still waits for the start lock or for standard input must not hold up the exit.
        runtime.shutdown_background();
        Ok(answer)
    }

    /// The agent, started if it does not run: previews outlive it, so that a question about them must find it.
    pub(crate) async fn connect() -> Result<Client, Failure> {
        let (place, launch) = (SocketLocation::from_environment(), Launch::this_program()?);
        let client = Client::connect_or_start(&place, &launch).await?;
        if client.info().accepting {
            return Ok(client);
        }
        // It was told to stop and finishes what is under way: its event stream ends when it is gone.
        let mut events = client.events(None).await?;
        let gone = async { while let Ok(Some(_)) = events.next().await {} };
        if tokio::time::timeout(DRAIN_LIMIT, gone).await.is_err() {
            return Err(Failure::new(
                UNREACHABLE,
                "agent_stopping",
                "the agent is stopping, and does not come to an end",
            )
            .hint("A second `pdev agent stop` ends it at once."));
        }
        Ok(Client::connect_or_start(&place, &launch).await?)
    }
}
