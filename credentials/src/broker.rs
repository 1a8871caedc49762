//! The broker: the single owner of all leases. Any number of concurrent requests causes one renewal.
//!
//! Renewals are separate tasks, so a requester that disconnects stops nothing. Data that a source must store (a rotated
//! refresh token) is on disk before any requester receives the lease. The rules about time are in `schedule`.

use tasks::TaskGroup;

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

use host::clock::now_milliseconds;
use tokio::sync::{broadcast, watch};

pub use identity_status::IdentitySnapshot;
#[cfg(test)]
pub(crate) use problem::to_broker_problem;
use problem::{timeout_problem, unsuitable_problem};
pub use session::SessionMember;
use session::{LeaseKey, LeaseRequest};

use crate::audit::{AuditLog, Entry as AuditEntry};
use crate::format::{self, CredentialFormat};
use crate::http::HttpClient;
use crate::identity::{self, ApprovalPolicy, Identities, Identity};
use crate::launch::Launcher;
use crate::lease::{Lease, Purpose};
use crate::problem::{BrokerProblem, SourceProblem};
use crate::schedule::{self, Verdict};
use crate::secret::Secret;
use crate::secrets::RepositorySecrets;
use crate::session::rule;
use crate::source;
use crate::source::exchange::ExchangeRunner;
use crate::storage::CredentialPaths;
use crate::vault::{self, Vault, VaultOptions};

/// Number of changes that a subscriber may lag behind.
const CHANGES_BUFFERED_MAX: usize = 256;
/// Limits the resources and audiences of one identity, so that a program that invents them cannot fill the memory.
const PURPOSES_MAX: usize = 32;

/// A change of an identity, for subscribers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityChange {
    pub identity: String,
    pub kind: ChangeKind,
    /// The user must sign in, and this login was not announced since the last sign-in.
    pub is_first_notice: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Renewed {
        expires_at: Option<i64>,
    },
    /// The login ends at this time. Renewals do not extend it.
    LoginExpiring {
        at: i64,
    },
    NeedsLogin(BrokerProblem),
    Failed(BrokerProblem),
    SignedIn,
    SignedOut,
}

/// The process that requests a credential, as far as this machine can identify it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Requester {
    pub pid: Option<i32>,
    /// Executables from the requester upwards, nearest first.
    pub chain: Vec<String>,
    /// The coding agent's session of the process.
    pub session: Option<SessionMember>,
}

type LeaseResult = Result<Arc<Lease>, BrokerProblem>;

#[derive(Default)]
struct LeaseEntry {
    /// The configuration with which the lease was fetched. A changed configuration drops the lease.
    identity: Option<Identity>,
    lease: Option<Arc<Lease>>,
    pending_renewal: Option<watch::Receiver<Option<LeaseResult>>>,
    problem: Option<BrokerProblem>,
    failures: u32,
    /// The source is not asked again before this time, if the caller can get nothing else.
    retry_at: i64,
    /// The same while there is a lease that is still valid. Later, because no caller waits.
    early_retry_at: i64,
    last_used: Option<(i64, String)>,
}

pub struct Broker {
    paths: CredentialPaths,
    vault_options: VaultOptions,
    /// Starts programs with another open-file limit than that of this process, if set.
    launcher: Option<Launcher>,
    vault: tokio::sync::Mutex<Option<Arc<Vault>>>,
    http: OnceLock<HttpClient>,
    exchange_runner: ExchangeRunner,
    identities_cache: Mutex<Option<(SystemTime, u64, Arc<Identities>)>>,
    entries: Mutex<BTreeMap<LeaseKey, LeaseEntry>>,
    audit: AuditLog,
    changes: broadcast::Sender<IdentityChange>,
    /// Logins already announced to the user, by their names in the vault, until the next sign-in.
    announced_logins: Mutex<BTreeSet<String>>,
    /// Renewals, and the timers that start them or warn about the end of a login.
    tasks: TaskGroup,
}

/// A random number from 0 to 1000.
fn jitter() -> u16 {
    u16::from_le_bytes(vault::random()) % 1001
}

impl Broker {
    #[must_use]
    pub fn new(paths: CredentialPaths, vault_options: VaultOptions, exchange_runner: ExchangeRunner) -> Arc<Self> {
        Self::with_launcher(paths, vault_options, exchange_runner, None)
    }

