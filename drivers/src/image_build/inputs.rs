//! Hashes everything that a build reads. pdev computes this hash itself, so an unchanged context needs neither the
//! builder nor its cache.
//!
//! Each file's digest is cached with its size, times and inode, so later scans only read metadata. Names and modes are
//! part of the hash, so a rename counts as a change.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use host::files::is_vanished;
use plan::application::BuildSpec;
use sha2::{Digest, Sha256};
use strings::to_hex;

use super::dockerignore::{DockerIgnore, MatchedRules};
use crate::problem::{Problem, ProblemKind};

/// One file, folder or link of the context, with its path relative to the context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ContextEntry {
    pub(crate) path: PathBuf,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    /// Unix seconds. Not part of the hash, because a fresh checkout must not cause a build.
    pub(crate) modified: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EntryKind {
    Folder,
    File {
        size: u64,
    },
    Link {
        target: PathBuf,
    },
    /// A file of the context that is elsewhere on this machine.
    Inline {
        bytes: Vec<u8>,
    },
}

/// The scanned inputs of one build.
#[derive(Debug)]
pub(crate) struct BuildInputs {
    pub(crate) context_folder: PathBuf,
    /// Relative to the context.
    pub(crate) dockerfile: PathBuf,
    pub(crate) entries: Vec<ContextEntry>,
    /// Hex SHA-256.
    pub(crate) hash: String,
    /// The first path that differs from the previous scan. `None` if there is no difference or no previous scan.
    pub(crate) changed_path: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    modified: i128,
    changed: i128,
    inode: u64,
    mode: u32,
}

/// The name in the context of a Dockerfile that is outside of it or a link.
const FOREIGN_DOCKERFILE: &str = ".pdev.Dockerfile";

type DigestCache = BTreeMap<PathBuf, (FileStamp, String)>;

/// Scans the context of one unit. Blocking.
pub(crate) fn scan_context(unit: &str, project: &Path, spec: &BuildSpec, cache: &Path) -> Result<BuildInputs, Problem> {
    let context = project.join(&spec.context);
    let metadata = fs::metadata(&context)
        .map_err(|error| input_problem(unit, &format!("the build context `{}`", spec.context), &error))?;
    if !metadata.is_dir() {
        return Err(Problem::new(
            ProblemKind::BuildInputMissing,
            format!("`{unit}`: the build context `{}` is not a folder", spec.context),
        ));
    }
    let dockerfile = normalize(Path::new(&spec.dockerfile));
    let dockerfile = dockerfile.strip_prefix(normalize(&context)).map(Path::to_owned).unwrap_or(dockerfile);
    let text = fs::read(context.join(&dockerfile)).map_err(|error| {
        let dockerfile_path = normalize(&Path::new(&spec.context).join(&dockerfile));
        input_problem(unit, &format!("the Dockerfile `{}`", dockerfile_path.display()), &error).hint(format!(
            "Create it, select another file with `services.{unit}.build: {{ dockerfile: PATH }}`, or set an `image`."
        ))
    })?;
    let ignore = read_ignore_file(unit, &context, &dockerfile)?;
    let mut entries = Vec::new();
    walk(unit, &context, &dockerfile, &ignore, &mut entries)?;
    // The hash must not depend on the order in which the file system lists the entries.
    entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let cache_path =
        cache.join("builds").join(format!("{}.list", to_hex(Sha256::digest(context.as_os_str().as_bytes()))));
    let previous = load_cache(&cache_path);
    let (current, changed_path) = hash_files(unit, &context, &mut entries, &previous)?;
    let hash = total_hash(spec, &text, &entries, &current);
    let dockerfile = if is_file_inside(&context, &dockerfile) {
        dockerfile
    } else {
        let kind = EntryKind::Inline { bytes: text };
        entries.push(ContextEntry { path: FOREIGN_DOCKERFILE.into(), kind, mode: 0o644, modified: 0 });
        FOREIGN_DOCKERFILE.into()
    };
    if current != previous {
        // Ignore errors: without the cache, the next scan only reads the files again.
        drop(store_cache(&cache_path, &current));
    }
    Ok(BuildInputs {
        context_folder: context,
        dockerfile,
        entries,
        hash,
        changed_path: changed_path.filter(|_| !previous.is_empty()),
    })
}

/// Removes `.` and `..`, as the docker command does before it opens the file.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(normal.components().next_back(), Some(Component::Normal(_))) => {
                normal.pop();
            }
            _ => normal.push(part),
        }
    }
    normal
}

