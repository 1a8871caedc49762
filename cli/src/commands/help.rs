//! `pdev help`: the front page, the page of a command, or the complete list of commands.

use strings::nearest;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::help;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev help                 print the front page, like `pdev --help`
  pdev help up              print the help of a command, like `pdev up --help`
  pdev help identity add
  pdev help --all           list all commands and global options with descriptions")]
pub(crate) struct Arguments {
    /// Command to describe, such as `up` or `identity add`
    #[arg(value_name = "COMMAND", conflicts_with = "all")]
    command: Vec<String>,
    /// List all commands and global options with descriptions
    #[arg(short, long)]
    all: bool,
}

pub(crate) fn run(options: &Arguments, mut root: clap::Command, context: &Context) -> Outcome {
    if options.all {
        root = help::with_complete_page(root);
    }
    // Commands are deferred: the first call creates the subcommands, the second call their options.
    root.build();
    root.build();
    let mut command = root;
    for (index, name) in options.command.iter().enumerate() {
        let Some(subcommand) = command.find_subcommand(name) else {
            return Err(unknown_command(&command, &options.command[..index], name));
        };
        command = subcommand.clone();
    }
    let page = command.render_help();
    let text = if context.terminal.stdout_paint.is_enabled { page.ansi().to_string() } else { page.to_string() };
    context.terminal.print_bytes(text.as_bytes());
    crate::success()
}

fn unknown_command(parent: &clap::Command, path: &[String], name: &str) -> Failure {
    let mut words = vec!["pdev".to_owned()];
    words.extend_from_slice(path);
    let parent_name = words.join(" ");
    let failure = Failure::invalid_input(format!("`{parent_name}` has no command `{name}`"));
    let visible = parent.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let names = visible.map(clap::Command::get_name);
    match nearest(name, names) {
        Some(near) => failure.hint(format!("Did you mean `{near}`?")),
        None if path.is_empty() => failure.hint("Run `pdev help --all` to list all commands."),
        None => failure.hint(format!("Run `{parent_name} --help` to see its commands and options.")),
    }
}
