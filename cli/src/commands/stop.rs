//! `pdev stop`: stops units and keeps them stopped; the others keep running.

use std::time::Duration;

use protocol::request::StopRequest;
use protocol::status::PreviewState;

use crate::commands::up;
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::follow::{OperationOutcome, follow_operation};
use crate::humanize;
use crate::preview_selector::{self, PreviewSelector};
use crate::render::progress::Progress;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev stop api            stop one service; the others keep running
  pdev up --service api    start it again, like `pdev up`

Exit codes: 0 stopped, 1 failed, 4 no such preview or unit, 124 timeout, 130 Ctrl-C (the operation continues).")]
pub(crate) struct Arguments {
    /// Units (services or resources) to stop; `pdev down` stops all of them
    #[arg(value_name = "UNIT", required = true)]
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
        let title = preview.preview.title;
        let names = arguments.units.join(", ");
        let request = StopRequest { units: arguments.units };
        let mut stream = client.stop(&preview.preview.id, &request).await?;
        match follow_operation(&mut stream, &mut progress, context, arguments.timeout).await? {
            OperationOutcome::Finished { status, milliseconds, unchanged } => {
                if !context.json {
                    let duration = humanize::duration(milliseconds);
                    context.terminal.print_line(&match (unchanged, status.state) {
                        (true, _) => format!("{title}: {names} already stopped"),
                        (false, PreviewState::Down) => {
                            format!("{title}: {names} stopped ({duration}); nothing runs now")
                        }
                        (false, _) => format!("{title}: {names} stopped ({duration}); `pdev up` starts it again"),
                    });
                }
                Ok(exit::OK)
            }
            outcome => up::print_outcome(outcome, &title, context),
        }
    })
}
