//! `pdev down`: stop a preview, from anywhere, also when its folder is gone.

use std::time::Duration;

use client::Client;
use protocol::request::DownRequest;
use protocol::status::{PreviewState, PreviewStatus};

use crate::choose::{self, Which};
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::follow::{Ended, follow};
use crate::render::problem;
use crate::render::progress::Progress;
use crate::words;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  pdev down                    stop this folder's preview, keep its data\n  pdev down shop/feature-x     from anywhere, also when the branch is gone\n  pdev down --all --volumes    every preview of this machine, data too"
)]
pub(crate) struct Arguments {
    /// The preview, such as `shop/feature-x` [default: the one of this folder]
    #[arg(value_name = "NAME", conflicts_with_all = ["preview", "all"])]
    name: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Remove its data volumes too
    #[arg(long)]
    volumes: bool,
    /// All previews of this machine
    #[arg(long, conflicts_with = "preview")]
    all: bool,
    /// Stop waiting after this long; the work goes on
    #[arg(long, value_name = "DURATION", value_parser = words::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) fn run(mut arguments: Arguments, context: &Context) -> Outcome {
    if arguments.name.is_some() {
        arguments.which.preview = arguments.name.take();
    }
    Context::block_on(async {
        let mut client = Context::connect().await?;
        if !arguments.all {
            let preview = choose::preview(&mut client, context, &arguments.which).await?;
            return one(client, &preview, &arguments, context).await;
        }
        let mut previews = client.previews().await?;
        // Those that are down have nothing left but perhaps data.
        previews.retain(|preview| arguments.volumes || preview.state != PreviewState::Down);
        let mut worst = exit::OK;
        for preview in &previews {
            let code = one(Context::connect().await?, preview, &arguments, context).await?;
            worst = worst.max(code);
        }
        if previews.is_empty() && !context.json {
            context.terminal.tell("no preview runs");
        }
        Ok(worst)
    })
}

async fn one(client: Client, preview: &PreviewStatus, arguments: &Arguments, context: &Context) -> Outcome {
    let title = &preview.preview.title;
    let mut progress = Progress::new(context);
    let mut stream = client.down(&preview.preview.id, &DownRequest { volumes: arguments.volumes }).await?;
    match follow(&mut stream, &mut progress, context, arguments.timeout).await? {
        Ended::Finished { milliseconds, unchanged, .. } => {
            let words = match (unchanged, arguments.volumes) {
                (true, _) => format!("{title} was down already"),
                (false, true) => format!("{title} is down, its data removed ({})", words::duration(milliseconds)),
                (false, false) => format!("{title} is down ({})", words::duration(milliseconds)),
            };
            if !context.json {
                context.terminal.say(&words);
            }
            Ok(exit::OK)
        }
        Ended::Failed { problems, milliseconds, .. } => {
            if !context.json {
                problem::tell_all(&problems, &context.terminal);
                context.terminal.tell(&format!(
                    "{title} could not be taken down whole ({}); `pdev down {title}` tries again",
                    words::duration(milliseconds)
                ));
            }
            Ok(exit::FAILED)
        }
        Ended::Superseded { by } => Err(Failure::failed(format!("another request took over: {by}"))),
        Ended::Interrupted => {
            context.terminal.tell(&format!("stopped watching; {title} still goes down: `pdev status {title}` looks"));
            Ok(exit::INTERRUPTED)
        }
        Ended::TimedOut => {
            Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not down yet; the work goes on"))
                .hint(format!("`pdev status {title}` looks.")))
        }
        Ended::Accepted | Ended::AgentStopping => {
            Err(Failure::failed(format!("the agent stopped in the middle of taking {title} down"))
                .hint(format!("`pdev down {title}` starts it again and goes on.")))
        }
        Ended::Lost(error) => Err(error.into()),
    }
}
