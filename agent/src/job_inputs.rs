//! Hashes the contents of a job's `inputs`. A finished job runs again when the hash changes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use strings::{glob, to_hex};

/// Files and folders visited per pattern. A pattern that matches more is most likely a mistake.
const FILES_MAX: usize = 20_000;

/// Hashes names and contents of everything the patterns match, in a stable order.
#[must_use]
pub fn digest(project: &Path, patterns: &[String]) -> String {
    let mut files = BTreeSet::new();
    for pattern in patterns {
        expand_pattern(project, pattern, &mut files);
    }
    let mut hash = Sha256::new();
    for relative in files {
        hash.update(relative.as_os_str().as_encoded_bytes());
        hash.update([0]);
        // For an unreadable file the error is hashed, so that becoming readable is a change too.
        hash.update(fs::read(project.join(&relative)).unwrap_or_else(|error| error.kind().to_string().into_bytes()));
        hash.update([0]);
    }
    to_hex(hash.finalize())
}

/// A path without wildcards matches that file, or all files in that folder. `*` and `?` match within a name, `**`
/// matches any number of folders.
fn expand_pattern(project: &Path, pattern: &str, found: &mut BTreeSet<PathBuf>) {
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    if !glob::has_wildcard(pattern) {
        walk(project, Path::new(pattern), &mut |relative| {
            found.insert(relative.to_owned());
        });
        return;
    }
    // Walk only below the part of the path that has no wildcards.
    walk(project, Path::new(&glob::literal_prefix(pattern)), &mut |relative| {
        if relative.to_str().is_some_and(|path| glob::matches_path(pattern, path)) {
            found.insert(relative.to_owned());
        }
    });
}

fn walk(project: &Path, relative: &Path, visit: &mut impl FnMut(&Path)) {
    let mut pending = vec![relative.to_owned()];
    let mut visited = 0;
    while let Some(next) = pending.pop() {
        let full = project.join(&next);
        // Symbolic links are not followed, because they can form a loop.
        let Ok(kind) = fs::symlink_metadata(&full) else { continue };
        if kind.is_dir() {
            let entries = fs::read_dir(&full).into_iter().flatten().flatten();
            let entries = entries.filter(|entry| entry.file_name() != ".git");
            pending.extend(entries.map(|entry| next.join(entry.file_name())));
        } else {
            visit(&next);
        }
        visited += 1;
        if visited > FILES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_files_and_digest_follows_contents() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["db/1.sql", "db/old/0.sql", "db/readme.md", "app.py"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let matching = |pattern: &str| {
            let mut found = BTreeSet::new();
            expand_pattern(folder.path(), pattern, &mut found);
            found.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(matching("db"), ["db/1.sql", "db/old/0.sql", "db/readme.md"]);
        assert_eq!(matching("./db/*.sql"), ["db/1.sql"]);
        assert_eq!(matching("db/**/*.sql"), ["db/1.sql", "db/old/0.sql"]);
        assert_eq!(matching("**/*.py"), ["app.py"]);
        let before = digest(folder.path(), &["db".into()]);
        fs::write(folder.path().join("db/1.sql"), "changed").unwrap();
        assert_ne!(digest(folder.path(), &["db".into()]), before);
    }
}
