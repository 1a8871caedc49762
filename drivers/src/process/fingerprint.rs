//! A fingerprint of the files that a build command depends on. It can name the file that changed.
//!
//! A file's content is read only if its size or times differ from the previous fingerprint, so checking thousands of
//! unchanged files costs one `stat` each.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use host::files::is_vanished;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use strings::{glob, to_hex};

use super::record::{Durable, write_atomically};
use crate::problem::{Problem, ProblemKind};

/// More files than this indicate a mistake in the inputs, such as a home folder, and would make pdev appear to hang.
const FILES_MAX: usize = 100_000;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    files: BTreeMap<String, FileState>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct FileState {
    /// Length, modification time (seconds, nanoseconds), inode and mode. If these are equal, so is the content.
    stat: (u64, i64, i64, u64, u32),
    contents: String,
}

impl Fingerprint {
    pub(super) fn read(marker: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(marker).ok()?).ok()
    }

    pub(super) fn write(&self, marker: &Path) -> Result<(), Problem> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        write_atomically(marker, &text, Durable::No, 0o600)
            .map_err(|error| Problem::io(format!("cannot write `{}`", marker.display()), &error))
    }

    /// Computes the fingerprint of the current inputs. `previous` avoids reading unchanged files.
    pub(super) fn compute(project: &Path, inputs: &[String], previous: Option<&Self>) -> Result<Self, Problem> {
        let mut scan = FingerprintScan { project, previous, fingerprint: Self::default() };
        for input in inputs {
            let input = input.trim_start_matches("./").trim_end_matches('/');
            let pattern = glob::has_wildcard(input).then_some(input);
            scan.walk(&glob::literal_prefix(input), pattern)
                .map_err(|error| Problem::io(format!("cannot read the build input `{input}`"), &error))?;
            if scan.fingerprint.files.len() > FILES_MAX {
                let message = format!("build input `{input}` has more than {FILES_MAX} files");
                return Err(Problem::new(ProblemKind::Refused, message)
                    .hint("List only the folders that the build needs in `inputs`."));
            }
        }
        Ok(scan.fingerprint)
    }

    /// The first path that is new, missing or different.
    pub(super) fn first_difference(&self, current: &Self) -> Option<String> {
        let differs = |path: &&String| {
            let (old, new) = (self.files.get(*path), current.files.get(*path));
            old.map(|state| &state.contents) != new.map(|state| &state.contents)
        };
        current.files.keys().chain(self.files.keys()).find(differs).cloned()
    }

    pub(super) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for (path, state) in &self.files {
            hasher.update(format!("{path}\0{}\n", state.contents));
        }
        to_hex(hasher.finalize())
    }
}

struct FingerprintScan<'a> {
    project: &'a Path,
    previous: Option<&'a Fingerprint>,
    fingerprint: Fingerprint,
}

impl FingerprintScan<'_> {
    fn walk(&mut self, path: &str, pattern: Option<&str>) -> io::Result<()> {
        let full = self.project.join(path);
        let metadata = match fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            // A missing input is a valid state: when it appears, the build becomes stale.
            Err(error) if is_vanished(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        // `symlink_metadata` does not follow links, so a link to a folder counts as a file and cannot cause a loop.
        if !metadata.is_dir() {
            if pattern.is_none_or(|pattern| glob::matches_path_or_parent(pattern, path)) {
                absent_if_vanished(self.add_file(path, &full, &metadata))?;
            }
            return Ok(());
        }
        let Some(entries) = absent_if_vanished(fs::read_dir(&full))? else { return Ok(()) };
        for entry in entries {
            let Some(entry) = absent_if_vanished(entry)? else { continue };
            let name = entry.file_name();
            // Git's own files are not build inputs. Above the limit, stop early; `compute` reports the error.
            if name == ".git" || self.fingerprint.files.len() > FILES_MAX {
                continue;
            }
            let name = name.to_string_lossy();
            let child_path = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
            self.walk(&child_path, pattern)?;
        }
        Ok(())
    }

    fn add_file(&mut self, path: &str, full: &Path, metadata: &Metadata) -> io::Result<()> {
        let stat = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.mode());
        let unchanged = self.previous.and_then(|previous| previous.files.get(path)).filter(|state| state.stat == stat);
        let contents = match unchanged {
            Some(state) => state.contents.clone(),
            None => content_digest(full, metadata)?,
        };
        self.fingerprint.files.insert(path.to_owned(), FileState { stat, contents });
        Ok(())
    }
}

