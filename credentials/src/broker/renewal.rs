//! One renewal, from its beginning to what is told of it, and the clocks that it sets.
//!
//! Who asks and what is served meanwhile is the broker's; when a lease is to be renewed decides [`schedule`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::problem::to_broker_problem;
use super::session::{self, LeaseRequest};
use super::{Broker, ChangeKind, LeaseEntry, LeaseResult, jitter, now};
use crate::audit::Entry as AuditEntry;
use crate::identity::Identity;
use crate::lease::Lease;
use crate::schedule;
use crate::source::{self, SourceContext, SourceProblem};
use crate::vault::Vault;

const SLEEP_MAX: Duration = Duration::from_secs(300);
/// In milliseconds: nobody is disturbed for an identity that was not used for a working day.
const RECENT_USE_MILLISECONDS: i64 = 8 * 3_600_000;

impl Broker {
    /// Begins a renewal; the caller holds the entry, so there is only one.
    pub(super) fn start_renewal(
        self: &Arc<Self>,
        entry: &mut LeaseEntry,
        identity: Identity,
        purpose: LeaseRequest,
    ) -> watch::Receiver<Option<LeaseResult>> {
        let (sender, receiver) = watch::channel(None);
        entry.pending_renewal = Some(receiver.clone());
        entry.identity = Some(identity.clone());
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let fetched = tokio::time::timeout(source::FETCH_TIMEOUT, broker.fetch_lease(&identity, &purpose)).await;
            let fetched = fetched.unwrap_or_else(|_| Err(SourceProblem::Transient("no answer".to_owned())));
            let outcome = broker.finish_renewal(&identity, &purpose, fetched);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn fetch_lease(self: &Arc<Self>, identity: &Identity, wanted: &LeaseRequest) -> Result<Lease, SourceProblem> {
        let needs_vault = source::needs_vault(identity);
        if needs_vault && !Vault::exists(&self.paths.vault()) {
            // Asking makes no vault: which keyring holds it is chosen where a person is.
            return Err(SourceProblem::NeedsLogin(format!("nobody has signed in as `{}`", identity.name)));
        }
        let vault = if needs_vault { Some(self.open_vault().await?) } else { None };
        let from = match identity.text("from") {
            Some(from) => Some(Box::pin(self.obtain_lease(from)).await?),
            None => None,
        };
        let means = SourceContext {
            vault: vault.as_deref(),
            http: self.http().ok(),
            exchange_runner: &self.exchange_runner,
            base_lease: from.as_deref(),
            purpose: &wanted.purpose,
            restriction: wanted.restriction.as_ref(),
            launcher: self.launcher.as_ref(),
            now: now(),
        };
        let lease = source::fetch_lease(identity, &means).await?;
        // Whichever login of the chain ends first.
        let ends = [lease.login_end.clone(), from.as_ref().and_then(|from| from.login_end.clone())];
        let first = ends.into_iter().flatten().min_by_key(|end| end.ends_at);
        Ok(lease.with_login_end(first))
    }

    /// Writes down how a renewal ended, and sets the clock for the next one.
    fn finish_renewal(
        self: &Arc<Self>,
        identity: &Identity,
        purpose: &LeaseRequest,
        fetched: Result<Lease, SourceProblem>,
    ) -> LeaseResult {
        let name = &identity.name;
        let outcome =
            fetched.map(|lease| Arc::new(lease.into_protected())).map_err(|problem| to_broker_problem(name, problem));
        let what = {
            let mut entries = self.lock_entries();
            let entry = entries.entry(purpose.lease_key(name)).or_default();
            entry.pending_renewal = None;
            match &outcome {
                Ok(lease) => {
                    (entry.failures, entry.retry_at, entry.problem) = (0, 0, None);
                    entry.lease = Some(Arc::clone(lease));
                    ChangeKind::Renewed { expires_at: lease.times.expires_at }
                }
                Err(problem) => {
                    entry.failures = entry.failures.saturating_add(1);
                    let waits = problem.code == "source_unreachable";
                    let pause = if waits { schedule::back_off(entry.failures, jitter()) } else { 1000 };
                    entry.retry_at = if problem.code == "needs_login" { 0 } else { now() + pause };
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
            let session = purpose.restriction.as_ref().map(session::session_label);
            let entry =
                AuditEntry { action: "renewed".into(), identity: name.clone(), session, ..AuditEntry::default() };
            // Refusing here would throw away a lease that was paid for; `issue` refuses instead.
            drop(self.append_audit_entry(AuditEntry { expires_at: lease.times.expires_at, ..entry }));
            self.schedule_renewal(name, purpose, lease);
            self.schedule_login_warning(name, purpose, lease);
        }
        self.publish_change(name, what);
        outcome
    }

    /// Renews at about half of the life, for as long as somebody uses it.
    fn schedule_renewal(self: &Arc<Self>, name: &str, purpose: &LeaseRequest, lease: &Arc<Lease>) {
        let Some(at) = schedule::renew_at(&lease.times, jitter()) else { return };
        let wait = Duration::from_millis(u64::try_from(at - now()).unwrap_or_default());
        let (broker, name, of) = (Arc::downgrade(self), name.to_owned(), Arc::downgrade(lease));
        let purpose = purpose.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let (Some(broker), Some(lease)) = (broker.upgrade(), of.upgrade()) else { return };
            let Ok(identity) = broker.identity(&name) else { return };
            if purpose.is_session_over(now()) {
                return;
            }
            let mut entries = broker.lock_entries();
            let Some(entry) = entries.get_mut(&purpose.lease_key(&name)) else { return };
            let current = entry.lease.as_ref().is_some_and(|current| Arc::ptr_eq(current, &lease));
            let used = entry.last_used.as_ref().is_some_and(|(at, _)| *at >= lease.times.issued_at);
            if current && used && entry.pending_renewal.is_none() {
                drop(broker.start_renewal(entry, identity, purpose));
            }
        });
    }

    /// Says that the login behind a lease is about to end, while the lease is the current one and somebody used it today.
    fn schedule_login_warning(self: &Arc<Self>, name: &str, purpose: &LeaseRequest, lease: &Arc<Lease>) {
        let Some(login) = lease.login_end.clone() else { return };
        let (broker, of, key) = (Arc::downgrade(self), Arc::downgrade(lease), purpose.lease_key(name));
        let at = schedule::warn_at(&login);
        tokio::spawn(async move {
            // In pieces: a machine that slept has lost that time for the timer, and not for the login.
            while let Some(wait) = u64::try_from(at - now()).ok().filter(|wait| *wait > 0) {
                tokio::time::sleep(Duration::from_millis(wait).min(SLEEP_MAX)).await;
                if of.strong_count() == 0 {
                    return;
                }
            }
            let (Some(broker), Some(lease)) = (broker.upgrade(), of.upgrade()) else { return };
            let is_needed = broker.lock_entries().get(&key).is_some_and(|entry| {
                let current = entry.lease.as_ref().is_some_and(|current| Arc::ptr_eq(current, &lease));
                let used = entry.last_used.as_ref().is_some_and(|(at, _)| now() - at < RECENT_USE_MILLISECONDS);
                current && used && now() < login.ends_at
            });
            if is_needed {
                broker.publish_change(&login.identity, ChangeKind::LoginExpiring { at: login.ends_at });
            }
        });
    }
}
