//! The moment when an agent begins to listen: somebody brought a preview up in a terminal, and the editor shows it without
//! being touched. The system tells of a new file in the socket's folder; nothing is polled, started or made.

use std::path::Path;
use std::sync::Arc;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::desk::Desk;

/// Alive as long as somebody keeps it.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
    /// It is the socket's own folder that is watched, not the one above, where that folder will be made.
    pub own: bool,
}

/// Looks for the agent whenever its socket appears, or the folder for it. `None` where the system cannot tell, and where the
/// folder would lie among everybody's temporary files: then opening, saving and commands look, as they do anyhow.
#[must_use]
pub fn watch(desk: &Arc<Desk>) -> Option<Watch> {
    let folder = desk.place.folder();
    let above = || folder.parent().filter(|above| *above != std::env::temp_dir());
    match look(desk, folder, desk.place.socket().as_path()) {
        Some(watcher) => Some(Watch { _watcher: watcher, own: true }),
        None => Some(Watch { _watcher: look(desk, above()?, folder)?, own: false }),
    }
}

fn look(desk: &Arc<Desk>, folder: &Path, wanted: &Path) -> Option<RecommendedWatcher> {
    if !folder.is_dir() {
        return None;
    }
    let wanted = wanted.to_owned();
    // Not kept alive by its own watcher.
    let desk = Arc::downgrade(desk);
    let told = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let appears = matches!(event.kind, EventKind::Create(_)) && event.paths.contains(&wanted);
        if let (true, Some(desk)) = (appears, desk.upgrade()) {
            desk.look_for_agent.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
