//! The last lines of each unit, for whoever hovers over its name.
//!
//! Asked for when something happened to a unit and when somebody looked at it; a hover shows what is known by then, says how
//! old it is, and waits for nobody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientError};
use protocol::request::LogQuery;

use crate::server_state::ServerState;

const LINES_MAX: usize = 8;
const CHARACTERS_MAX: usize = 200;
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// More units than that change at once only while a preview starts; the rest are asked for when somebody looks.
const REQUESTS_MAX: usize = 64;

/// A preview's id and one of its units.
pub type UnitKey = (String, String);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogTail {
    /// When they were read, in Unix milliseconds.
    pub read_at: i64,
    pub lines: Vec<String>,
}

/// Adds to what will be asked for; what is full forgets the rest.
pub fn enqueue_request(wanted: &mut BTreeSet<UnitKey>, whose: UnitKey) {
    if wanted.len() < REQUESTS_MAX {
        wanted.insert(whose);
    }
}

/// Until the server ends: one question after the other.
pub async fn run_log_tail_loop(state: Arc<ServerState>) {
    loop {
        state.log_tail_requested.notified().await;
        for whose in state.take_log_tail_requests() {
            let reading = tokio::time::timeout(READ_TIMEOUT, fetch_lines(&state, &whose));
            if let Ok(Ok(text)) = reading.await {
                let at = unix_millis_now();
                let shown = state.change_live(|live| {
                    let shown = live.is_log_tail_shown(&whose);
                    live.log_tails.insert(whose, LogTail { read_at: at, lines: text });
                    shown
                });
                if shown {
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
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await? {
        all.push(entry.text.chars().take(CHARACTERS_MAX).collect());
    }
    Ok(all)
}

/// Unix milliseconds.
#[must_use]
pub fn unix_millis_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `3 s`, `5 min`, `2 h`, `4 d`: one unit, because nobody hovers for more.
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