/// False for a file outside of the folder, and for a link: the builder sees only the context, in which its target may be
/// missing.
fn is_file_inside(folder: &Path, file: &Path) -> bool {
    let real_folder = folder.canonicalize();
    let real_file = folder.join(file).canonicalize();
    file.is_relative() && matches!((real_folder, real_file), (Ok(folder), Ok(real)) if folder.join(file) == real)
}

fn input_problem(unit: &str, input: &str, error: &io::Error) -> Problem {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied {
        ProblemKind::PermissionDenied
    } else {
        ProblemKind::BuildInputMissing
    };
    let reason = if error.kind() == io::ErrorKind::NotFound {
        "does not exist".to_owned()
    } else {
        format!("cannot be read: {error}")
    };
    Problem::new(kind, format!("`{unit}`: {input} {reason}"))
}

/// `DOCKERFILE.dockerignore` takes precedence over the context's `.dockerignore`, as in BuildKit.
fn read_ignore_file(unit: &str, context: &Path, dockerfile: &Path) -> Result<DockerIgnore, Problem> {
    let mut own_name = dockerfile.as_os_str().to_owned();
    own_name.push(".dockerignore");
    for name in [PathBuf::from(own_name), PathBuf::from(".dockerignore")] {
        let text = match fs::read(context.join(&name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(input_problem(unit, &format!("`{}`", name.display()), &error)),
        };
        return DockerIgnore::parse(&String::from_utf8_lossy(&text)).map_err(|pattern| {
            let message = format!("`{unit}`: `{pattern}` in `{}` is not a valid pattern", name.display());
            Problem::new(ProblemKind::Refused, message)
                .hint("Correct that line, or put a backslash before `[` and `\\`.")
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
    let mut pending = vec![(PathBuf::new(), MatchedRules::new())];
    while let Some((folder, parent_rules)) = pending.pop() {
        let children = match fs::read_dir(context.join(&folder)) {
            Ok(children) => children,
            Err(error) if is_vanished(&error) && !folder.as_os_str().is_empty() => {
                entries.retain(|entry| entry.path != folder);
                continue;
            }
            Err(error) => {
                let input = format!("the folder `{}` of the build context", folder.display());
                return Err(input_problem(unit, &input, &error));
            }
        };
        for entry in children {
            let entry = match entry {
                Err(error) if is_vanished(&error) => continue,
                entry => entry.map_err(|error| input_problem(unit, "the build context", &error))?,
            };
            let path = folder.join(entry.file_name());
            // The builder needs these two files even if a pattern excludes them.
            let is_required = path == dockerfile || path == Path::new(".dockerignore");
            let (is_excluded, child_rules) = ignore.excludes(&path, &parent_rules);
            let is_excluded = is_excluded && !is_required;
            // This metadata does not follow links, so a loop of links results in two small entries.
            let metadata = match entry.metadata() {
                Err(error) if is_vanished(&error) => continue,
                metadata => metadata.map_err(|error| input_problem(unit, &format!("`{}`", path.display()), &error))?,
            };
            // An excluded folder may still contain included files.
            if metadata.is_dir() && (!is_excluded || ignore.may_reinclude_in(&path) || dockerfile.starts_with(&path)) {
                pending.push((path.clone(), child_rules));
            }
            if let Some(kind) = entry_kind(&context.join(&path), &metadata).filter(|_| !is_excluded) {
                let modified = u64::try_from(metadata.mtime()).unwrap_or_default();
                entries.push(ContextEntry { path, kind, mode: metadata.mode() & 0o7777, modified });
            }
        }
    }
    Ok(())
}

/// Skips sockets, pipes and devices; the docker command also skips sockets.
fn entry_kind(full: &Path, metadata: &Metadata) -> Option<EntryKind> {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        Some(EntryKind::Folder)
    } else if file_type.is_symlink() {
        Some(EntryKind::Link { target: fs::read_link(full).ok()? })
    } else if file_type.is_socket() || file_type.is_fifo() || file_type.is_block_device() || file_type.is_char_device()
    {
        None
    } else {
        Some(EntryKind::File { size: metadata.len() })
    }
}

/// Removes files that vanished since the folders were listed from `entries`.
fn hash_files(
    unit: &str,
    context: &Path,
    entries: &mut Vec<ContextEntry>,
    previous: &DigestCache,
) -> Result<(DigestCache, Option<String>), Problem> {
    let mut current = DigestCache::new();
    let mut changed_path = None;
    for entry in entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })) {
        let previous_entry = previous.get(&entry.path);
        let (stamp, digest) = match stamp_and_digest(&context.join(&entry.path), previous_entry) {
            Err(error) if is_vanished(&error) => continue,
            found => found.map_err(|error| {
                let input = format!("the file `{}` of the build context", entry.path.display());
                input_problem(unit, &input, &error).hint("Make it readable, or exclude it with `.dockerignore`.")
            })?,
        };
        if changed_path.is_none() && previous_entry.is_none_or(|(_, previous_digest)| *previous_digest != digest) {
            changed_path = Some(entry.path.display().to_string());
        }
        current.insert(entry.path.clone(), (stamp, digest));
    }
    entries.retain(|entry| !matches!(entry.kind, EntryKind::File { .. }) || current.contains_key(&entry.path));
    let removed = previous.keys().find(|path| !current.contains_key(*path));
    Ok((current, changed_path.or_else(|| removed.map(|path| format!("{} (removed)", path.display())))))
}

