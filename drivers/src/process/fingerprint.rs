//! The files that a build command depends on, as a fingerprint that can name what changed.
//!
//! A file's contents are read only when its size or times differ from the last look, so asking about thousands of
//! unchanged files costs one `stat` each.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::{Durable, write_atomically};
use crate::driver::{Problem, ProblemKind};

/// More files than this are a mistake in the inputs (a whole home folder), and would only look like hanging.
const FILES_MAX: usize = 100_000;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    files: BTreeMap<String, FileState>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct FileState {
    /// Cheap to ask: when it is the same, so are the contents.
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

    /// Looks at every input now. `before` saves reading what did not change.
    pub(super) fn compute(project: &Path, inputs: &[String], before: Option<&Self>) -> Result<Self, Problem> {
        let mut taking = FingerprintScan { project, previous: before, fingerprint: Self::default() };
        for input in inputs {
            let input = input.trim_start_matches("./").trim_end_matches('/');
            let fixed: Vec<&str> = input.split('/').take_while(|part| !has_wildcard(part)).collect();
            let pattern = if fixed.len() == input.split('/').count() { None } else { Some(input) };
            taking
                .walk(&fixed.join("/"), pattern)
                .map_err(|error| Problem::io(format!("cannot read the build input `{input}`"), &error))?;
            if taking.fingerprint.files.len() > FILES_MAX {
                let message = format!("build input `{input}` has more than {FILES_MAX} files");
                return Err(Problem::new(ProblemKind::Refused, message).hint("Name the folders that matter."));
            }
        }
        Ok(taking.fingerprint)
    }

    /// The first path that is new, gone or different.
    pub(super) fn first_difference(&self, now: &Self) -> Option<String> {
        let differs = |path: &&String| {
            let (old, new) = (self.files.get(*path), now.files.get(*path));
            old.map(|seen| &seen.contents) != new.map(|seen| &seen.contents)
        };
        now.files.keys().chain(self.files.keys()).find(differs).cloned()
    }

    pub(super) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for (path, seen) in &self.files {
            hasher.update(format!("{path}\0{}\n", seen.contents));
        }
        hex(hasher.finalize().as_slice())
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
            // Absent is a state like any other: when it appears, the build is stale.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !metadata.is_dir() {
            if pattern.is_none_or(|pattern| matches(pattern, path)) {
                self.add_file(path, &full, &metadata)?;
            }
            return Ok(());
        }
        for entry in fs::read_dir(&full)? {
            let name = entry?.file_name();
            if name == ".git" || self.fingerprint.files.len() > FILES_MAX {
                continue;
            }
            let name = name.to_string_lossy();
            let below = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
            self.walk(&below, pattern)?;
        }
        Ok(())
    }

    fn add_file(&mut self, path: &str, full: &Path, metadata: &Metadata) -> io::Result<()> {
        let stat = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.mode());
        let before = self.previous.and_then(|before| before.files.get(path)).filter(|seen| seen.stat == stat);
        let contents = match before {
            Some(seen) => seen.contents.clone(),
            None => content_digest(full, metadata)?,
        };
        self.fingerprint.files.insert(path.to_owned(), FileState { stat, contents });
        Ok(())
    }
}

/// Links are their target's name, so a loop is no danger; of the mode only "executable" counts, as in git.
fn content_digest(full: &Path, metadata: &Metadata) -> io::Result<String> {
    let mut hasher = Sha256::new();
    if metadata.is_symlink() {
        hasher.update(fs::read_link(full)?.as_os_str().as_encoded_bytes());
        return Ok(format!("link:{}", hex(hasher.finalize().as_slice())));
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
    let kind = if metadata.mode() & 0o111 == 0 { "file" } else { "program" };
    Ok(format!("{kind}:{}", hex(hasher.finalize().as_slice())))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn has_wildcard(part: &str) -> bool {
    part.contains(['*', '?'])
}

/// `*` and `?` within one name, `**` over any number of folders.
fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    matches_parts(&pattern, &path)
}

fn matches_parts(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        // A pattern that names a folder means all that is in it.
        None => true,
        Some((&"**", rest)) => (0..=path.len()).any(|skip| matches_parts(rest, &path[skip..])),
        Some((part, rest)) => match path.split_first() {
            Some((name, below)) => matches_name(part.as_bytes(), name.as_bytes()) && matches_parts(rest, below),
            None => false,
        },
    }
}

fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skip| matches_name(rest, &name[skip..])),
        (Some((b'?', rest)), Some((_, below))) => matches_name(rest, below),
        (Some((one, rest)), Some((other, below))) => one == other && matches_name(rest, below),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_patterns_match_paths() {
        for (pattern, path, expected) in [
            ("src/*.rs", "src/main.rs", true),
            ("src/*.rs", "src/a/main.rs", false),
            ("src/**/*.rs", "src/a/b/main.rs", true),
            ("src/**/*.rs", "src/main.rs", true),
            ("**/package.json", "package.json", true),
            ("s?c/*", "src/deep/file", true),
            ("*.txt", "a.rs", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn difference_names_changed_file_and_ignores_rewrite() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("src")).expect("folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let take = |before| Fingerprint::compute(folder.path(), &["./src/".to_owned(), "lock*".to_owned()], before);
        write("src/a", "one");
        write("other", "x");
        let first = take(None).expect("taken");
        write("src/a", "one");
        write("other", "changed");
        assert_eq!(first.first_difference(&take(Some(&first)).expect("taken")), None);
        write("lockfile", "new");
        assert_eq!(first.first_difference(&take(Some(&first)).expect("taken")), Some("lockfile".to_owned()));
        write("src/a", "two");
        let last = take(Some(&first)).expect("taken");
        assert_ne!(first.files["src/a"].contents, last.files["src/a"].contents);
        std::os::unix::fs::symlink(".", folder.path().join("src/loop")).expect("linked");
        assert!(take(None).is_ok());
    }
}