/// `None` for a file or folder that was deleted since its folder was listed.
fn absent_if_vanished<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_vanished(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Digests a link as its target's path, so that a loop is harmless. Of the mode, only the executable bit counts, as in
/// git.
fn content_digest(full: &Path, metadata: &Metadata) -> io::Result<String> {
    let mut hasher = Sha256::new();
    if metadata.is_symlink() {
        hasher.update(fs::read_link(full)?.as_os_str().as_encoded_bytes());
        return Ok(format!("link:{}", to_hex(hasher.finalize())));
    }
    if !metadata.is_file() {
        return Ok("special".to_owned());
    }
    let mut file = fs::File::open(full)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let file_kind = if metadata.mode() & 0o111 == 0 { "file" } else { "program" };
    Ok(format!("{file_kind}:{}", to_hex(hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_names_changed_file_and_ignores_rewrite() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("src")).expect("folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let compute =
            |previous| Fingerprint::compute(folder.path(), &["./src/".to_owned(), "lock*".to_owned()], previous);
        write("src/a", "one");
        write("other", "x");
        let first = compute(None).expect("taken");
        write("src/a", "one");
        write("other", "changed");
        assert_eq!(first.first_difference(&compute(Some(&first)).expect("taken")), None);
        write("lockfile", "new");
        assert_eq!(first.first_difference(&compute(Some(&first)).expect("taken")), Some("lockfile".to_owned()));
        write("src/a", "two");
        let last = compute(Some(&first)).expect("taken");
        assert_ne!(first.files["src/a"].contents, last.files["src/a"].contents);
        std::os::unix::fs::symlink(".", folder.path().join("src/loop")).expect("linked");
        assert!(compute(None).is_ok());
    }

    #[test]
    fn file_that_vanishes_during_the_scan_counts_as_absent() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("a"), "a").expect("written");
        let metadata = fs::symlink_metadata(folder.path().join("a")).expect("metadata");
        let mut scan = FingerprintScan { project: folder.path(), previous: None, fingerprint: Fingerprint::default() };
        let vanished = folder.path().join("gone");
        assert_eq!(absent_if_vanished(scan.add_file("gone", &vanished, &metadata)).expect("absent"), None);
        assert!(scan.walk("gone", None).is_ok() && scan.walk("a/below-a-file", None).is_ok());
        assert!(scan.fingerprint.files.is_empty());
    }

    #[test]
    fn fingerprint_succeeds_while_files_come_and_go() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let source = folder.path().join("src");
        fs::create_dir(&source).expect("folder");
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let inner = source.join("folder");
                let names = |number: i32| [inner.join(format!("f{number}")), source.join(format!("f{number}~"))];
                let files: Vec<std::path::PathBuf> = (0..100).flat_map(names).collect();
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(fs::create_dir_all(&inner));
                    files.iter().for_each(|file| drop(fs::write(file, "x")));
                    files.iter().for_each(|file| drop(fs::remove_file(file)));
                    drop(fs::remove_dir_all(&inner));
                }
            });
            let inputs = ["src".to_owned(), "src/**/*~".to_owned()];
            let compute = |_| Fingerprint::compute(folder.path(), &inputs, None).err();
            let failures: Vec<String> = (0..300).filter_map(compute).map(|problem| problem.message).collect();
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(failures, Vec::<String>::new());
        });
    }
}
