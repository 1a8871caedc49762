//! `pdev restart`: stop and start units as they are.

use std::time::Duration;

use protocol::request::RestartRequest;

use crate::choose::{self, Which};
use crate::commands::up;
use crate::context::Context;
use crate::exit::Outcome;
use crate::follow::follow;
use crate::render::progress::Progress;
use crate::words;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev restart          all units, in the order of their needs\n  pdev restart api")]
pub(crate) struct Arguments {
    /// Units [default: all]
    #[arg(value_name = "UNIT")]
    units: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Stop waiting after this long; the work goes on
    #[arg(long, value_name = "DURATION", value_parser = words::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = choose::preview(&mut client, context, &arguments.which).await?;
        choose::units(&preview, &arguments.units)?;
        let mut progress = Progress::new(context);
        let request = RestartRequest { units: arguments.units };
        let mut stream = client.restart(&preview.preview.id, &request).await?;
        let ended = follow(&mut stream, &mut progress, context, arguments.timeout).await?;
        up::conclude(ended, &preview.preview.title, context)
    })
}
