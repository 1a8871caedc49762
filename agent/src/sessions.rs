//! Sessions of coding agents: begins them, and ends them when their time is over or their guard has exited.
//!
//! The `credentials` crate decides which processes belong to a session and what they may get. The session's programs
//! are ended by its guard, which the agent signals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use credentials::BrokerProblem;
use credentials::approval::ancestry::{ProcessAncestry, SystemProcesses, ancestry_of};
use credentials::approval::{IdentityUse, identity_digest};
use credentials::broker::{Requester, SessionMember};
use credentials::session::{Session, SessionProblem, SessionSpec, Sessions, ancestors};
use host::clock::now_milliseconds;
use host::processes;
use plan::application::PreviewId;
use protocol::Problem;

use crate::pidfd::PidFd;
use crate::session_previews::{self, session_of_process, with_allowed_identities};
use crate::shared::Shared;

/// The first argument of a session's guard.
pub const GUARD_COMMAND: &str = "session-guard";

/// Refuses to run as an agent that a session started in its own folders: such an agent does not know the session, and
/// would not restrict its programs.
///
/// # Errors
/// When an ancestor is the guard of an unknown session, or the keeper of a session's preview that belongs to another
/// agent.
pub fn refuse_unknown_session(sessions: &Sessions, state: &Path) -> Result<(), Problem> {
    let own_pid = i32::try_from(std::process::id()).unwrap_or_default();
    let chain = ancestors(own_pid, &SystemProcesses).unwrap_or_default();
    let known_sessions = sessions.all();
    let is_unknown = |process: &(i32, u64)| {
        is_session_guard(process.0) && !known_sessions.iter().any(|session| session.roots.contains(process))
    };
    let is_below = chain.iter().any(is_unknown)
        || chain.iter().any(|(pid, _)| session_previews::is_foreign_session_keeper(*pid, state));
    if !is_below {
        return Ok(());
    }
    let title = "this process runs in a coding agent's session, which cannot start its own agent";
    let hint = "Keep pdev's folders (`PDEV_SOCKET_DIR`, `XDG_*`, `HOME`) as the session set them, or start another session \
                from outside.";
    Err(Problem::new("session_own_agent", 403, title).hint(hint))
}

fn is_session_guard(pid: i32) -> bool {
    processes::command_line(pid).iter().nth(1) == Some(GUARD_COMMAND.as_bytes())
}

/// The session of a process, with the identities that the user has allowed it to use.
#[must_use]
pub fn session_member_of_process(shared: &Shared, pid: Option<i32>) -> Option<SessionMember> {
    session_of_process(shared, pid?).map(|session| with_allowed_identities(shared, session))
}

/// Adds an approval code to a refusal that the user can lift. Other problems are returned unchanged.
#[must_use]
pub fn offer_approval(shared: &Shared, name: &str, peer: Option<i32>, problem: BrokerProblem) -> BrokerProblem {
    let Some((pid, member)) = peer.zip(session_member_of_process(shared, peer)) else { return problem };
    request_approval(shared, name, &member.session, ancestry_of(pid, &SystemProcesses), problem)
}

/// Adds the code of an approval request to the problem. Neither the requesting process nor the processes from which the
/// session was started may approve the request.
fn request_approval(
    shared: &Shared,
    name: &str,
    session: &Session,
    requester: Option<ProcessAncestry>,
    problem: BrokerProblem,
) -> BrokerProblem {
    // An approval cannot extend a session that is over.
    let can_be_allowed = problem.code.starts_with("session_") && problem.code != "session_over";
    let Some(identity) = shared.broker.identity(name).ok().filter(|_| can_be_allowed) else { return problem };
    let identity_use = IdentityUse {
        repository: String::new(),
        folder_id: String::new(),
        service: session.name.clone(),
        identity: identity.name.clone(),
        identity_digest: identity_digest(&identity),
        session: Some(session.id.clone()),
    };
    let approvals = &shared.access.approvals;
    approvals.request_approval(&identity_use, session.ancestry.clone(), session.started_ticks, now_milliseconds());
    let request = approvals.request_approval(&identity_use, requester, session.started_ticks, now_milliseconds());
    let allow_hint = format!(
        "To allow the session all of it for an hour, run `pdev session allow {}` in another terminal.",
        request.code
    );
    let hint = match problem.code {
        "session_not_narrow" => format!("{} {allow_hint}", problem.hint.unwrap_or_default()),
        _ => allow_hint,
    };
    BrokerProblem { hint: Some(hint), ..problem }
}

/// The reason why a service of a session's preview gets no credentials of an identity, and the fix.
///
/// The approval request records no requesting process: the process that runs `up` belongs to the session, and cannot
/// approve for that reason alone.
#[must_use]
pub fn service_refusal_reason(shared: &Shared, name: &str, id: &PreviewId) -> Option<String> {
    let member = session_previews::session_member_of_preview(shared, id)?;
    let requester = Requester { session: Some(member.clone()), ..Requester::default() };
    let problem = shared.broker.check_session_access(name, &requester).err()?;
    let problem = request_approval(shared, name, &member.session, None, problem);
    Some(format!("{}. {}", problem.message, problem.hint.unwrap_or_default()))
}

