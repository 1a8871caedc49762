//! Refuses containers that mount pdev's own folders: the agent's socket, delivered secrets, the vault, the records.
//!
//! `raw` reaches every field of the engine, so the rendered mounts are checked and not the manifest's keys. A folder
//! that contains one of pdev's (the home folder) may be mounted: the agent refuses requests of a container.

use std::path::{Path, PathBuf};

use host::locations::UserFolders;
use plan::Application;
use protocol::Problem;

use crate::locations::AgentLocations;

/// # Errors
/// When a container would mount one of pdev's folders, or something inside it.
pub(super) fn refuse_own_folders(
    locations: &AgentLocations,
    application: &Application,
    project: &Path,
) -> Result<(), Problem> {
    let own = own_folders(locations);
    for unit in application.units.values() {
        for source in unit.body.mount_sources() {
            let source = resolve(&project.join(source));
            if let Some(folder) = own.iter().find(|folder| source.starts_with(folder)) {
                let title = format!(
                    "the container would mount `{}`, which belongs to pdev (`{}`)",
                    source.display(),
                    folder.display()
                );
                let hint = "Remove this mount. A service gets secrets by `secrets`, and credentials by `identity`.";
                return Err(Problem::new("own_folder_mounted", 422, title).unit(&unit.name).hint(hint));
            }
        }
    }
    Ok(())
}

/// The cache is left out: it contains nothing that a program could not compute itself.
fn own_folders(locations: &AgentLocations) -> Vec<PathBuf> {
    let mut folders = vec![locations.runtime.clone(), locations.state.clone(), locations.data.clone()];
    folders.extend(UserFolders::find().map(|folders| folders.config));
    folders.iter().map(|folder| resolve(folder)).collect()
}

/// Resolves symbolic links and `..`, also if the end of the path does not exist yet.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_missing_ends_are_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("state/previews")).unwrap();
        std::os::unix::fs::symlink(root.join("state"), root.join("link")).unwrap();
        assert_eq!(resolve(&root.join("link/previews")), root.join("state/previews"));
        assert_eq!(resolve(&root.join("link/absent/file")), root.join("state/absent/file"));
    }
}
