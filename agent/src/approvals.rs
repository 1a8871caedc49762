//! Whether a repository's service may act as an identity, and who asked for it.
//!
//! What an approval is bound to and who may give it is the credentials' crate's. Here is known which folder a preview
//! is of, and which program asked for it last.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use credentials::approval::ancestry::{ProcessAncestry, SystemProcesses, ancestry_of};
use credentials::approval::{Approvals, IdentityUse, identity_digest};
use credentials::identity::Identity;
use credentials::session::Sessions;

use crate::bus::now_ms;
use crate::registry::Record;

/// Folders whose last asker is known; a few days of work.
const REQUESTERS_MAX: usize = 256;

pub struct AccessControl {
    pub approvals: Approvals,
    pub sessions: Sessions,
    /// By the manifest's folder: who said `up` last, and when in ticks since the machine started.
    requesters: Mutex<BTreeMap<String, (ProcessAncestry, u64)>>,
}

impl AccessControl {
    #[must_use]
    pub fn new(approvals: Approvals, sessions: Sessions) -> Self {
        Self { approvals, sessions, requesters: Mutex::default() }
    }

    /// Remembers who asks. Nothing is asked of the process table for requests without a known process.
    pub fn record_requester(&self, folder: &str, pid: Option<i32>) {
        let Some(family) = pid.and_then(|pid| ancestry_of(pid, &SystemProcesses)) else { return };
        let mut askers = self.requesters.lock().unwrap_or_else(PoisonError::into_inner);
        if askers.len() >= REQUESTERS_MAX {
            askers.clear();
        }
        askers.insert(folder.to_owned(), (family, SystemProcesses.uptime_ticks()));
    }

    /// `None` when the service may act as the identity, else why not and what to do. Only `up` asks a person: an editor
    /// that looks at a plan after each change has asked for nothing.
    #[must_use]
    pub fn refusal_reason(
        &self,
        wanted: &IdentityUse,
        identity: &Identity,
        folder: &str,
        purpose: Purpose,
    ) -> Option<String> {
        if !needs_approval(identity) || self.approvals.is_approved(wanted, now_ms()) {
            return None;
        }
        let why = "nobody has approved that this repository uses it";
        let known = || self.requesters.lock().unwrap_or_else(PoisonError::into_inner).get(folder).cloned();
        let asker = if purpose == Purpose::Up { known() } else { None };
        // Without a known asker nobody could be told apart from them.
        let Some((family, asked)) = asker else { return Some(format!("{why}. `pdev up` asks for it.")) };
        let request = self.approvals.request_approval(wanted, Some(family), asked, now_ms());
        Some(format!(
            "{why}. If it may: `pdev identity approve {}` in another terminal, then `pdev up` again.",
            request.code
        ))
    }
}

/// What a preparation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Up,
    Plan,
}

#[must_use]
pub fn needs_approval(identity: &Identity) -> bool {
    identity.text("ask") != Some("never")
}

/// Where the repository of this preview lies.
#[must_use]
pub fn repository_path(record: &Record) -> String {
    record.identity.first().cloned().unwrap_or_else(|| record.folder.display().to_string())
}

/// What the unit of this preview wants.
#[must_use]
pub fn identity_use_of(record: &Record, unit: &str, identity: &Identity) -> IdentityUse {
    let repository = repository_path(record);
    let found = std::fs::metadata(Path::new(&repository));
    let place = found.map(|found| format!("{}:{}", found.dev(), found.ino())).unwrap_or_default();
    IdentityUse {
        repository,
        folder_id: place,
        service: unit.to_owned(),
        identity: identity.name.clone(),
        identity_digest: identity_digest(identity),
        session: None,
    }
}
