//! `pdev restart`: stops and starts units, without applying changes of the manifest.

use std::time::Duration;

use protocol::request::RestartRequest;

use crate::commands::up;
use crate::context::Context;
use crate::exit::Outcome;
use crate::follow::follow_operation;
use crate::humanize;
use crate::preview_selector::{self, PreviewSelector};
use crate::render::progress::Progress;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev restart          restart all units in dependency order
  pdev restart api      restart one unit

Units that `pdev stop` stopped are started too. Jobs do not run again: use `pdev run`.

Exit codes: 0 healthy, 1 failed, 4 no such preview or unit, 124 timeout, 130 Ctrl-C (the operation continues).")]
pub(crate) struct Arguments {
    /// Units (services or resources) to restart [default: all]
    #[arg(value_name = "UNIT")]
    units: Vec<String>,
    #[command(flatten)]
    selector: PreviewSelector,
    /// Stop waiting after this duration, such as `90s` or `10m`; the operation continues [default: 24h, in practice no
    /// limit]
    #[arg(long, value_name = "DURATION", value_parser = humanize::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = preview_selector::find_preview(&mut client, context, &arguments.selector).await?;
        preview_selector::refuse_unknown_units(&preview, &arguments.units)?;
        let mut progress = Progress::new(context);
        let request = RestartRequest { units: arguments.units };
        let mut stream = client.restart(&preview.preview.id, &request).await?;
        let outcome = follow_operation(&mut stream, &mut progress, context, arguments.timeout).await?;
        up::print_outcome(outcome, &preview.preview.title, context)
    })
}
