//! The broker: one owner of every identity's lease. Any number of askers, one renewal.
//!
//! Renewals are tasks of their own: an asker that goes away stops nothing, and whatever a source must keep (a rotated
//! refresh token) is on the disk before anybody is answered. Nothing here decides by the clock; `schedule` does.

mod answer;
mod problem;
mod session;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, watch};

pub use problem::BrokerProblem;
pub(crate) use problem::told;
use problem::{late, unfit};
pub use session::Member;
use session::Wanted;
pub use standing::Standing;

use crate::audit::{Audit, Entry as AuditEntry};
use crate::exchange::Exchanges;
use crate::http::Http;
use crate::identity::{self, Identities, Identity};
use crate::launch::Launcher;
use crate::lease::Lease;
use crate::outlet::{self, Outlet};
use crate::place::Place;
use crate::schedule::{self, Verdict};
use crate::secret::Secret;
use crate::secrets::Scope;
use crate::source::{self, Flow, Means, Prompt, Purpose, SourceProblem};
use crate::vault::{self, Choice, Vault};

/// How many changes a listener may be late.
const CHANGES_KEPT: usize = 256;
/// Resources and audiences that one identity is asked for; a program that makes them up must not fill the memory.
const PURPOSES_MAX: usize = 32;
const TIMER_PIECE: Duration = Duration::from_secs(300);
/// In milliseconds: nobody is disturbed for an identity that was not used for a working day.
const USED_RECENTLY: i64 = 8 * 3_600_000;

/// What became of an identity; the past tense of `schedule`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub identity: String,
    pub what: What,
    /// A person is needed, and none was told so since the last login.
    pub is_news: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Renewed {
        expires_at: Option<i64>,
    },
    /// The login ends then, whatever is renewed before.
    Expiring {
        at: i64,
    },
    NeedsLogin(BrokerProblem),
    Failed(BrokerProblem),
    SignedIn,
    SignedOut,
}

/// Who asks, as far as this machine can tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Asker {
    pub pid: Option<i32>,
    /// Executables from the asker upwards, nearest first.
    pub chain: Vec<String>,
    /// The coding agent's session that it belongs to.
    pub session: Option<Member>,
}

type Outcome = Result<Arc<Lease>, BrokerProblem>;

#[derive(Default)]
struct Entry {
    /// As configured when the lease was fetched; a changed configuration forgets the lease.
    identity: Option<Identity>,
    lease: Option<Arc<Lease>>,
    under_way: Option<watch::Receiver<Option<Outcome>>>,
    problem: Option<BrokerProblem>,
    failures: u32,
    /// Not asked again before.
    retry_at: i64,
    last_used: Option<(i64, String)>,
}

pub struct Broker {
    place: Place,
    choice: Choice,
    /// How programs are started, where this process has another limit than they are to have.
    launcher: Option<Launcher>,
    vault: tokio::sync::Mutex<Option<Arc<Vault>>>,
    http: OnceLock<Http>,
    exchanges: Exchanges,
    configuration: Mutex<Option<(SystemTime, u64, Arc<Identities>)>>,
    entries: Mutex<BTreeMap<String, Entry>>,
    audit: Audit,
    changes: broadcast::Sender<Change>,
    /// Logins that a person was told about, by what the vault calls them, until the next login.
    announced: Mutex<BTreeSet<String>>,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// 0 to 1000.
fn jitter() -> u16 {
    u16::from_le_bytes(vault::random()) % 1001
}

impl Broker {
    #[must_use]
    pub fn new(place: Place, choice: Choice, exchanges: Exchanges) -> Arc<Self> {
        Self::launching(place, choice, exchanges, None)
    }

    /// Starting programs by a launcher.
    #[must_use]
    pub fn launching(place: Place, choice: Choice, exchanges: Exchanges, launcher: Option<Launcher>) -> Arc<Self> {
        let audit = Audit::new(place.audit());
        Arc::new(Self {
            place,
            choice,
            launcher,
            vault: tokio::sync::Mutex::default(),
            http: OnceLock::new(),
            exchanges,
            configuration: Mutex::default(),
            entries: Mutex::default(),
            audit,
            changes: broadcast::Sender::new(CHANGES_KEPT),
            announced: Mutex::default(),
        })
    }

    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The credential in the form of an outlet, written into the audit log either way.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn issue(self: &Arc<Self>, name: &str, outlet: &Outlet, asker: &Asker) -> Result<Secret, BrokerProblem> {
        let outcome = self.rendered(name, outlet, asker).await;
        let (expires_at, problem) = match &outcome {
            Ok((_, expires_at)) => (*expires_at, None),
            Err(problem) => (None, Some(problem.message.clone())),
        };
        let what = if problem.is_none() { "issued" } else { "refused" };
        self.used(name, &outlet.purpose(), asker);
        let noted = self.note(AuditEntry {
            what: what.to_owned(),
            identity: name.to_owned(),
            outlet: Some(outlet.name().to_owned()),
            chain: asker.chain.clone(),
            pid: asker.pid,
            session: asker.session.as_ref().map(Member::told),
            expires_at,
            problem,
            ..AuditEntry::default()
        });
        // A full disk is the reason for both; the first is what the asker wants to know.
        let (secret, _) = outcome?;
        noted.map(|()| secret)
    }

