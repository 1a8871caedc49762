//! `pdev lsp`: runs the language server for editors and coding agents, on standard input and output.

use std::fs;
use std::path::PathBuf;

use host::locations::UserFolders;

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

/// Writes the pages of all codes as files, which editors can open as links. Once per version and only if they differ.
fn write_code_pages() -> Option<PathBuf> {
    let cache = UserFolders::find()?.cache;
    let folder = cache.join(format!("codes-{}", env!("CARGO_PKG_VERSION")));
    let pages = codes::all().filter_map(|code| Some((folder.join(format!("{code}.md")), codes::page(code)?)));
    // The folder belongs to one version of pdev. Comparing the sizes detects a file whose write was cut off.
    let is_stale = |path: &PathBuf, page: &str| fs::metadata(path).map_or(true, |file| file.len() != page.len() as u64);
    let stale: Vec<_> = pages.filter(|(path, page)| is_stale(path, page)).collect();
    if !stale.is_empty() {
        fs::create_dir_all(&folder).ok()?;
        for (path, page) in stale {
            fs::write(path, page).ok()?;
        }
    }
    Some(folder)
}

pub(crate) fn run(_: &Arguments) -> Outcome {
    // Without a home folder, only the links to pages are missing.
    if let Some(folder) = write_code_pages() {
        lsp::set_pages_folder(folder);
    }
    // Standard input and output use one thread each, and manifests are analysed one after the other.
    const THREADS_MAX: usize = 4;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(THREADS_MAX).build()?;
    let was_shut_down = runtime.block_on(lsp::serve(tokio::io::stdin(), tokio::io::stdout()));
    // A thread still blocks on standard input. It must not delay the exit.
    runtime.shutdown_background();
    Ok(if was_shut_down { exit::OK } else { exit::FAILED })
}
