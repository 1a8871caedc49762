//! `pdev schema`: prints the JSON Schema of the manifest, for editors that do not start the language server.

use crate::context::Context;
use crate::exit::Outcome;

#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  pdev schema > pdev.schema.json")]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments, context: &Context) -> Outcome {
    let schema = manifest::schema::json_schema();
    if context.json {
        context.terminal.print_json(&schema);
    } else {
        context.terminal.print_line(&serde_json::to_string_pretty(&schema).unwrap_or_default());
    }
    crate::success()
}
