//! Hashes the contents of a job's `inputs`. A finished job runs again when the hash changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use host::files::is_vanished;
use sha2::{Digest, Sha256};
use strings::{glob, to_hex};

/// The digest of each job's inputs. Reading them may take seconds, so it does not run on the async runtime.
///
/// # Errors
/// If the blocking task panicked.
pub async fn digest_all(
    project: PathBuf,
    inputs_by_job: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, String>, tokio::task::JoinError> {
    let digest_job = move |(job, patterns): (String, Vec<String>)| (job, digest(&project, &patterns));
    tokio::task::spawn_blocking(move || inputs_by_job.into_iter().map(digest_job).collect()).await
}

/// Hashes names and contents of everything the patterns match, in a stable order.
fn digest(project: &Path, patterns: &[String]) -> String {
    let mut files = BTreeSet::new();
    for pattern in patterns {
        expand_pattern(project, pattern, &mut files);
    }
    digest_files(project, &files)
}

fn digest_files(project: &Path, files: &BTreeSet<PathBuf>) -> String {
    let mut hash = Sha256::new();
    files.iter().for_each(|relative| hash_file(project, relative, &mut hash));
    to_hex(hash.finalize())
}

fn hash_file(project: &Path, relative: &Path, hash: &mut Sha256) {
    let full = project.join(relative);
    let before_file = hash.clone();
    hash.update(relative.as_os_str().as_encoded_bytes());
    hash.update([0]);
    let before_contents = hash.clone();
    if let Err(error) = hash_contents(&full, hash) {
        // A file that was deleted since its folder was listed counts as absent. A link without a target still exists.
        if is_vanished(&error) && fs::symlink_metadata(&full).is_err() {
            *hash = before_file;
            return;
        }
        *hash = before_contents;
        // For an unreadable file the error is hashed, so that becoming readable is a change too.
        hash.update(error.kind().to_string());
    }
    hash.update([0]);
}

fn hash_contents(full: &Path, hash: &mut Sha256) -> io::Result<()> {
    let metadata = fs::metadata(full)?;
    // Opening a FIFO would block, and reading a device may never end.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut file = File::open(full)?;
    // In pieces, because an input may be larger than the memory.
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => hash.update(&buffer[..length]),
        }
    }
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
        if glob::matches_path(pattern, &relative.to_string_lossy()) {
            found.insert(relative.to_owned());
        }
    });
}

fn walk(project: &Path, relative: &Path, visit: &mut impl FnMut(&Path)) {
    let mut pending = vec![relative.to_owned()];
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

    #[test]
    fn files_beyond_twenty_thousand_count_too() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..21_000 {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let patterns = ["*".to_owned()];
        let before = digest(folder.path(), &patterns);
        for number in [0, 10_500, 20_999] {
            fs::write(folder.path().join(number.to_string()), "changed").unwrap();
            assert_ne!(digest(folder.path(), &patterns), before, "{number}");
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(digest(folder.path(), &patterns), before);
    }

    #[test]
    fn vanished_file_counts_as_absent_and_a_broken_link_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "a").unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        let digest = |names: &[&str]| digest_files(folder.path(), &names.iter().map(PathBuf::from).collect());
        assert_eq!(digest(&["a", "gone", "a/gone"]), digest(&["a"]));
        assert_ne!(digest(&["a", "link"]), digest(&["a"]));
    }

    /// Jobs that are done must not run again because of a new version of pdev.
    #[test]
    fn digest_is_that_of_earlier_versions() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "contents").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("b")).unwrap();
        let expected = to_hex(Sha256::digest("a\0contents\0b\0entity not found\0"));
        assert_eq!(digest(folder.path(), &["*".to_owned()]), expected);
    }

    #[test]
    fn pipe_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
        assert_ne!(digest(folder.path(), &["*".to_owned()]), digest(folder.path(), &[]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn inputs_are_not_read_on_the_runtime() {
        let folder = tempfile::tempdir().unwrap();
        (0..2_000).for_each(|number| fs::write(folder.path().join(number.to_string()), "x").unwrap());
        let inputs = BTreeMap::from([("seed".to_owned(), vec!["*".to_owned()])]);
        let digests = digest_all(folder.path().to_owned(), inputs);
        let mut digests = std::pin::pin!(digests);
        let first_poll = std::future::poll_fn(|context| std::task::Poll::Ready(digests.as_mut().poll(context)));
        assert!(first_poll.await.is_pending(), "the first poll read all files");
        assert_eq!(digests.await.unwrap()["seed"].len(), 64);
    }
}
