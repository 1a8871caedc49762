//! `pdev down`: stops a preview from any folder, even if the preview's folder or branch no longer exists.

use std::time::Duration;

use client::Client;
use protocol::request::DownRequest;
use protocol::status::{PreviewState, PreviewStatus};

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::follow::{OperationOutcome, follow_operation};
use crate::humanize;
use crate::preview_selector::{self, PreviewSelector};
use crate::render::problem;
use crate::render::progress::Progress;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev down                    stop this folder's preview and keep its data
  pdev down shop/feature-x     stop a preview whose folder or branch no longer exists
  pdev down --all --volumes    stop all previews on this machine and remove their data

Exit codes: 0 down, 1 failed, 4 no such preview, 124 timeout, 130 Ctrl-C (the operation continues).")]
pub(crate) struct Arguments {
    /// Preview to stop, such as `shop/feature-x` [default: the preview of this folder]
    #[arg(value_name = "NAME", conflicts_with_all = ["preview", "all"])]
    name: Option<String>,
    #[command(flatten)]
    selector: PreviewSelector,
    /// Remove data volumes
    #[arg(long)]
    volumes: bool,
    /// Stop all previews on this machine
    #[arg(long, conflicts_with = "preview")]
    all: bool,
    /// Stop waiting for each preview after this duration, such as `90s` or `10m`; the operation continues
    /// [default: 24h, in practice no limit]
    #[arg(long, value_name = "DURATION", value_parser = humanize::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) fn run(mut arguments: Arguments, context: &Context) -> Outcome {
    if arguments.name.is_some() {
        arguments.selector.preview = arguments.name.take();
    }
    Context::block_on(async {
        let mut client = Context::connect().await?;
        if !arguments.all {
            let preview = preview_selector::find_preview(&mut client, context, &arguments.selector).await?;
            return stop_preview(client, &preview, &arguments, context).await;
        }
        let mut previews = client.previews().await?;
        // A preview that is down may still have data volumes, but nothing else.
        previews.retain(|preview| arguments.volumes || preview.state != PreviewState::Down);
        let mut exit_code = exit::OK;
        for preview in &previews {
            // A client per preview, because the stream of events occupies its connection.
            let code = stop_preview(Context::connect().await?, preview, &arguments, context).await?;
            // A preview that was stopped must not hide the failure of an earlier one.
            exit_code = exit_code.max(code);
        }
        if previews.is_empty() && !context.json {
            context.terminal.eprint_line(if arguments.volumes {
                "there is no preview"
            } else {
                "no preview is running"
            });
        }
        Ok(exit_code)
    })
}

/// Stops one preview and prints the outcome.
async fn stop_preview(client: Client, preview: &PreviewStatus, arguments: &Arguments, context: &Context) -> Outcome {
    let title = &preview.preview.title;
    let mut progress = Progress::new(context);
    let mut stream = client.down(&preview.preview.id, &DownRequest { volumes: arguments.volumes }).await?;
    match follow_operation(&mut stream, &mut progress, context, arguments.timeout).await? {
        OperationOutcome::Finished { milliseconds, unchanged, .. } => {
            let message = match (unchanged, arguments.volumes) {
                (true, true) => format!("{title} is already down and has no data volumes"),
                (true, false) => format!("{title} is already down"),
                (false, true) => {
                    format!("{title} is down, data volumes removed ({})", humanize::duration(milliseconds))
                }
                (false, false) => format!("{title} is down ({})", humanize::duration(milliseconds)),
            };
            if !context.json {
                context.terminal.print_line(&message);
            }
            Ok(exit::OK)
        }
        OperationOutcome::Failed { problems, milliseconds, .. } => {
            if !context.json {
                problem::print_all(&problems, &context.terminal);
                context.terminal.eprint_line(&format!(
                    "{title} is not completely down ({}); run `pdev down {title}` to try again",
                    humanize::duration(milliseconds)
                ));
            }
            Ok(exit::FAILED)
        }
        OperationOutcome::Superseded { by } => {
            Err(Failure::failed(format!("another request superseded this one: {by}")))
        }
        OperationOutcome::Interrupted => {
            context
                .terminal
                .eprint_line(&format!("stopped watching; the operation continues: `pdev status {title}` shows it"));
            Ok(exit::INTERRUPTED)
        }
        OperationOutcome::TimedOut => {
            Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not down yet; the operation continues"))
                .hint(format!("Run `pdev status {title}` to see its state.")))
        }
        // `down` has no `--detach`, so a stream without a last event also means that the agent stopped.
        OperationOutcome::Detached | OperationOutcome::AgentStopping => {
            Err(Failure::failed(format!("the agent stopped before {title} was down"))
                .hint(format!("Run `pdev down {title}` to start the agent again and continue.")))
        }
        OperationOutcome::ConnectionLost(error) => Err(error.into()),
    }
}
