//! One renewal: the request to the source, the stored result, the published change, and the timers that follow.
//!
//! The broker decides what to serve meanwhile; [`schedule`] decides when a lease is renewed.

use std::sync::Arc;
use std::time::Duration;

use host::clock::now_milliseconds;
use tokio::sync::watch;

use super::problem::to_broker_problem;
use super::session::{self, LeaseRequest};
use super::{Broker, ChangeKind, LeaseEntry, LeaseResult, jitter};
use crate::audit::Entry as AuditEntry;
use crate::identity::Identity;
use crate::lease::Lease;
use crate::problem::SourceProblem;
use crate::schedule;
use crate::source::{self, SourceContext};
use crate::vault::Vault;

/// Longest single sleep of a login warning, because timers do not advance while the machine is suspended.
const SLEEP_MAX: Duration = Duration::from_secs(300);
/// Eight hours: no warning for an identity that was not used during a working day.
const RECENT_USE_MILLISECONDS: i64 = 8 * 3_600_000;

/// Milliseconds after a failure in which callers get the same problem, so that a tool in a retry loop does not flood the
/// source.
const RETRY_PAUSE: i64 = 1000;

impl Broker {
    /// Starts a renewal. The caller holds the lock of the entry, so there is at most one.
    pub(super) fn start_renewal(
        self: &Arc<Self>,
        entry: &mut LeaseEntry,
        identity: Identity,
        request: LeaseRequest,
    ) -> watch::Receiver<Option<LeaseResult>> {
        let (sender, receiver) = watch::channel(None);
        entry.pending_renewal = Some(receiver.clone());
        entry.identity = Some(identity.clone());
        let broker = Arc::clone(self);
        // A separate task, so that the renewal continues if every requester disconnects.
        self.tasks.spawn(async move {
            let fetched = tokio::time::timeout(source::FETCH_TIMEOUT, broker.fetch_lease(&identity, &request)).await;
            let fetched = fetched.unwrap_or_else(|_| Err(SourceProblem::Transient("no response".to_owned())));
            let outcome = broker.finish_renewal(&identity, &request, fetched);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn fetch_lease(
        self: &Arc<Self>,
        identity: &Identity,
        request: &LeaseRequest,
    ) -> Result<Lease, SourceProblem> {
        let needs_vault = source::needs_vault(identity);
        if needs_vault && !Vault::exists(&self.paths.vault()) {
            // A request must not create the vault: the keyring is chosen at a login, where the user is present.
            return Err(SourceProblem::NeedsLogin(format!("no user has signed in as `{}`", identity.name)));
        }
        let vault = if needs_vault { Some(self.open_vault().await?) } else { None };
        let base_lease = match identity.text("from") {
            Some(from) => Some(Box::pin(self.obtain_lease(from)).await?),
            None => None,
        };
        let context = SourceContext {
            vault: vault.as_deref(),
            http: self.http().ok(),
            exchange_runner: &self.exchange_runner,
            base_lease: base_lease.as_deref(),
            purpose: &request.purpose,
            restriction: request.restriction.as_ref(),
            launcher: self.launcher.as_ref(),
            now: now_milliseconds(),
        };
        let lease = source::fetch_lease(identity, &context).await?;
        // The lease depends on the login that ends first in the chain.
        let login_ends = [lease.login_end.clone(), base_lease.as_ref().and_then(|lease| lease.login_end.clone())];
        let earliest = login_ends.into_iter().flatten().min_by_key(|end| end.ends_at);
        Ok(lease.with_login_end(earliest))
    }

    /// Stores the result of a renewal, and starts the timers for the next one.
    fn finish_renewal(
        self: &Arc<Self>,
        identity: &Identity,
        request: &LeaseRequest,
        fetched: Result<Lease, SourceProblem>,
    ) -> LeaseResult {
        let name = &identity.name;
        let outcome =
            fetched.map(|lease| Arc::new(lease.into_protected())).map_err(|problem| to_broker_problem(name, problem));
        let change = {
            let mut entries = self.lock_entries();
            let entry = entries.entry(request.lease_key(name)).or_default();
            entry.pending_renewal = None;
            match &outcome {
                Ok(lease) => {
                    (entry.failures, entry.problem) = (0, None);
                    (entry.retry_at, entry.early_retry_at) = (0, 0);
                    entry.lease = Some(Arc::clone(lease));
                    ChangeKind::Renewed { expires_at: lease.times.expires_at }
                }
                Err(problem) => {
                    entry.failures = entry.failures.saturating_add(1);
                    let is_unreachable = problem.code == "source_unreachable";
                    let pause = if is_unreachable { schedule::back_off(entry.failures, jitter()) } else { RETRY_PAUSE };
                    // Do not delay the next request: the user may sign in at any moment.
                    let now = if problem.code == "needs_login" { None } else { Some(now_milliseconds()) };
                    entry.retry_at = now.map_or(0, |now| now + RETRY_PAUSE);
                    entry.early_retry_at = now.map_or(0, |now| now + pause);
                    entry.problem = Some(problem.clone());
                    if problem.code == "needs_login" {
                        ChangeKind::NeedsLogin(problem.clone())
                    } else {
                        ChangeKind::Failed(problem.clone())
                    }
                }
            }
        };
        if let Ok(lease) = &outcome {
            let session = request.restriction.as_ref().map(session::session_label);
            let entry =
                AuditEntry { action: "renewed".into(), identity: name.clone(), session, ..AuditEntry::default() };
            // Do not fail here: the lease was already fetched, and `issue` refuses to hand it out without an audit
            // entry.
            drop(self.append_audit_entry(AuditEntry { expires_at: lease.times.expires_at, ..entry }));
            self.schedule_renewal(name, request, lease);
            self.schedule_login_warning(name, request, lease);
        }
        self.publish_change(name, change);
        outcome
    }

    /// Renews after about half of the lifetime, as long as the lease is in use.
    fn schedule_renewal(self: &Arc<Self>, name: &str, request: &LeaseRequest, lease: &Arc<Lease>) {
        let Some(at) = schedule::renew_at(&lease.times, jitter()) else { return };
        let wait = Duration::from_millis(u64::try_from(at - now_milliseconds()).unwrap_or_default());
        // Weak references: the timer must not keep a dropped broker or a replaced lease alive.
        let (broker, name, weak_lease) = (Arc::downgrade(self), name.to_owned(), Arc::downgrade(lease));
        let request = request.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            let (Some(broker), Some(lease)) = (broker.upgrade(), weak_lease.upgrade()) else { return };
            let Ok(identity) = broker.identity(&name) else { return };
            // After its end, a session gets no credentials, so its leases are not renewed.
            if request.is_session_over(now_milliseconds()) {
                return;
            }
            let mut entries = broker.lock_entries();
            let Some(entry) = entries.get_mut(&request.lease_key(&name)) else { return };
            let current = entry.lease.as_ref().is_some_and(|current| Arc::ptr_eq(current, &lease));
            let used = entry.last_used.as_ref().is_some_and(|(at, _)| *at >= lease.times.issued_at);
            if current && used && entry.pending_renewal.is_none() {
                drop(broker.start_renewal(entry, identity, request));
            }
        });
    }

    /// Publishes that the login behind a lease is about to end, if the lease is still current and was used recently.
    fn schedule_login_warning(self: &Arc<Self>, name: &str, request: &LeaseRequest, lease: &Arc<Lease>) {
        let Some(login) = lease.login_end.clone() else { return };
        let (broker, weak_lease, key) = (Arc::downgrade(self), Arc::downgrade(lease), request.lease_key(name));
        let at = schedule::warn_at(&login);
        self.tasks.spawn(async move {
            // Sleep in short steps: timers do not advance while the machine is suspended, but the login still ends.
            while let Some(wait) = u64::try_from(at - now_milliseconds()).ok().filter(|wait| *wait > 0) {
                tokio::time::sleep(Duration::from_millis(wait).min(SLEEP_MAX)).await;
                if weak_lease.strong_count() == 0 {
                    return;
                }
            }
            let (Some(broker), Some(lease)) = (broker.upgrade(), weak_lease.upgrade()) else { return };
            let is_needed = broker.lock_entries().get(&key).is_some_and(|entry| {
                let current = entry.lease.as_ref().is_some_and(|current| Arc::ptr_eq(current, &lease));
                let used =
                    entry.last_used.as_ref().is_some_and(|(at, _)| now_milliseconds() - at < RECENT_USE_MILLISECONDS);
                current && used && now_milliseconds() < login.ends_at
            });
            if is_needed {
                broker.publish_change(&login.identity, ChangeKind::LoginExpiring { at: login.ends_at });
            }
        });
    }
}
