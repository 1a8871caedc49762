//! The process at the other end of a connection, and what it is as a requester of credentials.

use credentials::broker::Requester;
use host::processes;

use crate::sessions;
use crate::shared::Shared;

/// How many ancestors of a requester are recorded.
const PROCESS_CHAIN_MAX: usize = 6;

/// The process at the other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    pub pid: Option<i32>,
}

/// The requesting program and its ancestors. pdev's own helper processes are skipped: the audit log names the tool that
/// called the helper.
pub(crate) fn requester_of(shared: &Shared, peer: Peer) -> Requester {
    let mut chain = Vec::new();
    let own_executable = std::env::current_exe().ok();
    let mut next = peer.pid;
    let mut first_other = None;
    while let Some(pid) = next.filter(|pid| *pid > 1) {
        if chain.len() == PROCESS_CHAIN_MAX {
            break;
        }
        let executable = processes::executable(pid);
        if executable.is_none() || executable != own_executable {
            first_other = first_other.or(Some(pid));
            chain.extend(executable.map(|path| path.display().to_string()));
        }
        next = processes::find(pid).map(|process| process.parent);
    }
    // The session is looked up from the peer itself, so that a helper cannot hide it.
    Requester { pid: first_other.or(peer.pid), chain, session: sessions::session_member_of_process(shared, peer.pid) }
}
