//! Approvals of a repository's first use of an identity: requested under a code, approved by the user elsewhere, and
//! stored.
//!
//! [`ancestry`] decides which process may approve. This module defines the scope of an approval, the lifetimes of
//! requests and approvals, and that a code works once. Requests exist in memory only: after a restart of the agent,
//! `up` requests the approval again.

pub mod ancestry;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::identity::{ApprovalPolicy, Identity};
use crate::storage;
use ancestry::{Denial, ProcessAncestry, ProcessTable, Weakness};
use strings::to_hex;

const REQUEST_MILLISECONDS: i64 = 15 * 60 * 1000;
/// The lifetime of an approval for a session. It ends earlier if the session does.
const SESSION_APPROVAL_MILLISECONDS: i64 = 60 * 60 * 1000;
const APPROVAL_MILLISECONDS: i64 = 90 * 24 * 60 * 60 * 1000;
const REQUESTS_MAX: usize = 64;
/// A request of more programs than this cannot be approved, because the list of requesters would be incomplete.
const ANCESTRIES_MAX: usize = 16;
const GUESSES_MAX: usize = 10;
const GUESSES_MILLISECONDS: i64 = 60 * 1000;
/// Without letters and digits that look alike.
const ALPHABET: &[u8; 32] = b"23456789abcdefghjkmnpqrstuvwxyz7";
const CODE_LENGTH: usize = 8;

/// The use of an identity that needs approval. All fields are compared: another repository at the same path, another
/// service, or a changed source of the identity needs a new approval.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct IdentityUse {
    /// The path of the repository. All its worktrees share one.
    pub repository: String,
    /// Device and inode of that folder: another clone at the same path is another repository.
    #[serde(rename = "place")]
    pub folder_id: String,
    pub service: String,
    pub identity: String,
    /// A digest of the section of the identity in `identities.toml`.
    #[serde(rename = "meaning")]
    pub identity_digest: String,
    /// The id of the coding agent's session that requests it. There is no repository in this case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

#[must_use]
pub fn identity_digest(identity: &Identity) -> String {
    // Stored approvals contain this digest, so a renamed variant of `Value` would revoke all of them.
    let definition = format!("{} {:?}", identity.kind, identity.fields);
    to_hex(&digest(&SHA256, definition.as_bytes()).as_ref()[..10])
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Approval {
    #[serde(flatten)]
    pub identity_use: IdentityUse,
    /// Unix milliseconds.
    pub at: i64,
    pub until: i64,
    /// `None` for a weak approval: a program of the user may have given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<Confirmation>,
}

/// What shows that the user gave an approval, and not a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirmation {
    /// A terminal that the requester cannot reach.
    Terminal,
    /// The user's password, which the system asked for.
    Password,
}

/// A request that waits for the user.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    pub identity_use: IdentityUse,
    pub code: String,
    pub until: i64,
    ancestries: Vec<ProcessAncestry>,
    /// The time of the first request, in ticks since the machine started.
    requested_ticks: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApprovalProblem {
    #[error("there is no request `{0}`: it was approved, it is older than 15 minutes, or the agent was restarted")]
    UnknownCode(String),
    #[error("too many wrong codes; the next code is checked after a minute")]
    TooManyGuesses,
    #[error("{0}")]
    Denied(#[from] Denial),
    #[error("this approval would be weak, and `approval = \"strict\"` refuses weak ones: {0}")]
    TooWeak(Weakness),
    #[error("the approval cannot be stored: {0}")]
    NotStored(String),
}

impl ApprovalProblem {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCode(_) => "request_unknown",
            Self::TooManyGuesses => "too_many_guesses",
            Self::Denied(_) => "not_by_the_asker",
            Self::TooWeak(_) => "approval_too_weak",
            Self::NotStored(_) => "approval_not_kept",
        }
    }

    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnknownCode(_) => "Run `pdev up` again; it prints a new code.",
            Self::TooManyGuesses => "Run `pdev up` to see the code.",
            Self::Denied(denial) => denial.hint(),
            Self::TooWeak(_) => {
                "Approve it on a console or in another terminal program, or let polkit ask for your password: \
                 `pdev doctor security` says how."
            }
            Self::NotStored(_) => "Free disk space, or correct the permissions of pdev's data folder.",
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
    /// The times of wrong codes.
    guesses: VecDeque<i64>,
}