fn stamp_and_digest(full: &Path, previous: Option<&(FileStamp, String)>) -> io::Result<(FileStamp, String)> {
    let stamp = stamp(&fs::symlink_metadata(full)?);
    match previous {
        Some((previous_stamp, digest)) if *previous_stamp == stamp => Ok((stamp, digest.clone())),
        _ => Ok((stamp, file_digest(full)?)),
    }
}

fn stamp(metadata: &Metadata) -> FileStamp {
    let nanoseconds = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    FileStamp {
        size: metadata.len(),
        modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        // Some tools restore the modification time, but the change time always advances.
        changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        mode: metadata.mode() & 0o7777,
    }
}

fn file_digest(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let length = io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(to_hex(hash.finalize()));
        }
        hash.update(&buffer[..length]);
    }
}

fn total_hash(spec: &BuildSpec, dockerfile: &[u8], entries: &[ContextEntry], contents: &DigestCache) -> String {
    let mut hash = Sha256::new();
    // The length prefix keeps adjacent fields apart: otherwise ("ab", "c") and ("a", "bc") would hash the same.
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
            EntryKind::Inline { bytes } => add(bytes),
            EntryKind::File { .. } => {
                add(contents.get(&entry.path).map(|(_, digest)| digest.as_bytes()).unwrap_or_default());
            }
        }
    }
    to_hex(hash.finalize())
}

