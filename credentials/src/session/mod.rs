//! Sessions of coding agents: which programs belong to one, until when, and what it may have.
//!
//! A program belongs by its chain of parents, so that nothing it says about itself counts. What a member is given is
//! [`rule`]'s. Who ends a session's programs is its guard, `pdev session run`; here only their credentials end.

pub mod rule;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::approval::ancestry::{ProcessAncestry, ProcessTable, ancestry_of};
use crate::approval::random_code;
use crate::storage;

/// At once. A session is one coding agent, of which a person starts a handful.
const SESSIONS_MAX: usize = 32;
/// A parent that ends meanwhile is no lie yet.
const WALK_ATTEMPTS_MAX: usize = 20;
/// Nobody nests programs so deep for a good reason.
const DEPTH_MAX: usize = 1024;
const NAME_MAX: usize = 32;
pub const DURATION_MILLISECONDS_MAX: i64 = 12 * 60 * 60 * 1000;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    pub name: String,
    /// The guard and its own parent, each with its start: whatever has one of them above it belongs.
    pub roots: Vec<(i32, u64)>,
    /// Unix milliseconds.
    #[serde(rename = "begun")]
    pub started_at: i64,
    pub until: i64,
    /// Only these; all that are not production when there are none.
    pub identities: Vec<String>,
    /// What each identity was when the session began. Its programs can write the user's files.
    #[serde(rename = "known")]
    pub identity_digests: BTreeMap<String, String>,
    /// Who could act for the session beyond its own programs: the terminal that it was started in.
    #[serde(rename = "family")]
    pub ancestry: Option<ProcessAncestry>,
    /// When it began, in ticks since the machine started.
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

    /// The process that stands for it.
    #[must_use]
    pub fn guard(&self) -> Option<(i32, u64)> {
        self.roots.first().copied()
    }
}

/// What a person wants of a new session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionSpec {
    pub name: String,
    pub duration_milliseconds: i64,
    pub identities: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionProblem {
    #[error("this runs in the session `{0}` already, and a session has none of its own")]
    Nested(String),
    #[error("there are {SESSIONS_MAX} sessions already")]
    TooMany,
    #[error("`{0}` is no name for a session; allowed are up to {NAME_MAX} letters, digits, `.`, `_` and `-`")]
    InvalidName(String),
    #[error("a session lasts at least a second and at most 12 hours")]
    InvalidDuration,
    #[error("it cannot be told which process asks")]
    UnknownProcess,
    #[error("the session cannot be kept: {0}")]
    NotStored(String),
}

pub struct Sessions {
    path: PathBuf,
    state: Mutex<Vec<Session>>,
}

impl Sessions {
    /// Those that still run: an agent that was restarted must know its sessions at once.
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

    /// Begins a session of everything that `guard` starts.
    ///
    /// # Errors
    /// When it runs in a session itself, when the wish is none, or when it cannot be written down.
    pub fn begin(
        &self,
        wish: SessionSpec,
        (guard, above): (i32, Option<i32>),
        known: BTreeMap<String, String>,
        processes: &dyn ProcessTable,
        now: i64,
    ) -> Result<Session, SessionProblem> {
        if !is_valid_name(&wish.name) {
            return Err(SessionProblem::InvalidName(wish.name));
        }
        if !(1000..=DURATION_MILLISECONDS_MAX).contains(&wish.duration_milliseconds) {
            return Err(SessionProblem::InvalidDuration);
        }
        let own = |pid: i32| processes.process(pid).map(|process| (process.pid, process.start));
        let roots: Vec<_> = [own(guard), above.and_then(own)].into_iter().flatten().collect();
        let asked = roots.first().ok_or(SessionProblem::UnknownProcess)?.1;
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
            name: wish.name,
            roots,
            started_at: now,
            until: now + wish.duration_milliseconds,
            identities: wish.identities,
            identity_digests: known,
            ancestry: ancestry_of(guard, processes),
            started_ticks: asked,
            has_ended: false,
        };
        let mut all = sessions.clone();
        all.push(session.clone());
        self.write(&all).map_err(|error| SessionProblem::NotStored(error.to_string()))?;
        *sessions = all;
        Ok(session)
    }

    /// The session that a process belongs to. Costs nothing while there is none. While there is one, a process that cannot
    /// be followed to its end counts as a member: it may have left its connection, or ended its parent, to be unseen.
    #[must_use]
    pub fn find_by_process(&self, pid: i32, processes: &dyn ProcessTable) -> Option<Session> {
        let sessions = self.all();
        let first = sessions.first()?;
        let Some(above) = ancestors(pid, processes) else { return Some(first.clone()) };
        sessions.iter().find(|session| above.iter().any(|one| session.roots.contains(one))).cloned()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Session> {
        self.lock().clone()
    }

    /// By its id, or by its name where one session has it.
    #[must_use]
    pub fn find_by_id_or_name(&self, text: &str) -> Option<Session> {
        let sessions = self.lock();
        let mut named = sessions.iter().filter(|session| session.name == text);
        let only = named.next().filter(|_| named.next().is_none());
        sessions.iter().find(|session| session.id == text).or(only).cloned()
    }

    /// Its programs get nothing any more; told while one of them may still ask. Tells whether this changed something.
    pub fn end(&self, id: &str) -> bool {
        let mut sessions = self.lock();
        let Some(session) = sessions.iter_mut().find(|session| session.id == id && !session.has_ended) else {
            return false;
        };
        session.has_ended = true;
        self.write_best_effort(&sessions);
        true
    }

    /// Forgets sessions of which no root is left: nothing can be told to belong to them.
    pub fn remove_dead(&self, processes: &dyn ProcessTable) {
        let mut sessions = self.lock();
        let before = sessions.len();
        sessions.retain(|session| is_alive(session, processes));
        if sessions.len() != before {
            self.write_best_effort(&sessions);
        }
    }

    /// What cannot be written is only missed after a restart of the agent, and then refuses by the clock or not at all.
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

/// A process and everything above it, each with its start; `None` where it cannot be followed to its end.
#[must_use]
pub fn ancestors(pid: i32, processes: &dyn ProcessTable) -> Option<Vec<(i32, u64)>> {
    (0..WALK_ATTEMPTS_MAX).find_map(|_| walk_to_root(pid, processes))
}

/// `None` where one of them was gone when it was looked at.
fn walk_to_root(pid: i32, processes: &dyn ProcessTable) -> Option<Vec<(i32, u64)>> {
    let (mut above, mut next) = (Vec::new(), pid);
    while next > 1 {
        let process = processes.process(next).filter(|_| above.len() < DEPTH_MAX)?;
        above.push((process.pid, process.start));
        next = process.parent;
    }
    (!above.is_empty()).then_some(above)
}

fn is_alive(session: &Session, processes: &dyn ProcessTable) -> bool {
    let alive = |(pid, start): &(i32, u64)| {
        processes.process(*pid).is_some_and(|process| process.start == *start && !process.has_ended)
    };
    session.roots.iter().any(alive)
}

/// It becomes the value of a tag at AWS, and part of messages.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(fits)
}

#[cfg(test)]
mod tests;
