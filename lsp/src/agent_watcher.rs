//! The moment when an agent begins to listen: somebody brought a preview up in a terminal, and the editor shows it without
//! being touched. The system tells of a new file in the socket's folder; nothing is polled, started or made.

use std::path::Path;
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::server_state::ServerState;

/// Alive as long as somebody keeps it.
#[derive(Debug)]
pub struct AgentWatcher {
    _watcher: RecommendedWatcher,
    /// It is the socket's own folder that is watched, not the one above, where that folder will be made.
    pub is_socket_folder: bool,
}

/// Looks for the agent whenever its socket appears, or the folder for it. `None` where the system cannot tell, and where the
/// folder would lie among everybody's temporary files: then opening, saving and commands look, as they do anyhow.
#[must_use]
pub fn watch_for_agent(state: &Arc<ServerState>) -> Option<AgentWatcher> {
    let folder = state.agent_socket.folder();
    let above = || folder.parent().filter(|above| *above != std::env::temp_dir());
    match watch_folder(state, folder, state.agent_socket.socket_path().as_path()) {
        Some(watcher) => Some(AgentWatcher { _watcher: watcher, is_socket_folder: true }),
        None => Some(AgentWatcher { _watcher: watch_folder(state, above()?, folder)?, is_socket_folder: false }),
    }
}

fn watch_folder(state: &Arc<ServerState>, folder: &Path, wanted: &Path) -> Option<RecommendedWatcher> {
    if !folder.is_dir() {
        return None;
    }
    let wanted = wanted.to_owned();
    // Not kept alive by its own watcher.
    let state = Arc::downgrade(state);
    let told = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let appears = matches!(event.kind, EventKind::Create(_)) && event.paths.contains(&wanted);
        if let (true, Some(state)) = (appears, state.upgrade()) {
            state.agent_check_requested.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
