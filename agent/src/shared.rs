//! The state that all parts of the agent share: one value, created at boot and passed down. Nothing is global.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use credentials::SecretDelivery;
use credentials::broker::Broker;
use host::clock::now_milliseconds;
use plan::application::PreviewId;
use tasks::TaskGroup;
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
    /// Locked while a label is assigned, so that two concurrent first `up`s cannot take the same label.
    pub naming_lock: Mutex<()>,
    pub started_at: i64,
    /// Limits how many endpoints of programs (`pdev run --as`) are open at the same time.
    pub program_endpoints: Arc<Semaphore>,
    /// Tasks that may run until the agent stops: actors, watchers of sessions and programs, relays of `exec`.
    pub tasks: TaskGroup,
    operation_counter: AtomicU64,
    is_draining: AtomicBool,
    open_streams: watch::Sender<usize>,
}

/// Counts one open event or log stream until it is dropped.
pub struct StreamGuard(Arc<Shared>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.open_streams.send_modify(|open| *open -= 1);
    }
}

impl Shared {
    pub fn new(
        locations: AgentLocations,
        drivers: RuntimeDrivers,
        registry: Registry,
        bus: Bus,
        delivery: SecretDelivery,
        (broker, access): (Arc<Broker>, AccessControl),
        routing: Routing,
    ) -> Arc<Self> {
        Arc::new(Self {
            locations,
            drivers,
            registry,
            bus,
            delivery,
            broker,
            access,
            routing,
            previews: Mutex::default(),
            naming_lock: Mutex::default(),
            started_at: now_milliseconds(),
            program_endpoints: Arc::new(Semaphore::new(PROGRAM_ENDPOINTS_MAX)),
            tasks: TaskGroup::default(),
            // Starts at the current time, so that ids differ across restarts and a resumed stream never mixes
            // operations.
            operation_counter: AtomicU64::new(u64::try_from(now_milliseconds()).unwrap_or_default()),
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

    /// Counts a stream that ends only with the agent, so that the drain does not wait for it.
    pub fn track_stream(self: &Arc<Self>) -> StreamGuard {
        self.open_streams.send_modify(|open| *open += 1);
        StreamGuard(Arc::clone(self))
    }

    #[must_use]
    pub fn open_streams(&self) -> watch::Receiver<usize> {
        self.open_streams.subscribe()
    }
}
