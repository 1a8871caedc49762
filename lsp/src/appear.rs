//! The moment when an agent begins to listen: somebody brought a preview up in a terminal, and the editor shows it without
//! being touched. The system tells of a new file in the socket's folder; nothing is polled and nothing is started.

use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::desk::Desk;

/// Looks for the agent whenever its socket appears, for as long as what is returned lives. `None` where the system cannot
/// tell: then opening, saving and commands look, as they do anyhow.
#[must_use]
pub fn watch(desk: &Arc<Desk>) -> Option<RecommendedWatcher> {
    let folder = desk.place.folder().to_owned();
    // An agent would make it, too; where it would lie has to be there.
    folder.parent().filter(|parent| parent.is_dir())?;
    desk.place.prepare().ok()?;
    let socket = desk.place.socket();
    // Not kept alive by its own watcher.
    let desk = Arc::downgrade(desk);
    let told = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let appears = matches!(event.kind, EventKind::Create(_)) && event.paths.contains(&socket);
        if let (true, Some(desk)) = (appears, desk.upgrade()) {
            desk.look_for_agent.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    watcher.watch(&folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
