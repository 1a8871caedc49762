//! One preview: an actor with a mailbox owns its intent and its operation; everybody else holds a [`Handle`].
//!
//! The actor decides what runs next; [`up`] and [`down`] are operations it starts, watches and may abort;
//! [`supervise`] looks after the units in between.

mod actor;
mod crash;
mod desire;
mod down;
mod execute;
mod live;
pub mod naming;
mod prepare;
mod ready;
mod rest;
mod supervise;
mod up;

use std::sync::Arc;

use drivers::driver::{RuntimeEvent, SecretFiles};
use plan::application::{PreviewId, RuntimeKind};
use protocol::Problem;
use protocol::request::UpRequest;
use tokio::sync::{mpsc, oneshot};

pub use actor::start;
pub use desire::{Desired, Source, desire};
pub use up::preview_plan;

use crate::board::Board;
use crate::preview::live::Live;
use crate::shared::Shared;

/// Requests and facts that wait for an actor; senders wait when it is full.
const MAILBOX: usize = 256;

/// How others reach a preview.
#[derive(Clone)]
pub struct Handle {
    pub id: PreviewId,
    pub board: Arc<Board>,
    pub live: Arc<Live>,
    sender: mpsc::Sender<Message>,
}

pub enum Message {
    Up {
        request: Box<UpRequest>,
        source: Source,
        reply: oneshot::Sender<Accepted>,
    },
    Down {
        volumes: bool,
        reply: oneshot::Sender<Accepted>,
    },
    Restart {
        units: Vec<String>,
        reply: oneshot::Sender<Accepted>,
    },
    /// End units and leave the others running.
    StopUnits {
        units: Vec<String>,
        reply: oneshot::Sender<Accepted>,
    },
    /// Bring back what the last accepted `up` asked for (after a restart of the agent or of the engine).
    Recover {
        what: &'static str,
    },
    Runtime {
        event: RuntimeEvent,
    },
    /// A runtime's events ended; `follow` is the number of who listened.
    Lost {
        runtime: RuntimeKind,
        reason: String,
        follow: u64,
    },
    /// A unit was started by an operation or after a crash; its board entry says `Starting` since before.
    Started {
        unit: String,
    },
    /// The pause after a crash is over.
    Respawn {
        unit: String,
        generation: u64,
    },
    /// Too many live probes failed in a row.
    Unhealthy {
        unit: String,
        seen: String,
    },
    OperationEnded {
        operation: u64,
    },
    /// The agent stops: finish nothing new, tell spectators, leave everything running.
    Stop {
        reply: oneshot::Sender<()>,
    },
}

/// The number of the operation that answers the request; its events carry it.
pub type Accepted = Result<u64, Problem>;

impl Handle {
    /// # Errors
    /// When the actor is gone, which is a bug or the agent's end.
    pub async fn up(&self, request: UpRequest, source: Source) -> Accepted {
        self.ask(|reply| Message::Up { request: Box::new(request), source, reply }).await
    }

    /// # Errors
    /// See [`Handle::up`].
    pub async fn down(&self, volumes: bool) -> Accepted {
        self.ask(|reply| Message::Down { volumes, reply }).await
    }

    /// # Errors
    /// See [`Handle::up`]; also when a unit is unknown.
    pub async fn restart(&self, units: Vec<String>) -> Accepted {
        self.ask(|reply| Message::Restart { units, reply }).await
    }

    /// # Errors
    /// See [`Handle::restart`].
    pub async fn stop_units(&self, units: Vec<String>) -> Accepted {
        self.ask(|reply| Message::StopUnits { units, reply }).await
    }

    pub async fn recover(&self, what: &'static str) {
        drop(self.sender.send(Message::Recover { what }).await);
    }

    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.sender.send(Message::Stop { reply }).await.is_ok() {
            drop(done.await);
        }
    }

    async fn ask(&self, message: impl FnOnce(oneshot::Sender<Accepted>) -> Message) -> Accepted {
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
    pub board: Arc<Board>,
    pub live: Arc<Live>,
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
