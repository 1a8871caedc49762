//! The actor of a preview: handles messages one at a time, and runs at most one operation without blocking on it.

use std::sync::Arc;

use plan::application::PreviewId;
use protocol::EventKind;
use protocol::Problem;
use protocol::request::UpRequest;
use protocol::status::{PreviewRef, PreviewState};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::desired_state::request_fingerprint;
use super::operation_kind::OperationKind;
use super::outcome::{self, Outcome};
use super::supervisor::Supervisor;
use super::{Context, MAILBOX_CAPACITY, ManifestSource, Message, OperationReply, PreviewHandle, down, stop, up};
use crate::preview::live_state::LiveState;
use crate::published_status::PublishedStatus;
use crate::registry::Intent;
use crate::shared::Shared;

/// Starts the actor of a preview. It ends when a `down` leaves nothing to remember, or when the agent stops.
pub fn start_actor(shared: &Arc<Shared>, preview: PreviewRef, folder: String) -> PreviewHandle {
    let (mailbox, receiver) = mpsc::channel(MAILBOX_CAPACITY);
    let id = PreviewId(preview.id.clone());
    let published = Arc::new(PublishedStatus::new(shared.bus.clone(), preview, folder));
    let live = Arc::new(LiveState::default());
    let handle = PreviewHandle {
        id: id.clone(),
        published: Arc::clone(&published),
        live: Arc::clone(&live),
        sender: mailbox.clone(),
    };
    let context = Context { shared: Arc::clone(shared), id, published, live, mailbox };
    let actor =
        Actor { supervisor: Supervisor::new(context.clone()), context, operation: None, queued_requests: Vec::new() };
    shared.tasks.spawn(actor.run(receiver));
    handle
}

struct Actor {
    context: Context,
    supervisor: Supervisor,
    operation: Option<Operation>,
    /// Requests that arrived during a `down` or a recovery, in order; at most [`QUEUED_REQUESTS_MAX`].
    queued_requests: Vec<Message>,
}

const QUEUED_REQUESTS_MAX: usize = 16;

struct Operation {
    id: u64,
    kind: OperationKind,
    /// The manifest and session at the beginning of an `up`; empty if no other request may join this operation.
    fingerprint: String,
    /// An `up` from recorded files, which no user asked for.
    is_recovery: bool,
    task: Option<JoinHandle<()>>,
}

