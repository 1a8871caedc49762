//! Sessions of coding agents: their member processes, their ends, and their identities.
//!
//! The process ancestry decides membership, so a program's claims about itself have no effect. [`rule`] decides which
//! credentials a member gets. The guard, `pdev session run`, ends the programs of a session; this module ends only
//! their credentials.

pub mod rule;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::approval::ancestry::{ProcessAncestry, ProcessTable, ancestry_of};
use crate::approval::random_code;
use crate::storage;

/// Limit of parallel sessions. A session is one coding agent, and a user runs only a few.
const SESSIONS_MAX: usize = 32;
/// Attempts to walk the ancestry, because a parent may legitimately end during a walk.
const WALK_ATTEMPTS_MAX: usize = 20;
/// No legitimate process tree is this deep.
const DEPTH_MAX: usize = 1024;
const NAME_MAX: usize = 32;
pub const DURATION_MILLISECONDS_MAX: i64 = 12 * 60 * 60 * 1000;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    pub name: String,
    /// The guard and its parent, each with its start time. Every process below one of them belongs to the session.
    pub roots: Vec<(i32, u64)>,
    /// Unix milliseconds.
    #[serde(rename = "begun")]
    pub started_at: i64,
    pub until: i64,
    /// The allowed identities. If empty, all identities that are not `production`.
    pub identities: Vec<String>,
    /// The digest of each identity at the start of the session. The session's programs can write the user's files, so
    /// later changes do not count.
    #[serde(rename = "known")]
    pub identity_digests: BTreeMap<String, String>,
    /// Processes outside of the session that could act for it: those of the terminal in which it was started.
    #[serde(rename = "family")]
    pub ancestry: Option<ProcessAncestry>,
    /// Its start, in ticks since the machine started.
    #[serde(rename = "asked")]
    pub started_ticks: u64,
    #[serde(rename = "over")]
    pub has_ended: bool,
}

impl Session {
    #[must_use]
    pub fn is_over(&self, now: i64) -> bool {
        self.has_ended || now >= self.until
    }

    /// The process that represents the session.
    #[must_use]
    pub fn guard(&self) -> Option<(i32, u64)> {
        self.roots.first().copied()
    }
}

/// The options of a new session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionSpec {
    pub name: String,
    pub duration_milliseconds: i64,
    pub identities: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionProblem {
    #[error("this program already runs in the session `{0}`, and sessions cannot be nested")]
    Nested(String),
    #[error("there are already {SESSIONS_MAX} sessions, which is the limit")]
    TooMany,
    #[error("`{0}` is no name for a session; allowed are up to {NAME_MAX} letters, digits, `.`, `_` and `-`")]
    InvalidName(String),
    #[error("a session lasts at least a second and at most 12 hours")]
    InvalidDuration,
    #[error("the requesting process cannot be identified")]
    UnknownProcess,
    #[error("the session cannot be stored: {0}")]
    NotStored(String),
}

pub struct Sessions {
    path: PathBuf,
    state: Mutex<Vec<Session>>,
}

