//! Recognises a folder after it was moved or renamed.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// The identity of a folder on its file system. A move within the file system preserves it, a copy does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FolderId {
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970, where the file system records it. A new folder may get the inode of a deleted one.
    born: Option<u64>,
}

impl FolderId {
    /// `None` if the folder does not exist or cannot be accessed.
    #[must_use]
    pub fn of(folder: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(folder).ok().filter(std::fs::Metadata::is_dir)?;
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|time| u64::try_from(time.as_nanos()).ok());
        Some(Self { device: metadata.dev(), inode: metadata.ino(), born })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_preserve_it_and_copies_do_not() {
        let root = tempfile::tempdir().unwrap();
        let (first, second, copy) = (root.path().join("a"), root.path().join("b"), root.path().join("c"));
        std::fs::create_dir(&first).unwrap();
        let id = FolderId::of(&first).unwrap();
        std::fs::rename(&first, &second).unwrap();
        assert_eq!(FolderId::of(&first), None);
        assert_eq!(FolderId::of(&second), Some(id));
        std::fs::create_dir(&copy).unwrap();
        assert_ne!(FolderId::of(&copy), Some(id));
    }
}
