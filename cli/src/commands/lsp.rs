//! `pdev lsp`: the language server, for editors and coding agents; speaks on standard input and output.

use std::fs;
use std::path::PathBuf;

use crate::codes;
use crate::exit::{self, Outcome};

#[derive(clap::Args, Debug)]
#[command(after_help = "Editors start this command; docs/editors.md describes how to set them up.

Exit codes: 0 after `shutdown`, 1 if the client disconnected without it.")]
pub(crate) struct Arguments {
    /// Use standard input and output, the only transport; accepted because most clients pass it
    #[arg(long)]
    stdio: bool,
}

/// The pages of all codes as files, for links; written once for each version.
fn write_code_pages() -> Option<PathBuf> {
    let cache = directories::ProjectDirs::from("", "", "pdev")?.cache_dir().to_owned();
    let folder = cache.join(format!("codes-{}", env!("CARGO_PKG_VERSION")));
    let known = codes::all().filter_map(|code| Some((folder.join(format!("{code}.md")), codes::page(code)?)));
    let stale: Vec<_> =
        known.filter(|(path, page)| fs::metadata(path).map_or(true, |now| now.len() != page.len() as u64)).collect();
    if !stale.is_empty() {
        fs::create_dir_all(&folder).ok()?;
        for (path, page) in stale {
            fs::write(path, page).ok()?;
        }
    }
    Some(folder)
}

pub(crate) fn run(_: &Arguments) -> Outcome {
    // Without a home there are no links, and everything else.
    if let Some(folder) = write_code_pages() {
        lsp::set_pages_folder(folder);
    }
    // Standard input and output take a thread each; manifests are looked at one after the other.
    const THREADS_MAX: usize = 4;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(THREADS_MAX).build()?;
    let orderly = runtime.block_on(lsp::serve(tokio::io::stdin(), tokio::io::stdout()));
    // The thread that still reads standard input must not hold up the exit.
    runtime.shutdown_background();
    Ok(if orderly { exit::OK } else { exit::FAILED })
}
