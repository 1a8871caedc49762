//! A repository's first use of an identity: asked for under a code, approved by a person elsewhere, remembered.
//!
//! Who may approve is [`family`]'s. Here is what an approval is bound to, how long a request and an approval live, and
//! that a code opens one door once. Requests are kept in memory only: after a restart `up` asks anew.

pub mod ancestry;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::storage;
use ancestry::{Denial, ProcessAncestry, ProcessTable};

const REQUEST_MILLISECONDS: i64 = 15 * 60 * 1000;
/// A session's, which ends with the session before.
const SESSION_APPROVAL_MILLISECONDS: i64 = 60 * 60 * 1000;
const APPROVAL_MILLISECONDS: i64 = 90 * 24 * 60 * 60 * 1000;
const REQUESTS_MAX: usize = 64;
/// A request that more programs than this made cannot be approved: one of them could be forgotten.
const ANCESTRIES_MAX: usize = 16;
const GUESSES_MAX: usize = 10;
const GUESSES_MILLISECONDS: i64 = 60 * 1000;
/// Without letters and digits that look alike.
const ALPHABET: &[u8; 32] = b"23456789abcdefghjkmnpqrstuvwxyz7";
const CODE_LENGTH: usize = 8;

/// Who wants to act as whom. All of it is compared: another repository at the same path, another service, and an
/// identity whose source was changed are asked for again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct IdentityUse {
    /// Where the repository lies; all its worktrees are one.
    pub repository: String,
    /// Device and inode of that folder: another clone at the same path is another repository.
    #[serde(rename = "place")]
    pub folder_id: String,
    pub service: String,
    pub identity: String,
    /// A digest of what the identity is in `identities.toml`.
    #[serde(rename = "meaning")]
    pub identity_digest: String,
    /// The coding agent's session that wants it, by its id; then there is no repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

#[must_use]
pub fn identity_digest(identity: &Identity) -> String {
    let said = format!("{} {:?}", identity.kind, identity.fields);
    digest(&SHA256, said.as_bytes()).as_ref().iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Approval {
    #[serde(flatten)]
    pub identity_use: IdentityUse,
    /// Unix milliseconds.
    pub at: i64,
    pub until: i64,
}

/// What waits for a person.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    pub identity_use: IdentityUse,
    pub code: String,
    pub until: i64,
    ancestries: Vec<ProcessAncestry>,
    /// Of the first program that asked; ticks since the machine started.
    requested_ticks: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApprovalProblem {
    #[error("there is no request `{0}`: it was approved, it is older than 15 minutes, or the agent was restarted")]
    UnknownCode(String),
    #[error("too many wrong codes; the next one is looked at in a minute")]
    TooManyGuesses,
    #[error("{0}")]
    Denied(#[from] Denial),
    #[error("the approval cannot be kept: {0}")]
    NotStored(String),
}

impl ApprovalProblem {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCode(_) => "request_unknown",
            Self::TooManyGuesses => "too_many_guesses",
            Self::Denied(_) => "not_by_the_asker",
            Self::NotStored(_) => "approval_not_kept",
        }
    }

    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnknownCode(_) => "Run `pdev up` again; it prints a new code.",
            Self::TooManyGuesses => "`pdev up` prints the code.",
            Self::Denied(denial) => denial.hint(),
            Self::NotStored(_) => "Free some space, or mend the permissions of pdev's data folder.",
        }
    }
}

pub struct Approvals {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    approved: Vec<Approval>,
    requests: BTreeMap<IdentityUse, ApprovalRequest>,
    /// When wrong codes came.
    guesses: VecDeque<i64>,
}

