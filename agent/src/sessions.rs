//! Sessions of coding agents, kept to their time and to their guard: who belongs, and what happens at the end.
//!
//! Who belongs and what it gets is the credentials' crate's. Ending its programs is the guard's, which is asked by a signal.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use credentials::approval::ancestry::{ProcessAncestry, ProcessTable, SystemProcesses, ancestry_of};
use credentials::approval::{IdentityUse, identity_digest};
use credentials::broker::{BrokerProblem, Requester, SessionMember};
use credentials::session::{Session, SessionProblem, SessionSpec, Sessions, ancestors};
use plan::application::PreviewId;
use protocol::Problem;

use crate::bus::now_ms;
use crate::pidfd::PidFd;
use crate::session_previews::{self, session_of_process, with_allowed_identities};
use crate::shared::Shared;

/// The first argument of a session's guard.
pub const GUARD_COMMAND: &str = "session-guard";

/// Refuses to be an agent that a session started in folders of its own choice, where nothing is known of that session.
///
/// # Errors
/// When a guard is above that began none of these sessions, or the keeper of a session's preview of another agent.
pub fn refuse_unknown_session(sessions: &Sessions, state: &Path) -> Result<(), Problem> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let chain = ancestors(own, &SystemProcesses).unwrap_or_default();
    let known = sessions.all();
    let is_unknown = |process: &(i32, u64)| {
        is_session_guard(process.0) && !known.iter().any(|session| session.roots.contains(process))
    };
    let is_below = chain.iter().any(is_unknown)
        || chain.iter().any(|(pid, _)| session_previews::is_foreign_session_keeper(*pid, state));
    if !is_below {
        return Ok(());
    }
    let title = "this runs in a coding agent's session, which does not start an agent of its own";
    let hint = "Leave pdev's folders (`PDEV_SOCKET_DIR`, `XDG_*`, `HOME`) as the session was given them; a person starts \
                another session.";
    Err(Problem::new("session_own_agent", 403, title).hint(hint))
}

fn is_session_guard(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(GUARD_COMMAND.as_bytes())
}

/// The session of a process, with what a person allowed it.
#[must_use]
pub fn session_member_of_process(shared: &Shared, pid: Option<i32>) -> Option<SessionMember> {
    session_of_process(shared, pid?).map(|session| with_allowed_identities(shared, session))
}

/// A refusal with the code under which a person can allow it; as it is where nobody can.
#[must_use]
pub fn offer_approval(shared: &Shared, name: &str, peer: Option<i32>, problem: BrokerProblem) -> BrokerProblem {
    let Some((pid, member)) = peer.zip(session_member_of_process(shared, peer)) else { return problem };
    request_approval(shared, name, &member.session, ancestry_of(pid, &SystemProcesses), problem)
}

/// Neither the program that asks nor whatever the session was started from may allow it.
fn request_approval(
    shared: &Shared,
    name: &str,
    session: &Session,
    asker: Option<ProcessAncestry>,
    problem: BrokerProblem,
) -> BrokerProblem {
    let can_be_allowed = problem.code.starts_with("session_") && problem.code != "session_over";
    let Some(identity) = shared.broker.identity(name).ok().filter(|_| can_be_allowed) else { return problem };
    let wanted = IdentityUse {
        repository: String::new(),
        folder_id: String::new(),
        service: session.name.clone(),
        identity: identity.name.clone(),
        identity_digest: identity_digest(&identity),
        session: Some(session.id.clone()),
    };
    shared.access.approvals.request_approval(&wanted, session.ancestry.clone(), session.started_ticks, now_ms());
    let request = shared.access.approvals.request_approval(&wanted, asker, session.started_ticks, now_ms());
    let allow =
        format!("If it may have all of it for an hour: `pdev session allow {}` in another terminal.", request.code);
    let hint = match problem.code {
        "session_not_narrow" => format!("{} {allow}", problem.hint.unwrap_or_default()),
        _ => allow,
    };
    BrokerProblem { hint: Some(hint), ..problem }
}

/// Why a service of a session's preview will be given nothing of an identity, with the way out. Whoever brings the preview
/// up belongs to the session, and approves nothing for that already.
#[must_use]
pub fn service_refusal_reason(shared: &Shared, name: &str, id: &PreviewId) -> Option<String> {
    let member = session_previews::session_member_of_preview(shared, id)?;
    let asker = Requester { session: Some(member.clone()), ..Requester::default() };
    let problem = shared.broker.check_session_access(name, &asker).err()?;
    let problem = request_approval(shared, name, &member.session, None, problem);
    Some(format!("{}. {}", problem.message, problem.hint.unwrap_or_default()))
}

