//! The end of an operation. Its callers wait for the last event, so the actor makes all results visible first: the
//! status, the proxy's routes and the registry.

use std::time::Instant;

use host::clock::now_milliseconds;
use plan::target::Target;
use protocol::status::PreviewState;
use protocol::{EventKind, Problem};

use super::Context;
use super::operation_kind::OperationKind;

/// What an operation did.
pub struct Outcome {
    /// The problems of single units, or the one problem that ended the operation. Empty if it succeeded.
    problems: Vec<Problem>,
    /// Nothing had to be changed.
    unchanged: bool,
    milliseconds: u64,
    /// Engines that did not answer, where a `down` has to be completed.
    pub(super) unreachable: Vec<Target>,
}

impl Outcome {
    /// The outcome of work that started at `begun`.
    pub(super) fn new(result: Result<(Vec<Problem>, bool), Problem>, begun: Instant) -> Self {
        let (problems, unchanged) = result.unwrap_or_else(|problem| (vec![problem], false));
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { problems, unchanged, milliseconds, unreachable: Vec::new() }
    }

    pub(super) fn has_succeeded(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Ends the operation in the published status and returns its last event, which the caller publishes.
pub(super) fn end_operation(context: &Context, kind: &OperationKind, outcome: Outcome) -> EventKind {
    let is_start = matches!(kind, OperationKind::Up(_) | OperationKind::Restart);
    for problem in &outcome.problems {
        context.published.set_problem(problem.unit.as_deref().unwrap_or_default(), problem.clone());
    }
    if is_start && outcome.has_succeeded() {
        // An `up` without changes does not make the preview ready again.
        let is_still_ready = outcome.unchanged;
        context.published.edit_preview(|status| {
            status.ready_at = status.ready_at.filter(|_| is_still_ready).or_else(|| Some(now_milliseconds()));
        });
    }
    context.published.end_operation(phase_after(context, kind, &outcome));
    context.shared.routing.refresh(&context.shared, &context.id);
    let mut status = context.published.status();
    let Outcome { problems, unchanged, milliseconds, .. } = outcome;
    if problems.is_empty() {
        if is_start {
            // The event reports what the caller asked for. A unit that fails from now on has its own event.
            status.state = PreviewState::Ready;
        }
        EventKind::Finished { status, milliseconds, unchanged }
    } else {
        status.state = PreviewState::Failed;
        EventKind::Failed { problems, status, milliseconds }
    }
}

/// The state of the preview after the operation, if it cannot be derived from the units.
fn phase_after(context: &Context, kind: &OperationKind, outcome: &Outcome) -> Option<PreviewState> {
    if outcome.has_succeeded() {
        return None;
    }
    let has_failed = match kind {
        // After a rejected manifest, units of an earlier `up` keep running, and the state is derived from them.
        OperationKind::Up(_) | OperationKind::Restart => context.live.scope().is_none(),
        OperationKind::Down { .. } => true,
        OperationKind::Stop => false,
    };
    has_failed.then_some(PreviewState::Failed)
}