    /// Creates a broker that starts programs through a launcher.
    #[must_use]
    pub fn with_launcher(
        paths: CredentialPaths,
        vault_options: VaultOptions,
        exchange_runner: ExchangeRunner,
        launcher: Option<Launcher>,
    ) -> Arc<Self> {
        let audit = AuditLog::new(paths.audit());
        Arc::new(Self {
            paths,
            vault_options,
            launcher,
            vault: tokio::sync::Mutex::default(),
            http: OnceLock::new(),
            exchange_runner,
            identities_cache: Mutex::default(),
            entries: Mutex::default(),
            audit,
            changes: broadcast::Sender::new(CHANGES_BUFFERED_MAX),
            announced_logins: Mutex::default(),
            tasks: TaskGroup::default(),
        })
    }

    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<IdentityChange> {
        self.changes.subscribe()
    }

    /// Issues a credential in the requested format. Both success and refusal are written to the audit log.
    ///
    /// # Errors
    /// The reason why there is no credential.
    pub async fn issue(
        self: &Arc<Self>,
        name: &str,
        format: &CredentialFormat,
        requester: &Requester,
    ) -> Result<Secret, BrokerProblem> {
        let outcome = self.render_credential(name, format, requester).await;
        let (expires_at, problem) = match &outcome {
            Ok((_, expires_at)) => (*expires_at, None),
            Err(problem) => (None, Some(problem.message.clone())),
        };
        let action = if problem.is_none() { "issued" } else { "refused" };
        self.record_use(name, &format.purpose(), requester);
        let audit_result = self.append_audit_entry(AuditEntry {
            action: action.to_owned(),
            identity: name.to_owned(),
            format: Some(format.name().to_owned()),
            chain: requester.chain.clone(),
            pid: requester.pid,
            session: requester.session.as_ref().map(SessionMember::audit_label),
            expires_at,
            problem,
            ..AuditEntry::default()
        });
        // A full disk can cause both errors. Report the first one, which answers the request. A credential whose audit
        // entry failed is not handed out.
        let (secret, _) = outcome?;
        audit_result.map(|()| secret)
    }

    async fn render_credential(
        self: &Arc<Self>,
        name: &str,
        format: &CredentialFormat,
        requester: &Requester,
    ) -> Result<(Secret, Option<i64>), BrokerProblem> {
        let identity = self.identity(name)?;
        let restriction = self.session_restriction(&identity, &format.purpose(), requester)?;
        let purpose = source::reduce_to_supported_purpose(&identity, format.purpose())
            .map_err(|reason| unsuitable_problem(name, &reason))?;
        let lease = self.obtain_lease_for(name, &LeaseRequest { purpose, restriction }).await?;
        let secret = format::render(format, &identity, &lease).map_err(|reason| unsuitable_problem("", &reason))?;
        Ok((secret, lease.times.expires_at))
    }

    /// Records a decision of the user about an identity in the audit log.
    ///
    /// # Errors
    /// When the entry cannot be written.
    pub fn record_decision(
        &self,
        action: &str,
        identity: &str,
        requester: &Requester,
        problem: Option<&str>,
    ) -> Result<(), BrokerProblem> {
        self.append_audit_entry(AuditEntry {
            action: action.to_owned(),
            identity: identity.to_owned(),
            chain: requester.chain.clone(),
            pid: requester.pid,
            session: requester.session.as_ref().map(SessionMember::audit_label),
            problem: problem.map(str::to_owned),
            ..AuditEntry::default()
        })
    }

    /// Appends an entry. Callers hand out no credential if this fails.
    fn append_audit_entry(&self, entry: AuditEntry) -> Result<(), BrokerProblem> {
        self.audit.append(&AuditEntry { at: now_milliseconds(), ..entry }).map_err(|error| {
            let message = format!("the audit log cannot be written: {error}");
            BrokerProblem::new("audit_log", message, "Free disk space, or correct the owner of the folder.")
        })
    }

