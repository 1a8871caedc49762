//! What is known of a preview that runs, for everybody who has to reach its units, and who listens to its runtimes.
//!
//! Holds and tells; what follows from an exit or a lost runtime is [`super::supervise`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use futures_util::StreamExt;
use plan::Application;
use plan::application::{RuntimeKind, Unit};
use tokio::task::JoinHandle;

use super::{Context, Message};
use crate::endpoint::Endpoints;
use crate::gateway::PortForwards;

/// What is known of the running preview, for everybody who has to reach its units.
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
    /// Units that an operation is stopping: their exit is no crash.
    expected_stops: BTreeSet<String>,
    subscriptions: BTreeMap<RuntimeKind, RuntimeSubscription>,
    next_subscription_id: u64,
    /// A `down` left nothing that has to be remembered.
    is_forgettable: bool,
}

/// Who listens to a runtime. Its number tells its last words from those of the one before it.
struct RuntimeSubscription {
    id: u64,
    task: AbortOnDrop,
}

/// A task that ends with its owner.
pub(crate) struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LiveState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who listened to a runtime; false when somebody newer does by now.
    pub(super) fn remove_subscription(&self, runtime: RuntimeKind, number: u64) -> bool {
        let mut inner = self.lock();
        if inner.subscriptions.get(&runtime).is_some_and(|current| current.id != number) {
            return false;
        }
        inner.subscriptions.remove(&runtime);
        true
    }

    /// Whether anybody would hear what happens at this runtime.
    pub(super) fn is_subscribed(&self, runtime: RuntimeKind) -> bool {
        self.lock().subscriptions.get(&runtime).is_some_and(|follow| !follow.task.0.is_finished())
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

    /// Where a port of a unit is reached from this machine, best first: the container's own address (the engine's
    /// forwarder would accept before the program listens), then both loopback families.
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

/// Makes sure that exits at this runtime reach the actor, before anything is started there.
///
/// # Errors
/// When the runtime cannot be followed.
pub(super) async fn subscribe_to_runtime(
    context: &Context,
    scope: &Scope,
    runtime: RuntimeKind,
) -> Result<(), drivers::Problem> {
    if context.live.is_subscribed(runtime) {
        return Ok(());
    }
    let driver = context.shared.drivers.driver(runtime)?;
    let mut events = driver.follow_events(&scope.preview.id, &scope.locations).await?;
    let mailbox = context.mailbox.clone();
    let number = {
        let mut inner = context.live.lock();
        inner.next_subscription_id += 1;
        inner.next_subscription_id
    };
    let task = tokio::spawn(async move {
        let mut reason = "its events ended".to_owned();
        while let Some(event) = events.next().await {
            if let RuntimeEvent::ConnectionLost { reason: told } = event {
                reason = told;
                break;
            }
            if mailbox.send(Message::RuntimeEvent { event }).await.is_err() {
                return;
            }
        }
        drop(mailbox.send(Message::RuntimeLost { runtime, reason, subscription: number }).await);
    });
    context.live.lock().subscriptions.insert(runtime, RuntimeSubscription { id: number, task: AbortOnDrop(task) });
    Ok(())
}
