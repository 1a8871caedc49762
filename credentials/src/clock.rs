//! Compares this machine's clock with the servers of the user's identities (`Date`, RFC 9110, section 6.6.1).
//!
//! Each server gets a request for its root page, without a credential. The content and status of the response are
//! ignored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::http::HttpClient;
use crate::identity::Identities;
use crate::source;

/// The user waits at most this long, because the requests run in parallel.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Limits both the parallel requests and their total number.
const SERVERS_MAX: usize = 16;

/// The result for one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClockReading {
    pub server: String,
    /// The server's clock minus this machine's in milliseconds, 0 for a few seconds; or the reason why it is unknown.
    pub offset: Result<i64, String>,
}

/// Reads the clocks of the servers of these identities, sorted by server name.
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
    let mut requests = JoinSet::new();
    for (server, url) in servers {
        let http = Arc::clone(&http);
        requests.spawn(async move {
            let offset = match tokio::time::timeout(TIMEOUT, http.get(&url, &[])).await {
                Ok(Ok(response)) if response.has_date => Ok(response.skew),
                Ok(Ok(_)) => Err("its response has no `Date`".to_owned()),
                Ok(Err(problem)) => Err(problem.to_string()),
                Err(_) => Err(format!("no response within {} s", TIMEOUT.as_secs())),
            };
            ClockReading { server, offset }
        });
    }
    let mut readings = requests.join_all().await;
    readings.sort_by(|a, b| a.server.cmp(&b.server));
    readings
}

/// The authority and the root URL of a server. The path is dropped, because a request to it could start work on the
/// server.
fn root_url(url: String) -> Option<(String, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?.to_string();
    Some((authority.clone(), format!("{}://{authority}/", uri.scheme_str()?)))
}
