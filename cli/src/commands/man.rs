//! `pdev man`: one man page a command.

use std::path::PathBuf;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::humanize;

#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  pdev man ~/.local/share/man/man1")]
pub(crate) struct Arguments {
    /// Folder for the pages; created if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, program: clap::Command, context: &Context) -> Outcome {
    let folder = context.folder.join(&arguments.folder);
    let written = std::fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(program, &folder));
    written.map_err(|error| {
        Failure::failed(format!("cannot write man pages into `{}`: {}", folder.display(), humanize::io_error(&error)))
    })?;
    crate::success()
}
