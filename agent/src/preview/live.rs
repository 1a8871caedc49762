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
use crate::gateway::Forwards;

/// What is known of the running preview, for everybody who has to reach its units.
#[derive(Default)]
pub struct Live {
    inner: Mutex<Inner>,
    pub forwards: Forwards,
    pub endpoints: Endpoints,
}

#[derive(Default)]
struct Inner {
    scope: Option<Scope>,
    addresses: BTreeMap<String, IpAddr>,
    /// Units that an operation is stopping: their exit is no crash.
    stopping: BTreeSet<String>,
    follows: BTreeMap<RuntimeKind, Follow>,
    next_follow: u64,
    /// A `down` left nothing that has to be remembered.
    forgettable: bool,
}

/// Who listens to a runtime. Its number tells its last words from those of the one before it.
struct Follow {
    number: u64,
    task: Abort,
}

/// A task that ends with its owner.
pub(crate) struct Abort(pub JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who listened to a runtime; false when somebody newer does by now.
    pub(super) fn unfollow(&self, runtime: RuntimeKind, number: u64) -> bool {
        let mut inner = self.lock();
        if inner.follows.get(&runtime).is_some_and(|current| current.number != number) {
            return false;
        }
        inner.follows.remove(&runtime);
        true
    }

    /// Whether anybody would hear what happens at this runtime.
    pub(super) fn follows(&self, runtime: RuntimeKind) -> bool {
        self.lock().follows.get(&runtime).is_some_and(|follow| !follow.task.0.is_finished())
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
            inner.stopping.insert(unit.to_owned());
        } else {
            inner.stopping.remove(unit);
        }
    }

    pub(super) fn stopping(&self, unit: &str) -> bool {
        self.lock().stopping.contains(unit)
    }

    pub(crate) fn set_forgettable(&self, forgettable: bool) {
        self.lock().forgettable = forgettable;
    }

    pub(crate) fn forgettable(&self) -> bool {
        self.lock().forgettable
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
            return vec![SocketAddr::new(*address, port.inside)];
        }
        vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.host),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port.host),
        ]
    }
}

/// Makes sure that exits at this runtime reach the actor, before anything is started there.
///
/// # Errors
/// When the runtime cannot be followed.
pub(super) async fn follow(context: &Context, scope: &Scope, runtime: RuntimeKind) -> Result<(), drivers::Problem> {
    if context.live.follows(runtime) {
        return Ok(());
    }
    let driver = context.shared.engines.driver(runtime)?;
    let mut events = driver.follow(&scope.preview.id, &scope.places).await?;
    let mailbox = context.mailbox.clone();
    let number = {
        let mut inner = context.live.lock();
        inner.next_follow += 1;
        inner.next_follow
    };
    let task = tokio::spawn(async move {
        let mut reason = "its events ended".to_owned();
        while let Some(event) = events.next().await {
            if let RuntimeEvent::Lost { reason: told } = event {
                reason = told;
                break;
            }
            if mailbox.send(Message::Runtime { event }).await.is_err() {
                return;
            }
        }
        drop(mailbox.send(Message::Lost { runtime, reason, follow: number }).await);
    });
    context.live.lock().follows.insert(runtime, Follow { number, task: Abort(task) });
    Ok(())
}
