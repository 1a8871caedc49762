//! Previews that a coding agent's session brought up: what runs in them counts as the session's, until `down`.
//!
//! Held is the whole preview, not a unit: its programs are what the session wrote, and reach each other. A person's `up`
//! takes nothing off, because it ends none of them. What a session may have is the credentials' crate's to say.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use credentials::approval::IdentityUse;
use credentials::approval::ancestry::SystemProcesses;
use credentials::approval::identity_digest;
use credentials::broker::{Requester, SessionMember};
use credentials::session::{Session, ancestors};
use plan::application::{PreviewId, RuntimeKind, Unit};
use protocol::{EventKind, Problem};

use crate::bus::now_ms;
use crate::preview::PreviewHandle;
use crate::registry::Record;
use crate::shared::Shared;

/// Marks the preview before anything of it is read or started, so that no lease of its person's is given from here on.
///
/// # Errors
/// When it cannot be written: unmarked nothing is brought up.
pub fn mark_with_session(shared: &Shared, handle: &PreviewHandle, asker: &Requester) -> Result<(), Problem> {
    let Some(SessionMember { session, .. }) = &asker.session else { return Ok(()) };
    if shared.registry.session_of(&handle.id).is_some_and(|held| held.id == session.id) {
        return Ok(());
    }
    // A record that another `up` is about to write back must not lose the mark.
    let _one_at_a_time = shared.naming_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let marked = shared.registry.edit(&handle.id, |record| record.session = Some(session.clone()));
    marked.map_err(|error| crate::preview::naming::state_write_problem(&error))?;
    handle.published.edit_preview(|status| status.session = Some(session.name.clone()));
    if let Err(problem) = shared.broker.record_decision("preview_held", "", asker, None) {
        tracing::error!(problem = problem.message, "the audit log lacks that a session has a preview");
    }
    Ok(())
}

/// What everybody who looks at this `up` is told.
#[must_use]
pub fn session_note(record: &Record) -> Option<EventKind> {
    let name = &record.session.as_ref()?.name;
    let text = format!(
        "the session `{name}` brought this preview up, so its services get no more of an identity than that session; \
         `pdev down`, then `pdev up` outside of it ends that"
    );
    Some(EventKind::Noted { text })
}

/// The session that a service of this preview counts to.
#[must_use]
pub fn session_member_of_preview(shared: &Shared, id: &PreviewId) -> Option<SessionMember> {
    shared.registry.session_of(id).map(|session| with_allowed_identities(shared, current_session(shared, session)))
}

/// The session of a process: of those above it, or of the preview whose keeper is above it or whose container it runs in.
#[must_use]
pub fn session_of_process(shared: &Shared, pid: i32) -> Option<Session> {
    shared.access.sessions.find_by_process(pid, &SystemProcesses).or_else(|| session_via_preview(shared, pid))
}

/// As with sessions: who cannot be followed to the end may have ended its parent to be unseen.
fn session_via_preview(shared: &Shared, pid: i32) -> Option<Session> {
    let held = shared.registry.previews_with_session();
    let (_, first) = held.first()?;
    let found = match ancestors(pid, &SystemProcesses) {
        None => first,
        Some(above) => {
            let keepers: Vec<PreviewId> = above.iter().filter_map(|(pid, _)| preview_of_keeper(*pid)).collect();
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let found =
                held.iter().find(|(id, _)| keepers.contains(id) || is_container_of_preview(shared, id, &groups));
            found.map(|(_, session)| session)?
        }
    };
    Some(current_session(shared, found.clone()))
}

/// A container reaches the agent where its manifest mounts the socket. Engines call a container's control groups by its id.
fn is_container_of_preview(shared: &Shared, id: &PreviewId, groups: &str) -> bool {
    let units = shared.preview_handle(id).map(|handle| handle.published.status().units).unwrap_or_default();
    units.iter().any(|unit| {
        unit.runtime == "docker"
            && unit.handle.as_deref().is_some_and(|handle| handle.len() > 11 && groups.contains(handle))
    })
}

/// The preview of a keeper. Who pretends to be one is held to less, not to more.
fn preview_of_keeper(pid: i32) -> Option<PreviewId> {
    Some(PreviewId(keeper_folder(pid)?.file_name()?.to_str()?.to_owned()))
}

/// Where a keeper writes, by the words that it was started with: `previews/ID` in an agent's state.
fn keeper_folder(pid: i32) -> Option<PathBuf> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let [_, b"keeper", _, folder, ..] = words.as_slice() else { return None };
    Some(PathBuf::from(std::str::from_utf8(folder).ok()?))
}

/// Whether it is the keeper of a session's preview at an agent with another state than this one.
#[must_use]
pub fn is_foreign_session_keeper(pid: i32, state: &Path) -> bool {
    let session = || {
        let folder = keeper_folder(pid)?;
        let id = folder.file_name()?.to_str()?;
        let other = folder.parent()?.parent().filter(|other| *other != state)?;
        let text = std::fs::read(other.join("registry").join(format!("{id}.json"))).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
        record.get("session").filter(|session| !session.is_null()).map(drop)
    };
    session().is_some()
}

/// As it stands now; one that nobody knows any more is over.
fn current_session(shared: &Shared, session: Session) -> Session {
    shared.access.sessions.find_by_id_or_name(&session.id).unwrap_or(Session { has_ended: true, ..session })
}

/// With what a person allowed it.
#[must_use]
pub fn with_allowed_identities(shared: &Shared, session: Session) -> SessionMember {
    let approved = shared.access.approvals.list(now_ms()).into_iter().map(|approval| approval.identity_use);
    let own = approved.filter(|of| of.session.as_deref() == Some(session.id.as_str()));
    // What the identity is now: a person's word was about what it was then.
    let same = |of: &IdentityUse| {
        shared.broker.identity(&of.identity).is_ok_and(|identity| identity_digest(&identity) == of.identity_digest)
    };
    let raised = own.filter(same).map(|of| of.identity).collect();
    SessionMember { session, allowed_identities: raised }
}

/// Refuses a command in, or a new start of, something that acts for its person: local processes can ask as that person, and
/// services with an identity are given its lease.
///
/// # Errors
/// The rule, its reason and the way out.
pub fn refuse_personal_units<'a>(
    shared: &Shared,
    id: &PreviewId,
    units: impl Iterator<Item = &'a Unit>,
    asker: &Requester,
) -> Result<(), Problem> {
    let Some(SessionMember { session, .. }) = &asker.session else { return Ok(()) };
    if shared.registry.session_of(id).is_some_and(|held| held.id == session.id) {
        return Ok(());
    }
    for unit in units {
        let why = match &unit.identity {
            Some(identity) => format!("acts as `{identity}`"),
            None if unit.body.runtime() == RuntimeKind::Process => "is a local process".to_owned(),
            None => continue,
        };
        let title = format!(
            "`{}` {why} for a person, and a coding agent's session (`{}`) would have what that person has",
            unit.name, session.name
        );
        let hint = "`pdev up` from within the session holds this preview to the session first, and starts it anew where \
                    it has an identity; or a person does it outside.";
        return Err(Problem::new("session_not_its_preview", 403, title).unit(&unit.name).hint(hint));
    }
    Ok(())
}
