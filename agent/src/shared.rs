//! What every part of the agent is handed: one value made at boot, nothing global.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use credentials::Delivery;
use credentials::broker::Broker;
use plan::application::PreviewId;
use tokio::sync::{Semaphore, watch};

use crate::approvals::Gate;
use crate::bus::Bus;
use crate::engines::Engines;
use crate::places::AgentPlaces;
use crate::preview::Handle;
use crate::registry::Registry;
use crate::routing::Routing;

const RUNS_MAX: usize = 256;

pub struct Shared {
    pub places: AgentPlaces,
    pub engines: Engines,
    pub registry: Registry,
    pub bus: Bus,
    pub delivery: Delivery,
    pub broker: Arc<Broker>,
    pub gate: Gate,
    pub routing: Routing,
    pub previews: Mutex<BTreeMap<PreviewId, Handle>>,
    /// Held while a name is bound to an identity, so that two first `up`s cannot take the same label.
    pub naming: Mutex<()>,
    pub started_at: i64,
    /// Endpoints of programs (`pdev run --as`) that may be open at once.
    pub runs: Arc<Semaphore>,
    operations: AtomicU64,
    draining: AtomicBool,
    spectators: watch::Sender<usize>,
}

/// One open stream that only looks on; counted until it is dropped.
pub struct Spectator(Arc<Shared>);

impl Drop for Spectator {
    fn drop(&mut self) {
        self.0.spectators.send_modify(|open| *open -= 1);
    }
}

impl Shared {
    pub fn new(
        places: AgentPlaces,
        engines: Engines,
        registry: Registry,
        bus: Bus,
        delivery: Delivery,
        (broker, gate): (Arc<Broker>, Gate),
        routing: Routing,
    ) -> Arc<Self> {
        Arc::new(Self {
            places,
            engines,
            registry,
            bus,
            delivery,
            broker,
            gate,
            routing,
            previews: Mutex::default(),
            naming: Mutex::default(),
            started_at: crate::bus::now_ms(),
            runs: Arc::new(Semaphore::new(RUNS_MAX)),
            // Unique over restarts too, so that a resumed stream never mixes two operations.
            operations: AtomicU64::new(u64::try_from(crate::bus::now_ms()).unwrap_or_default()),
            draining: AtomicBool::new(false),
            spectators: watch::Sender::new(0),
        })
    }

    #[must_use]
    pub fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    #[must_use]
    pub fn handle(&self, id: &PreviewId) -> Option<Handle> {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn forget(&self, id: &PreviewId) {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Streams that look on end with the agent, so its end does not wait for them.
    pub fn spectator(self: &Arc<Self>) -> Spectator {
        self.spectators.send_modify(|open| *open += 1);
        Spectator(Arc::clone(self))
    }

    #[must_use]
    pub fn spectators(&self) -> watch::Receiver<usize> {
        self.spectators.subscribe()
    }
}
