//! One renewal, from its beginning to what is told of it, and the clocks that it sets.
//!
//! Who asks and what is served meanwhile is the broker's; when a lease is to be renewed decides [`schedule`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::problem::told;
use super::session::{self, Wanted};
use super::{Broker, Entry, Outcome, What, jitter, now};
use crate::audit::Entry as AuditEntry;
use crate::identity::Identity;
use crate::lease::Lease;
use crate::schedule;
use crate::source::{self, Means, SourceProblem};
use crate::vault::Vault;

const TIMER_PIECE: Duration = Duration::from_secs(300);
/// In milliseconds: nobody is disturbed for an identity that was not used for a working day.
const USED_RECENTLY: i64 = 8 * 3_600_000;

impl Broker {
    /// Begins a renewal; the caller holds the entry, so there is only one.
    pub(super) fn renew(
        self: &Arc<Self>,
        entry: &mut Entry,
        identity: Identity,
        purpose: Wanted,
    ) -> watch::Receiver<Option<Outcome>> {
        let (sender, receiver) = watch::channel(None);
        entry.under_way = Some(receiver.clone());
        entry.identity = Some(identity.clone());
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let fetched = tokio::time::timeout(source::LIMIT, broker.fetch(&identity, &purpose)).await;
            let fetched = fetched.unwrap_or_else(|_| Err(SourceProblem::Passing("no answer".to_owned())));
            let outcome = broker.settled(&identity, &purpose, fetched);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn fetch(self: &Arc<Self>, identity: &Identity, wanted: &Wanted) -> Result<Lease, SourceProblem> {
        let needs_vault = source::needs_vault(identity);
        if needs_vault && !Vault::exists(&self.place.vault()) {
            // Asking makes no vault: which keyring holds it is chosen where a person is.
            return Err(SourceProblem::NeedsLogin(format!("nobody has signed in as `{}`", identity.name)));
        }
        let vault = if needs_vault { Some(self.vault().await?) } else { None };
        let from = match identity.text("from") {
            Some(from) => Some(Box::pin(self.lease(from)).await?),
            None => None,
        };
        let means = Means {
            vault: vault.as_deref(),
            http: self.http().ok(),
            exchanges: &self.exchanges,
            from: from.as_deref(),
            purpose: &wanted.purpose,
            bound: wanted.bound.as_ref(),
            launcher: self.launcher.as_ref(),
            now: now(),
        };
        let lease = source::lease(identity, &means).await?;
        // Whichever login of the chain ends first.
        let ends = [lease.login.clone(), from.as_ref().and_then(|from| from.login.clone())];
        let first = ends.into_iter().flatten().min_by_key(|end| end.at);
        Ok(lease.until(first))
    }

    /// Writes down how a renewal ended, and sets the clock for the next one.
    fn settled(
        self: &Arc<Self>,
        identity: &Identity,
        purpose: &Wanted,
        fetched: Result<Lease, SourceProblem>,
    ) -> Outcome {
        let name = &identity.name;
        let outcome = fetched.map(|lease| Arc::new(lease.kept())).map_err(|problem| told(name, problem));
        let what = {
            let mut entries = self.entries();
            let entry = entries.entry(purpose.key(name)).or_default();
            entry.under_way = None;
            match &outcome {
                Ok(lease) => {
                    (entry.failures, entry.retry_at, entry.problem) = (0, 0, None);
                    entry.lease = Some(Arc::clone(lease));
                    What::Renewed { expires_at: lease.times.expires_at }
                }
                Err(problem) => {
                    entry.failures = entry.failures.saturating_add(1);
                    let waits = problem.code == "source_unreachable";
                    let pause = if waits { schedule::back_off(entry.failures, jitter()) } else { 1000 };
                    entry.retry_at = if problem.code == "needs_login" { 0 } else { now() + pause };
                    entry.problem = Some(problem.clone());
                    if problem.code == "needs_login" {
                        What::NeedsLogin(problem.clone())
                    } else {
                        What::Failed(problem.clone())
                    }
                }
            }
        };
        if let Ok(lease) = &outcome {
            let session = purpose.bound.as_ref().map(session::told);
            let entry = AuditEntry { what: "renewed".into(), identity: name.clone(), session, ..AuditEntry::default() };
            // Refusing here would throw away a lease that was paid for; `issue` refuses instead.
            drop(self.note(AuditEntry { expires_at: lease.times.expires_at, ..entry }));
            self.watch(name, purpose, lease);
            self.forewarn(name, purpose, lease);
        }
        self.tell(name, what);
        outcome
    }

    /// Renews at about half of the life, for as long as somebody uses it.
    fn watch(self: &Arc<Self>, name: &str, purpose: &Wanted, lease: &Arc<Lease>) {
        let Some(at) = schedule::renew_at(&lease.times, jitter()) else { return };
        let wait = Duration::from_millis(u64::try_from(at - now()).unwrap_or_default());
        let (broker, name, of) = (Arc::downgrade(self), name.to_owned(), Arc::downgrade(lease));
        let purpose = purpose.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let (Some(broker), Some(lease)) = (broker.upgrade(), of.upgrade()) else { return };
            let Ok(identity) = broker.identity(&name) else { return };
            if purpose.is_over(now()) {
                return;
            }
            let mut entries = broker.entries();
            let Some(entry) = entries.get_mut(&purpose.key(&name)) else { return };
            let current = entry.lease.as_ref().is_some_and(|current| Arc::ptr_eq(current, &lease));
            let used = entry.last_used.as_ref().is_some_and(|(at, _)| *at >= lease.times.issued_at);
            if current && used && entry.under_way.is_none() {
                drop(broker.renew(entry, identity, purpose));
            }
        });
    }

    /// Says that the login behind a lease is about to end, while the lease is the current one and somebody used it today.
    fn forewarn(self: &Arc<Self>, name: &str, purpose: &Wanted, lease: &Arc<Lease>) {
        let Some(login) = lease.login.clone() else { return };
        let (broker, of, key) = (Arc::downgrade(self), Arc::downgrade(lease), purpose.key(name));
        let at = schedule::tell_at(&login);
        tokio::spawn(async move {
            // In pieces: a machine that slept has lost that time for the timer, and not for the login.
            while let Some(wait) = u64::try_from(at - now()).ok().filter(|wait| *wait > 0) {
                tokio::time::sleep(Duration::from_millis(wait).min(TIMER_PIECE)).await;
                if of.strong_count() == 0 {
                    return;
                }
            }
            let (Some(broker), Some(lease)) = (broker.upgrade(), of.upgrade()) else { return };
            let is_needed = broker.entries().get(&key).is_some_and(|entry| {
                let current = entry.lease.as_ref().is_some_and(|current| Arc::ptr_eq(current, &lease));
                let used = entry.last_used.as_ref().is_some_and(|(at, _)| now() - at < USED_RECENTLY);
                current && used && now() < login.at
            });
            if is_needed {
                broker.tell(&login.identity, What::Expiring { at: login.at });
            }
        });
    }
}