impl Approvals {
    /// A file that cannot be read approves nothing.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let state = State { approved: read.unwrap_or_default(), ..State::default() };
        Self { path, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn is_approved(&self, wanted: &IdentityUse, now: i64) -> bool {
        self.lock().approved.iter().any(|approval| approval.identity_use == *wanted && now < approval.until)
    }

    /// Asks for an approval. Everybody who asks for the same is remembered, so that none of them can give it; the code
    /// stays, so that the one a person was shown keeps working.
    pub fn request_approval(
        &self,
        wanted: &IdentityUse,
        family: Option<ProcessAncestry>,
        asked: u64,
        now: i64,
    ) -> ApprovalRequest {
        let mut state = self.lock();
        state.requests.retain(|_, request| now < request.until);
        if state.requests.len() >= REQUESTS_MAX && !state.requests.contains_key(wanted) {
            let first =
                state.requests.values().min_by_key(|request| request.until).map(|request| request.identity_use.clone());
            first.map(|first| state.requests.remove(&first));
        }
        let fresh = || ApprovalRequest {
            identity_use: wanted.clone(),
            code: random_code(),
            until: now + REQUEST_MILLISECONDS,
            ancestries: Vec::new(),
            requested_ticks: asked,
        };
        let request = state.requests.entry(wanted.clone()).or_insert_with(fresh);
        if let Some(family) = family.filter(|family| !request.ancestries.contains(family)) {
            request.ancestries.push(family);
        }
        request.clone()
    }

    /// The request behind a code, for the person to read.
    ///
    /// # Errors
    /// When there is none, or when too many wrong ones came.
    pub fn find_request(&self, code: &str, now: i64) -> Result<ApprovalRequest, ApprovalProblem> {
        let mut state = self.lock();
        while state.guesses.front().is_some_and(|at| at + GUESSES_MILLISECONDS < now) {
            state.guesses.pop_front();
        }
        if state.guesses.len() >= GUESSES_MAX {
            return Err(ApprovalProblem::TooManyGuesses);
        }
        let plain = |text: &str| text.replace('-', "").to_ascii_lowercase();
        let found = state.requests.values().find(|request| plain(&request.code) == plain(code) && now < request.until);
        let found = found.cloned();
        found.ok_or_else(|| {
            state.guesses.push_back(now);
            ApprovalProblem::UnknownCode(code.to_owned())
        })
    }

    /// What waits for a person now.
    #[must_use]
    pub fn pending_requests(&self, now: i64) -> Vec<ApprovalRequest> {
        self.lock().requests.values().filter(|request| now < request.until).cloned().collect()
    }

    /// Why the one who would approve what the code stands for cannot; `None` when it can.
    ///
    /// # Errors
    /// When there is no such request.
    pub fn review_request(
        &self,
        code: &str,
        by: i32,
        processes: &dyn ProcessTable,
        now: i64,
    ) -> Result<(ApprovalRequest, Option<Denial>), ApprovalProblem> {
        let seen = self.find_request(code, now)?;
        let denial = check_request_approver(&seen, by, processes).err();
        Ok((seen, denial))
    }

    /// Approves what the code stands for, if the one who says so is none of those who asked. A code works once.
    ///
    /// # Errors
    /// When there is no such request, when it may not be approved from there, or when it cannot be written down.
    pub fn approve(
        &self,
        code: &str,
        by: i32,
        processes: &dyn ProcessTable,
        now: i64,
    ) -> Result<Approval, ApprovalProblem> {
        let seen = self.find_request(code, now)?;
        // Looked at without the lock; what changed meanwhile is noticed below.
        check_request_approver(&seen, by, processes)?;
        let mut state = self.lock();
        let same = state.requests.get(&seen.identity_use).is_some_and(|request| {
            request.code == seen.code && request.ancestries == seen.ancestries && now < request.until
        });
        if !same {
            return Err(ApprovalProblem::UnknownCode(code.to_owned()));
        }
        let approval = Approval {
            identity_use: seen.identity_use.clone(),
            at: now,
            until: now + approval_milliseconds(&seen.identity_use),
        };
        let mut approved = state.approved.clone();
        approved.retain(|known| known.identity_use != approval.identity_use && now < known.until);
        approved.push(approval.clone());
        self.write(&approved).map_err(|error| ApprovalProblem::NotStored(error.to_string()))?;
        state.approved = approved;
        state.requests.remove(&seen.identity_use);
        Ok(approval)
    }

    #[must_use]
    pub fn list(&self, now: i64) -> Vec<Approval> {
        self.lock().approved.iter().filter(|approval| now < approval.until).cloned().collect()
    }

    /// Takes back every approval that fits; how many there were.
    ///
    /// # Errors
    /// When the file cannot be written; then nothing was taken back.
    pub fn revoke(&self, fits: &dyn Fn(&IdentityUse) -> bool) -> io::Result<usize> {
        let mut state = self.lock();
        let kept: Vec<Approval> =
            state.approved.iter().filter(|approval| !fits(&approval.identity_use)).cloned().collect();
        let gone = state.approved.len() - kept.len();
        if gone > 0 {
            self.write(&kept)?;
            state.approved = kept;
        }
        Ok(gone)
    }

    fn write(&self, approved: &[Approval]) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            storage::create_private_folder(folder)?;
        }
        storage::replace_file(&self.path, &serde_json::to_vec_pretty(approved)?)
    }
}

fn check_request_approver(seen: &ApprovalRequest, by: i32, processes: &dyn ProcessTable) -> Result<(), Denial> {
    if seen.ancestries.len() > ANCESTRIES_MAX {
        return Err(Denial::TooManyRequesters);
    }
    ancestry::check_approver(&seen.ancestries, seen.requested_ticks, by, processes)
}

fn approval_milliseconds(of: &IdentityUse) -> i64 {
    if of.session.is_some() { SESSION_APPROVAL_MILLISECONDS } else { APPROVAL_MILLISECONDS }
}

/// `7kq2-mxgh`: 40 random bits, which nobody guesses ten a minute.
pub(crate) fn random_code() -> String {
    let mut bytes = [0u8; CODE_LENGTH];
    // A machine without randomness gives a code that nobody can type.
    let random = SystemRandom::new().fill(&mut bytes).is_ok();
    let letters: Vec<u8> = bytes.iter().map(|byte| ALPHABET[usize::from(byte & 31)]).collect();
    let text = String::from_utf8_lossy(&letters).into_owned();
    if random { format!("{}-{}", &text[..4], &text[4..]) } else { "\0".to_owned() }
}

#[cfg(test)]
mod tests;
