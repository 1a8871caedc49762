//! One preview: an actor with a mailbox owns its intent and its running operation. All other code uses a
//! [`PreviewHandle`].
//!
//! The actor decides which operation runs next. [`up`] and [`down`] are operations that it starts, watches and may
//! abort. Between operations, [`supervisor`] keeps the units running.

mod actor;
pub mod caller_environment;
mod crash_history;
mod crash_report;
mod data_moves;
mod delivered_inputs;
mod desired_state;
pub mod discovery;
mod down;
mod execute;
mod live_state;
mod mounts;
pub mod naming;
mod operation_kind;
mod outcome;
mod port_owner;
mod prepare;
mod readiness;
mod reattach;
mod reported_health;
mod scope;
mod stop;
mod supervisor;
mod targets;
#[cfg(test)]
mod tests;
mod unit_command;
mod up;

use std::sync::Arc;

use drivers::driver::RuntimeEvent;
use drivers::scope::SecretFiles;
use plan::application::{PreviewId, RuntimeKind};
use protocol::Problem;
use protocol::request::UpRequest;
use tokio::sync::{mpsc, oneshot};

pub use actor::start_actor;
pub use desired_state::{DesiredState, ManifestSource, resolve_desired_state};
pub use up::plan_up;

use self::outcome::Outcome;
use crate::preview::live_state::LiveState;
use crate::published_status::PublishedStatus;
use crate::shared::Shared;

/// How many messages can wait for an actor. Senders wait while the mailbox is full.
const MAILBOX_CAPACITY: usize = 256;

/// Gives access to a preview's actor and state. Cloning it is cheap.
#[derive(Clone)]
pub struct PreviewHandle {
    pub id: PreviewId,
    pub published: Arc<PublishedStatus>,
    pub live: Arc<LiveState>,
    sender: mpsc::Sender<Message>,
}

pub enum Message {
    Up {
        request: Box<UpRequest>,
        source: ManifestSource,
        reply: oneshot::Sender<OperationReply>,
    },
    Down {
        volumes: bool,
        reply: oneshot::Sender<OperationReply>,
    },
    Restart {
        units: Vec<String>,
        reply: oneshot::Sender<OperationReply>,
    },
    /// Stop units and leave the others running.
    StopUnits {
        units: Vec<String>,
        reply: oneshot::Sender<OperationReply>,
    },
    /// Restore the state that the last accepted request asked for, after a restart of the agent or of the engine.
    Recover {
        reason: &'static str,
        /// Dropped when the operation has begun.
        begun: Option<oneshot::Sender<()>>,
    },
    RuntimeEvent {
        event: RuntimeEvent,
    },
    /// The event stream of a runtime ended; `subscription` tells which one.
    RuntimeLost {
        runtime: RuntimeKind,
        reason: String,
        subscription: u64,
    },
    /// An operation or a restart after a crash has started a unit. Its published state has been `Starting` since
    /// before.
    UnitStarted {
        unit: String,
    },
    /// The pause after a crash is over.
    BackoffElapsed {
        unit: String,
        generation: u64,
    },
    /// Too many live probes failed in a row.
    UnitUnhealthy {
        unit: String,
        reason: String,
    },
    OperationEnded {
        operation: u64,
        outcome: Outcome,
    },
    /// The agent stops: abort the operation, publish that, and leave all units running.
    StopActor {
        reply: oneshot::Sender<()>,
    },
}

/// The id of the operation that was started or joined for a request. Its events carry this id.
pub type OperationReply = Result<u64, Problem>;

impl PreviewHandle {
    /// # Errors
    /// When the actor has ended: the agent is stopping, or the preview was just removed.
    pub async fn up(&self, request: UpRequest, source: ManifestSource) -> OperationReply {
        self.request_operation(|reply| Message::Up { request: Box::new(request), source, reply }).await
    }

    /// # Errors
    /// See [`PreviewHandle::up`].
    pub async fn down(&self, volumes: bool) -> OperationReply {
        self.request_operation(|reply| Message::Down { volumes, reply }).await
    }

    /// # Errors
    /// See [`PreviewHandle::up`]; also when a unit is unknown or another operation is in progress.
    pub async fn restart(&self, units: Vec<String>) -> OperationReply {
        self.request_operation(|reply| Message::Restart { units, reply }).await
    }

    /// # Errors
    /// See [`PreviewHandle::restart`].
    pub async fn stop_units(&self, units: Vec<String>) -> OperationReply {
        self.request_operation(|reply| Message::StopUnits { units, reply }).await
    }

    /// Returns when the operation has begun, so that requests from then on wait for its units.
    pub async fn recover(&self, reason: &'static str) {
        let (begun, has_begun) = oneshot::channel();
        if self.sender.send(Message::Recover { reason, begun: Some(begun) }).await.is_ok() {
            // An error is the normal case: the actor drops the sender.
            drop(has_begun.await);
        }
    }

    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.sender.send(Message::StopActor { reply }).await.is_ok() {
            drop(done.await);
        }
    }

    async fn request_operation(
        &self,
        message: impl FnOnce(oneshot::Sender<OperationReply>) -> Message,
    ) -> OperationReply {
        let (reply, receiver) = oneshot::channel();
        let actor_ended = || {
            Problem::new("agent_stopping", 503, "the agent is stopping")
                .hint("Run the command again; it starts a new agent.")
        };
        self.sender.send(message(reply)).await.map_err(|_| actor_ended())?;
        receiver.await.map_err(|_| actor_ended())?
    }
}

/// The state that the operations and the supervisor of one preview share.
#[derive(Clone)]
pub(crate) struct Context {
    pub shared: Arc<Shared>,
    pub id: PreviewId,
    pub published: Arc<PublishedStatus>,
    pub live: Arc<LiveState>,
    pub mailbox: mpsc::Sender<Message>,
}

/// The secret folders of one preview's units. Drivers get the paths, never the values.
pub(crate) struct UnitSecrets {
    pub shared: Arc<Shared>,
    pub preview: PreviewId,
    pub units: std::collections::BTreeSet<String>,
}

impl SecretFiles for UnitSecrets {
    fn folder(&self, unit: &str) -> Option<std::path::PathBuf> {
        self.units.contains(unit).then(|| self.shared.delivery.unit_folder(&self.preview.0, unit))
    }
}
