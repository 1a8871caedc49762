//! `pdev wait`: waits until a preview, or some of its units, are ready or have failed. It starts nothing.

use std::time::{Duration, Instant};

use protocol::status::{PreviewState, PreviewStatus, UnitState};

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;
use crate::preview_selector::{self, PreviewSelector};
use crate::render::problem;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev up --detach && pdev wait --timeout 2m
  pdev wait api

A job is ready when it has succeeded. `wait` starts nothing, and by default gives up after ten minutes, unlike `up`.

Exit codes: 0 ready, 1 failed or down, 4 no such preview or unit, 124 timeout, 130 Ctrl-C.")]
pub(crate) struct Arguments {
    /// Units (services, jobs or resources) to wait for [default: all]
    #[arg(value_name = "UNIT")]
    units: Vec<String>,
    #[command(flatten)]
    selector: PreviewSelector,
    /// Stop waiting after this duration, such as `90s` or `10m`
    #[arg(long, value_name = "DURATION", value_parser = humanize::parse_duration, default_value = "10m", env = "PDEV_TIMEOUT", hide_env = true)]
    timeout: Duration,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let started_at = Instant::now();
        let mut client = Context::connect().await?;
        let preview = preview_selector::find_preview(&mut client, context, &arguments.selector).await?;
        preview_selector::refuse_unknown_units(&preview, &arguments.units)?;
        let wait = client.wait_until_settled(&preview.preview.id, arguments.timeout);
        let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let status = tokio::select! {
            status = wait => status?,
            _ = interrupts.recv() => return Ok(exit::INTERRUPTED),
        };
        print_outcome(&status, &arguments.units, started_at, context)
    })
}

fn print_outcome(status: &PreviewStatus, units: &[String], started_at: Instant, context: &Context) -> Outcome {
    let title = &status.preview.title;
    if context.json {
        context.terminal.print_json(status);
    }
    match verdict(status, units) {
        Verdict::Ready => {
            if !context.json {
                let duration = humanize::duration(u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX));
                let url = status.url.as_ref().map(|url| format!("  {url}")).unwrap_or_default();
                context.terminal.print_line(&format!("{title} is ready ({duration}){url}"));
            }
            Ok(exit::OK)
        }
        Verdict::Pending if context.json => Ok(exit::TIMEOUT),
        Verdict::Pending => Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not ready yet"))
            .hint("Run `pdev status` to see what it waits for.")),
        Verdict::Failed => {
            if !context.json {
                problem::print_all(&status.problems, &context.terminal);
                let state = crate::render::status::preview_state_label(status.state).0;
                context.terminal.eprint_line(&format!("{title} is {state}; `pdev status` shows its units"));
            }
            Ok(exit::FAILED)
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    Ready,
    Pending,
    Failed,
}

fn verdict(status: &PreviewStatus, units: &[String]) -> Verdict {
    if units.is_empty() {
        return match status.state {
            PreviewState::Ready => Verdict::Ready,
            PreviewState::Starting | PreviewState::Stopping => Verdict::Pending,
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
                worst = Verdict::Pending;
            }
        }
    }
    worst
}