/// # Errors
/// Why there is no session.
pub fn begin(shared: &Arc<Shared>, wish: SessionSpec, pid: Option<i32>, asker: &Requester) -> Result<Session, Problem> {
    let guard = pid.ok_or(SessionProblem::UnknownProcess).map_err(|problem| session_problem(&problem))?;
    if let Some(outer) = session_of_process(shared, guard) {
        return Err(session_problem(&SessionProblem::Nested(outer.name)));
    }
    for name in &wish.identities {
        shared.broker.identity(name).map_err(crate::convert::broker_problem)?;
    }
    let known = shared.broker.identity_digests().map_err(crate::convert::broker_problem)?;
    let roots = (guard, pdev_parent(guard));
    let begun = shared.access.sessions.begin(wish, roots, known, &SystemProcesses, now_ms());
    let session = begun.map_err(|problem| session_problem(&problem))?;
    audit_session(shared, "session_began", &session, asker);
    tokio::spawn(watch_session(Arc::clone(shared), session.clone()));
    Ok(session)
}

/// The guard's own parent, where that is pdev too: if the guard is killed, its programs become children of that one.
fn pdev_parent(guard: i32) -> Option<i32> {
    let parent = SystemProcesses.process(guard)?.parent;
    let executable = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    (executable(parent)? == executable(guard)?).then_some(parent)
}

/// Ends it: its leases are dropped, its programs get nothing, and its guard is told to end them.
///
/// # Errors
/// When there is no such session.
pub fn end(shared: &Shared, text: &str, asker: &Requester) -> Result<(), Problem> {
    let session = shared.access.sessions.find_by_id_or_name(text).ok_or_else(|| {
        let title = format!("there is no session `{text}`, or more than one of that name");
        Problem::new("session_unknown", 404, title).hint("`pdev session list` shows all.")
    })?;
    end_session(shared, &session, asker);
    if let Some(guard) = session.guard().and_then(PidFd::open) {
        guard.terminate();
    }
    Ok(())
}

/// Those that an agent before this one began.
pub fn resume_watching(shared: &Arc<Shared>) {
    for session in shared.access.sessions.all() {
        tokio::spawn(watch_session(Arc::clone(shared), session));
    }
}

/// Until its time is over or its guard is gone, however that ended.
async fn watch_session(shared: Arc<Shared>, session: Session) {
    let left = u64::try_from(session.until - now_ms()).unwrap_or_default();
    let time_over = tokio::time::sleep(Duration::from_millis(left));
    let gone = wait_for_exit(session.guard());
    tokio::pin!(gone);
    tokio::select! {
        () = &mut gone => end_session(&shared, &session, &Requester::default()),
        () = time_over => {
            end_session(&shared, &session, &Requester::default());
            // Known as long as something may belong to it: who does is refused, and not taken for a person.
            gone.await;
        }
    }
    for root in &session.roots {
        wait_for_exit(Some(*root)).await;
    }
    shared.access.sessions.remove_dead(&SystemProcesses);
}

/// Waits for the end of a process, which may be long ago.
async fn wait_for_exit(process: Option<(i32, u64)>) {
    if let Some(process) = process.and_then(PidFd::open) {
        process.wait_for_exit().await;
    }
}

fn end_session(shared: &Shared, session: &Session, asker: &Requester) {
    let changed = shared.access.sessions.end(&session.id);
    shared.broker.forget_session(&session.id);
    if changed {
        audit_session(shared, "session_over", session, asker);
    }
}

/// What was decided stays so, written down or not.
fn audit_session(shared: &Shared, what: &str, session: &Session, asker: &Requester) {
    let of = SessionMember { session: session.clone(), allowed_identities: Vec::new() };
    let asker = Requester { session: Some(of), ..asker.clone() };
    if let Err(problem) = shared.broker.record_decision(what, "", &asker, None) {
        tracing::error!(problem = problem.message, "the audit log lacks the beginning or end of a session");
    }
}

fn session_problem(problem: &SessionProblem) -> Problem {
    let (code, status, hint) = match problem {
        SessionProblem::Nested(_) => ("session_nested", 409, "Its programs are held to it without a further one."),
        SessionProblem::TooMany => {
            ("session_many", 409, "`pdev session list` shows them, `pdev session end ID` ends one.")
        }
        SessionProblem::InvalidName(_) => ("session_name", 422, "Give one with `--name`."),
        SessionProblem::InvalidDuration => ("session_length", 422, "Give it with `--for`, such as `--for 2h`."),
        SessionProblem::UnknownProcess => ("session_unseen", 501, "Sessions need Linux."),
        SessionProblem::NotStored(_) => {
            ("session_not_kept", 500, "Free some space, or mend the permissions of pdev's data folder.")
        }
    };
    Problem::new(code, status, problem.to_string()).hint(hint)
}
