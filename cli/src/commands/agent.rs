//! `pdev agent`: runs the background agent, shows its status and its log, or stops it.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use clap::Subcommand;
use client::{Client, ClientError, SocketLocation};
use host::clock::now_milliseconds;

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev agent status
  pdev agent stop      stop the agent; the next command that needs it starts it again
  pdev agent logs -n 50

Programs of previews keep running while the agent is stopped, but nothing restarts them after a crash.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Subcommand, Debug)]
enum AgentCommand {
    /// Show whether the agent is running, its version and its uptime; does not start the agent
    #[command(after_help = "Exit codes: 0 running, 3 not running.")]
    Status,
    /// Stop the agent; previews keep running
    Stop,
    /// Run the agent in this terminal; normally the first command that needs the agent starts it
    Run {
        /// Detach from the terminal, and print `ready` to standard output
        #[arg(long, hide = true)]
        background: bool,
        /// Port of the proxy; if it is taken, the next free one is used
        #[arg(long, value_name = "PORT")]
        proxy_port: Option<u16>,
    },
    /// Show the agent's log
    Logs {
        /// Show only the last N lines
        #[arg(short = 'n', long, visible_alias = "limit", value_name = "N", default_value_t = 200)]
        tail: usize,
    },
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    match &arguments.command {
        AgentCommand::Status => Context::block_on(status(context)),
        AgentCommand::Stop => Context::block_on(stop(context)),
        AgentCommand::Run { background, proxy_port } => run_agent(*background, *proxy_port),
        AgentCommand::Logs { tail } => logs(*tail, context),
    }
}

fn run_agent(background: bool, proxy_port: Option<u16>) -> Outcome {
    let socket = SocketLocation::from_environment();
    socket.prepare_folder()?;
    if !background && let Ok(client) = Context::block_on_value(Client::connect(&socket))? {
        let info = client.info();
        return Err(Failure::failed(format!("an agent runs already: pdev {}, pid {}", info.version, info.pid))
            .hint("Run `pdev agent stop` to stop it; previews keep running."));
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("PDEV_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(!background && std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(agent::run(&agent::AgentOptions { socket_folder: socket.folder().to_owned(), background, proxy_port }))
}

async fn status(context: &Context) -> Outcome {
    let socket = SocketLocation::from_environment();
    let info = match Client::connect(&socket).await {
        Ok(client) => client.info().clone(),
        Err(error @ ClientError::NotRunning { .. }) => return Err(Failure::from(error)),
        Err(error) => return Err(error.into()),
    };
    if context.json {
        context.terminal.print_json(&info);
        return crate::success();
    }
    let state = if info.accepting { "running" } else { "stopping" };
    let uptime = humanize::age(info.started_at, now_milliseconds());
    let proxy = info.proxy_port.map_or("none, because no port was free".to_owned(), |port| format!("127.0.0.1:{port}"));
    for (name, value) in [
        ("state", format!("{state} for {uptime}, pid {}", info.pid)),
        ("version", format!("{}, protocol {}", info.version, info.protocol)),
        ("previews", info.previews.to_string()),
        ("proxy", proxy),
        ("socket", socket.socket_path().display().to_string()),
        ("program", info.executable),
    ] {
        context.terminal.print_line(&format!("{} {value}", context.terminal.stdout_paint.dim(&format!("{name:<9}"))));
    }
    crate::success()
}

/// Stops the agent and waits for its end: its event stream ends when its process ends.
async fn stop(context: &Context) -> Outcome {
    const STOP_TIMEOUT: Duration = Duration::from_secs(30);
    let socket = SocketLocation::from_environment();
    // An agent with another protocol version can be stopped too, but its events cannot be read.
    let events = match Client::connect(&socket).await {
        Ok(client) => client.events(None).await.ok(),
        Err(ClientError::NotRunning { .. }) => {
            if !context.json {
                context.terminal.eprint_line("the agent is not running");
            }
            return crate::success();
        }
        Err(ClientError::AgentOlder { .. } | ClientError::AgentNewer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Client::stop_agent(&socket).await?;
    if let Some(mut events) = events {
        let end = async { while let Ok(Some(_)) = events.next().await {} };
        if tokio::time::timeout(STOP_TIMEOUT, end).await.is_err() {
            return Err(Failure::new(exit::TIMEOUT, "timeout", "the agent is still finishing its running operations")
                .hint("Run `pdev agent stop` again to end it immediately; `pdev agent status` shows its state."));
        }
    }
    if !context.json {
        context.terminal.print_line("the agent has stopped; previews keep running");
    }
    crate::success()
}

fn logs(tail: usize, context: &Context) -> Outcome {
    /// Read from the end of the file; enough for thousands of lines.
    const WINDOW_BYTES: u64 = 1 << 20;
    let path = SocketLocation::from_environment().log_path();
    let result = std::fs::File::open(&path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = result.map_err(|error| {
        Failure::not_found(format!("no log of the agent at `{}`: {}", path.display(), humanize::io_error(&error)))
            .hint("If you started the agent with `pdev agent run`, read its terminal: it writes no log file.")
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(tail)..] {
        context.terminal.print_line(line);
    }
    crate::success()
}
