//! Starts and exits of a preview's containers, from the engine's event stream. Does not poll.

use std::sync::Arc;

use bollard::Docker as Engine;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use plan::application::PreviewId;
use plan::observed::Exit;

use super::translate::SERVICE;
use super::{observe, preview_filter};
use crate::driver::RuntimeEvent;
use crate::problem::Problem;

pub(super) async fn follow_events(
    engine: Engine,
    preview: &PreviewId,
    inspect_cache: Arc<observe::InspectCache>,
) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
    let mut filters = preview_filter(preview);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), vec!["start".to_owned(), "die".to_owned()]);
    // The request is sent when the stream is first polled. Events until then are requested by time, on the engine's
    // clock, because the two machines' clocks may differ.
    let info =
        super::problems::with_timeout(super::READ_TIMEOUT, "cannot read the engine's time", engine.info()).await?;
    // No event reports an exit just before this moment, and the list says "running" until the engine has cleaned up
    // after the container. Earlier inspections are therefore invalid from here on.
    inspect_cache.clear();
    let mut options = EventsOptionsBuilder::default().filters(&filters);
    // Unix seconds with a fraction, because the engine splits the value at the dot, whatever its format.
    if let Some(now) = observe::parse_millis(info.system_time.as_deref()) {
        options = options.since(&format!("{}.{:03}000000", now / 1000, now % 1000));
    }
    let engine_clone = engine.clone();
    let events = engine.events(Some(options.build())).boxed();
    let stream = stream::unfold(
        (events, engine_clone, inspect_cache, false),
        |(mut events, engine, inspect_cache, has_ended)| async move {
            if has_ended {
                return None;
            }
            loop {
                let message = events.next().await;
                // Any event, including the end of the stream, may mean a change that the cached inspections do not
                // show.
                inspect_cache.clear();
                let (event, has_ended) = match message {
                    Some(Ok(event)) => (to_runtime_event(&engine, event).await, false),
                    Some(Err(error)) => (Some(RuntimeEvent::ConnectionLost { reason: error.to_string() }), true),
                    None => (
                        Some(RuntimeEvent::ConnectionLost { reason: "the engine closed its event stream".to_owned() }),
                        true,
                    ),
                };
                if let Some(event) = event {
                    return Some((event, (events, engine, inspect_cache, has_ended)));
                }
            }
        },
    );
    Ok(stream.boxed())
}

async fn to_runtime_event(engine: &Engine, message: EventMessage) -> Option<RuntimeEvent> {
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let (handle, unit) = (actor.id?, attributes.get(SERVICE)?.clone());
    if message.action.as_deref() == Some("start") {
        return Some(RuntimeEvent::Started { unit, handle });
    }
    let (code, signal) = observe::decode_exit_code(attributes.get("exitCode").and_then(|code| code.parse().ok()));
    let event_exit =
        Exit { code, signal, ended_at: message.time_nano.map(|nanos| nanos / 1_000_000), ..Exit::default() };
    // If the container is gone or already started again, the event's own data must suffice.
    let exit = match observe::inspect_state(engine, &handle).await {
        Ok(Some(state)) if state.running != Some(true) => Exit { code, signal, ..observe::to_exit(&state) },
        _ => event_exit,
    };
    Some(RuntimeEvent::Exited { unit, handle, exit })
}
