//! `pdev lsp`: the language server, for editors and coding agents; speaks on standard input and output.

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
    // Standard input and output take a thread each; manifests are looked at one after the other.
    const THREADS_MAX: usize = 4;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(THREADS_MAX).build()?;
    let orderly = runtime.block_on(lsp::serve(tokio::io::stdin(), tokio::io::stdout()));
    // The thread that still reads standard input must not hold up the exit.
    runtime.shutdown_background();
    Ok(if orderly { exit::OK } else { exit::FAILED })
}
