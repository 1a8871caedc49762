//! Whether this machine's clock is right, by what the servers of one's identities say (`Date`, RFC 9110, section 6.6.1).
//!
//! Asks each server for its front page, without a credential; what it answers does not matter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::http::Http;
use crate::identity::Identities;
use crate::source;

/// A person waits for all of them together.
const LIMIT: Duration = Duration::from_secs(5);
/// Servers asked at once, and at all.
const SERVERS_MAX: usize = 16;

/// What one server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    pub server: String,
    /// The server's clock minus ours in milliseconds, 0 for a few seconds; or why it is not known.
    pub ahead: Result<i64, String>,
}

/// The clocks behind these identities, by the servers' names.
pub async fn compare(identities: &Identities) -> Vec<Reading> {
    let servers: BTreeMap<String, String> =
        identities.all.values().filter_map(source::server).filter_map(front_page).take(SERVERS_MAX).collect();
    if servers.is_empty() {
        return Vec::new();
    }
    let http = match Http::new() {
        Ok(http) => Arc::new(http),
        Err(problem) => {
            let failed = |server| Reading { server, ahead: Err(problem.to_string()) };
            return servers.into_keys().map(failed).collect();
        }
    };
    let mut asked = JoinSet::new();
    for (server, url) in servers {
        let http = Arc::clone(&http);
        asked.spawn(async move {
            let ahead = match tokio::time::timeout(LIMIT, http.get(&url, &[])).await {
                Ok(Ok(answer)) if answer.is_dated => Ok(answer.skew),
                Ok(Ok(_)) => Err("it answers without a `Date`".to_owned()),
                Ok(Err(problem)) => Err(problem.to_string()),
                Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
            };
            Reading { server, ahead }
        });
    }
    let mut readings = asked.join_all().await;
    readings.sort_by(|a, b| a.server.cmp(&b.server));
    readings
}

/// Host and address of a URL's front page: a path may be a program that does work.
fn front_page(url: String) -> Option<(String, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?.to_string();
    Some((authority.clone(), format!("{}://{authority}/", uri.scheme_str()?)))
}