impl Approvals {
    /// An unreadable file counts as empty: no use is approved.
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
    pub fn is_approved(&self, identity_use: &IdentityUse, policy: ApprovalPolicy, now: i64) -> bool {
        let is_enough = |approval: &Approval| policy == ApprovalPolicy::Normal || approval.confirmed_by.is_some();
        let state = self.lock();
        let mut matching = state.approved.iter().filter(|approval| approval.identity_use == *identity_use);
        matching.any(|approval| now < approval.until && is_enough(approval))
    }

    /// Requests an approval. All requesters of the same use are recorded, so that none of them can approve it. The code
    /// stays the same, so a code that the user has already seen keeps working.
    pub fn request_approval(
        &self,
        identity_use: &IdentityUse,
        ancestry: Option<ProcessAncestry>,
        requested_ticks: u64,
        now: i64,
    ) -> ApprovalRequest {
        let mut state = self.lock();
        state.requests.retain(|_, request| now < request.until);
        if state.requests.len() >= REQUESTS_MAX && !state.requests.contains_key(identity_use) {
            let oldest =
                state.requests.values().min_by_key(|request| request.until).map(|request| request.identity_use.clone());
            oldest.map(|oldest| state.requests.remove(&oldest));
        }
        let new_request = || ApprovalRequest {
            identity_use: identity_use.clone(),
            code: random_code(),
            until: now + REQUEST_MILLISECONDS,
            ancestries: Vec::new(),
            requested_ticks,
        };
        let request = state.requests.entry(identity_use.clone()).or_insert_with(new_request);
        if let Some(ancestry) = ancestry.filter(|ancestry| !request.ancestries.contains(ancestry)) {
            request.ancestries.push(ancestry);
        }
        request.clone()
    }

    /// The request with this code, for display to the user.
    ///
    /// # Errors
    /// When there is none, or after too many wrong codes.
    pub fn find_request(&self, code: &str, now: i64) -> Result<ApprovalRequest, ApprovalProblem> {
        let mut state = self.lock();
        while state.guesses.front().is_some_and(|at| at + GUESSES_MILLISECONDS < now) {
            state.guesses.pop_front();
        }
        if state.guesses.len() >= GUESSES_MAX {
            return Err(ApprovalProblem::TooManyGuesses);
        }
        // Users type codes by hand, so ignore case and hyphens.
        let normalize = |text: &str| text.replace('-', "").to_ascii_lowercase();
        let found =
            state.requests.values().find(|request| normalize(&request.code) == normalize(code) && now < request.until);
        let found = found.cloned();
        found.ok_or_else(|| {
            state.guesses.push_back(now);
            ApprovalProblem::UnknownCode(code.to_owned())
        })
    }

    /// The pending requests.
    #[must_use]
    pub fn pending_requests(&self, now: i64) -> Vec<ApprovalRequest> {
        self.lock().requests.values().filter(|request| now < request.until).cloned().collect()
    }

    /// Whether `approver` can approve the request with this code, and what makes that approval weak.
    ///
    /// # Errors
    /// When there is no such request.
    pub fn review_request(
        &self,
        code: &str,
        approver: i32,
        processes: &dyn ProcessTable,
        now: i64,
    ) -> Result<(ApprovalRequest, Result<Option<Weakness>, Denial>), ApprovalProblem> {
        let request = self.find_request(code, now)?;
        let review = check_request_approver(&request, approver, processes);
        Ok((request, review))
    }

