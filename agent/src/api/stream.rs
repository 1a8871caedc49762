//! Streaming routes: the events of one operation, all events, merged logs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use drivers::problem::ProblemKind;
use futures_util::stream::{self, BoxStream, StreamExt};
use host::clock::now_milliseconds;
use plan::application::Unit;
use protocol::Event;
use protocol::request::{LogEntry, LogQuery};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::preview_lookup::find_recovered;
use super::{Api, ProblemResponse};
use crate::preview::PreviewHandle;

/// How long a runtime may take for the first log line, and between two lines of existing output.
const LOG_READ_LIMIT: Duration = Duration::from_secs(5);

fn to_sse_event(event: &Event) -> axum::response::sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    axum::response::sse::Event::default().id(event.id.to_string()).data(data)
}

/// The next event. A slow subscriber misses events and continues with the next available one.
async fn next_event(events: &mut Receiver<Arc<Event>>) -> Option<Arc<Event>> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "a slow subscriber missed events"),
            Err(RecvError::Closed) => return None,
        }
    }
}

/// Streams the events of one `up`, `down` or `restart` until its last event, or with `detach` until the plan is known.
pub(super) fn operation_events(events: Receiver<Arc<Event>>, operation: u64, detach: bool) -> Response {
    let stream = stream::unfold(Some(events), move |events| async move {
        let mut events = events?;
        loop {
            let event = next_event(&mut events).await?;
            if event.operation != Some(operation) {
                continue;
            }
            let is_last =
                event.kind.ends_operation() || (detach && matches!(event.kind, protocol::EventKind::Planned { .. }));
            return Some((Ok::<_, Infallible>(to_sse_event(&event)), (!is_last).then_some(events)));
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

pub(super) async fn all_events(State(api): State<Api>, headers: HeaderMap) -> Response {
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let (missed, events) = api.shared.bus.subscribe(last_id);
    let live =
        stream::unfold(events, |mut events| async move { next_event(&mut events).await.map(|event| (event, events)) });
    let guard = api.shared.track_stream();
    let all = stream::iter(missed).chain(live).map(move |event| {
        // The closure owns the guard, so that it is dropped with the stream.
        let _guard = &guard;
        Ok::<_, Infallible>(to_sse_event(&event))
    });
    Sse::new(all).keep_alive(KeepAlive::default()).into_response()
}

pub(super) async fn logs(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, ProblemResponse> {
    let handle = find_recovered(&api, &preview).await?;
    let units = requested_units(&handle, query.units.as_deref())?;
    let lines = merge_logs(&api, &handle, &units, &query).await?;
    let guard = query.follow.then(|| api.shared.track_stream());
    let bytes = lines.map(move |entry| {
        // The closure owns the guard, so that it is dropped with the stream.
        let _guard = &guard;
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response())
}

fn requested_units(handle: &PreviewHandle, names: Option<&str>) -> Result<Vec<Unit>, ProblemResponse> {
    let Some(application) = handle.live.application() else {
        let title = format!("`{}` is down and has no logs", handle.published.preview().title);
        return Err(ProblemResponse(protocol::Problem::new("not_running", 409, title).hint("Run `pdev up` first.")));
    };
    let Some(names) = names.filter(|names| !names.is_empty()) else {
        return Ok(application.units.values().cloned().collect());
    };
    names
        .split(',')
        .map(|name| {
            application.units.get(name).cloned().ok_or_else(|| {
                let unit_names: Vec<&str> = application.units.keys().map(String::as_str).collect();
                let title = format!("there is no unit `{name}`; the preview has {}", unit_names.join(", "));
                ProblemResponse(protocol::Problem::new("unknown_unit", 404, title))
            })
        })
        .collect()
}

type LogEntryStream = BoxStream<'static, LogEntry>;

/// Merges existing lines by time. Later lines follow in the order in which they are written.
async fn merge_logs(
    api: &Api,
    handle: &PreviewHandle,
    units: &[Unit],
    query: &LogQuery,
) -> Result<LogEntryStream, ProblemResponse> {
    let Some(scope) = handle.live.scope() else { return Ok(stream::empty().boxed()) };
    let mut past: Vec<LogEntry> = Vec::new();
    let mut sources: Vec<LogEntryStream> = Vec::new();
    let (now, mut failures) = (now_milliseconds(), Vec::new());
    for unit in units {
        let Ok(driver) = api.shared.drivers.driver_of(&scope.targets, unit.runtime) else { continue };
        let open = |request| open_log_stream(driver.logs(&scope.preview.id, &scope.locations, &unit.name, request));
        let history = drivers::driver::LogRequest { follow: false, since: query.since, tail: query.tail };
        match open(history).await {
            Ok(lines) => {
                let lines = collect_entries(to_log_entries(lines, unit.name.clone()), &unit.name).await;
                // The followed stream starts at `now`, so a later line would appear twice.
                past.extend(lines.into_iter().filter(|entry| !query.follow || entry.at < now));
            }
            // A unit that was never created has no log. The other units' logs are still shown.
            Err(problem) if problem.kind == ProblemKind::NotFound => {}
            Err(problem) => {
                past.push(agent_entry(&unit.name, format!("its output cannot be read: {}", problem.message)));
                failures.push(problem);
                continue;
            }
        }
        if query.follow {
            let request = drivers::driver::LogRequest { follow: true, since: Some(now), tail: None };
            match open(request).await {
                Ok(lines) => sources.push(to_log_entries(lines, unit.name.clone())),
                Err(problem) if problem.kind == ProblemKind::NotFound => {}
                Err(problem) => {
                    past.push(agent_entry(&unit.name, format!("its output cannot be followed: {}", problem.message)));
                }
            }
        }
    }
    // Only if no unit's log can be read does the request fail.
    if let Some(problem) = failures.first().filter(|_| failures.len() == units.len()) {
        return Err(ProblemResponse(crate::convert::driver_problem(problem, None)));
    }
    past.sort_by_key(|entry| entry.at);
    Ok(stream::iter(past).chain(stream::select_all(sources)).boxed())
}

type LogStreamResult = Result<BoxStream<'static, Result<drivers::driver::LogLine, drivers::Problem>>, drivers::Problem>;

async fn open_log_stream(stream_future: impl Future<Output = LogStreamResult>) -> LogStreamResult {
    let no_reply = || drivers::Problem::new(ProblemKind::Timeout, no_reply_message());
    tokio::time::timeout(LOG_READ_LIMIT, stream_future).await.unwrap_or_else(|_| Err(no_reply()))
}

fn no_reply_message() -> String {
    format!("the runtime did not answer within {} s", LOG_READ_LIMIT.as_secs())
}

/// Collects entries until the log ends, or until the runtime sends nothing for `LOG_READ_LIMIT`.
async fn collect_entries(mut lines: LogEntryStream, unit: &str) -> Vec<LogEntry> {
    let mut entries = Vec::new();
    loop {
        match tokio::time::timeout(LOG_READ_LIMIT, lines.next()).await {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => return entries,
            Err(_) => {
                entries
                    .push(agent_entry(unit, format!("the rest of its output cannot be read: {}", no_reply_message())));
                return entries;
            }
        }
    }
}

/// A line of the agent itself among the log lines.
fn agent_entry(unit: &str, text: String) -> LogEntry {
    LogEntry { at: now_milliseconds(), unit: unit.to_owned(), stream: "pdev".into(), text }
}

fn to_log_entries(
    lines: BoxStream<'static, Result<drivers::driver::LogLine, drivers::Problem>>,
    unit: String,
) -> LogEntryStream {
    lines
        .map(move |line| match line {
            Ok(line) => LogEntry {
                at: line.timestamp,
                unit: unit.clone(),
                stream: if line.is_stderr { "stderr" } else { "stdout" }.into(),
                text: line.text,
            },
            Err(problem) => agent_entry(&unit, problem.message),
        })
        .boxed()
}
