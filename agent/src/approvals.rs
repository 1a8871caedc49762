//! Whether a repository's service may act as an identity, and who asked for it.
//!
//! What an approval is bound to and who may give it is the credentials' crate's. Here is known which folder a preview
//! is of, and which program asked for it last.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use credentials::approval::family::{Family, Running, family_of};
use credentials::approval::{Approvals, Use, meaning};
use credentials::identity::Identity;
use credentials::session::Sessions;

use crate::bus::now_ms;
use crate::registry::Record;

/// Folders whose last asker is known; a few days of work.
const ASKERS_MAX: usize = 256;

pub struct Gate {
    pub approvals: Approvals,
    pub sessions: Sessions,
    /// By the manifest's folder: who said `up` last, and when in ticks since the machine started.
    askers: Mutex<BTreeMap<String, (Family, u64)>>,
}

impl Gate {
    #[must_use]
    pub fn new(approvals: Approvals, sessions: Sessions) -> Self {
        Self { approvals, sessions, askers: Mutex::default() }
    }

    /// Remembers who asks. Nothing is asked of the process table for requests without a known process.
    pub fn note(&self, folder: &str, pid: Option<i32>) {
        let Some(family) = pid.and_then(|pid| family_of(pid, &Running)) else { return };
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if askers.len() >= ASKERS_MAX {
            askers.clear();
        }
        askers.insert(folder.to_owned(), (family, Running.ticks()));
    }

    /// `None` when the service may act as the identity, else why not and what to do. Only `up` asks a person: an editor
    /// that looks at a plan after each change has asked for nothing.
    #[must_use]
    pub fn refuses(&self, wanted: &Use, identity: &Identity, folder: &str, purpose: Purpose) -> Option<String> {
        if !asks(identity) || self.approvals.allows(wanted, now_ms()) {
            return None;
        }
        let why = "nobody has approved that this repository uses it";
        let known = || self.askers.lock().unwrap_or_else(PoisonError::into_inner).get(folder).cloned();
        let asker = if purpose == Purpose::Up { known() } else { None };
        // Without a known asker nobody could be told apart from them.
        let Some((family, asked)) = asker else { return Some(format!("{why}. `pdev up` asks for it.")) };
        let request = self.approvals.ask(wanted, Some(family), asked, now_ms());
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
    Look,
}

#[must_use]
pub fn asks(identity: &Identity) -> bool {
    identity.text("ask") != Some("never")
}

/// Where the repository of this preview lies.
#[must_use]
pub fn repository(record: &Record) -> String {
    record.identity.first().cloned().unwrap_or_else(|| record.folder.display().to_string())
}

/// What the unit of this preview wants.
#[must_use]
pub fn use_of(record: &Record, unit: &str, identity: &Identity) -> Use {
    let repository = repository(record);
    let found = std::fs::metadata(Path::new(&repository));
    let place = found.map(|found| format!("{}:{}", found.dev(), found.ino())).unwrap_or_default();
    Use {
        repository,
        place,
        service: unit.to_owned(),
        identity: identity.name.clone(),
        meaning: meaning(identity),
        session: None,
    }
}