/// Begins a session for the process `pid`, which becomes its guard.
///
/// # Errors
/// When the process is unknown or in a session already, an identity is unknown, or the session cannot be stored.
pub fn begin(
    shared: &Arc<Shared>,
    spec: SessionSpec,
    pid: Option<i32>,
    requester: &Requester,
) -> Result<Session, Problem> {
    let guard = pid.ok_or(SessionProblem::UnknownProcess).map_err(|problem| session_problem(&problem))?;
    if let Some(outer) = session_of_process(shared, guard) {
        return Err(session_problem(&SessionProblem::Nested(outer.name)));
    }
    for name in &spec.identities {
        shared.broker.identity(name).map_err(crate::convert::broker_problem)?;
    }
    let identity_digests = shared.broker.identity_digests().map_err(crate::convert::broker_problem)?;
    let roots = (guard, pdev_parent(guard));
    let begun = shared.access.sessions.begin(spec, roots, identity_digests, &SystemProcesses, now_milliseconds());
    let session = begun.map_err(|problem| session_problem(&problem))?;
    audit_session(shared, "session_began", &session, requester);
    shared.tasks.spawn(watch_session(Arc::clone(shared), session.clone()));
    Ok(session)
}

/// The guard's parent, if that is a pdev process too. If the guard is killed, its programs become children of this
/// parent.
fn pdev_parent(guard: i32) -> Option<i32> {
    let parent = processes::find(guard)?.parent;
    (processes::executable(parent)? == processes::executable(guard)?).then_some(parent)
}

/// Ends a session: drops its leases, gives its programs no more credentials, and signals its guard to end them.
///
/// # Errors
/// When no session, or more than one, has this id or name.
pub fn end(shared: &Shared, text: &str, requester: &Requester) -> Result<(), Problem> {
    let session = shared.access.sessions.find_by_id_or_name(text).ok_or_else(|| {
        let title = format!("no session has the id or name `{text}`, or more than one has that name");
        Problem::new("session_unknown", 404, title).hint("Run `pdev session list` to see all sessions and their ids.")
    })?;
    // Revoke the credentials first: the programs may take a while to end.
    end_session(shared, &session, requester);
    if let Some(guard) = session.guard().and_then(PidFd::open) {
        guard.terminate();
    }
    Ok(())
}

/// Watches the sessions that an earlier run of the agent began.
pub fn resume_watching(shared: &Arc<Shared>) {
    for session in shared.access.sessions.all() {
        shared.tasks.spawn(watch_session(Arc::clone(shared), session));
    }
}

/// Ends the session when its time is over or its guard has exited for any reason.
async fn watch_session(shared: Arc<Shared>, session: Session) {
    let milliseconds_left = u64::try_from(session.until - now_milliseconds()).unwrap_or_default();
    let time_over = tokio::time::sleep(Duration::from_millis(milliseconds_left));
    let guard_exit = wait_for_exit(session.guard());
    tokio::pin!(guard_exit);
    tokio::select! {
        () = &mut guard_exit => end_session(&shared, &session, &Requester::default()),
        () = time_over => {
            end_session(&shared, &session, &Requester::default());
            // Keep an ended session listed while its programs may run, so that they are refused instead of being
            // treated as the user's programs.
            guard_exit.await;
        }
    }
    // If the guard was killed, its programs are children of the other root now.
    for root in &session.roots {
        wait_for_exit(Some(*root)).await;
    }
    shared.access.sessions.remove_dead(&SystemProcesses);
}

/// Waits until a process has ended. Returns at once if it has ended already.
async fn wait_for_exit(process: Option<(i32, u64)>) {
    if let Some(process) = process.and_then(PidFd::open) {
        process.wait_for_exit().await;
    }
}

fn end_session(shared: &Shared, session: &Session, requester: &Requester) {
    let changed = shared.access.sessions.end(&session.id);
    shared.broker.forget_session(&session.id);
    if changed {
        audit_session(shared, "session_over", session, requester);
    }
}

/// Writes the beginning or end of a session to the audit log. A failure does not undo the decision.
fn audit_session(shared: &Shared, action: &str, session: &Session, requester: &Requester) {
    let member = SessionMember { session: session.clone(), allowed_identities: Vec::new() };
    let requester = Requester { session: Some(member), ..requester.clone() };
    if let Err(problem) = shared.broker.record_decision(action, "", &requester, None) {
        tracing::error!(problem = problem.message, "cannot write the beginning or end of a session to the audit log");
    }
}

fn session_problem(problem: &SessionProblem) -> Problem {
    let (code, status, hint) = match problem {
        SessionProblem::Nested(_) => {
            ("session_nested", 409, "Run the program directly: the outer session already restricts it.")
        }
        SessionProblem::TooMany => {
            ("session_many", 409, "Run `pdev session list` to see them and `pdev session end ID` to end one.")
        }
        SessionProblem::InvalidName(_) => ("session_name", 422, "Set a name with `--name`."),
        SessionProblem::InvalidDuration => ("session_length", 422, "Set it with `--for`, such as `--for 2h`."),
        SessionProblem::UnknownProcess => ("session_unseen", 501, "Use Linux: sessions need it."),
        SessionProblem::NotStored(_) => {
            ("session_not_kept", 500, "Free some disk space, or fix the permissions of pdev's data folder.")
        }
    };
    Problem::new(code, status, problem.to_string()).hint(hint)
}
