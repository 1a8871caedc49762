//! The live state of a running preview: its scope, the addresses of its units, and the subscriptions to its runtimes.
//!
//! This module only stores state. [`super::supervisor`] reacts to exits and lost runtimes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use drivers::Scope;
use drivers::driver::RuntimeEvent;
use futures_util::StreamExt;
use host::clock::now_milliseconds;
use plan::Application;
use plan::application::{RuntimeKind, Unit};
use plan::shell_environment::ShellEnvironment;
use protocol::status::UnitState;
use tasks::OwnedTask;
use tokio::sync::watch;

use super::crash_history::CrashHistory;
use super::{Context, Message};
use crate::endpoint::Endpoints;
use crate::forwards::{PortForwards, UnitForwards};
use crate::registry::InputDigests;

/// Shared by the operations, the supervisor, the API and the proxy's routing.
#[derive(Default)]
pub struct LiveState {
    inner: Mutex<Inner>,
    /// One subscription at a time: a second one would replace the first, whose received events would be lost.
    subscribing: tokio::sync::Mutex<()>,
    pub forwards: PortForwards,
    pub unit_forwards: UnitForwards,
    /// Increases when a runtime reports that the health of a unit is different.
    health_changes: watch::Sender<u64>,
    pub endpoints: Endpoints,
}

#[derive(Default)]
struct Inner {
    scope: Option<Scope>,
    addresses: BTreeMap<String, IpAddr>,
    /// Of the last `up` that had one. Never written to a file.
    shell_environment: Option<Arc<ShellEnvironment>>,
    /// Of the client whose `up` has not begun yet.
    offered_environment: Option<Arc<ShellEnvironment>>,
    /// Units that an operation has stopped. Their exit does not count as a crash.
    ordered_stops: BTreeMap<String, OrderedStop>,
    crashes: CrashHistory,
    /// The inputs that each unit gets at its next start.
    input_digests: BTreeMap<String, InputDigests>,
    subscriptions: BTreeMap<RuntimeKind, RuntimeSubscription>,
    next_subscription_id: u64,
    /// True if the last `down` left no data, so that the preview's record can be removed.
    is_forgettable: bool,
}

/// How far the stop of a unit has progressed.
///
/// The exit of a stopped program is reported on another connection than the end of the stop, so it may arrive after the
/// unit was started again. The runtime reports exits and starts in order, which tells the two runs apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrderedStop {
    Stopping,
    /// The exit was reported.
    Stopped,
    /// The unit was started again before its exit was reported. Exits before the next start belong to the earlier run.
    StartedAgain,
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

    pub(super) fn report_health_change(&self) {
        self.health_changes.send_modify(|count| *count += 1);
    }

    pub(super) fn health_changes(&self) -> watch::Receiver<u64> {
        self.health_changes.subscribe()
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

    #[must_use]
    pub fn shell_environment(&self) -> Option<Arc<ShellEnvironment>> {
        self.lock().shell_environment.clone()
    }

    pub(super) fn set_shell_environment(&self, environment: Arc<ShellEnvironment>) {
        self.lock().shell_environment = Some(environment);
    }

    /// Passes the environment of a client to the `up` that begins next.
    pub fn offer_environment(&self, environment: ShellEnvironment) {
        self.lock().offered_environment = Some(Arc::new(environment));
    }

    pub(super) fn take_offered_environment(&self) -> Option<Arc<ShellEnvironment>> {
        self.lock().offered_environment.take()
    }

    /// The folder of the preview was moved.
    pub(super) fn move_project(&self, folder: &Path) {
        if let Some(scope) = &mut self.lock().scope {
            scope.locations.project = folder.to_owned();
        }
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

    /// An operation stops this unit.
    pub(crate) fn order_stop(&self, unit: &str) {
        self.lock().ordered_stops.insert(unit.to_owned(), OrderedStop::Stopping);
    }

    /// A stopped unit is started again.
    pub(super) fn order_start(&self, unit: &str) {
        let mut inner = self.lock();
        match inner.ordered_stops.get_mut(unit) {
            Some(stop @ OrderedStop::Stopping) => *stop = OrderedStop::StartedAgain,
            Some(OrderedStop::StartedAgain) | None => {}
            Some(OrderedStop::Stopped) => drop(inner.ordered_stops.remove(unit)),
        }
    }

    /// The runtime has started a new run of this unit, so its exits from now on are of that run.
    pub(super) fn confirm_start(&self, unit: &str) {
        let mut inner = self.lock();
        if inner.ordered_stops.get(unit) == Some(&OrderedStop::StartedAgain) {
            inner.ordered_stops.remove(unit);
        }
    }

    /// Records an exit, and returns the stop that caused it, if it was ordered.
    pub(super) fn take_ordered_stop(&self, unit: &str) -> Option<OrderedStop> {
        let mut inner = self.lock();
        let stop = inner.ordered_stops.get_mut(unit)?;
        let before = *stop;
        if before == OrderedStop::Stopping {
            *stop = OrderedStop::Stopped;
        }
        Some(before)
    }

    pub(super) fn is_stopping(&self, unit: &str) -> bool {
        matches!(self.lock().ordered_stops.get(unit), Some(OrderedStop::Stopping | OrderedStop::Stopped))
    }

    pub(super) fn set_input_digests(&self, digests: BTreeMap<String, InputDigests>) {
        self.lock().input_digests = digests;
    }

    pub(super) fn input_digests(&self, unit: &str) -> Option<InputDigests> {
        self.lock().input_digests.get(unit).cloned()
    }

    /// Adds a crash and returns the number of recent crashes.
    pub(super) fn record_crash(&self, unit: &str) -> u32 {
        self.lock().crashes.record(unit, Instant::now())
    }

    pub(super) fn forget_crashes(&self, unit: &str) {
        self.lock().crashes.forget(unit);
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
        self.unit_forwards.clear();
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

/// Publishes that a unit is starting. Call it before the start, because the exit event of a short program may arrive
/// before the start returns.
pub(super) fn mark_starting(context: &Context, name: &str) {
    context.live.order_start(name);
    // A container may get a different address at each start.
    context.live.set_address(name, None);
    context.published.edit_unit(name, |unit| {
        unit.state = UnitState::Starting;
        unit.reason = None;
        unit.exit_code = None;
        unit.started_at = Some(now_milliseconds());
        unit.ready_at = None;
    });
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
    let _guard = context.live.subscribing.lock().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_exit_of_ordered_stop_is_no_crash() {
        let live = LiveState::default();
        live.order_stop("web");
        live.order_start("web");
        assert_eq!(live.take_ordered_stop("web"), Some(OrderedStop::StartedAgain), "the exit of the earlier run");
        live.confirm_start("web");
        assert_eq!(live.take_ordered_stop("web"), None, "a crash of the new run");
    }

    #[test]
    fn exit_before_next_start_needs_no_confirmation() {
        let live = LiveState::default();
        live.order_stop("web");
        assert_eq!(live.take_ordered_stop("web"), Some(OrderedStop::Stopping));
        live.order_start("web");
        assert_eq!(live.take_ordered_stop("web"), None, "a crash of the new run");
    }
}
