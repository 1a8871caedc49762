//! The last lines of each unit, for whoever hovers over its name.
//!
//! Asked for when something happened to a unit and when somebody looked at it; a hover shows what is known by then, says how
//! old it is, and waits for nobody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientError};
use protocol::request::LogQuery;

use crate::desk::Desk;

const LINES_MAX: usize = 8;
const CHARACTERS_MAX: usize = 200;
const LIMIT: Duration = Duration::from_secs(2);
/// More units than that change at once only while a preview starts; the rest are asked for when somebody looks.
const WANTED_MAX: usize = 64;

/// A preview's id and one of its units.
pub type Whose = (String, String);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lines {
    /// When they were read, in Unix milliseconds.
    pub at: i64,
    pub text: Vec<String>,
}

/// Adds to what will be asked for; what is full forgets the rest.
pub fn want(wanted: &mut BTreeSet<Whose>, whose: Whose) {
    if wanted.len() < WANTED_MAX {
        wanted.insert(whose);
    }
}

/// Until the server ends: one question after the other.
pub async fn work(desk: Arc<Desk>) {
    loop {
        desk.peek.notified().await;
        for whose in desk.wanted_peeks() {
            let reading = tokio::time::timeout(LIMIT, read(&desk, &whose));
            if let Ok(Ok(text)) = reading.await {
                let at = now();
                let shown = desk.change_live(|live| {
                    let shown = live.shows_lines_of(&whose);
                    live.lines.insert(whose, Lines { at, text });
                    shown
                });
                if shown {
                    desk.live_changed();
                }
            }
        }
    }
}

async fn read(desk: &Desk, (preview, unit): &Whose) -> Result<Vec<String>, ClientError> {
    let client = Client::connect(&desk.place).await?;
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
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `3 s`, `5 min`, `2 h`, `4 d`: one unit, because nobody hovers for more.
#[must_use]
pub fn span(milliseconds: i64) -> String {
    let seconds = milliseconds.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
