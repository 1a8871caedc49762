//! Detects a new agent, so that the editor shows a preview that the user starts in a terminal.
//!
//! File events of the operating system report the agent's socket. This module does not poll, start an agent or create
//! folders.

use std::path::Path;
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::server_state::ServerState;

/// Watches until it is dropped.
#[derive(Debug)]
pub struct AgentWatcher {
    _watcher: RecommendedWatcher,
    /// True if the socket's own folder is watched, false if its parent is, because the folder does not exist yet.
    pub is_socket_folder: bool,
}

/// Requests a check for the agent when its socket, or the folder of the socket, is created.
///
/// Returns `None` if the system cannot watch, or if the only existing parent is the shared temporary folder. The server
/// then detects the agent at the next opening, saving or command.
#[must_use]
pub fn watch_for_agent(state: &Arc<ServerState>) -> Option<AgentWatcher> {
    let folder = state.agent_socket.folder();
    let parent = || folder.parent().filter(|parent| *parent != std::env::temp_dir());
    match watch_folder(state, folder, state.agent_socket.socket_path().as_path()) {
        Some(watcher) => Some(AgentWatcher { _watcher: watcher, is_socket_folder: true }),
        None => Some(AgentWatcher { _watcher: watch_folder(state, parent()?, folder)?, is_socket_folder: false }),
    }
}

fn watch_folder(state: &Arc<ServerState>, folder: &Path, expected: &Path) -> Option<RecommendedWatcher> {
    if !folder.is_dir() {
        return None;
    }
    let expected = expected.to_owned();
    // A strong reference would keep the state alive after the server ends.
    let state = Arc::downgrade(state);
    let on_event = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let is_created = matches!(event.kind, EventKind::Create(_)) && event.paths.contains(&expected);
        if let (true, Some(state)) = (is_created, state.upgrade()) {
            state.agent_check_requested.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(on_event).ok()?;
    watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