    /// Approves the request with this code, if `approver` is not one of the requesters. A code works once. Returns what
    /// makes the approval weak. `has_password` means that the user has just confirmed it with the password.
    ///
    /// # Errors
    /// When there is no such request, when it may not be approved from there, or when the approval cannot be stored.
    pub fn approve(
        &self,
        code: &str,
        approver: i32,
        processes: &dyn ProcessTable,
        (policy, has_password): (ApprovalPolicy, bool),
        now: i64,
    ) -> Result<(Approval, Option<Weakness>), ApprovalProblem> {
        let checked = self.find_request(code, now)?;
        // Check without the lock, because the check reads `/proc`. A change in the meantime is detected below.
        let weakness = check_request_approver(&checked, approver, processes)?.filter(|_| !has_password);
        let confirmed_by = match weakness {
            Some(weakness) if policy == ApprovalPolicy::Strict => return Err(ApprovalProblem::TooWeak(weakness)),
            Some(_) => None,
            None if has_password => Some(Confirmation::Password),
            None => Some(Confirmation::Terminal),
        };
        let mut state = self.lock();
        let is_unchanged = state.requests.get(&checked.identity_use).is_some_and(|request| {
            request.code == checked.code && request.ancestries == checked.ancestries && now < request.until
        });
        if !is_unchanged {
            return Err(ApprovalProblem::UnknownCode(code.to_owned()));
        }
        let approval = Approval {
            identity_use: checked.identity_use.clone(),
            at: now,
            until: now + approval_milliseconds(&checked.identity_use),
            confirmed_by,
        };
        let mut approved = state.approved.clone();
        approved.retain(|existing| existing.identity_use != approval.identity_use && now < existing.until);
        approved.push(approval.clone());
        self.write(&approved).map_err(|error| ApprovalProblem::NotStored(error.to_string()))?;
        state.approved = approved;
        state.requests.remove(&checked.identity_use);
        Ok((approval, weakness))
    }

    #[must_use]
    pub fn list(&self, now: i64) -> Vec<Approval> {
        self.lock().approved.iter().filter(|approval| now < approval.until).cloned().collect()
    }

    /// Revokes every approval that matches. Returns their number.
    ///
    /// # Errors
    /// When the file cannot be written. No approval is revoked in this case.
    pub fn revoke(&self, matches: &dyn Fn(&IdentityUse) -> bool) -> io::Result<usize> {
        let mut state = self.lock();
        let remaining: Vec<Approval> =
            state.approved.iter().filter(|approval| !matches(&approval.identity_use)).cloned().collect();
        let revoked = state.approved.len() - remaining.len();
        if revoked > 0 {
            self.write(&remaining)?;
            state.approved = remaining;
        }
        Ok(revoked)
    }

    fn write(&self, approved: &[Approval]) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            storage::create_private_folder(folder)?;
        }
        storage::replace_file(&self.path, &serde_json::to_vec_pretty(approved)?)
    }
}

fn check_request_approver(
    request: &ApprovalRequest,
    approver: i32,
    processes: &dyn ProcessTable,
) -> Result<Option<Weakness>, Denial> {
    if request.ancestries.len() > ANCESTRIES_MAX {
        return Err(Denial::TooManyRequesters);
    }
    ancestry::check_approver(&request.ancestries, request.requested_ticks, approver, processes)
}

fn approval_milliseconds(identity_use: &IdentityUse) -> i64 {
    if identity_use.session.is_some() { SESSION_APPROVAL_MILLISECONDS } else { APPROVAL_MILLISECONDS }
}

/// For example `7kq2-mxgh`: 40 random bits, which cannot be guessed at ten attempts a minute.
pub(crate) fn random_code() -> String {
    let mut bytes = [0u8; CODE_LENGTH];
    // Without randomness, return a code that cannot be typed.
    let random = SystemRandom::new().fill(&mut bytes).is_ok();
    let letters: Vec<u8> = bytes.iter().map(|byte| ALPHABET[usize::from(byte & 31)]).collect();
    let text = String::from_utf8_lossy(&letters).into_owned();
    if random { format!("{}-{}", &text[..4], &text[4..]) } else { "\0".to_owned() }
}

#[cfg(test)]
mod tests;
