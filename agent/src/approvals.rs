//! Decides whether a repository's service may act as an identity, and records which process requested it.
//!
//! The `credentials` crate defines what an approval is bound to and who may grant it. This module knows the folder of
//! each preview and the process that ran `up` for it last.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use credentials::approval::ancestry::{ProcessAncestry, SystemProcesses, ancestry_of};
use credentials::approval::{Approvals, IdentityUse, identity_digest};
use credentials::identity::{ApprovalPolicy, Identity};
use credentials::session::Sessions;
use host::clock::now_milliseconds;

use crate::registry::Record;

/// Folders whose last requester is remembered; enough for a few days of work.
const REQUESTERS_MAX: usize = 256;

pub struct AccessControl {
    pub approvals: Approvals,
    pub sessions: Sessions,
    /// Manifest folder -> the processes that ran `up` last, and when, in ticks since the machine booted.
    requesters: Mutex<BTreeMap<String, (ProcessAncestry, u64)>>,
}

impl AccessControl {
    #[must_use]
    pub fn new(approvals: Approvals, sessions: Sessions) -> Self {
        Self { approvals, sessions, requesters: Mutex::default() }
    }

    /// Remembers the requesting process and its ancestors. Without a known pid, the process table is not read.
    pub fn record_requester(&self, folder: &str, pid: Option<i32>) {
        let Some(ancestry) = pid.and_then(|pid| ancestry_of(pid, &SystemProcesses)) else { return };
        let mut requesters = self.requesters.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounds the map. A forgotten folder only has to run `pdev up` again to request approval.
        if requesters.len() >= REQUESTERS_MAX {
            requesters.clear();
        }
        requesters.insert(folder.to_owned(), (ancestry, host::processes::uptime_ticks()));
    }

    /// Returns `None` if the service may act as the identity, else the reason and the fix. Only `up` creates an
    /// approval request: an editor that computes a plan after each change must not.
    #[must_use]
    pub fn refusal_reason(
        &self,
        identity_use: &IdentityUse,
        identity: &Identity,
        folder: &str,
        (purpose, policy): (Purpose, ApprovalPolicy),
    ) -> Option<String> {
        if !needs_approval(identity) || self.approvals.is_approved(identity_use, policy, now_milliseconds()) {
            return None;
        }
        let reason = "its use in this repository is not approved";
        let last_requester = || self.requesters.lock().unwrap_or_else(PoisonError::into_inner).get(folder).cloned();
        let requester = if purpose == Purpose::Up { last_requester() } else { None };
        // A requester must not approve its own request. If the requester is unknown, this cannot be checked.
        let Some((ancestry, requested_at)) = requester else {
            return Some(format!("{reason}. Run `pdev up` to request approval."));
        };
        let request = self.approvals.request_approval(identity_use, Some(ancestry), requested_at, now_milliseconds());
        Some(format!(
            "{reason}. To approve it, run `pdev identity approve {}` in another terminal, then `pdev up` again.",
            request.code
        ))
    }
}

/// The operation that needs the identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Up,
    Plan,
}

#[must_use]
pub fn needs_approval(identity: &Identity) -> bool {
    identity.text("ask") != Some("never")
}

/// The path of the preview's repository: git's shared folder, or the manifest's folder outside of git.
#[must_use]
pub fn repository_path(record: &Record) -> String {
    record.identity.first().cloned().unwrap_or_else(|| record.folder.display().to_string())
}

/// The use of `identity` by one unit of this preview, as approvals record it.
#[must_use]
pub fn identity_use_of(record: &Record, unit: &str, identity: &Identity) -> IdentityUse {
    let repository = repository_path(record);
    // Device and inode: another repository that is created at the same path later needs its own approval.
    let metadata = std::fs::metadata(Path::new(&repository));
    let folder_id = metadata.map(|metadata| format!("{}:{}", metadata.dev(), metadata.ino())).unwrap_or_default();
    IdentityUse {
        repository,
        folder_id,
        service: unit.to_owned(),
        identity: identity.name.clone(),
        identity_digest: identity_digest(identity),
        session: None,
    }
}
