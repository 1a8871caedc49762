//! What a build reads, in one hash: our own, so that an unchanged context asks neither the builder nor its cache.
//!
//! Contents are hashed once and remembered with the file's size, times and inode; afterwards a look at the folder is
//! enough. Names and modes count too, so that a rename is a change.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use plan::application::BuildSpec;
use sha2::{Digest, Sha256};

use super::dockerignore::{DockerIgnore, MatchedRules};
use crate::driver::{Problem, ProblemKind};

/// One thing of the context, relative to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ContextEntry {
    pub(super) path: PathBuf,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum EntryKind {
    Folder,
    File { size: u64 },
    Link { target: PathBuf },
}

/// A context, read.
#[derive(Debug)]
pub(super) struct BuildInputs {
    pub(super) context_folder: PathBuf,
    /// Relative to the context.
    pub(super) dockerfile: PathBuf,
    pub(super) entries: Vec<ContextEntry>,
    /// Hex SHA-256.
    pub(super) hash: String,
    /// The first path that differs from the last time, if there was one.
    pub(super) changed_path: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    modified: i128,
    changed: i128,
    inode: u64,
    mode: u32,
}

type DigestCache = BTreeMap<PathBuf, (FileStamp, String)>;

/// Reads the context of one unit. Blocking: call it where blocking is allowed.
pub(super) fn scan_context(unit: &str, project: &Path, spec: &BuildSpec, cache: &Path) -> Result<BuildInputs, Problem> {
    let context = project.join(&spec.context);
    let found = fs::metadata(&context)
        .map_err(|error| input_problem(unit, &format!("the build context `{}`", spec.context), &error))?;
    if !found.is_dir() {
        return Err(Problem::new(
            ProblemKind::BuildInputMissing,
            format!("`{unit}`: the build context `{}` is no folder", spec.context),
        ));
    }
    let dockerfile = PathBuf::from(&spec.dockerfile);
    let text = fs::read(context.join(&dockerfile)).map_err(|error| {
        let place = Path::new(&spec.context).join(&dockerfile);
        input_problem(unit, &format!("the Dockerfile `{}`", place.display()), &error).hint(format!(
            "Write it, name another one with `services.{unit}.build: {{ dockerfile: PATH }}`, or give an `image`."
        ))
    })?;
    let ignore = read_ignore_file(unit, &context, &dockerfile)?;
    let mut entries = Vec::new();
    walk(unit, &context, &dockerfile, &ignore, &mut entries)?;
    entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let memory = cache.join("builds").join(format!("{}.list", hex(&Sha256::digest(context.as_os_str().as_bytes()))));
    let known = load_cache(&memory);
    let (fresh, changed) = hash_files(unit, &context, &entries, &known)?;
    let hash = total_hash(spec, &text, &entries, &fresh);
    if fresh != known {
        // Losing the memory only costs reading the files again.
        drop(store_cache(&memory, &fresh));
    }
    Ok(BuildInputs {
        context_folder: context,
        dockerfile,
        entries,
        hash,
        changed_path: changed.filter(|_| !known.is_empty()),
    })
}

fn input_problem(unit: &str, what: &str, error: &io::Error) -> Problem {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied {
        ProblemKind::PermissionDenied
    } else {
        ProblemKind::BuildInputMissing
    };
    let words = if error.kind() == io::ErrorKind::NotFound {
        "is not there".to_owned()
    } else {
        format!("cannot be read: {error}")
    };
    Problem::new(kind, format!("`{unit}`: {what} {words}"))
}

/// The Dockerfile's own file wins over the folder's.
fn read_ignore_file(unit: &str, context: &Path, dockerfile: &Path) -> Result<DockerIgnore, Problem> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    for name in [PathBuf::from(own), PathBuf::from(".dockerignore")] {
        let text = match fs::read(context.join(&name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(input_problem(unit, &format!("`{}`", name.display()), &error)),
        };
        return DockerIgnore::parse(&String::from_utf8_lossy(&text)).map_err(|pattern| {
            let words = format!("`{unit}`: `{pattern}` in `{}` is no pattern", name.display());
            Problem::new(ProblemKind::Refused, words).hint("Correct that line, or put a backslash before `[` and `\\`.")
        });
    }
    Ok(DockerIgnore::default())
}

