//! Starts and exits of a preview's containers from the engine's event stream. Polls nothing.

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
use crate::driver::{Problem, RuntimeEvent};

pub(super) async fn follow_events(
    engine: Engine,
    preview: &PreviewId,
    inspected: Arc<observe::InspectCache>,
) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
    let mut filters = preview_filter(preview);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), vec!["start".to_owned(), "die".to_owned()]);
    // The request is sent when the stream is first polled, so what happens until then is asked for by time: the
    // clock is the engine's, because the two machines' clocks may differ.
    let info =
        super::problems::with_timeout(super::READ_TIMEOUT, "cannot ask the engine for its time", engine.info()).await?;
    // An exit just before this moment is told by no event, and the list says "running" until the engine has cleaned
    // up behind it, so nothing that was inspected earlier may count from here on.
    inspected.clear();
    let mut options = EventsOptionsBuilder::default().filters(&filters);
    // Unix seconds, because the engine splits at the dot whatever it is given.
    if let Some(now) = observe::parse_millis(info.system_time.as_deref()) {
        options = options.since(&format!("{}.{:03}000000", now / 1000, now % 1000));
    }
    let source = engine.clone();
    let events = engine.events(Some(options.build())).boxed();
    let stream =
        stream::unfold((events, source, inspected, false), |(mut events, engine, inspected, ended)| async move {
            if ended {
                return None;
            }
            loop {
                let told = events.next().await;
                inspected.clear();
                let (event, ended) = match told {
                    Some(Ok(message)) => (to_runtime_event(&engine, message).await, false),
                    Some(Err(error)) => (Some(RuntimeEvent::ConnectionLost { reason: error.to_string() }), true),
                    None => (
                        Some(RuntimeEvent::ConnectionLost { reason: "the engine closed its event stream".to_owned() }),
                        true,
                    ),
                };
                if let Some(event) = event {
                    return Some((event, (events, engine, inspected, ended)));
                }
            }
        });
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
    let told = Exit { code, signal, ended_at: message.time_nano.map(|nanos| nanos / 1_000_000), ..Exit::default() };
    // The container may be gone or started again by now; the event itself then says enough.
    let exit = match observe::inspect_state(engine, &handle).await {
        Ok(Some(state)) if state.running != Some(true) => Exit { code, signal, ..observe::to_exit(&state) },
        _ => told,
    };
    Some(RuntimeEvent::Exited { unit, handle, exit })
}
