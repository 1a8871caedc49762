//! Previews that a coding agent's session started: until `down`, their programs count as programs of the session.
//!
//! The restriction covers the entire preview, not single units, because the session wrote its programs and they can
//! reach each other. An `up` by the user does not lift it, because it ends none of these programs. The `credentials`
//! crate decides which identities a session may use.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use credentials::approval::IdentityUse;
use credentials::approval::ancestry::SystemProcesses;
use credentials::approval::identity_digest;
use credentials::broker::{Requester, SessionMember};
use credentials::session::{Session, ancestors};
use host::clock::now_milliseconds;
use plan::application::{PreviewId, RuntimeKind, Unit};
use protocol::{EventKind, Problem};

use crate::preview::PreviewHandle;
use crate::registry::Record;
use crate::shared::Shared;

/// Binds the preview to the requester's session before its manifest is read or a unit is started. From then on, no unit
/// gets one of the user's leases.
///
/// # Errors
/// When the record cannot be written. Without it, the `up` must not continue.
pub fn mark_with_session(shared: &Shared, handle: &PreviewHandle, requester: &Requester) -> Result<(), Problem> {
    let Some(SessionMember { session, .. }) = &requester.session else { return Ok(()) };
    if shared.registry.session_of(&handle.id).is_some_and(|bound| bound.id == session.id) {
        return Ok(());
    }
    // Another `up` may be about to write this record back; the lock keeps it from overwriting the session.
    let _naming_guard = shared.naming_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let marked = shared.registry.edit(&handle.id, |record| record.session = Some(session.clone()));
    marked.map_err(|error| crate::convert::state_write_problem(&error))?;
    handle.published.edit_preview(|status| status.session = Some(session.name.clone()));
    if let Err(problem) = shared.broker.record_decision("preview_held", "", requester, None) {
        // The restriction is in effect already, so a failed audit entry does not fail the `up`.
        tracing::error!(problem = problem.message, "cannot write to the audit log that a session started a preview");
    }
    Ok(())
}

/// The note for all clients that follow this `up`.
#[must_use]
pub fn session_note(record: &Record) -> Option<EventKind> {
    let name = &record.session.as_ref()?.name;
    let text = format!(
        "the session `{name}` started this preview, so its services get no more access to identities than that session; \
         to lift this, run `pdev down`, then `pdev up` outside of the session"
    );
    Some(EventKind::Noted { text })
}

/// The session that the services of this preview belong to.
#[must_use]
pub fn session_member_of_preview(shared: &Shared, id: &PreviewId) -> Option<SessionMember> {
    shared.registry.session_of(id).map(|session| with_allowed_identities(shared, current_session(shared, session)))
}

/// The session of a process: the session of one of its ancestors, or of the preview whose keeper is an ancestor or
/// whose container runs the process.
#[must_use]
pub fn session_of_process(shared: &Shared, pid: i32) -> Option<Session> {
    shared.access.sessions.find_by_process(pid, &SystemProcesses).or_else(|| session_via_preview(shared, pid))
}

fn session_via_preview(shared: &Shared, pid: i32) -> Option<Session> {
    let restricted = shared.registry.previews_with_session();
    let (_, first) = restricted.first()?;
    let session = match ancestors(pid, &SystemProcesses) {
        // The process may have ended its parent on purpose to hide its session, so it counts as a member.
        None => first,
        Some(ancestors) => {
            let keepers: Vec<PreviewId> = ancestors.iter().filter_map(|(pid, _)| preview_of_keeper(*pid)).collect();
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let preview =
                restricted.iter().find(|(id, _)| keepers.contains(id) || is_container_of_preview(shared, id, &cgroups));
            preview.map(|(_, session)| session)?
        }
    };
    Some(current_session(shared, session.clone()))
}

/// Whether these cgroups are of one of the preview's containers. A container can reach the agent if its manifest mounts
/// the agent's socket. Engines name a container's cgroups after its id.
fn is_container_of_preview(shared: &Shared, id: &PreviewId, cgroups: &str) -> bool {
    unit_of_container(shared, id, cgroups).is_some()
}