/// One record per file: fields separated by spaces, the path last and terminated by a zero byte, so any name is valid.
fn store_cache(path: &Path, digests: &DigestCache) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(digests.len() * 160);
    for (name, (stamp, digest)) in digests {
        let FileStamp { size, modified, changed, inode, mode } = stamp;
        bytes.extend_from_slice(format!("{digest} {size} {modified} {changed} {inode} {mode} ").as_bytes());
        bytes.extend_from_slice(name.as_os_str().as_bytes());
        bytes.push(0);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    host::files::replace_file_with(path, &bytes, 0o644, host::files::Flush::Nothing)
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
        let scan = || scan_context("web", &project, &spec(), &cache).unwrap();
        let first = scan();
        assert_eq!((scan().hash == first.hash, scan().changed_path), (true, None));
        fs::write(project.join("x.log"), "ignored").unwrap();
        assert_eq!(scan().hash, first.hash);
        fs::write(project.join("src/main.py"), "2").unwrap();
        let second = scan();
        assert_ne!(second.hash, first.hash);
        assert_eq!(second.changed_path.as_deref(), Some("src/main.py"));
        fs::rename(project.join("src/main.py"), project.join("src/other.py")).unwrap();
        assert_ne!(scan().hash, second.hash);
        let write_result = fs::write(project.join(OsString::from_vec(b"caf\xe9".to_vec())), "name");
        assert!(write_result.is_ok() && scan().entries.len() > second.entries.len());
        assert_eq!(load_cache(&fs::read_dir(cache.join("builds")).unwrap().next().unwrap().unwrap().path()).len(), 4);
    }

    #[test]
    fn file_that_vanishes_during_the_scan_counts_as_absent() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| ContextEntry {
            path: name.into(),
            kind: EntryKind::File { size: 1 },
            mode: 0o644,
            modified: 0,
        };
        fs::write(root.path().join("a"), "a").unwrap();
        fs::write(root.path().join("file"), "f").unwrap();
        let mut entries = vec![file("a"), file("gone"), file("gone-folder/b"), file("file/was-a-folder")];
        let (digests, _) = hash_files("web", root.path(), &mut entries, &DigestCache::new()).unwrap();
        assert_eq!((digests.len(), entries), (1, vec![file("a")]));
    }

    /// An editor that saves files all the time must not make a plan fail.
    #[test]
    fn scan_succeeds_while_files_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let (project, cache) = (root.path().join("p"), root.path().join("c"));
        fs::create_dir_all(project.join("src")).unwrap();
        fs::write(project.join("Dockerfile"), "FROM scratch\n").unwrap();
        fs::write(project.join(".dockerignore"), "*.swp\n").unwrap();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let inner = project.join("src/folder");
                let names = |number: i32| [inner.join(format!("f{number}")), project.join(format!("f{number}~.swp"))];
                let files: Vec<PathBuf> = (0..100).flat_map(names).collect();
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(fs::create_dir_all(&inner));
                    files.iter().for_each(|file| drop(fs::write(file, "x")));
                    files.iter().for_each(|file| drop(fs::remove_file(file)));
                    drop(fs::remove_dir_all(&inner));
                }
            });
            let failures: Vec<String> = (0..300)
                .filter_map(|_| scan_context("web", &project, &spec(), &cache).err().map(|problem| problem.message))
                .collect();
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(failures, Vec::<String>::new());
        });
    }

    #[test]
    fn missing_input_is_named_in_problem() {
        let root = tempfile::tempdir().unwrap();
        let problem = scan_context("web", root.path(), &spec(), root.path()).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::BuildInputMissing);
        assert!(problem.message.contains("Dockerfile"), "{problem}");
        let missing_context = BuildSpec { context: "./none".into(), ..spec() };
        assert!(
            scan_context("web", root.path(), &missing_context, root.path())
                .unwrap_err()
                .message
                .contains("`./none` does not exist")
        );
    }

    /// As with `docker build -f`.
    #[test]
    fn dockerfile_is_found_however_its_path_is_written() {
        let root = tempfile::tempdir().unwrap();
        let project = root.path().join("p");
        fs::create_dir_all(project.join("ops")).unwrap();
        for path in ["Dockerfile", "ops/Dockerfile", "../Outside"] {
            fs::write(project.join(path), format!("FROM {path}\n")).unwrap();
        }
        symlink("../../Outside", project.join("ops/link")).unwrap();
        fs::write(project.join("ops/Dockerfile.dockerignore"), "*.log\n").unwrap();
        fs::write(root.path().join("Outside.dockerignore"), "*.log\n").unwrap();
        fs::write(project.join("x.log"), "").unwrap();
        fs::write(project.join(".dockerignore"), "ops\nDockerfile\n").unwrap();
        let absolute = project.join("ops/Dockerfile").display().to_string();
        for (written, expected, text, has_log) in [
            ("./Dockerfile", "Dockerfile", "FROM Dockerfile\n", true),
            ("./ops/Dockerfile", "ops/Dockerfile", "FROM ops/Dockerfile\n", false),
            ("ops/../ops/./Dockerfile", "ops/Dockerfile", "FROM ops/Dockerfile\n", false),
            (absolute.as_str(), "ops/Dockerfile", "FROM ops/Dockerfile\n", false),
            ("../Outside", FOREIGN_DOCKERFILE, "FROM ../Outside\n", false),
            ("ops/link", FOREIGN_DOCKERFILE, "FROM ../Outside\n", true),
        ] {
            let spec = BuildSpec { dockerfile: written.to_owned(), ..spec() };
            let inputs = scan_context("web", &project, &spec, root.path()).unwrap();
            assert_eq!(inputs.dockerfile, Path::new(expected), "{written}");
            let entry = inputs.entries.iter().find(|entry| entry.path == inputs.dockerfile);
            match &entry.unwrap_or_else(|| panic!("{written}: it is in the context")).kind {
                EntryKind::Inline { bytes } => assert_eq!(String::from_utf8_lossy(bytes), text, "{written}"),
                _ => assert_eq!(fs::read_to_string(project.join(expected)).unwrap(), text, "{written}"),
            }
            let log = inputs.entries.iter().any(|entry| entry.path == Path::new("x.log"));
            assert_eq!(log, has_log, "{written}: the ignore file beside the Dockerfile takes precedence");
        }
    }

    #[test]
    fn times_are_recorded_but_not_hashed() {
        let root = tempfile::tempdir().unwrap();
        let project = root.path().join("p");
        fs::create_dir(&project).unwrap();
        let file = project.join("Dockerfile");
        fs::write(&file, "FROM scratch\n").unwrap();
        let scan = || scan_context("web", &project, &spec(), &root.path().join("c")).unwrap();
        let set_time = |seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        };
        set_time(1_000_000_000);
        let first = scan();
        let time_of = |inputs: &BuildInputs| {
            inputs.entries.iter().find(|entry| entry.path == Path::new("Dockerfile")).unwrap().modified
        };
        assert_eq!(time_of(&first), 1_000_000_000);
        set_time(1_100_000_000);
        let second = scan();
        assert_eq!((time_of(&second), &second.hash), (1_100_000_000, &first.hash));
    }
}
