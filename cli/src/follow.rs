//! Following an operation to its end: events, the user's Ctrl-C, the deadline, and an agent that goes away.

use std::time::Duration;

use client::{ClientError, EventStream};
use protocol::status::PreviewStatus;
use protocol::{EventKind, Problem};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::context::Context;
use crate::render::progress::Progress;

pub(crate) enum OperationOutcome {
    Finished {
        status: PreviewStatus,
        milliseconds: u64,
        unchanged: bool,
    },
    Failed {
        problems: Vec<Problem>,
        status: PreviewStatus,
        milliseconds: u64,
    },
    Superseded {
        by: String,
    },
    /// The agent was asked to stop; what runs goes on.
    AgentStopping,
    /// The stream ended in good order before the operation did: `--detach`.
    Detached,
    /// Ctrl-C: the work goes on without us.
    Interrupted,
    TimedOut,
    /// The agent was killed, or the socket taken away.
    ConnectionLost(ClientError),
}

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Without `--timeout` a day: a wait without an end is no wait.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn follow_operation(
    stream: &mut EventStream,
    progress: &mut Progress,
    context: &Context,
    timeout: Option<Duration>,
) -> std::io::Result<OperationOutcome> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let deadline = Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT);
    let mut draw = interval(REDRAW_INTERVAL);
    draw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick of an interval is at once, but most operations that do nothing are over before the second.
    draw.reset();
    let live = progress.is_live();
    let ended = loop {
        tokio::select! {
            biased;
            _ = interrupts.recv() => break OperationOutcome::Interrupted,
            next = stream.next() => match next {
                Ok(Some(event)) => {
                    progress.handle_event(&event, &context.terminal);
                    if event.kind.ends_operation() {
                        break outcome_of(event.kind);
                    }
                }
                Ok(None) => break OperationOutcome::Detached,
                Err(error) => break OperationOutcome::ConnectionLost(error),
            },
            _ = draw.tick(), if live => progress.redraw(&context.terminal),
            () = sleep_until(deadline) => break OperationOutcome::TimedOut,
        }
    };
    progress.finish(&context.terminal);
    Ok(ended)
}

pub(crate) fn outcome_of(kind: EventKind) -> OperationOutcome {
    match kind {
        EventKind::Finished { status, milliseconds, unchanged } => {
            OperationOutcome::Finished { status, milliseconds, unchanged }
        }
        EventKind::Failed { problems, status, milliseconds } => {
            OperationOutcome::Failed { problems, status, milliseconds }
        }
        EventKind::Superseded { by } => OperationOutcome::Superseded { by },
        _ => OperationOutcome::AgentStopping,
    }
}
