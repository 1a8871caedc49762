//! The broker: one owner of every identity's lease. Any number of askers, one renewal.
//!
//! Renewals are tasks of their own: an asker that goes away stops nothing, and whatever a source must keep (a rotated
//! refresh token) is on the disk before anybody is answered. Nothing here decides by the clock; `schedule` does.

mod endpoint_request;
mod identity_status;
mod login;
mod problem;
mod renewal;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio::sync::{broadcast, watch};

pub use identity_status::IdentitySnapshot;
pub use problem::BrokerProblem;
#[cfg(test)]
pub(crate) use problem::to_broker_problem;
use problem::{timeout_problem, unsuitable_problem};
pub use session::SessionMember;
use session::{LeaseKey, LeaseRequest};

use crate::audit::{AuditLog, Entry as AuditEntry};
use crate::exchange::ExchangeRunner;
use crate::format::{self, CredentialFormat};
use crate::http::HttpClient;
use crate::identity::{self, Identities, Identity};
use crate::launch::Launcher;
use crate::lease::Lease;
use crate::schedule::{self, Verdict};
use crate::secret::Secret;
use crate::secrets::RepositorySecrets;
use crate::session::rule;
use crate::source::{self, Purpose, SourceProblem};
use crate::storage::CredentialPaths;
use crate::vault::{self, Vault, VaultOptions};

/// How many changes a listener may be late.
const CHANGES_BUFFERED_MAX: usize = 256;
/// Resources and audiences that one identity is asked for; a program that makes them up must not fill the memory.
const PURPOSES_MAX: usize = 32;

/// What became of an identity; the past tense of `schedule`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityChange {
    pub identity: String,
    pub kind: ChangeKind,
    /// A person is needed, and none was told so since the last login.
    pub is_first_notice: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Renewed {
        expires_at: Option<i64>,
    },
    /// The login ends then, whatever is renewed before.
    LoginExpiring {
        at: i64,
    },
    NeedsLogin(BrokerProblem),
    Failed(BrokerProblem),
    SignedIn,
    SignedOut,
}

/// Who asks, as far as this machine can tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Requester {
    pub pid: Option<i32>,
    /// Executables from the asker upwards, nearest first.
    pub chain: Vec<String>,
    /// The coding agent's session that it belongs to.
    pub session: Option<SessionMember>,
}

type LeaseResult = Result<Arc<Lease>, BrokerProblem>;

#[derive(Default)]
struct LeaseEntry {
    /// As configured when the lease was fetched; a changed configuration forgets the lease.
    identity: Option<Identity>,
    lease: Option<Arc<Lease>>,
    pending_renewal: Option<watch::Receiver<Option<LeaseResult>>>,
    problem: Option<BrokerProblem>,
    failures: u32,
    /// Not asked again before.
    retry_at: i64,
    last_used: Option<(i64, String)>,
}

pub struct Broker {
    paths: CredentialPaths,
    vault_options: VaultOptions,
    /// How programs are started, where this process has another limit than they are to have.
    launcher: Option<Launcher>,
    vault: tokio::sync::Mutex<Option<Arc<Vault>>>,
    http: OnceLock<HttpClient>,
    exchange_runner: ExchangeRunner,
    identities_cache: Mutex<Option<(SystemTime, u64, Arc<Identities>)>>,
    entries: Mutex<BTreeMap<LeaseKey, LeaseEntry>>,
    audit: AuditLog,
    changes: broadcast::Sender<IdentityChange>,
    /// Logins that a person was told about, by what the vault calls them, until the next login.
    announced_logins: Mutex<BTreeSet<String>>,
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
    pub fn new(place: CredentialPaths, choice: VaultOptions, exchanges: ExchangeRunner) -> Arc<Self> {
        Self::with_launcher(place, choice, exchanges, None)
    }

    /// Starting programs by a launcher.
    #[must_use]
    pub fn with_launcher(
        place: CredentialPaths,
        choice: VaultOptions,
        exchanges: ExchangeRunner,
        launcher: Option<Launcher>,
    ) -> Arc<Self> {
        let audit = AuditLog::new(place.audit());
        Arc::new(Self {
            paths: place,
            vault_options: choice,
            launcher,
            vault: tokio::sync::Mutex::default(),
            http: OnceLock::new(),
            exchange_runner: exchanges,
            identities_cache: Mutex::default(),
            entries: Mutex::default(),
            audit,
            changes: broadcast::Sender::new(CHANGES_BUFFERED_MAX),
            announced_logins: Mutex::default(),
        })
    }

    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<IdentityChange> {
        self.changes.subscribe()
    }

