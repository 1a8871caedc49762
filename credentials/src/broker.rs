//! The broker: one owner of every identity's lease. Any number of askers, one renewal.
//!
//! Renewals are tasks of their own: an asker that goes away stops nothing, and whatever a source must keep (a rotated
//! refresh token) is on the disk before anybody is answered. Nothing here decides by the clock; `schedule` does.

mod answer;
mod problem;
mod renewal;
mod session;
mod signing;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio::sync::{broadcast, watch};

pub use problem::BrokerProblem;
#[cfg(test)]
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
use crate::source::{self, Purpose, SourceProblem};
use crate::vault::{self, Choice, Vault};

/// How many changes a listener may be late.
const CHANGES_KEPT: usize = 256;
/// Resources and audiences that one identity is asked for; a program that makes them up must not fill the memory.
const PURPOSES_MAX: usize = 32;

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
