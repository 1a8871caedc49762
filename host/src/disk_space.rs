//! Free space of the file system that contains a folder.

use std::io;
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    /// Bytes that this user may still write. The space reserved for root does not count.
    pub free_bytes: u64,
    /// Files that this user may still create; `None` if the file system has no such limit.
    pub free_files: Option<u64>,
}

/// # Errors
/// When the folder does not exist or its file system does not answer.
pub fn disk_space(folder: &Path) -> io::Result<DiskSpace> {
    let statistics = rustix::fs::statvfs(folder)?;
    Ok(DiskSpace {
        free_bytes: statistics.f_bavail.saturating_mul(statistics.f_frsize),
        free_files: (statistics.f_files > 0).then_some(statistics.f_favail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_existing_folder_is_known() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk_space(folder.path()).is_ok_and(|space| space.free_bytes > 0));
        assert!(disk_space(&folder.path().join("absent")).is_err());
    }
}
