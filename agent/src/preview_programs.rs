//! The programs of previews as clients of the API.
//!
//! They are the repository's code, and run as the user. Without a check, each of them could request any credential of the
//! user, approve requests, read secrets of other projects and change other previews. So a process below a keeper or in a
//! container of a preview reaches its own preview only; credentials come from the unit's endpoint.
//!
//! Descent decides. A process that leaves it with the help of another service of the user (`systemd-run`, `cron`, `ssh`
//! to this machine) is not recognised; docs/security.md lists that.

use credentials::approval::ancestry::SystemProcesses;
use credentials::session::ancestors;
use host::processes;
use plan::application::PreviewId;
use protocol::Problem;

use crate::peer::{Peer, requester_of};
use crate::session_previews::{preview_of_keeper, unit_of_container};
use crate::shared::Shared;

/// The program of a preview that made a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreviewProgram {
    /// `None` if its process cannot be followed to its root while previews run.
    pub preview: Option<PreviewId>,
    /// As far as it is known.
    pub unit: Option<String>,
}

/// The preview whose program made this request. `None` for a program of the user.
#[must_use]
pub fn program_of_peer(shared: &Shared, peer: Peer) -> Option<PreviewProgram> {
    let pid = peer.pid.filter(|pid| *pid > 0)?;
    // Credential helpers have a millisecond, so the process table is read only if there are such programs.
    if !shared.registry.has_active_previews() {
        return None;
    }
    let Some(chain) = ancestors(pid, &SystemProcesses) else {
        // The process may have ended its parent on purpose.
        let has_programs = shared.preview_handles().iter().any(|handle| handle.live.scope().is_some());
        return has_programs.then_some(PreviewProgram { preview: None, unit: None });
    };
    if let Some(position) = chain.iter().position(|(pid, _)| preview_of_keeper(*pid).is_some()) {
        let preview = preview_of_keeper(chain[position].0);
        let leader = position.checked_sub(1).map(|below| chain[below].0);
        return Some(PreviewProgram { preview, unit: leader.and_then(unit_of_process) });
    }
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !may_be_of_container(&cgroups) {
        return None;
    }
    let mut handles = shared.preview_handles().into_iter();
    handles.find_map(|handle| {
        let unit = unit_of_container(shared, &handle.id, &cgroups)?;
        Some(PreviewProgram { preview: Some(handle.id), unit: Some(unit) })
    })
}

/// Whether a cgroup may be named after the id of a container. Most requests come from none, and are spared the look at
/// all previews.
fn may_be_of_container(cgroups: &str) -> bool {
    const SHORT_ID_DIGITS: usize = 12;
    cgroups.split(|letter: char| !letter.is_ascii_hexdigit()).any(|word| word.len() >= SHORT_ID_DIGITS)
}

fn unit_of_process(pid: i32) -> Option<String> {
    let environment = processes::environment(pid);
    let unit = environment.iter().find_map(|entry| entry.strip_prefix(b"PDEV_UNIT="))?;
    Some(String::from_utf8_lossy(unit).into_owned())
}

/// Whether a program of this preview may send this request.
#[must_use]
pub fn is_allowed(preview: Option<&PreviewId>, method: &str, path: &str) -> bool {
    if matches!((method, path), ("GET", "/v1/agent" | "/v1/openapi.json") | ("POST", "/v1/locate")) {
        return true;
    }
    let Some(own) = preview else { return false };
    let Some(rest) = path.strip_prefix("/v1/previews/").and_then(|rest| rest.strip_prefix(own.0.as_str())) else {
        return false;
    };
    matches!((method, rest), ("GET", "" | "/logs" | "/wait") | ("POST", "/down" | "/restart" | "/stop" | "/exec"))
}

/// The refusal, which is also written to the audit log with preview and unit.
#[must_use]
pub fn refusal(shared: &Shared, peer: Peer, program: &PreviewProgram, method: &str, path: &str) -> Problem {
    let title = program.preview.as_ref().and_then(|id| shared.registry.get(id)).map(|record| record.name.title());
    let unit = program.unit.as_ref().map(|unit| format!("/{unit}")).unwrap_or_default();
    let origin = format!("{}{unit}", title.unwrap_or_else(|| "an unknown process".to_owned()));
    let reason = format!("not_for_previews: {origin}: {method} {path}");
    if let Err(problem) = shared.broker.record_decision("refused", "", &requester_of(shared, peer), Some(&reason)) {
        // Nothing is handed out, so the refusal stands without an entry.
        tracing::error!(problem = problem.message, "cannot write a refusal to the audit log");
    }
    let title = format!("this request came from a program of the preview {origin}, which reaches its own preview only");
    Problem::new("not_for_previews", 403, title).hint(
        "Declare `identity` for the service: its credentials come from its own endpoint. Run other commands of pdev in \
         a terminal of yours.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_containers_are_recognised() {
        let id = "4f1e".repeat(16);
        assert!(may_be_of_container(&format!("0::/system.slice/docker-{id}.scope\n")));
        assert!(may_be_of_container(&format!("12:pids:/docker/{id}\n")));
        assert!(!may_be_of_container("0::/user.slice/user-1000.slice/session-2.scope\n"));
    }

    #[test]
    fn programs_reach_their_own_preview_only() {
        let own = PreviewId("abc".to_owned());
        for (method, path, expected) in [
            ("GET", "/v1/agent", true),
            ("POST", "/v1/locate", true),
            ("GET", "/v1/previews/abc", true),
            ("GET", "/v1/previews/abc/logs", true),
            ("POST", "/v1/previews/abc/restart", true),
            ("PUT", "/v1/previews/abc/secrets/token", false),
            ("POST", "/v1/previews/abc/secrets", false),
            ("GET", "/v1/previews/abcd", false),
            ("POST", "/v1/previews/other/down", false),
            ("GET", "/v1/previews", false),
            ("GET", "/v1/events", false),
            ("POST", "/v1/up", false),
            ("POST", "/v1/credentials", false),
            ("GET", "/v1/identities", false),
            ("POST", "/v1/approvals/CODE", false),
            ("POST", "/v1/agent/stop", false),
        ] {
            assert_eq!(is_allowed(Some(&own), method, path), expected, "{method} {path}");
        }
        assert!(!is_allowed(None, "GET", "/v1/previews/"));
    }
}
