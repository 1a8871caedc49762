//! A cache of the last log lines of each unit, for hovers and live diagnostics.
//!
//! The lines are fetched in the background when the unit changes and when the user hovers over its name. A hover does
//! not wait: it shows the cached lines and their age.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientError};
use host::clock::now_milliseconds;
use protocol::request::LogQuery;

use crate::server_state::ServerState;

const LINES_MAX: usize = 8;
const CHARACTERS_MAX: usize = 200;
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Only the start of a large preview changes more units at once. The lines of the others are fetched at the next hover.
const REQUESTS_MAX: usize = 64;

/// A preview's id and one of its units.
pub type UnitKey = (String, String);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogTail {
    /// Time of the read, in Unix milliseconds.
    pub read_at: i64,
    pub lines: Vec<String>,
}

/// Adds a request, unless the queue is full.
pub fn enqueue_request(requests: &mut BTreeSet<UnitKey>, unit: UnitKey) {
    if requests.len() < REQUESTS_MAX {
        requests.insert(unit);
    }
}

/// Fetches the requested lines, one unit at a time, until the server ends.
pub async fn run_log_tail_loop(state: Arc<ServerState>) {
    loop {
        state.log_tail_requested.notified().await;
        for unit in state.take_log_tail_requests() {
            // A failed or slow read leaves the previous lines in the cache.
            let fetch = tokio::time::timeout(READ_TIMEOUT, fetch_lines(&state, &unit));
            if let Ok(Ok(lines)) = fetch.await {
                let read_at = now_milliseconds();
                let is_shown = state.change_live(|live| {
                    let is_shown = live.is_log_tail_shown(&unit);
                    live.log_tails.insert(unit, LogTail { read_at, lines });
                    is_shown
                });
                if is_shown {
                    state.notify_live_changed();
                }
            }
        }
    }
}

async fn fetch_lines(state: &ServerState, (preview, unit): &UnitKey) -> Result<Vec<String>, ClientError> {
    let client = Client::connect(&state.agent_socket).await?;
    let query = LogQuery { units: Some(unit.clone()), tail: Some(LINES_MAX), ..LogQuery::default() };
    let mut entries = client.logs(preview, &query).await?;
    let mut lines = Vec::new();
    while let Some(entry) = entries.next().await? {
        lines.push(entry.text.chars().take(CHARACTERS_MAX).collect());
    }
    Ok(lines)
}

/// Formats an age as `3 s`, `5 min`, `2 h` or `4 d`. One unit of time is precise enough for a hover.
#[must_use]
pub fn format_age(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