    async fn rendered(
        self: &Arc<Self>,
        name: &str,
        outlet: &Outlet,
        asker: &Asker,
    ) -> Result<(Secret, Option<i64>), BrokerProblem> {
        let identity = self.identity(name)?;
        let bound = self.bound(&identity, outlet, asker)?;
        let purpose = source::purpose(&identity, outlet.purpose()).map_err(|words| unfit(name, &words))?;
        let lease = self.lease_for(name, &Wanted { purpose, bound }).await?;
        let secret = outlet::render(outlet, &identity, &lease).map_err(|words| unfit("", &words))?;
        Ok((secret, lease.times.expires_at))
    }

    /// A person's decision about an identity, for the audit log.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(
        &self,
        what: &str,
        identity: &str,
        asker: &Asker,
        problem: Option<&str>,
    ) -> Result<(), BrokerProblem> {
        self.note(AuditEntry {
            what: what.to_owned(),
            identity: identity.to_owned(),
            chain: asker.chain.clone(),
            pid: asker.pid,
            session: asker.session.as_ref().map(Member::told),
            problem: problem.map(str::to_owned),
            ..AuditEntry::default()
        })
    }

    /// What cannot be written down is not given out.
    fn note(&self, entry: AuditEntry) -> Result<(), BrokerProblem> {
        self.audit.append(&AuditEntry { at: now(), ..entry }).map_err(|error| {
            let message = format!("the audit log cannot be written: {error}");
            BrokerProblem::new("audit_log", message, "Make room on the disk, or correct the folder's owner.")
        })
    }

    /// The identity whose `hosts` mean a server.
    ///
    /// # Errors
    /// When none does, or more than one.
    pub fn of_host(&self, server: &str) -> Result<String, BrokerProblem> {
        let identities = self.identities()?;
        let mut found = identities.all.values().filter(|identity| outlet::serves(identity, server));
        let Some(first) = found.next() else {
            let message = format!("no identity serves `{server}`");
            let hint = "Add it to the `hosts` of an identity in identities.toml.";
            return Err(BrokerProblem::new("identity_unknown", message, hint));
        };
        match found.next() {
            None => Ok(first.name.clone()),
            Some(second) => {
                let message = format!("both `{}` and `{}` serve `{server}`", first.name, second.name);
                Err(BrokerProblem::new(
                    "identity_ambiguous",
                    message,
                    "Remove the server from the `hosts` of one of them.",
                ))
            }
        }
    }

