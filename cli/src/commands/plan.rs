//! `pdev plan`: shows the steps of `up` and their causes. Changes nothing.

use crate::commands::up;
use crate::context::Context;
use crate::exit::Outcome;
use crate::render;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  pdev plan\n  pdev plan --set services.api.replicas=2\n  pdev plan --json | jq '.plan.steps[].because'"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: up::UpOptions,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let (request, _) = arguments.options.into_request(context)?;
    Context::block_on(async {
        let reply = Context::connect().await?.plan(&request).await?;
        if context.json {
            context.terminal.print_json(&reply);
        } else {
            render::plan::lines(&reply, context.terminal.stdout_paint)
                .iter()
                .for_each(|line| context.terminal.print_line(line));
        }
        crate::success()
    })
}
