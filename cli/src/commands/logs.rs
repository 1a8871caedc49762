//! `pdev logs`: prints the output of units, merged by time.

use host::clock::now_milliseconds;
use protocol::request::{LogEntry, LogQuery};

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;
use crate::preview_selector::{self, PreviewSelector};
use crate::render::logs::LogPainter;

/// Lines that arrive together are printed with one write, up to this size.
const BURST_BYTES: usize = 64 * 1024;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev logs                      print the stored output of all units
  pdev logs api worker -f        follow two units
  pdev logs --since 10m -n 100   print the last 100 lines of each unit, none older than ten minutes")]
pub(crate) struct Arguments {
    /// Units (services, jobs or resources) to show [default: all]
    #[arg(value_name = "UNIT")]
    units: Vec<String>,
    #[command(flatten)]
    selector: PreviewSelector,
    /// Follow new output
    #[arg(short, long)]
    follow: bool,
    /// Show only lines since this time: `10m` (ago) or `2026-11-23T10:00:00Z`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show only the last N lines of each unit
    #[arg(short = 'n', long, visible_alias = "limit", value_name = "N")]
    tail: Option<usize>,
    /// Prefix each line with its time (UTC)
    #[arg(short, long)]
    times: bool,
    /// Do not prefix lines with the name of the unit
    #[arg(long)]
    no_prefix: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let now = now_milliseconds();
    let since = arguments.since.as_deref().map(|text| humanize::parse_since(text, now)).transpose();
    let since = since.map_err(Failure::invalid_input)?;
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = preview_selector::find_preview(&mut client, context, &arguments.selector).await?;
        preview_selector::refuse_unknown_units(&preview, &arguments.units)?;
        let expected_units: Vec<String> = match arguments.units.is_empty() {
            true => preview.units.iter().map(|unit| unit.name.clone()).collect(),
            false => arguments.units.clone(),
        };
        let units = (!arguments.units.is_empty()).then(|| arguments.units.join(","));
        let query = LogQuery { units, follow: arguments.follow, since, tail: arguments.tail };
        let mut painter = LogPainter::new(expected_units, !arguments.no_prefix, arguments.times);
        let mut lines = client.logs(&preview.preview.id, &query).await?;
        let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut burst = String::new();
        loop {
            let entry = tokio::select! {
                entry = lines.next() => entry?,
                _ = interrupts.recv() => return Ok(exit::INTERRUPTED),
            };
            let Some(entry) = entry else { break };
            push_entry(&mut burst, &entry, &mut painter, context);
            if !lines.has_buffered_items() || burst.len() > BURST_BYTES {
                context.terminal.print_bytes(std::mem::take(&mut burst).as_bytes());
            }
        }
        context.terminal.print_bytes(burst.as_bytes());
        crate::success()
    })
}

fn push_entry(burst: &mut String, entry: &LogEntry, painter: &mut LogPainter, context: &Context) {
    if context.json {
        burst.push_str(&serde_json::to_string(entry).unwrap_or_default());
    } else {
        burst.push_str(&painter.render_line(entry, context.terminal.stdout_paint));
    }
    burst.push('\n');
}
