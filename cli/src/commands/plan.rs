//! `pdev plan`: shows the steps of `up` and their causes. It takes no step, but it assigns ports to the preview.

use crate::commands::up;
use crate::context::Context;
use crate::exit::Outcome;
use crate::{render, secrets};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev plan
  pdev plan --set services.api.replicas=2
  pdev plan --json | jq '.plan.steps[].because'    print only the reasons of the steps

The options are those of `pdev up`: the plan shows what `up` would do with them. `plan` takes none of the steps, but \
it records the preview and the ports that it chooses for it, so that `up` uses the same ones.

Exit codes: 0 the plan was printed, 1 failed, 2 wrong manifest, 4 no manifest.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: up::UpOptions,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let (request, checked) = arguments.options.into_request(context)?;
    let secrets = secrets::collect(&[], &checked, context)?;
    Context::block_on(async {
        let mut client = Context::connect().await?;
        if !secrets.names().is_empty() {
            let (folder, environment) = (request.folder.clone(), request.environment.clone());
            // The agent compares them with those of the running units. They reach no unit before `up`.
            let stored = secrets::delivery::deliver_to_known(&mut client, folder, environment, secrets, context).await;
            if let Err(failure) = stored {
                let note = format!("note: changed secrets are not listed: {}", failure.problem.title);
                context.terminal.eprint_line(&note);
            }
        }
        let reply = client.plan(&request).await?;
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
