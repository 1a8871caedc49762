//! `pdev agent`: the process that stays. `run` is the process itself; the rest looks at it.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use clap::Subcommand;
use client::{Client, ClientError, SocketLocation};

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev agent status
  pdev agent stop      stop the agent; the next command starts it again
  pdev agent logs -n 50

Previews keep running while the agent is stopped. `pdev agent run` runs the agent in this terminal.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Subcommand, Debug)]
enum AgentCommand {
    /// Show whether the agent runs, its version and its uptime
    Status,
    /// Stop the agent; previews keep running
    Stop,
    /// Run the agent in this process; normally the first command that needs the agent starts it
    #[command(hide = true)]
    Run {
        /// Detach from the terminal, and print `ready` to standard output
        #[arg(long)]
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
    let place = SocketLocation::from_environment();
    place.prepare_folder()?;
    if !background && let Ok(client) = Context::block_on_value(Client::connect(&place))? {
        let info = client.info();
        return Err(Failure::failed(format!("an agent runs already: pdev {}, pid {}", info.version, info.pid))
            .hint("`pdev agent stop` ends it; previews go on running."));
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("PDEV_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(!background && std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(agent::run(&agent::AgentOptions { socket_folder: place.folder().to_owned(), background, proxy_port }))
}

async fn status(context: &Context) -> Outcome {
    let place = SocketLocation::from_environment();
    let info = match Client::connect(&place).await {
        Ok(client) => client.info().clone(),
        Err(error @ ClientError::NotRunning { .. }) => return Err(Failure::from(error)),
        Err(error) => return Err(error.into()),
    };
    if context.json {
        context.terminal.print_json(&info);
        return crate::success();
    }
    let running = if info.accepting { "running" } else { "stopping" };
    let since = humanize::age(info.started_at, humanize::now_milliseconds());
    let proxy = info.proxy_port.map_or("none: no port was free".to_owned(), |port| format!("127.0.0.1:{port}"));
    for (name, value) in [
        ("state", format!("{running} for {since}, pid {}", info.pid)),
        ("version", format!("{}, protocol {}", info.version, info.protocol)),
        ("previews", info.previews.to_string()),
        ("proxy", proxy),
        ("socket", place.socket_path().display().to_string()),
        ("program", info.executable),
    ] {
        context.terminal.print_line(&format!("{} {value}", context.terminal.stdout_paint.dim(&format!("{name:<9}"))));
    }
    crate::success()
}

/// Waits for its end by holding a stream open that ends with the agent.
async fn stop(context: &Context) -> Outcome {
    const STOP_TIMEOUT: Duration = Duration::from_secs(30);
    let place = SocketLocation::from_environment();
    // An agent of another protocol can be stopped as well; only its end cannot be seen.
    let events = match Client::connect(&place).await {
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
    Client::stop_agent(&place).await?;
    if let Some(mut events) = events {
        let gone = async { while let Ok(Some(_)) = events.next().await {} };
        if tokio::time::timeout(STOP_TIMEOUT, gone).await.is_err() {
            return Err(Failure::new(exit::TIMEOUT, "timeout", "the agent still finishes what is under way")
                .hint("`pdev agent status` looks; a second `pdev agent stop` ends it at once."));
        }
    }
    if !context.json {
        context.terminal.print_line("the agent has stopped; previews go on running");
    }
    crate::success()
}

fn logs(tail: usize, context: &Context) -> Outcome {
    /// From the end of the file: enough for thousands of lines.
    const WINDOW_BYTES: u64 = 1 << 20;
    let path = SocketLocation::from_environment().log_path();
    let read = std::fs::File::open(&path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = read.map_err(|error| {
        Failure::not_found(format!("no agent's log at `{}`: {}", path.display(), humanize::io_error(&error)))
            .hint("An agent started by hand (`pdev agent run`) writes to its terminal.")
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(tail)..] {
        context.terminal.print_line(line);
    }
    crate::success()
}
