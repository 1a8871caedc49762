//! `pdev status`: one preview in full.

use crate::choose::{self, Which};
use crate::context::Context;
use crate::exit::Outcome;
use crate::render::status;
use crate::words;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev status\n  pdev status shop/feature-x\n  pdev status --json")]
pub(crate) struct Arguments {
    /// The preview, such as `shop/feature-x` [default: the one of this folder]
    #[arg(value_name = "NAME", conflicts_with = "preview")]
    name: Option<String>,
    #[command(flatten)]
    which: Which,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut which = arguments.which.clone();
    which.preview = which.preview.or_else(|| arguments.name.clone());
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = choose::preview(&mut client, context, &which).await?;
        if context.json {
            context.terminal.say_json(&preview);
            return crate::done();
        }
        let home = std::env::var("HOME").ok();
        for line in status::detail(&preview, words::now_milliseconds(), home.as_deref(), context.terminal.paint) {
            context.terminal.say(&line);
        }
        // What cannot be asked is not worth failing over: the preview was shown.
        let identities = client.identities().await.unwrap_or_default();
        for line in status::identities(&preview.units, &identities, context.terminal.paint) {
            context.terminal.say(&line);
        }
        crate::done()
    })
}