    /// Finds the identity whose `hosts` match a server.
    ///
    /// # Errors
    /// When no identity or more than one matches.
    pub fn find_identity_by_host(&self, server: &str) -> Result<String, BrokerProblem> {
        let identities = self.load_identities()?;
        let mut matches = identities.all.values().filter(|identity| format::serves_host(identity, server));
        let Some(first) = matches.next() else {
            let message = format!("no identity has `{server}` in its `hosts`");
            let hint = "Add the server to the `hosts` of an identity in identities.toml.";
            return Err(BrokerProblem::new("identity_unknown", message, hint));
        };
        match matches.next() {
            None => Ok(first.name.clone()),
            Some(second) => {
                let message = format!("both `{}` and `{}` have `{server}` in their `hosts`", first.name, second.name);
                Err(BrokerProblem::new(
                    "identity_ambiguous",
                    message,
                    "Remove the server from the `hosts` of one of them.",
                ))
            }
        }
    }

    /// Returns a lease with enough time left. Concurrent callers share one request to the source.
    ///
    /// # Errors
    /// The reason why there is no lease.
    pub async fn obtain_lease(self: &Arc<Self>, name: &str) -> Result<Arc<Lease>, BrokerProblem> {
        self.obtain_lease_for(name, &LeaseRequest::default()).await
    }

