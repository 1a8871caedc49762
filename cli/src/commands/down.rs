//! `pdev down`: stop a preview, from anywhere, also when its folder is gone.

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
  pdev down shop/feature-x     stop a preview from any folder, even if its branch was deleted
  pdev down --all --volumes    stop all previews on this machine and remove their data")]
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
    /// Stop waiting after this duration, such as `90s` or `10m`; the operation continues [default: 24h]
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
        // Those that are down have nothing left but perhaps data.
        previews.retain(|preview| arguments.volumes || preview.state != PreviewState::Down);
        let mut worst = exit::OK;
        for preview in &previews {
            let code = stop_preview(Context::connect().await?, preview, &arguments, context).await?;
            worst = worst.max(code);
        }
        if previews.is_empty() && !context.json {
            context.terminal.eprint_line("no preview runs");
        }
        Ok(worst)
    })
}

async fn stop_preview(client: Client, preview: &PreviewStatus, arguments: &Arguments, context: &Context) -> Outcome {
    let title = &preview.preview.title;
    let mut progress = Progress::new(context);
    let mut stream = client.down(&preview.preview.id, &DownRequest { volumes: arguments.volumes }).await?;
    match follow_operation(&mut stream, &mut progress, context, arguments.timeout).await? {
        OperationOutcome::Finished { milliseconds, unchanged, .. } => {
            let words = match (unchanged, arguments.volumes) {
                (true, _) => format!("{title} was down already"),
                (false, true) => format!("{title} is down, its data removed ({})", humanize::duration(milliseconds)),
                (false, false) => format!("{title} is down ({})", humanize::duration(milliseconds)),
            };
            if !context.json {
                context.terminal.print_line(&words);
            }
            Ok(exit::OK)
        }
        OperationOutcome::Failed { problems, milliseconds, .. } => {
            if !context.json {
                problem::print_all(&problems, &context.terminal);
                context.terminal.eprint_line(&format!(
                    "{title} could not be taken down whole ({}); `pdev down {title}` tries again",
                    humanize::duration(milliseconds)
                ));
            }
            Ok(exit::FAILED)
        }
        OperationOutcome::Superseded { by } => Err(Failure::failed(format!("another request took over: {by}"))),
        OperationOutcome::Interrupted => {
            context
                .terminal
                .eprint_line(&format!("stopped watching; {title} still goes down: `pdev status {title}` looks"));
            Ok(exit::INTERRUPTED)
        }
        OperationOutcome::TimedOut => {
            Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not down yet; the work goes on"))
                .hint(format!("`pdev status {title}` looks.")))
        }
        OperationOutcome::Detached | OperationOutcome::AgentStopping => {
            Err(Failure::failed(format!("the agent stopped in the middle of taking {title} down"))
                .hint(format!("`pdev down {title}` starts it again and goes on.")))
        }
        OperationOutcome::ConnectionLost(error) => Err(error.into()),
    }
}
