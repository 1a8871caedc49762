//! Whether this machine's clock is right, by what the servers of one's identities say (`Date`, RFC 9110, section 6.6.1).
//!
//! Asks each server for its front page, without a credential; what it answers does not matter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::http::HttpClient;
use crate::identity::Identities;
use crate::source;

/// A person waits for all of them together.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Servers asked at once, and at all.
const SERVERS_MAX: usize = 16;

/// What one server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClockReading {
    pub server: String,
    /// The server's clock minus ours in milliseconds, 0 for a few seconds; or why it is not known.
    pub offset: Result<i64, String>,
}

/// The clocks behind these identities, by the servers' names.
pub async fn compare(identities: &Identities) -> Vec<ClockReading> {
    let servers: BTreeMap<String, String> =
        identities.all.values().filter_map(source::server_url).filter_map(root_url).take(SERVERS_MAX).collect();
    if servers.is_empty() {
        return Vec::new();
    }
    let http = match HttpClient::new() {
        Ok(http) => Arc::new(http),
        Err(problem) => {
            let failed = |server| ClockReading { server, offset: Err(problem.to_string()) };
            return servers.into_keys().map(failed).collect();
        }
    };
    let mut asked = JoinSet::new();
    for (server, url) in servers {
        let http = Arc::clone(&http);
        asked.spawn(async move {
            let ahead = match tokio::time::timeout(TIMEOUT, http.get(&url, &[])).await {
                Ok(Ok(answer)) if answer.has_date => Ok(answer.skew),
                Ok(Ok(_)) => Err("it answers without a `Date`".to_owned()),
                Ok(Err(problem)) => Err(problem.to_string()),
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            ClockReading { server, offset: ahead }
        });
    }
    let mut readings = asked.join_all().await;
    readings.sort_by(|a, b| a.server.cmp(&b.server));
    readings
}

/// Host and address of a URL's front page: a path may be a program that does work.
fn root_url(url: String) -> Option<(String, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?.to_string();
    Some((authority.clone(), format!("{}://{authority}/", uri.scheme_str()?)))
}
