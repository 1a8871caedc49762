//! `pdev ls`: lists all previews on this machine.

use host::clock::now_milliseconds;
use protocol::status::PreviewState;

use crate::context::Context;
use crate::exit::Outcome;
use crate::preview_selector::discover_request;
use crate::render::status;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev ls\n  pdev ls --json | jq -r '.[].url'")]
pub(crate) struct Arguments {
    /// Show only running previews
    #[arg(long)]
    running: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let mut previews = client.previews().await?;
        if previews.is_empty() {
            // The records may be lost.
            previews = client.discover_previews(&discover_request()).await?;
        }
        previews.retain(|preview| !arguments.running || preview.state != PreviewState::Down);
        if context.json {
            context.terminal.print_json(&previews);
            return crate::success();
        }
        if previews.is_empty() {
            context.terminal.eprint_line("no previews; run `pdev up` in a folder with a pdev.yaml to start one");
            return crate::success();
        }
        let home = std::env::var("HOME").ok();
        for line in status::preview_table(&previews, now_milliseconds(), home.as_deref(), context.terminal.stdout_paint)
        {
            context.terminal.print_line(&line);
        }
        crate::success()
    })
}
