//! Follows an operation of the agent until it ends, the user presses Ctrl-C, the timeout expires or the agent is lost.

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
    /// The agent is stopping; programs keep running.
    AgentStopping,
    /// The agent closed the stream before the operation ended: `--detach`.
    Detached,
    /// Ctrl-C: the operation continues in the agent.
    Interrupted,
    TimedOut,
    /// The agent was killed, or its socket removed.
    ConnectionLost(ClientError),
}

const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// The default of `--timeout`: every wait has a deadline.
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
    // An interval ticks immediately. Skip that tick: an operation without changes ends before the next one, and must
    // not draw anything.
    draw.reset();
    let live = progress.is_live();
    let outcome = loop {
        tokio::select! {
            // In order, so that Ctrl-C is handled even while events arrive without a pause.
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
    Ok(outcome)
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
