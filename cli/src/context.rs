//! What every command is given: where the user stands, how to write, and how to reach the agent.

use std::path::PathBuf;

use client::{Client, Launch, Place};

use crate::exit::{Failure, Outcome};
use crate::render::terminal::Terminal;

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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(command);
        // A thread that still waits for the start lock or for standard input must not hold up the exit.
        runtime.shutdown_background();
        outcome
    }

    /// The agent, started if it does not run: previews outlive it, so that a question about them must find it.
    pub(crate) async fn connect() -> Result<Client, Failure> {
        Ok(Client::connect_or_start(&Place::from_environment(), &Launch::this_program()?).await?)
    }
}