fn walk(
    unit: &str,
    context: &Path,
    dockerfile: &Path,
    ignore: &DockerIgnore,
    entries: &mut Vec<ContextEntry>,
) -> Result<(), Problem> {
    let mut open = vec![(PathBuf::new(), MatchedRules::new())];
    while let Some((folder, above)) = open.pop() {
        let listed = fs::read_dir(context.join(&folder));
        let listed = listed.map_err(|error| {
            input_problem(unit, &format!("the folder `{}` of the build context", folder.display()), &error)
        })?;
        for entry in listed {
            let entry = entry.map_err(|error| input_problem(unit, "the build context", &error))?;
            let path = folder.join(entry.file_name());
            let always = path == dockerfile || path == Path::new(".dockerignore");
            let (excluded, below) = ignore.excludes(&path, &above);
            let excluded = excluded && !always;
            // Links are not followed, so a loop of links is two small entries.
            let found =
                entry.metadata().map_err(|error| input_problem(unit, &format!("`{}`", path.display()), &error))?;
            if found.is_dir() && (!excluded || ignore.may_reinclude_in(&path) || dockerfile.starts_with(&path)) {
                open.push((path.clone(), below));
            }
            if let Some(kind) = entry_kind(&context.join(&path), &found).filter(|_| !excluded) {
                entries.push(ContextEntry { path, kind, mode: found.mode() & 0o7777 });
            }
        }
    }
    Ok(())
}

/// Sockets, pipes and devices are not sent, as the docker command leaves sockets out.
fn entry_kind(full: &Path, found: &Metadata) -> Option<EntryKind> {
    let is = found.file_type();
    if is.is_dir() {
        Some(EntryKind::Folder)
    } else if is.is_symlink() {
        Some(EntryKind::Link { target: fs::read_link(full).ok()? })
    } else if is.is_socket() || is.is_fifo() || is.is_block_device() || is.is_char_device() {
        None
    } else {
        Some(EntryKind::File { size: found.len() })
    }
}

fn hash_files(
    unit: &str,
    context: &Path,
    entries: &[ContextEntry],
    known: &DigestCache,
) -> Result<(DigestCache, Option<String>), Problem> {
    let mut fresh = DigestCache::new();
    let mut changed = None;
    for entry in entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })) {
        let full = context.join(&entry.path);
        let what = || format!("the file `{}` of the build context", entry.path.display());
        let stamp = stamp(&fs::symlink_metadata(&full).map_err(|error| input_problem(unit, &what(), &error))?);
        let before = known.get(&entry.path);
        let digest = match before {
            Some((same, digest)) if *same == stamp => digest.clone(),
            _ => file_digest(&full).map_err(|error| {
                input_problem(unit, &what(), &error).hint("Let it be read, or leave it out with `.dockerignore`.")
            })?,
        };
        if changed.is_none() && before.is_none_or(|(_, old)| *old != digest) {
            changed = Some(entry.path.display().to_string());
        }
        fresh.insert(entry.path.clone(), (stamp, digest));
    }
    let gone = known.keys().find(|path| !fresh.contains_key(*path));
    Ok((fresh, changed.or_else(|| gone.map(|path| format!("{} (gone)", path.display())))))
}

fn stamp(found: &Metadata) -> FileStamp {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    FileStamp {
        size: found.len(),
        modified: nanoseconds(found.mtime(), found.mtime_nsec()),
        changed: nanoseconds(found.ctime(), found.ctime_nsec()),
        inode: found.ino(),
        mode: found.mode() & 0o7777,
    }
}

fn file_digest(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let length = io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..length]);
    }
}

