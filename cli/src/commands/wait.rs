//! `pdev wait`: until a preview, or some of its units, are ready or have failed.

use std::time::{Duration, Instant};

use protocol::status::{PreviewState, PreviewStatus, UnitState};

use crate::choose::{self, Which};
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::render::problem;
use crate::words;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  pdev up --detach && pdev wait --timeout 2m\n  pdev wait api\n\nExit codes: 0 ready, 1 failed or down, 4 no such preview or unit, 124 timeout."
)]
pub(crate) struct Arguments {
    /// Units [default: all]
    #[arg(value_name = "UNIT")]
    units: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Give up after this long
    #[arg(long, value_name = "DURATION", value_parser = words::parse_duration, default_value = "10m", env = "PDEV_TIMEOUT", hide_env = true)]
    timeout: Duration,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let began = Instant::now();
        let mut client = Context::connect().await?;
        let preview = choose::preview(&mut client, context, &arguments.which).await?;
        choose::units(&preview, &arguments.units)?;
        let wait = client.wait(&preview.preview.id, arguments.timeout);
        let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let status = tokio::select! {
            status = wait => status?,
            _ = interrupts.recv() => return Ok(exit::INTERRUPTED),
        };
        conclude(&status, &arguments.units, began, context)
    })
}

fn conclude(status: &PreviewStatus, units: &[String], began: Instant, context: &Context) -> Outcome {
    let title = &status.preview.title;
    if context.json {
        context.terminal.say_json(status);
    }
    match verdict(status, units) {
        Verdict::Ready => {
            if !context.json {
                let took = words::duration(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                let url = status.url.as_ref().map(|url| format!("  {url}")).unwrap_or_default();
                context.terminal.say(&format!("{title} is ready ({took}){url}"));
            }
            Ok(exit::OK)
        }
        Verdict::Moving if context.json => Ok(exit::TIMEOUT),
        Verdict::Moving => Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not ready yet"))
            .hint("`pdev status` tells what it waits for.")),
        Verdict::Failed => {
            if !context.json {
                problem::tell_all(&status.problems, &context.terminal);
                let state = crate::render::status::state_words(status.state).0;
                context.terminal.tell(&format!("{title} is {state}; `pdev status` shows its units"));
            }
            Ok(exit::FAILED)
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    Ready,
    Moving,
    Failed,
}

fn verdict(status: &PreviewStatus, units: &[String]) -> Verdict {
    if units.is_empty() {
        return match status.state {
            PreviewState::Ready => Verdict::Ready,
            PreviewState::Starting | PreviewState::Stopping => Verdict::Moving,
            PreviewState::Degraded | PreviewState::Failed | PreviewState::Down => Verdict::Failed,
        };
    }
    let mut worst = Verdict::Ready;
    for unit in status.units.iter().filter(|unit| units.contains(&unit.name)) {
        match unit.state {
            UnitState::Ready | UnitState::Done => {}
            UnitState::Failed | UnitState::Stopped | UnitState::Stopping | UnitState::Unhealthy => {
                return Verdict::Failed;
            }
            UnitState::Waiting | UnitState::Preparing | UnitState::Starting | UnitState::Restarting => {
                worst = Verdict::Moving;
            }
        }
    }
    worst
}
