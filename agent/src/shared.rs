//! What every part of the agent is handed: one value made at boot, nothing global.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use credentials::SecretDelivery;
use credentials::broker::Broker;
use plan::application::PreviewId;
use tokio::sync::{Semaphore, watch};

use crate::approvals::AccessControl;
use crate::bus::Bus;
use crate::locations::AgentLocations;
use crate::preview::PreviewHandle;
use crate::registry::Registry;
use crate::routing::Routing;
use crate::runtimes::RuntimeDrivers;

const PROGRAM_ENDPOINTS_MAX: usize = 256;

pub struct Shared {
    pub locations: AgentLocations,
    pub drivers: RuntimeDrivers,
    pub registry: Registry,
    pub bus: Bus,
    pub delivery: SecretDelivery,
    pub broker: Arc<Broker>,
    pub access: AccessControl,
    pub routing: Routing,
    pub previews: Mutex<BTreeMap<PreviewId, PreviewHandle>>,
    /// Held while a name is bound to an identity, so that two first `up`s cannot take the same label.
    pub naming_lock: Mutex<()>,
    pub started_at: i64,
    /// Endpoints of programs (`pdev run --as`) that may be open at once.
    pub program_endpoints: Arc<Semaphore>,
    operation_counter: AtomicU64,
    is_draining: AtomicBool,
    open_streams: watch::Sender<usize>,
}

/// One open stream that only looks on; counted until it is dropped.
pub struct StreamGuard(Arc<Shared>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.open_streams.send_modify(|open| *open -= 1);
    }
}

impl Shared {
    pub fn new(
        places: AgentLocations,
        engines: RuntimeDrivers,
        registry: Registry,
        bus: Bus,
        delivery: SecretDelivery,
        (broker, gate): (Arc<Broker>, AccessControl),
        routing: Routing,
    ) -> Arc<Self> {
        Arc::new(Self {
            locations: places,
            drivers: engines,
            registry,
            bus,
            delivery,
            broker,
            access: gate,
            routing,
            previews: Mutex::default(),
            naming_lock: Mutex::default(),
            started_at: crate::bus::now_ms(),
            program_endpoints: Arc::new(Semaphore::new(PROGRAM_ENDPOINTS_MAX)),
            // Unique over restarts too, so that a resumed stream never mixes two operations.
            operation_counter: AtomicU64::new(u64::try_from(crate::bus::now_ms()).unwrap_or_default()),
            is_draining: AtomicBool::new(false),
            open_streams: watch::Sender::new(0),
        })
    }

    #[must_use]
    pub fn next_operation_id(&self) -> u64 {
        self.operation_counter.fetch_add(1, Ordering::Relaxed)
    }

    #[must_use]
    pub fn preview_handle(&self, id: &PreviewId) -> Option<PreviewHandle> {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    #[must_use]
    pub fn preview_handles(&self) -> Vec<PreviewHandle> {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn remove_preview(&self, id: &PreviewId) {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Streams that look on end with the agent, so its end does not wait for them.
    pub fn track_stream(self: &Arc<Self>) -> StreamGuard {
        self.open_streams.send_modify(|open| *open += 1);
        StreamGuard(Arc::clone(self))
    }

    #[must_use]
    pub fn open_streams(&self) -> watch::Receiver<usize> {
        self.open_streams.subscribe()
    }
}