/// The unit of the preview whose container has one of these cgroups.
#[must_use]
pub fn unit_of_container(shared: &Shared, id: &PreviewId, cgroups: &str) -> Option<String> {
    let units = shared.preview_handle(id).map(|handle| handle.published.status().units).unwrap_or_default();
    let found = units.into_iter().find(|unit| {
        let is_in_cgroups =
            RuntimeKind::parse(&unit.runtime).is_ok_and(|runtime| runtime.capabilities().handle_is_in_cgroups);
        // A handle shorter than Docker's short ids (12 characters) could match by accident.
        is_in_cgroups && unit.handle.as_deref().is_some_and(|handle| handle.len() > 11 && cgroups.contains(handle))
    });
    found.map(|unit| unit.name)
}

/// The preview of a keeper process. A process that only pretends to be a keeper gains nothing: this can only restrict.
#[must_use]
pub fn preview_of_keeper(pid: i32) -> Option<PreviewId> {
    Some(PreviewId(keeper_folder(pid)?.file_name()?.to_str()?.to_owned()))
}

/// The folder that a keeper writes to, from its command line: `previews/ID` in the state folder of an agent.
fn keeper_folder(pid: i32) -> Option<PathBuf> {
    let command_line = host::processes::command_line(pid);
    let arguments: Vec<&[u8]> = command_line.iter().collect();
    let [_, b"keeper", _, folder, ..] = arguments.as_slice() else { return None };
    Some(PathBuf::from(std::str::from_utf8(folder).ok()?))
}

/// Whether the process is the keeper of a session's preview that belongs to an agent with another state folder.
#[must_use]
pub fn is_foreign_session_keeper(pid: i32, state: &Path) -> bool {
    let session = || {
        let folder = keeper_folder(pid)?;
        let id = folder.file_name()?.to_str()?;
        let other_state = folder.parent()?.parent().filter(|other_state| *other_state != state)?;
        let text = std::fs::read(other_state.join("registry").join(format!("{id}.json"))).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
        record.get("session").filter(|session| !session.is_null()).map(drop)
    };
    session().is_some()
}

/// The session's current state. A session that is no longer listed has ended.
fn current_session(shared: &Shared, session: Session) -> Session {
    shared.access.sessions.find_by_id_or_name(&session.id).unwrap_or(Session { has_ended: true, ..session })
}

/// Adds the identities that the user has allowed this session to use.
#[must_use]
pub fn with_allowed_identities(shared: &Shared, session: Session) -> SessionMember {
    let approvals = &shared.access.approvals;
    let approved = approvals.list(now_milliseconds()).into_iter().map(|approval| approval.identity_use);
    let policy = shared.broker.approval_policy();
    let approved = approved.filter(|approved_use| approvals.is_approved(approved_use, policy, now_milliseconds()));
    let of_session = approved.filter(|approved_use| approved_use.session.as_deref() == Some(session.id.as_str()));
    // An approval is valid only while the identity's configuration is unchanged.
    let is_unchanged = |approved_use: &IdentityUse| {
        let identity = shared.broker.identity(&approved_use.identity);
        identity.is_ok_and(|identity| identity_digest(&identity) == approved_use.identity_digest)
    };
    let allowed_identities = of_session.filter(is_unchanged).map(|approved_use| approved_use.identity).collect();
    SessionMember { session, allowed_identities }
}

/// Keeps a session from running a command in, or restarting, a unit that acts for the user. Local processes can request
/// credentials as the user, and services with an identity get its lease.
///
/// # Errors
/// When one of the units acts for the user and the preview does not belong to the session.
pub fn refuse_personal_units<'a>(
    shared: &Shared,
    id: &PreviewId,
    units: impl Iterator<Item = &'a Unit>,
    requester: &Requester,
) -> Result<(), Problem> {
    let Some(SessionMember { session, .. }) = &requester.session else { return Ok(()) };
    if shared.registry.session_of(id).is_some_and(|bound| bound.id == session.id) {
        return Ok(());
    }
    for unit in units {
        let reason = match &unit.identity {
            Some(identity) => format!("acts as `{identity}` for the user"),
            None if unit.runtime.capabilities().runs_as_user => {
                format!("is a {} of the user", unit.runtime.capabilities().wording.unit)
            }
            // An isolated unit without an identity has no access of the user.
            None => continue,
        };
        let title = format!(
            "`{}` {reason}, so a coding agent's session (`{}`) would get the user's access",
            unit.name, session.name
        );
        let hint = "Run `pdev up` inside the session first: it moves the preview to the session, and recreates services \
                    with an identity. Or run this command outside of the session.";
        return Err(Problem::new("session_not_its_preview", 403, title).unit(&unit.name).hint(hint));
    }
    Ok(())
}