impl Actor {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(message) = receiver.recv().await {
            if let Message::StopActor { reply } = message {
                self.stop(reply);
                return;
            }
            if self.handle_message(message) {
                return;
            }
        }
    }

    /// Returns true if the preview was removed, so that the actor ends.
    fn handle_message(&mut self, message: Message) -> bool {
        match message {
            Message::Up { request, source, reply } => self.up(request, source, reply),
            Message::Down { volumes, reply } => self.down(volumes, reply),
            Message::Restart { units, reply } => self.restart(units, reply),
            Message::StopUnits { units, reply } => self.stop_units(units, reply),
            Message::Recover { reason, begun } => {
                self.recover(reason);
                drop(begun);
            }
            Message::RuntimeEvent { event } => self.supervisor.handle_runtime_event(event),
            Message::RuntimeLost { runtime, reason, subscription } => {
                self.supervisor.handle_runtime_lost(runtime, &reason, subscription);
            }
            Message::UnitStarted { unit } => self.supervisor.handle_started(&unit),
            Message::BackoffElapsed { unit, generation } => self.supervisor.restart_unit(&unit, generation),
            Message::UnitUnhealthy { unit, reason } => self.supervisor.handle_unhealthy(&unit, &reason),
            Message::OperationEnded { operation, outcome } => return self.finish_operation(operation, outcome),
            Message::StopActor { .. } => {}
        }
        false
    }

    fn up(&mut self, request: Box<UpRequest>, source: ManifestSource, reply: oneshot::Sender<OperationReply>) {
        match self.operation.as_ref().map(|running| (running.id, &running.kind)) {
            // An identical `up` joins the running one: both callers receive the events of the same operation.
            Some((id, OperationKind::Up(running)))
                if *running == request && source.is_disk() && self.has_same_files(&request) =>
            {
                drop(reply.send(Ok(id)));
            }
            // An `up` waits for a running `down` to complete instead of aborting it.
            Some((_, OperationKind::Down { .. })) => self.queue_request(Message::Up { request, source, reply }),
            _ => {
                let superseded = self.supersede_operation("a newer `up`");
                let id =
                    self.begin_operation(OperationKind::Up(request.clone()), PreviewState::Starting, &request.services);
                if let Some(operation) = self.operation.as_mut().filter(|_| !source.is_disk()) {
                    // A recovery works from recorded files, so an `up` that reads the current files must not join it.
                    operation.fingerprint.clear();
                    operation.is_recovery = true;
                }
                drop(reply.send(Ok(id)));
                let operation_name = if source.is_disk() { "up" } else { "recover" };
                self.context.published.publish_event(EventKind::OperationStarted { what: operation_name.into() });
                self.supervisor.cancel_all_restarts();
                self.spawn_operation(id, superseded, up::run(self.context.clone(), *request, source));
            }
        }
    }

    fn down(&mut self, volumes: bool, reply: oneshot::Sender<OperationReply>) {
        if let Some(Operation { id, kind: OperationKind::Down { volumes: running }, .. }) = &self.operation {
            // Join the running `down`, unless this one also removes the volumes.
            if *running || !volumes {
                drop(reply.send(Ok(*id)));
            } else {
                self.queue_request(Message::Down { volumes, reply });
            }
            return;
        }
        let superseded = self.supersede_operation("`down`");
        let id = self.begin_operation(OperationKind::Down { volumes }, PreviewState::Stopping, &[]);
        drop(reply.send(Ok(id)));
        self.context.published.publish_event(EventKind::OperationStarted { what: "down".into() });
        self.supervisor.stop_supervision();
        self.spawn_operation(id, superseded, down::run(self.context.clone(), volumes));
    }

    fn restart(&mut self, units: Vec<String>, reply: oneshot::Sender<OperationReply>) {
        if self.is_recovering() {
            return self.queue_request(Message::Restart { units, reply });
        }
        if let Err(problem) = self.check_can_change_units(&units) {
            drop(reply.send(Err(problem)));
            return;
        }
        let id = self.begin_operation(OperationKind::Restart, PreviewState::Starting, &units);
        drop(reply.send(Ok(id)));
        self.context.published.publish_event(EventKind::OperationStarted { what: "restart".into() });
        self.cancel_restarts(&units);
        self.spawn_operation(id, None, up::restart(self.context.clone(), units));
    }

    fn stop_units(&mut self, units: Vec<String>, reply: oneshot::Sender<OperationReply>) {
        if self.is_recovering() {
            return self.queue_request(Message::StopUnits { units, reply });
        }
        if let Err(problem) = self.check_can_change_units(&units) {
            drop(reply.send(Err(problem)));
            return;
        }
        let id = self.begin_operation(OperationKind::Stop, PreviewState::Stopping, &units);
        drop(reply.send(Ok(id)));
        self.context.published.publish_event(EventKind::OperationStarted { what: "stop".into() });
        self.cancel_restarts(&units);
        self.spawn_operation(id, None, stop::run(self.context.clone(), units));
    }

    /// Cancels the pending restarts of these units, or of all units if the list is empty. Other crashed units are still
    /// restarted after their pause.
    fn cancel_restarts(&mut self, units: &[String]) {
        match units {
            [] => self.supervisor.cancel_all_restarts(),
            units => self.supervisor.cancel_restarts_of(units),
        }
    }

    /// The first command after a reboot or a restart of the agent must not fail because pdev itself is busy.
    fn is_recovering(&self) -> bool {
        self.operation.as_ref().is_some_and(|operation| operation.is_recovery)
    }

    fn check_can_change_units(&self, units: &[String]) -> Result<(), Problem> {
        if self.operation.is_some() {
            return Err(Problem::new("busy", 409, "another operation is in progress")
                .hint("Run `pdev wait` until it has ended, then try again."));
        }
        let Some(application) = self.context.live.application() else {
            return Err(Problem::new("not_running", 409, "the preview is down").hint("Run `pdev up` first."));
        };
        match units.iter().find(|unit| !application.units.contains_key(*unit)) {
            Some(unknown) => {
                let names: Vec<&str> = application.units.keys().map(String::as_str).collect();
                let title = format!("there is no unit `{unknown}`; the preview has {}", names.join(", "));
                Err(Problem::new("unknown_unit", 404, title))
            }
            None => Ok(()),
        }
    }

    /// Repeats the last accepted request with the files that were recorded for it.
    fn recover(&mut self, reason: &'static str) {
        if self.operation.is_some() {
            return;
        }
        let Some(record) = self.context.shared.registry.get(&self.context.id) else { return };
        tracing::info!(preview = %record.name.title(), reason, "recovering");
        // No caller waits for the id of this operation.
        let (reply, _unused_receiver) = oneshot::channel();
        match record.intent {
            Intent::Idle => {}
            Intent::Up => self.up(Box::new(record.request), ManifestSource::Snapshot(record.snapshot), reply),
            Intent::Down { volumes } => self.down(volumes, reply),
        }
    }

    /// Ends an operation. Returns true if the preview was removed with it.
    fn finish_operation(&mut self, id: u64, outcome: Outcome) -> bool {
        // The message may be from an operation that was superseded meanwhile.
        let Some(finished) = self.operation.take_if(|running| running.id == id) else { return false };
        self.supervisor.resume_supervision();
        self.supervisor.recover_when_reachable(&outcome.unreachable);
        let last_event = outcome::end_operation(&self.context, &finished.kind, outcome);
        let was_down = matches!(finished.kind, OperationKind::Down { .. });
        // A queued `up` still needs the record, so the preview is removed only without queued requests.
        let is_removed = was_down && self.queued_requests.is_empty() && self.context.live.is_forgettable();
        if is_removed {
            self.remove_preview();
        }
        // Last, because the callers act on it: another command must not be refused, and must find the new state.
        self.context.published.publish_operation_event(id, last_event);
        for message in std::mem::take(&mut self.queued_requests) {
            self.handle_message(message);
        }
        is_removed
    }

    fn remove_preview(&self) {
        let Context { shared, id, .. } = &self.context;
        if let Err(error) = shared.registry.remove(id) {
            tracing::warn!(%error, "cannot remove the record of a removed preview");
        }
        shared.remove_preview(id);
        shared.routing.refresh(shared, id);
    }

    fn has_same_files(&self, request: &UpRequest) -> bool {
        self.operation.as_ref().is_some_and(|running| running.fingerprint == self.fingerprint(request))
    }

    /// Includes the session: an `up` of a session must not join one of the user, because it restricts the units.
    fn fingerprint(&self, request: &UpRequest) -> String {
        let session = self.context.shared.registry.session_of(&self.context.id).map(|session| session.id);
        format!("{} {}", request_fingerprint(request), session.unwrap_or_default())
    }

    fn begin_operation(&mut self, kind: OperationKind, phase: PreviewState, units: &[String]) -> u64 {
        let id = self.context.shared.next_operation_id();
        self.context.published.begin_operation(id, phase, units);
        let fingerprint = match &kind {
            OperationKind::Up(request) => self.fingerprint(request),
            _ => String::new(),
        };
        self.operation = Some(Operation { id, kind, fingerprint, is_recovery: false, task: None });
        id
    }

    /// Starts the task of an operation. It first waits for the superseded one to end: two operations must never work at
    /// the same time.
    fn spawn_operation(
        &mut self,
        id: u64,
        superseded: Option<JoinHandle<()>>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let mailbox = self.context.mailbox.clone();
        let task = tokio::spawn(async move {
            if let Some(superseded) = superseded {
                drop(superseded.await);
            }
            let outcome = work.await;
            drop(mailbox.send(Message::OperationEnded { operation: id, outcome }).await);
        });
        if let Some(operation) = &mut self.operation {
            operation.task = Some(task);
        }
    }

    /// Aborts the running operation at its next `.await`. The next operation observes the runtimes, so it finds the
    /// results of completed steps.
    fn supersede_operation(&mut self, by: &str) -> Option<JoinHandle<()>> {
        let running = self.operation.take()?;
        self.context.published.publish_operation_event(running.id, EventKind::Superseded { by: by.to_owned() });
        running.task.inspect(JoinHandle::abort)
    }

    fn queue_request(&mut self, message: Message) {
        if self.queued_requests.len() < QUEUED_REQUESTS_MAX {
            self.queued_requests.push(message);
            return;
        }
        let problem =
            Problem::new("busy", 429, format!("{QUEUED_REQUESTS_MAX} requests are already waiting for this preview"));
        match message {
            Message::Up { reply, .. }
            | Message::Down { reply, .. }
            | Message::Restart { reply, .. }
            | Message::StopUnits { reply, .. } => {
                drop(reply.send(Err(problem)));
            }
            _ => {}
        }
    }

    fn stop(&mut self, reply: oneshot::Sender<()>) {
        self.supervisor.stop_supervision();
        if let Some(running) = self.operation.take() {
            running.task.inspect(JoinHandle::abort);
            self.context.published.publish_operation_event(running.id, EventKind::AgentStopping);
        }
        // Fails only if the sender does not wait for the end.
        let _sent = reply.send(());
    }
}