    /// A lease that lasts, fetched at most once however many ask.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn lease(self: &Arc<Self>, name: &str) -> Result<Arc<Lease>, BrokerProblem> {
        self.lease_for(name, &Wanted::default()).await
    }

    async fn lease_for(self: &Arc<Self>, name: &str, purpose: &Wanted) -> Result<Arc<Lease>, BrokerProblem> {
        let identity = self.identity(name)?;
        let (mut under_way, old) = {
            let (mut entries, key) = (self.entries(), purpose.key(name));
            if !entries.contains_key(&key) && entries.keys().filter(|key| is_of(key, name)).count() >= PURPOSES_MAX {
                return Err(unfit(name, &format!("was asked for more than {PURPOSES_MAX} resources or audiences")));
            }
            let entry = entries.entry(key).or_default();
            if entry.identity.as_ref().is_some_and(|known| *known != identity) {
                *entry = Entry { last_used: entry.last_used.take(), ..Entry::default() };
            }
            let now = now();
            let verdict = match &entry.lease {
                Some(lease) => schedule::verdict(now, &lease.times, true),
                None => Verdict::RenewFirst,
            };
            let old = entry.lease.clone().filter(|lease| lasts(lease, now));
            match (verdict, old) {
                (Verdict::Serve, Some(lease)) => return Ok(lease),
                (Verdict::ServeAndRenew, Some(lease)) => {
                    if entry.under_way.is_none() && now >= entry.retry_at {
                        self.renew(entry, identity, purpose.clone());
                    }
                    return Ok(lease);
                }
                (_, old) => {
                    if entry.under_way.is_none() && now < entry.retry_at {
                        let problem = entry.problem.clone();
                        return old.ok_or_else(|| problem.unwrap_or_else(|| late(name)));
                    }
                    (entry.under_way.clone().unwrap_or_else(|| self.renew(entry, identity, purpose.clone())), old)
                }
            }
        };
        let answer = under_way.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout(source::LIMIT, answer).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(late(name))),
            Ok(Err(_)) | Err(_) => Err(late(name)),
        };
        // The old one is better than none: the source may be back before it ends.
        outcome.or_else(|problem| old.ok_or(problem))
    }

    /// Begins a renewal; the caller holds the entry, so there is only one.
    fn renew(
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

    /// Signs a person in; what they have to do arrives as prompts. Dropping the future ends it.
    ///
    /// # Errors
    /// Why nobody is signed in.
    pub async fn login(&self, name: &str, flow: Flow, prompts: &mpsc::Sender<Prompt>) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if !identity.needs_login() || identity.secret().is_some() {
            let (message, hint) = match identity.secret() {
                Some(what) => {
                    (format!("`{name}` takes {what}, in a terminal"), format!("`pdev login {name}` asks for it there."))
                }
                None => (
                    format!("`{name}` comes from `{}`, which nobody signs in to", identity.kind),
                    "`pdev identity` shows how it stands.".to_owned(),
                ),
            };
            return Err(BrokerProblem::new("identity_wrong", message, hint));
        }
        let vault = self.vault().await?;
        let http = self.http().map_err(|problem| told(name, problem))?;
        let means = Means {
            vault: Some(&vault),
            http: Some(http),
            exchanges: &self.exchanges,
            from: None,
            purpose: &Purpose::Usual,
            bound: None,
            launcher: None,
            now: now(),
        };
        source::login(&identity, &means, flow, prompts).await.map_err(|problem| told(name, problem))?;
        self.signed_in(name)
    }

    /// What is kept of a repository's secrets, by the vault that this broker holds open; names without a value are left out.
    ///
    /// # Errors
    /// When the vault cannot be opened without a person, or a value does not open.
    pub async fn kept(&self, scope: &Scope, names: &[String]) -> Result<Vec<(String, Secret)>, BrokerProblem> {
        let vault = self.vault().await?;
        let mut found = Vec::new();
        for name in names {
            found.extend(scope.get(&vault, name)?.map(|(secret, _)| (name.clone(), secret)));
        }
        Ok(found)
    }

    /// Made at the first use: an agent that only runs previews reads no certificates.
    fn http(&self) -> Result<&Http, SourceProblem> {
        match self.http.get() {
            Some(http) => Ok(http),
            None => {
                let made = Http::new()?;
                Ok(self.http.get_or_init(|| made))
            }
        }
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

    fn tell(&self, name: &str, what: What) {
        let login = match &what {
            What::Expiring { .. } => Some(name),
            What::NeedsLogin(problem) => Some(problem.login.as_deref().unwrap_or(name)),
            _ => None,
        };
        let item = login.and_then(|login| Some(source::login_item(&self.identity(login).ok()?)));
        let is_news = item.is_some_and(|item| self.announced().insert(item));
        drop(self.changes.send(Change { identity: name.to_owned(), what, is_news }));
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

    fn used(&self, name: &str, purpose: &Purpose, asker: &Asker) {
        let mut entries = self.entries();
        // A source that knows no purposes has one lease for all of them.
        let wanted = Wanted::of(purpose.clone(), asker);
        let keys = [wanted.key(name), purpose.key(name)];
        let key = keys.into_iter().find(|key| entries.contains_key(key)).unwrap_or_else(|| name.to_owned());
        if let Some(entry) = entries.get_mut(&key) {
            entry.last_used = Some((now(), asker.chain.first().cloned().unwrap_or_default()));
        }
    }

    /// A tool said that the credential was refused: the next asker gets another one.
    pub fn rejected(&self, name: &str) {
        for (_, entry) in self.entries().iter_mut().filter(|(key, _)| is_of(key, name)) {
            entry.lease = None;
        }
    }

    /// Keeps the secret of an identity whose login is giving one.
    ///
    /// # Errors
    /// When it is of another source, or the vault cannot be used.
    pub async fn keep(self: &Arc<Self>, name: &str, secret: &Secret) -> Result<(), BrokerProblem> {
        let identity = self.identity(name)?;
        if identity.secret().is_none() {
            let message = format!("`{name}` comes from `{}`, and takes no secret", identity.kind);
            return Err(BrokerProblem::new("identity_wrong", message, format!("`pdev login {name}` signs in to it.")));
        }
        source::check_secret(&identity, secret).map_err(|words| {
            let hint = match identity.wants_code() {
                true => format!("`pdev login {name}` asks for it again."),
                false => format!("`pdev login {name} < FILE`; nothing was kept."),
            };
            BrokerProblem::new("secret_wrong", format!("`{name}`: {words}"), hint)
        })?;
        let vault = self.vault().await?;
        // Only a code is spent at once, by what the identity is built on.
        let from = match identity.text("from").filter(|_| identity.wants_code()) {
            Some(from) => Some(Box::pin(self.lease(from)).await?),
            None => None,
        };
        let (http, purpose) = (self.http().ok(), &Purpose::Usual);
        let means = Means {
            vault: Some(&vault),
            http,
            exchanges: &self.exchanges,
            from: from.as_deref(),
            purpose,
            bound: None,
            launcher: None,
            now: now(),
        };
        source::keep(&identity, &means, secret).await.map_err(|problem| match told(name, problem) {
            refused if refused.code == "source_refused" && identity.wants_code() => {
                let hint = format!("Each code works once: wait for the next one, then `pdev login {name}` again.");
                BrokerProblem { hint: Some(hint), ..refused }
            }
            other => other,
        })?;
        self.signed_in(name)
    }

    fn signed_in(&self, name: &str) -> Result<(), BrokerProblem> {
        let item = |name: &str| self.identity(name).ok().map(|identity| source::login_item(&identity));
        let login = item(name);
        for (known, entry) in self.entries().iter_mut() {
            // Identities of the same session, and those that are built on this one, waited for the same person.
            let waited = entry.problem.as_ref().is_some_and(|problem| problem.code == "needs_login");
            let lease = entry.lease.as_ref().and_then(|lease| lease.login.as_ref());
            let ended = lease.is_some_and(|end| item(&end.identity) == login);
            if is_of(known, name) || waited || ended {
                *entry = Entry { last_used: entry.last_used.take(), ..Entry::default() };
            }
        }
        if let Some(login) = login {
            self.announced().remove(&login);
        }
        self.tell(name, What::SignedIn);
        self.note(AuditEntry { what: "signed_in".into(), identity: name.to_owned(), ..AuditEntry::default() })
    }

    /// Forgets what a person signed in with. Tells whether there was something.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn sign_out(&self, name: &str) -> Result<bool, BrokerProblem> {
        let identity = self.identity(name)?;
        let was = vault::remove(&self.place.vault(), &source::login_item(&identity))?;
        self.entries().retain(|key, _| !is_of(key, name));
        self.tell(name, What::SignedOut);
        self.note(AuditEntry { what: "signed_out".into(), identity: name.to_owned(), ..AuditEntry::default() })?;
        Ok(was)
    }

    /// # Errors
    /// When there is none of that name, or its part of the file is wrong.
    pub fn identity(&self, name: &str) -> Result<Identity, BrokerProblem> {
        let identities = self.identities()?;
        if let Some(identity) = identities.get(name) {
            return Ok(identity.clone());
        }
        if identities.broken.iter().any(|broken| broken == name) {
            let message = format!("the identity `{name}` is written down wrong");
            return Err(BrokerProblem::new("identity_wrong", message, "`pdev identity` tells the line."));
        }
        let hint = match identities.nearest(name) {
            Some(near) => format!("Did you mean `{near}`?"),
            None => format!("`pdev identity add {name} --source SOURCE` makes it."),
        };
        Err(BrokerProblem::new("identity_unknown", format!("there is no identity `{name}`"), hint))
    }

    fn identities(&self) -> Result<Arc<Identities>, BrokerProblem> {
        let path = self.place.identities();
        let Ok(found) = std::fs::metadata(&path) else { return Ok(Arc::default()) };
        let stamp = (found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len());
        let mut cached = self.configuration.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, known)) = cached.as_ref().filter(|(at, length, _)| (*at, *length) == stamp) {
            return Ok(Arc::clone(known));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| {
            BrokerProblem::new(
                "identity_wrong",
                format!("cannot read `{}`: {error}", path.display()),
                "Correct its mode.",
            )
        })?;
        let identities = Arc::new(identity::read(&text).0);
        *cached = Some((stamp.0, stamp.1, Arc::clone(&identities)));
        Ok(identities)
    }

    /// The vault, opened once; after it was locked, absent or reset, the next asker tries again.
    async fn vault(&self) -> Result<Arc<Vault>, vault::VaultProblem> {
        let mut kept = self.vault.lock().await;
        if let Some(vault) = kept.as_ref().filter(|vault| vault.is_current()) {
            return Ok(Arc::clone(vault));
        }
        let vault = Arc::new(Vault::open(&self.place.vault(), &self.choice).await?);
        *kept = Some(Arc::clone(&vault));
        Ok(vault)
    }

    fn announced(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lasts(lease: &Lease, now: i64) -> bool {
    lease.times.expires_at.is_none_or(|end| now.saturating_add(lease.times.skew) < end)
}

/// Whether a lease's key is this identity's: its name, alone or before a purpose.
fn is_of(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}