impl Sessions {
    /// Loads the sessions that still run. A restarted agent must know its sessions at once.
    #[must_use]
    pub fn open(path: PathBuf, processes: &dyn ProcessTable) -> Self {
        let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Vec<Session>>(&bytes).ok());
        let mut sessions = read.unwrap_or_default();
        sessions.retain(|session| is_alive(session, processes));
        Self { path, state: Mutex::new(sessions) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a session that contains every process below `guard`.
    ///
    /// # Errors
    /// When the guard runs in a session, an option is invalid, or the session cannot be stored.
    pub fn begin(
        &self,
        spec: SessionSpec,
        (guard, guard_parent): (i32, Option<i32>),
        identity_digests: BTreeMap<String, String>,
        processes: &dyn ProcessTable,
        now: i64,
    ) -> Result<Session, SessionProblem> {
        if !is_valid_name(&spec.name) {
            return Err(SessionProblem::InvalidName(spec.name));
        }
        if !(1000..=DURATION_MILLISECONDS_MAX).contains(&spec.duration_milliseconds) {
            return Err(SessionProblem::InvalidDuration);
        }
        let with_start = |pid: i32| processes.process(pid).map(|process| (process.pid, process.start));
        let roots: Vec<_> = [with_start(guard), guard_parent.and_then(with_start)].into_iter().flatten().collect();
        let started_ticks = roots.first().ok_or(SessionProblem::UnknownProcess)?.1;
        if let Some(outer) = self.find_by_process(guard, processes) {
            return Err(SessionProblem::Nested(outer.name));
        }
        let mut sessions = self.lock();
        sessions.retain(|session| is_alive(session, processes));
        if sessions.len() >= SESSIONS_MAX {
            return Err(SessionProblem::TooMany);
        }
        let session = Session {
            id: random_code().replace('-', ""),
            name: spec.name,
            roots,
            started_at: now,
            until: now + spec.duration_milliseconds,
            identities: spec.identities,
            identity_digests,
            ancestry: ancestry_of(guard, processes),
            started_ticks,
            has_ended: false,
        };
        // Store the session first. A session that is not on disk would be unknown after a restart, and its programs
        // would count as the user's.
        let mut updated = sessions.clone();
        updated.push(session.clone());
        self.write(&updated).map_err(|error| SessionProblem::NotStored(error.to_string()))?;
        *sessions = updated;
        Ok(session)
    }

    /// The session of a process. Costs nothing while there is no session. Otherwise, a process whose ancestry cannot be
    /// followed counts as a member: it may have closed its connection or ended its parent to hide.
    #[must_use]
    pub fn find_by_process(&self, pid: i32, processes: &dyn ProcessTable) -> Option<Session> {
        let sessions = self.all();
        let any_session = sessions.first()?;
        let Some(chain) = ancestors(pid, processes) else { return Some(any_session.clone()) };
        sessions.iter().find(|session| chain.iter().any(|ancestor| session.roots.contains(ancestor))).cloned()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Session> {
        self.lock().clone()
    }

    /// Finds a session by its id, or by its name if the name is unique.
    #[must_use]
    pub fn find_by_id_or_name(&self, text: &str) -> Option<Session> {
        let sessions = self.lock();
        let mut named = sessions.iter().filter(|session| session.name == text);
        let unique = named.next().filter(|_| named.next().is_none());
        sessions.iter().find(|session| session.id == text).or(unique).cloned()
    }

    /// Ends a session: its programs get no more credentials. The entry stays while they may still send requests.
    /// Returns whether this changed the session.
    pub fn end(&self, id: &str) -> bool {
        let mut sessions = self.lock();
        let Some(session) = sessions.iter_mut().find(|session| session.id == id && !session.has_ended) else {
            return false;
        };
        session.has_ended = true;
        self.write_best_effort(&sessions);
        true
    }

    /// Removes sessions without a living root, because no process can belong to them any more.
    pub fn remove_dead(&self, processes: &dyn ProcessTable) {
        let mut sessions = self.lock();
        let before = sessions.len();
        sessions.retain(|session| is_alive(session, processes));
        if sessions.len() != before {
            self.write_best_effort(&sessions);
        }
    }

    /// Stores the sessions and ignores errors. After a restart of the agent, a lost end is enforced by the time limit
    /// only, and a lost removal has no effect.
    fn write_best_effort(&self, sessions: &[Session]) {
        drop(self.write(sessions));
    }

    fn write(&self, sessions: &[Session]) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            storage::create_private_folder(folder)?;
        }
        storage::replace_file(&self.path, &serde_json::to_vec_pretty(sessions)?)
    }
}

/// A process and its ancestors, each with its start time; `None` if the ancestry cannot be followed to its root.
#[must_use]
pub fn ancestors(pid: i32, processes: &dyn ProcessTable) -> Option<Vec<(i32, u64)>> {
    (0..WALK_ATTEMPTS_MAX).find_map(|_| walk_to_root(pid, processes))
}

/// `None` if one of the processes has ended.
fn walk_to_root(pid: i32, processes: &dyn ProcessTable) -> Option<Vec<(i32, u64)>> {
    let (mut chain, mut next) = (Vec::new(), pid);
    while next > 1 {
        let process = processes.process(next).filter(|_| chain.len() < DEPTH_MAX)?;
        chain.push((process.pid, process.start));
        next = process.parent;
    }
    (!chain.is_empty()).then_some(chain)
}

fn is_alive(session: &Session, processes: &dyn ProcessTable) -> bool {
    // Compare the start time too, because process ids are reused.
    let alive = |(pid, start): &(i32, u64)| {
        processes.process(*pid).is_some_and(|process| process.start == *start && !process.has_ended)
    };
    session.roots.iter().any(alive)
}

/// Whether a session may have this name. It is used as a tag value at AWS and in messages.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests;
