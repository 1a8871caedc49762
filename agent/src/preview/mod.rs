//! One preview: an actor with a mailbox owns its intent and its operation; everybody else holds a [`Handle`].
//!
//! The actor decides what runs next; [`up`] and [`down`] are operations it starts, watches and may abort;
//! [`supervise`] looks after the units in between.

mod actor;
mod crash_report;
mod desired_state;
mod down;
mod execute;
mod live_state;
pub mod naming;
mod prepare;
mod readiness;
mod stop;
mod supervisor;
mod up;

use std::sync::Arc;

use drivers::driver::{RuntimeEvent, SecretFiles};
use plan::application::{PreviewId, RuntimeKind};
use protocol::Problem;
use protocol::request::UpRequest;
use tokio::sync::{mpsc, oneshot};

pub use actor::start_actor;
pub use desired_state::{DesiredState, ManifestSource, resolve_desired_state};
pub use up::plan_up;

use crate::preview::live_state::LiveState;
use crate::published_status::PublishedStatus;
use crate::shared::Shared;

/// Requests and facts that wait for an actor; senders wait when it is full.
const MAILBOX_CAPACITY: usize = 256;

/// How others reach a preview.
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
    /// End units and leave the others running.
    StopUnits {
        units: Vec<String>,
        reply: oneshot::Sender<OperationReply>,
    },
    /// Bring back what the last accepted `up` asked for (after a restart of the agent or of the engine).
    Recover {
        reason: &'static str,
    },
    RuntimeEvent {
        event: RuntimeEvent,
    },
    /// A runtime's events ended; `follow` is the number of who listened.
    RuntimeLost {
        runtime: RuntimeKind,
        reason: String,
        subscription: u64,
    },
    /// A unit was started by an operation or after a crash; its board entry says `Starting` since before.
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
    },
    /// The agent stops: finish nothing new, tell spectators, leave everything running.
    StopActor {
        reply: oneshot::Sender<()>,
    },
}

/// The number of the operation that answers the request; its events carry it.
pub type OperationReply = Result<u64, Problem>;

impl PreviewHandle {
    /// # Errors
    /// When the actor is gone, which is a bug or the agent's end.
    pub async fn up(&self, request: UpRequest, source: ManifestSource) -> OperationReply {
        self.request_operation(|reply| Message::Up { request: Box::new(request), source, reply }).await
    }

    /// # Errors
    /// See [`Handle::up`].
    pub async fn down(&self, volumes: bool) -> OperationReply {
        self.request_operation(|reply| Message::Down { volumes, reply }).await
    }

    /// # Errors
    /// See [`Handle::up`]; also when a unit is unknown.
    pub async fn restart(&self, units: Vec<String>) -> OperationReply {
        self.request_operation(|reply| Message::Restart { units, reply }).await
    }

    /// # Errors
    /// See [`Handle::restart`].
    pub async fn stop_units(&self, units: Vec<String>) -> OperationReply {
        self.request_operation(|reply| Message::StopUnits { units, reply }).await
    }

    pub async fn recover(&self, what: &'static str) {
        drop(self.sender.send(Message::Recover { reason: what }).await);
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
        let (reply, answer) = oneshot::channel();
        let gone = || {
            Problem::new("agent_stopping", 503, "the agent is stopping")
                .hint("Run the command again; it starts a new agent.")
        };
        self.sender.send(message(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// What the operations and the supervisor of one preview share.
#[derive(Clone)]
pub(crate) struct Context {
    pub shared: Arc<Shared>,
    pub id: PreviewId,
    pub published: Arc<PublishedStatus>,
    pub live: Arc<LiveState>,
    pub mailbox: mpsc::Sender<Message>,
}

/// Secrets of one preview, by unit, as the drivers may know them.
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