    /// The credential in the form of an outlet, written into the audit log either way.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn issue(
        self: &Arc<Self>,
        name: &str,
        outlet: &CredentialFormat,
        asker: &Requester,
    ) -> Result<Secret, BrokerProblem> {
        let outcome = self.render_credential(name, outlet, asker).await;
        let (expires_at, problem) = match &outcome {
            Ok((_, expires_at)) => (*expires_at, None),
            Err(problem) => (None, Some(problem.message.clone())),
        };
        let what = if problem.is_none() { "issued" } else { "refused" };
        self.record_use(name, &outlet.purpose(), asker);
        let noted = self.append_audit_entry(AuditEntry {
            action: what.to_owned(),
            identity: name.to_owned(),
            format: Some(outlet.name().to_owned()),
            chain: asker.chain.clone(),
            pid: asker.pid,
            session: asker.session.as_ref().map(SessionMember::audit_label),
            expires_at,
            problem,
            ..AuditEntry::default()
        });
        // A full disk is the reason for both; the first is what the asker wants to know.
        let (secret, _) = outcome?;
        noted.map(|()| secret)
    }

    async fn render_credential(
        self: &Arc<Self>,
        name: &str,
        outlet: &CredentialFormat,
        asker: &Requester,
    ) -> Result<(Secret, Option<i64>), BrokerProblem> {
        let identity = self.identity(name)?;
        let bound = self.session_restriction(&identity, outlet, asker)?;
        let purpose =
            source::supported_purpose(&identity, outlet.purpose()).map_err(|words| unsuitable_problem(name, &words))?;
        let lease = self.obtain_lease_for(name, &LeaseRequest { purpose, restriction: bound }).await?;
        let secret = format::render(outlet, &identity, &lease).map_err(|words| unsuitable_problem("", &words))?;
        Ok((secret, lease.times.expires_at))
    }

    /// A person's decision about an identity, for the audit log.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record_decision(
        &self,
        what: &str,
        identity: &str,
        asker: &Requester,
        problem: Option<&str>,
    ) -> Result<(), BrokerProblem> {
        self.append_audit_entry(AuditEntry {
            action: what.to_owned(),
            identity: identity.to_owned(),
            chain: asker.chain.clone(),
            pid: asker.pid,
            session: asker.session.as_ref().map(SessionMember::audit_label),
            problem: problem.map(str::to_owned),
            ..AuditEntry::default()
        })
    }

    /// What cannot be written down is not given out.
    fn append_audit_entry(&self, entry: AuditEntry) -> Result<(), BrokerProblem> {
        self.audit.append(&AuditEntry { at: now(), ..entry }).map_err(|error| {
            let message = format!("the audit log cannot be written: {error}");
            BrokerProblem::new("audit_log", message, "Make room on the disk, or correct the folder's owner.")
        })
    }

    /// The identity whose `hosts` mean a server.
    ///
    /// # Errors
    /// When none does, or more than one.
    pub fn find_identity_by_host(&self, server: &str) -> Result<String, BrokerProblem> {
        let identities = self.load_identities()?;
        let mut found = identities.all.values().filter(|identity| format::serves_host(identity, server));
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
    pub async fn obtain_lease(self: &Arc<Self>, name: &str) -> Result<Arc<Lease>, BrokerProblem> {
        self.obtain_lease_for(name, &LeaseRequest::default()).await
    }

    async fn obtain_lease_for(
        self: &Arc<Self>,
        name: &str,
        purpose: &LeaseRequest,
    ) -> Result<Arc<Lease>, BrokerProblem> {
        let identity = self.identity(name)?;
        let (mut under_way, old) = {
            let (mut entries, key) = (self.lock_entries(), purpose.lease_key(name));
            if !entries.contains_key(&key) && entries.keys().filter(|key| key.identity == name).count() >= PURPOSES_MAX
            {
                return Err(unsuitable_problem(
                    name,
                    &format!("was asked for more than {PURPOSES_MAX} resources or audiences"),
                ));
            }
            let entry = entries.entry(key).or_default();
            if entry.identity.as_ref().is_some_and(|known| *known != identity) {
                *entry = LeaseEntry { last_used: entry.last_used.take(), ..LeaseEntry::default() };
            }
            let now = now();
            let verdict = match &entry.lease {
                Some(lease) => schedule::verdict(now, &lease.times, true),
                None => Verdict::RenewFirst,
            };
            let old = entry.lease.clone().filter(|lease| is_unexpired(lease, now));
            match (verdict, old) {
                (Verdict::Serve, Some(lease)) => return Ok(lease),
                (Verdict::ServeAndRenew, Some(lease)) => {
                    if entry.pending_renewal.is_none() && now >= entry.retry_at {
                        self.start_renewal(entry, identity, purpose.clone());
                    }
                    return Ok(lease);
                }
                (_, old) => {
                    if entry.pending_renewal.is_none() && now < entry.retry_at {
                        let problem = entry.problem.clone();
                        return old.ok_or_else(|| problem.unwrap_or_else(|| timeout_problem(name)));
                    }
                    (
                        entry
                            .pending_renewal
                            .clone()
                            .unwrap_or_else(|| self.start_renewal(entry, identity, purpose.clone())),
                        old,
                    )
                }
            }
        };
        let answer = under_way.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout(source::FETCH_TIMEOUT, answer).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(timeout_problem(name))),
            Ok(Err(_)) | Err(_) => Err(timeout_problem(name)),
        };
        // The old one is better than none: the source may be back before it ends.
        outcome.or_else(|problem| old.ok_or(problem))
    }

    /// What is kept of a repository's secrets, by the vault that this broker holds open; names without a value are left out.
    ///
    /// # Errors
    /// When the vault cannot be opened without a person, or a value does not open.
    pub async fn read_secrets(
        &self,
        scope: &RepositorySecrets,
        names: &[String],
    ) -> Result<Vec<(String, Secret)>, BrokerProblem> {
        let vault = self.open_vault().await?;
        let mut found = Vec::new();
        for name in names {
            found.extend(scope.get(&vault, name)?.map(|(secret, _)| (name.clone(), secret)));
        }
        Ok(found)
    }

    /// Made at the first use: an agent that only runs previews reads no certificates.
    fn http(&self) -> Result<&HttpClient, SourceProblem> {
        match self.http.get() {
            Some(http) => Ok(http),
            None => {
                let made = HttpClient::new()?;
                Ok(self.http.get_or_init(|| made))
            }
        }
    }

    fn publish_change(&self, name: &str, what: ChangeKind) {
        let login = match &what {
            ChangeKind::LoginExpiring { .. } => Some(name),
            ChangeKind::NeedsLogin(problem) => Some(problem.login_identity.as_deref().unwrap_or(name)),
            _ => None,
        };
        let item = login.and_then(|login| Some(source::login_item(&self.identity(login).ok()?)));
        let is_news = item.is_some_and(|item| self.lock_announced_logins().insert(item));
        drop(self.changes.send(IdentityChange { identity: name.to_owned(), kind: what, is_first_notice: is_news }));
    }

    fn record_use(&self, name: &str, purpose: &Purpose, asker: &Requester) {
        let restriction = asker.session.as_ref().map(|member| rule::restriction_of(&member.session));
        let key = |restriction, purpose: &Purpose| LeaseKey::new(name, restriction, purpose.clone());
        // A session with full access uses the user's lease. A source without purposes has one lease for all of them.
        let candidates = [
            key(restriction.as_ref(), purpose),
            key(None, purpose),
            key(restriction.as_ref(), &Purpose::General),
            key(None, &Purpose::General),
        ];
        let mut entries = self.lock_entries();
        let stored = candidates.iter().find(|key| entries.contains_key(key));
        if let Some(entry) = stored.and_then(|key| entries.get_mut(key)) {
            entry.last_used = Some((now(), asker.chain.first().cloned().unwrap_or_default()));
        }
    }

    /// A tool said that the credential was refused: the next asker gets another one.
    pub fn discard_leases(&self, name: &str) {
        for (_, entry) in self.lock_entries().iter_mut().filter(|(key, _)| key.identity == name) {
            entry.lease = None;
        }
    }

    /// # Errors
    /// When there is none of that name, or its part of the file is wrong.
    pub fn identity(&self, name: &str) -> Result<Identity, BrokerProblem> {
        let identities = self.load_identities()?;
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

    fn load_identities(&self) -> Result<Arc<Identities>, BrokerProblem> {
        let path = self.paths.identities();
        let Ok(found) = std::fs::metadata(&path) else { return Ok(Arc::default()) };
        let stamp = (found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len());
        let mut cached = self.identities_cache.lock().unwrap_or_else(PoisonError::into_inner);
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
    async fn open_vault(&self) -> Result<Arc<Vault>, vault::VaultProblem> {
        let mut kept = self.vault.lock().await;
        if let Some(vault) = kept.as_ref().filter(|vault| vault.is_current()) {
            return Ok(Arc::clone(vault));
        }
        let vault = Arc::new(Vault::open(&self.paths.vault(), &self.vault_options).await?);
        *kept = Some(Arc::clone(&vault));
        Ok(vault)
    }

    fn lock_announced_logins(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.announced_logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_entries(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, LeaseEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unexpired(lease: &Lease, now: i64) -> bool {
    lease.times.expires_at.is_none_or(|end| now.saturating_add(lease.times.skew) < end)
}