    async fn obtain_lease_for(
        self: &Arc<Self>,
        name: &str,
        request: &LeaseRequest,
    ) -> Result<Arc<Lease>, BrokerProblem> {
        let identity = self.identity(name)?;
        let (mut pending, old) = {
            let (mut entries, key) = (self.lock_entries(), request.lease_key(name));
            // Resources and audiences come from the requesting program, so their number must be bounded.
            if !entries.contains_key(&key) && entries.keys().filter(|key| key.identity == name).count() >= PURPOSES_MAX
            {
                return Err(unsuitable_problem(
                    name,
                    &format!("was asked for more than {PURPOSES_MAX} resources or audiences"),
                ));
            }
            let entry = entries.entry(key).or_default();
            if entry.identity.as_ref().is_some_and(|previous| *previous != identity) {
                *entry = LeaseEntry { last_used: entry.last_used.take(), ..LeaseEntry::default() };
            }
            let now = now_milliseconds();
            let verdict = match &entry.lease {
                Some(lease) => schedule::verdict(now, &lease.times, true),
                None => Verdict::RenewFirst,
            };
            // `verdict` decides by margins. An old lease inside the margins is still better than an error.
            let old = entry.lease.clone().filter(|lease| is_unexpired(lease, now));
            match (verdict, old) {
                (Verdict::Serve, Some(lease)) => return Ok(lease),
                (Verdict::ServeAndRenew, Some(lease)) => {
                    if entry.pending_renewal.is_none() && now >= entry.early_retry_at {
                        self.start_renewal(entry, identity, request.clone());
                    }
                    return Ok(lease);
                }
                (_, old) => {
                    let retry_at = if old.is_some() { entry.early_retry_at } else { entry.retry_at };
                    if entry.pending_renewal.is_none() && now < retry_at {
                        // Report the last problem instead of asking a failing source on every request.
                        let problem = entry.problem.clone();
                        return old.ok_or_else(|| problem.unwrap_or_else(|| timeout_problem(name)));
                    }
                    (
                        entry
                            .pending_renewal
                            .clone()
                            .unwrap_or_else(|| self.start_renewal(entry, identity, request.clone())),
                        old,
                    )
                }
            }
        };
        // The lock is released here: only the receiver is awaited, so other requesters are not blocked.
        let finished = pending.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout(source::FETCH_TIMEOUT, finished).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(timeout_problem(name))),
            Ok(Err(_)) | Err(_) => Err(timeout_problem(name)),
        };
        // Serve the old lease if there is one: the source may recover before it ends.
        outcome.or_else(|problem| old.ok_or(problem))
    }

    /// Reads stored secrets of a repository with the open vault of this broker. Names without a value are left out.
    ///
    /// # Errors
    /// When the vault cannot be opened without a prompt, or a value cannot be opened.
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

    /// Created at the first use, because an agent that only runs previews needs no certificates.
    fn http(&self) -> Result<&HttpClient, SourceProblem> {
        match self.http.get() {
            Some(http) => Ok(http),
            None => {
                let client = HttpClient::new()?;
                Ok(self.http.get_or_init(|| client))
            }
        }
    }

    fn publish_change(&self, name: &str, kind: ChangeKind) {
        let login = match &kind {
            ChangeKind::LoginExpiring { .. } => Some(name),
            ChangeKind::NeedsLogin(problem) => Some(problem.login_identity.as_deref().unwrap_or(name)),
            _ => None,
        };
        // Identities of one AWS session share a login, so count by login and not by identity.
        let item = login.and_then(|login| Some(source::login_item(&self.identity(login).ok()?)));
        let is_first_notice = item.is_some_and(|item| self.lock_announced_logins().insert(item));
        // An error only means that there is no subscriber.
        drop(self.changes.send(IdentityChange { identity: name.to_owned(), kind, is_first_notice }));
    }

    fn record_use(&self, name: &str, purpose: &Purpose, requester: &Requester) {
        let restriction = requester.session.as_ref().map(|member| rule::restriction_of(&member.session));
        let key = |restriction, purpose: &Purpose| LeaseKey::new(name, restriction, purpose.clone());
        // A session with full access uses the user's lease. A source without purposes has one lease for all purposes.
        let candidates = [
            key(restriction.as_ref(), purpose),
            key(None, purpose),
            key(restriction.as_ref(), &Purpose::General),
            key(None, &Purpose::General),
        ];
        let mut entries = self.lock_entries();
        let stored = candidates.iter().find(|key| entries.contains_key(key));
        if let Some(entry) = stored.and_then(|key| entries.get_mut(key)) {
            entry.last_used = Some((now_milliseconds(), requester.chain.first().cloned().unwrap_or_default()));
        }
    }

    /// Drops the leases of an identity because a tool reported its credential as refused. The next request fetches
    /// another lease.
    pub fn discard_leases(&self, name: &str) {
        for (_, entry) in self.lock_entries().iter_mut().filter(|(key, _)| key.identity == name) {
            entry.lease = None;
        }
    }

    /// # Errors
    /// When the identity does not exist, or its section of the file is invalid.
    pub fn identity(&self, name: &str) -> Result<Identity, BrokerProblem> {
        let identities = self.load_identities()?;
        if let Some(identity) = identities.get(name) {
            return Ok(identity.clone());
        }
        if identities.broken.iter().any(|broken| broken == name) {
            let message = format!("the section of the identity `{name}` is invalid");
            return Err(BrokerProblem::new("identity_wrong", message, "Run `pdev identity` to see the line."));
        }
        let hint = match identities.nearest(name) {
            Some(near) => format!("Did you mean `{near}`?"),
            None => format!("Create it with `pdev identity add {name} --source SOURCE`."),
        };
        Err(BrokerProblem::new("identity_unknown", format!("there is no identity `{name}`"), hint))
    }

    /// Which approvals count, as the user configured. Strict if the file cannot be read.
    #[must_use]
    pub fn approval_policy(&self) -> ApprovalPolicy {
        self.load_identities().map_or(ApprovalPolicy::Strict, |identities| identities.approval)
    }

    fn load_identities(&self) -> Result<Arc<Identities>, BrokerProblem> {
        let path = self.paths.identities();
        let Ok(metadata) = std::fs::metadata(&path) else { return Ok(Arc::default()) };
        // Modification time and length detect edits. The cache avoids a parse for every request of a tool.
        let stamp = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len());
        let mut cached = self.identities_cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, identities)) = cached.as_ref().filter(|(at, length, _)| (*at, *length) == stamp) {
            return Ok(Arc::clone(identities));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| {
            BrokerProblem::new(
                "identity_wrong",
                format!("cannot read `{}`: {error}", path.display()),
                "Correct the mode of the file.",
            )
        })?;
        let identities = Arc::new(identity::read(&text).0);
        *cached = Some((stamp.0, stamp.1, Arc::clone(&identities)));
        Ok(identities)
    }

    /// Opens the vault once. After it was locked, absent or reset, the next request tries again.
    async fn open_vault(&self) -> Result<Arc<Vault>, vault::VaultProblem> {
        // Held during the opening, so concurrent requests ask the keyring only once.
        let mut cached = self.vault.lock().await;
        if let Some(vault) = cached.as_ref().filter(|vault| vault.is_current()) {
            return Ok(Arc::clone(vault));
        }
        let vault = Arc::new(Vault::open(&self.paths.vault(), &self.vault_options).await?);
        *cached = Some(Arc::clone(&vault));
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
