//! The live state of a running preview: its scope, the addresses of its units, and the subscriptions to its runtimes.
//!
//! This module only stores state. [`super::supervisor`] reacts to exits and lost runtimes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use futures_util::StreamExt;
use plan::Application;
use plan::application::{RuntimeKind, Unit};
use tasks::OwnedTask;

use super::{Context, Message};
use crate::endpoint::Endpoints;
use crate::gateway::PortForwards;

/// Shared by the operations, the supervisor, the API and the proxy's routing.
#[derive(Default)]
pub struct LiveState {
    inner: Mutex<Inner>,
    pub forwards: PortForwards,
    pub endpoints: Endpoints,
}

#[derive(Default)]
struct Inner {
    scope: Option<Scope>,
    addresses: BTreeMap<String, IpAddr>,
    /// Units that an operation stops. Their exit does not count as a crash.
    expected_stops: BTreeSet<String>,
    subscriptions: BTreeMap<RuntimeKind, RuntimeSubscription>,
    next_subscription_id: u64,
    /// True if the last `down` left no data, so that the preview's record can be removed.
    is_forgettable: bool,
}

/// The task that follows a runtime's events. Its id tells a late message of an earlier subscription from a current one.
struct RuntimeSubscription {
    id: u64,
    task: OwnedTask,
}

impl LiveState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a subscription. Returns false if a newer one has replaced it.
    pub(super) fn remove_subscription(&self, runtime: RuntimeKind, id: u64) -> bool {
        let mut inner = self.lock();
        if inner.subscriptions.get(&runtime).is_some_and(|current| current.id != id) {
            return false;
        }
        inner.subscriptions.remove(&runtime);
        true
    }

    /// Whether events of this runtime reach the actor.
    pub(super) fn is_subscribed(&self, runtime: RuntimeKind) -> bool {
        self.lock().subscriptions.get(&runtime).is_some_and(|subscription| !subscription.task.is_finished())
    }

    #[must_use]
    pub fn application(&self) -> Option<Arc<Application>> {
        self.lock().scope.as_ref().map(|scope| Arc::clone(&scope.application))
    }

    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        self.lock().scope.clone()
    }

    pub(crate) fn set_scope(&self, scope: Scope) {
        self.lock().scope = Some(scope);
    }

    pub(crate) fn set_address(&self, unit: &str, address: Option<IpAddr>) {
        let mut inner = self.lock();
        match address {
            Some(address) => drop(inner.addresses.insert(unit.to_owned(), address)),
            None => drop(inner.addresses.remove(unit)),
        }
    }

    pub(crate) fn has_address(&self, unit: &str) -> bool {
        self.lock().addresses.contains_key(unit)
    }

    pub(crate) fn expect_stop(&self, unit: &str, expected: bool) {
        let mut inner = self.lock();
        if expected {
            inner.expected_stops.insert(unit.to_owned());
        } else {
            inner.expected_stops.remove(unit);
        }
    }

    pub(super) fn is_stop_expected(&self, unit: &str) -> bool {
        self.lock().expected_stops.contains(unit)
    }

    pub(crate) fn set_forgettable(&self, forgettable: bool) {
        self.lock().is_forgettable = forgettable;
    }

    pub(crate) fn is_forgettable(&self) -> bool {
        self.lock().is_forgettable
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
        self.forwards.clear();
        self.endpoints.clear();
    }

    /// The addresses of a unit's port as reached from this machine: the container's own address if it is known, because
    /// the engine's forwarder accepts connections before the program listens; else both loopback addresses.
    #[must_use]
    pub fn addresses(&self, unit: &Unit, port: &str) -> Vec<SocketAddr> {
        let Some(port) = unit.ports.get(port) else { return Vec::new() };
        if let Some(address) = self.lock().addresses.get(&unit.name) {
            return vec![SocketAddr::new(*address, port.listen_port)];
        }
        vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.host_port),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port.host_port),
        ]
    }
}

/// Subscribes the actor to a runtime's events. Call it before a start, so that an early exit is not missed.
///
/// # Errors
/// When the runtime's events cannot be followed.
pub(super) async fn subscribe_to_runtime(
    context: &Context,
    scope: &Scope,
    runtime: RuntimeKind,
) -> Result<(), drivers::Problem> {
    if context.live.is_subscribed(runtime) {
        return Ok(());
    }
    let driver = context.shared.drivers.driver_of(&scope.targets, runtime)?;
    let mut events = driver.follow_events(&scope.preview.id, &scope.locations).await?;
    let mailbox = context.mailbox.clone();
    let id = {
        let mut inner = context.live.lock();
        inner.next_subscription_id += 1;
        inner.next_subscription_id
    };
    let task = OwnedTask::spawn(async move {
        let mut reason = "its event stream ended".to_owned();
        while let Some(event) = events.next().await {
            if let RuntimeEvent::ConnectionLost { reason: lost_reason } = event {
                reason = lost_reason;
                break;
            }
            // The actor has ended.
            if mailbox.send(Message::RuntimeEvent { event }).await.is_err() {
                return;
            }
        }
        drop(mailbox.send(Message::RuntimeLost { runtime, reason, subscription: id }).await);
    });
    // The task may have ended by now; `is_subscribed` checks that.
    context.live.lock().subscriptions.insert(runtime, RuntimeSubscription { id, task });
    Ok(())
}
