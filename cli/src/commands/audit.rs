//! `pdev audit`: shows which program received which credential, in which format and when. The log contains no
//! credentials.

use credentials::audit::{AuditLog, Entry};
use host::clock::now_milliseconds;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::humanize;
use crate::render::table::{self, Cell};
use crate::vault_access::credential_paths;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev audit
  pdev audit shop-dev --since 1h
  pdev audit --json | jq -r '.chain[0]'    print only the programs that requested a credential

The log also contains refused requests, logins and approvals, but no credentials. With `--json`, `chain` is the \
requesting program, followed by its parent processes.")]
pub(crate) struct Arguments {
    /// Show only the entries of this identity
    #[arg(value_name = "IDENTITY")]
    identity: Option<String>,
    /// Show only entries since this time: `10m` or `2d` (ago), or `2026-11-23T10:00:00Z`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show at most the newest N entries, also with `--since`
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let now = now_milliseconds();
    let since = arguments.since.as_deref().map(|text| humanize::parse_since(text, now)).transpose();
    let since = since.map_err(Failure::invalid_input)?.unwrap_or(0);
    let audit = AuditLog::new(credential_paths()?.audit());
    let mut entries = audit.read().map_err(|error| Failure::failed(humanize::io_error(&error)))?;
    let is_selected = |entry: &Entry| {
        entry.at >= since && arguments.identity.as_ref().is_none_or(|identity| *identity == entry.identity)
    };
    entries.retain(is_selected);
    let newest = entries.split_off(entries.len().saturating_sub(arguments.lines));
    if context.json {
        newest.iter().for_each(|entry| context.terminal.print_json(entry));
        return crate::success();
    }
    if newest.is_empty() {
        context.terminal.eprint_line("no entries");
        return crate::success();
    }
    let rows: Vec<Vec<Cell>> = newest.iter().map(|entry| entry_row(entry, now)).collect();
    let headings = ["WHEN", "IDENTITY", "ACTION", "FORMAT", "CALLER", "DETAILS"];
    table::lines(&headings, &rows, 0, context.terminal.stdout_paint)
        .iter()
        .for_each(|line| context.terminal.print_line(line));
    crate::success()
}

fn entry_row(entry: &Entry, now: i64) -> Vec<Cell> {
    let file_name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
    // The requesting program and the two processes above it, which are enough to recognise the caller.
    let callers: Vec<String> = entry.chain.iter().take(3).map(file_name).collect();
    let pid = entry.pid.map(|pid| format!(" ({pid})")).unwrap_or_default();
    let session = entry.session.as_deref().and_then(|session| session.split(' ').next());
    let details = [session.map(|session| format!("session {session}")), entry.problem.clone()];
    let details: Vec<String> = details.into_iter().flatten().collect();
    vec![
        Cell::new(format!("{} ago", humanize::age(entry.at, now))),
        Cell::painted(&entry.identity, "1"),
        Cell::painted(&entry.action, if entry.action == "refused" { "31" } else { "" }),
        Cell::new(entry.format.clone().unwrap_or_default()),
        Cell::new(if callers.is_empty() { String::new() } else { format!("{}{pid}", callers.join(" < ")) }),
        Cell::new(details.join(": ")),
    ]
}