fn total_hash(spec: &BuildSpec, dockerfile: &[u8], entries: &[ContextEntry], contents: &DigestCache) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(b"pdev build 1");
    add(dockerfile);
    add(spec.dockerfile.as_bytes());
    add(spec.target.as_deref().unwrap_or_default().as_bytes());
    add(spec.platform.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &spec.args {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    for entry in entries {
        add(entry.path.as_os_str().as_bytes());
        add(&entry.mode.to_le_bytes());
        match &entry.kind {
            EntryKind::Folder => add(b"folder"),
            EntryKind::Link { target } => add(target.as_os_str().as_bytes()),
            EntryKind::File { .. } => {
                add(contents.get(&entry.path).map(|(_, digest)| digest.as_bytes()).unwrap_or_default());
            }
        }
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One record a file, fields by spaces, the path last and ended by a zero byte: any name fits.
fn store_cache(path: &Path, known: &DigestCache) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(known.len() * 160);
    for (name, (stamp, digest)) in known {
        let FileStamp { size, modified, changed, inode, mode } = stamp;
        bytes.extend_from_slice(format!("{digest} {size} {modified} {changed} {inode} {mode} ").as_bytes());
        bytes.extend_from_slice(name.as_os_str().as_bytes());
        bytes.push(0);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, path)
}

fn load_cache(path: &Path) -> DigestCache {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.split(|byte| *byte == 0).filter_map(parse_record).collect()
}

fn parse_record(bytes: &[u8]) -> Option<(PathBuf, (FileStamp, String))> {
    let mut fields = bytes.splitn(7, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let digest = text()?.to_owned();
    let stamp = FileStamp {
        size: text()?.parse().ok()?,
        modified: text()?.parse().ok()?,
        changed: text()?.parse().ok()?,
        inode: text()?.parse().ok()?,
        mode: text()?.parse().ok()?,
    };
    let path = PathBuf::from(OsString::from_vec(fields.next()?.to_vec()));
    Some((path, (stamp, digest)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn spec() -> BuildSpec {
        BuildSpec {
            context: ".".into(),
            dockerfile: "Dockerfile".into(),
            target: None,
            args: BTreeMap::new(),
            platform: None,
        }
    }

    #[test]
    fn hash_changes_only_with_build_inputs() {
        let root = tempfile::tempdir().unwrap();
        let (project, cache) = (root.path().join("p"), root.path().join("c"));
        fs::create_dir_all(project.join("src")).unwrap();
        fs::write(project.join("Dockerfile"), "FROM scratch\n").unwrap();
        fs::write(project.join("src/main.py"), "1").unwrap();
        fs::write(project.join(".dockerignore"), "*.log\n").unwrap();
        symlink("loop", project.join("loop")).unwrap();
        let look = || scan_context("web", &project, &spec(), &cache).unwrap();
        let first = look();
        assert_eq!((look().hash == first.hash, look().changed_path), (true, None));
        fs::write(project.join("x.log"), "ignored").unwrap();
        assert_eq!(look().hash, first.hash);
        fs::write(project.join("src/main.py"), "2").unwrap();
        let second = look();
        assert_ne!(second.hash, first.hash);
        assert_eq!(second.changed_path.as_deref(), Some("src/main.py"));
        fs::rename(project.join("src/main.py"), project.join("src/other.py")).unwrap();
        assert_ne!(look().hash, second.hash);
        let named = fs::write(project.join(OsString::from_vec(b"caf\xe9".to_vec())), "name");
        assert!(named.is_ok() && look().entries.len() > second.entries.len());
        assert_eq!(load_cache(&fs::read_dir(cache.join("builds")).unwrap().next().unwrap().unwrap().path()).len(), 4);
    }

    #[test]
    fn missing_input_is_named_in_problem() {
        let root = tempfile::tempdir().unwrap();
        let problem = scan_context("web", root.path(), &spec(), root.path()).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::BuildInputMissing);
        assert!(problem.message.contains("Dockerfile"), "{problem}");
        let nowhere = BuildSpec { context: "./none".into(), ..spec() };
        assert!(
            scan_context("web", root.path(), &nowhere, root.path())
                .unwrap_err()
                .message
                .contains("`./none` is not there")
        );
    }
}
