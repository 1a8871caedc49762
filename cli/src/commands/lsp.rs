//! `pdev lsp`: the language server, for editors and coding agents; speaks on standard input and output.

use crate::context::Context;
use crate::exit::{self, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Editors start it; docs/lsp.md tells how to set them up.

Exit codes: 0 after `shutdown`, 1 when the client went away without it.")]
pub(crate) struct Arguments {
    /// The only way to speak; accepted because most clients pass it
    #[arg(long)]
    stdio: bool,
}

pub(crate) fn run(_: &Arguments) -> Outcome {
    Context::block_on(async {
        let orderly = lsp::serve(tokio::io::stdin(), tokio::io::stdout()).await;
        Ok(if orderly { exit::OK } else { exit::FAILED })
    })
}
