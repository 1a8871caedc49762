//! `pdev completions`: a script for the user's shell.

use clap_complete::Shell;

use crate::context::Context;
use crate::exit::Outcome;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev completions bash > ~/.local/share/bash-completion/completions/pdev
  pdev completions zsh  > ~/.local/share/zsh/site-functions/_pdev
  pdev completions fish > ~/.config/fish/completions/pdev.fish")]
pub(crate) struct Arguments {
    /// Shell to print the script for
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, mut program: clap::Command, context: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "pdev", &mut script);
    context.terminal.print_bytes(&script);
    crate::success()
}
