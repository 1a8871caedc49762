//! `pdev status`: shows one preview with its units and problems.

use host::clock::now_milliseconds;

use crate::context::Context;
use crate::exit::Outcome;
use crate::preview_selector::{self, PreviewSelector};
use crate::render::status;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev status\n  pdev status shop/feature-x\n  pdev status --json")]
pub(crate) struct Arguments {
    /// Preview to show, such as `shop/feature-x` [default: the preview of this folder]
    #[arg(value_name = "NAME", conflicts_with = "preview")]
    name: Option<String>,
    #[command(flatten)]
    selector: PreviewSelector,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut selector = arguments.selector.clone();
    selector.preview = selector.preview.or_else(|| arguments.name.clone());
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = preview_selector::find_preview(&mut client, context, &selector).await?;
        if context.json {
            context.terminal.print_json(&preview);
            return crate::success();
        }
        let home = std::env::var("HOME").ok();
        for line in status::preview_detail(&preview, now_milliseconds(), home.as_deref(), context.terminal.stdout_paint)
        {
            context.terminal.print_line(&line);
        }
        // Best effort: the preview is already printed, so a failed request must not fail the command.
        let identities = client.identities().await.unwrap_or_default();
        for line in status::identity_warnings(&preview.units, &identities, context.terminal.stdout_paint) {
            context.terminal.print_line(&line);
        }
        crate::success()
    })
}
