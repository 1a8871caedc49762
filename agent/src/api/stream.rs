//! Streams: events of one operation, all events, merged logs.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, StreamExt};
use plan::application::Unit;
use protocol::Event;
use protocol::request::{LogEntry, LogQuery};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::previews::find_settled;
use super::{Api, Problem};
use crate::preview::Handle;

fn sse(event: &Event) -> axum::response::sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    axum::response::sse::Event::default().id(event.id.to_string()).data(data)
}

/// The next event, passing over what a slow reader missed.
async fn next(events: &mut Receiver<Arc<Event>>) -> Option<Arc<Event>> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "a listener is slow and misses events"),
            Err(RecvError::Closed) => return None,
        }
    }
}

/// What one `up`, `down` or `restart` does, until its last event; with `detach` only until the plan is known.
pub(super) fn operation(events: Receiver<Arc<Event>>, operation: u64, detach: bool) -> Response {
    let stream = stream::unfold(Some(events), move |events| async move {
        let mut events = events?;
        loop {
            let event = next(&mut events).await?;
            if event.operation != Some(operation) {
                continue;
            }
            let last =
                event.kind.ends_operation() || (detach && matches!(event.kind, protocol::EventKind::Planned { .. }));
            return Some((Ok::<_, Infallible>(sse(&event)), (!last).then_some(events)));
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

pub(super) async fn all_events(State(api): State<Api>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let (missed, events) = api.shared.bus.subscribe(last);
    let live = stream::unfold(events, |mut events| async move { next(&mut events).await.map(|event| (event, events)) });
    let spectator = api.shared.spectator();
    let all = stream::iter(missed).chain(live).map(move |event| {
        let _until_the_reader_leaves = &spectator;
        Ok::<_, Infallible>(sse(&event))
    });
    Sse::new(all).keep_alive(KeepAlive::default()).into_response()
}

pub(super) async fn logs(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Problem> {
    let handle = find_settled(&api, &preview).await?;
    let units = chosen(&handle, query.units.as_deref())?;
    let lines = merged(&api, &handle, &units, &query).await?;
    let spectator = query.follow.then(|| api.shared.spectator());
    let bytes = lines.map(move |entry| {
        let _until_the_reader_leaves = &spectator;
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response())
}

fn chosen(handle: &Handle, names: Option<&str>) -> Result<Vec<Unit>, Problem> {
    let Some(application) = handle.live.application() else {
        let title = format!("`{}` is down and has no logs", handle.board.preview().title);
        return Err(Problem(protocol::Problem::new("not_running", 409, title).hint("Run `pdev up` first.")));
    };
    let Some(names) = names.filter(|names| !names.is_empty()) else {
        return Ok(application.units.values().cloned().collect());
    };
    names
        .split(',')
        .map(|name| {
            application.units.get(name).cloned().ok_or_else(|| {
                let known: Vec<&str> = application.units.keys().map(String::as_str).collect();
                let title = format!("there is no unit `{name}`; known are {}", known.join(", "));
                Problem(protocol::Problem::new("unknown_unit", 404, title))
            })
        })
        .collect()
}

type Lines = BoxStream<'static, LogEntry>;

/// What there is already is merged by time; what follows comes as it is written.
async fn merged(api: &Api, handle: &Handle, units: &[Unit], query: &LogQuery) -> Result<Lines, Problem> {
    let Some(scope) = handle.live.scope() else { return Ok(stream::empty().boxed()) };
    let mut past: Vec<LogEntry> = Vec::new();
    let mut sources: Vec<Lines> = Vec::new();
    let now = crate::bus::now_ms();
    for unit in units {
        let Ok(driver) = api.shared.engines.driver(unit.body.runtime()) else { continue };
        let history = drivers::driver::LogRequest { follow: false, since: query.since, tail: query.tail };
        // A unit that was never made has no log; that is no failure of the others.
        if let Ok(lines) = driver.logs(&scope.preview.id, &scope.places, &unit.name, history).await {
            let until = now;
            let entries: Vec<LogEntry> = entries(lines, unit.name.clone())
                .filter(|entry| std::future::ready(!query.follow || entry.at < until))
                .collect()
                .await;
            past.extend(entries);
        }
        if query.follow {
            let request = drivers::driver::LogRequest { follow: true, since: Some(now), tail: None };
            if let Ok(lines) = driver.logs(&scope.preview.id, &scope.places, &unit.name, request).await {
                sources.push(entries(lines, unit.name.clone()));
            }
        }
    }
    past.sort_by_key(|entry| entry.at);
    Ok(stream::iter(past).chain(stream::select_all(sources)).boxed())
}

fn entries(lines: BoxStream<'static, Result<drivers::driver::LogLine, drivers::Problem>>, unit: String) -> Lines {
    lines
        .map(move |line| match line {
            Ok(line) => LogEntry {
                at: line.at,
                unit: unit.clone(),
                stream: if line.stderr { "stderr" } else { "stdout" }.into(),
                text: line.text,
            },
            Err(problem) => {
                LogEntry { at: crate::bus::now_ms(), unit: unit.clone(), stream: "pdev".into(), text: problem.message }
            }
        })
        .boxed()
}
