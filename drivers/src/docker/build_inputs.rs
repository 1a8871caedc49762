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

use super::ignore::{Above, Ignore};
use crate::driver::{Problem, ProblemKind};

/// One thing of the context, relative to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) mode: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Folder,
    File { size: u64 },
    Link { target: PathBuf },
}

/// A context, read.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) context: PathBuf,
    /// Relative to the context.
    pub(super) dockerfile: PathBuf,
    pub(super) entries: Vec<Entry>,
    /// Hex SHA-256.
    pub(super) hash: String,
    /// The first path that differs from the last time, if there was one.
    pub(super) changed: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: i128,
    changed: i128,
    inode: u64,
    mode: u32,
}

type Known = BTreeMap<PathBuf, (Stamp, String)>;

/// Reads the context of one unit. Blocking: call it where blocking is allowed.
pub(super) fn read(unit: &str, project: &Path, spec: &BuildSpec, cache: &Path) -> Result<Inputs, Problem> {
    let context = project.join(&spec.context);
    let found = fs::metadata(&context)
        .map_err(|error| missing(unit, &format!("the build context `{}`", spec.context), &error))?;
    if !found.is_dir() {
        return Err(Problem::new(
            ProblemKind::BuildInputMissing,
            format!("`{unit}`: the build context `{}` is no folder", spec.context),
        ));
    }
    let dockerfile = PathBuf::from(&spec.dockerfile);
    let text = fs::read(context.join(&dockerfile)).map_err(|error| {
        let place = Path::new(&spec.context).join(&dockerfile);
        missing(unit, &format!("the Dockerfile `{}`", place.display()), &error).hint(format!(
            "Write it, name another one with `services.{unit}.build: {{ dockerfile: PATH }}`, or give an `image`."
        ))
    })?;
    let ignore = ignore(unit, &context, &dockerfile)?;
    let mut entries = Vec::new();
    walk(unit, &context, &dockerfile, &ignore, &mut entries)?;
    entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    let memory = cache.join("builds").join(format!("{}.list", hex(&Sha256::digest(context.as_os_str().as_bytes()))));
    let known = load(&memory);
    let (fresh, changed) = contents(unit, &context, &entries, &known)?;
    let hash = total(spec, &text, &entries, &fresh);
    if fresh != known {
        // Losing the memory only costs reading the files again.
        drop(store(&memory, &fresh));
    }
    Ok(Inputs { context, dockerfile, entries, hash, changed: changed.filter(|_| !known.is_empty()) })
}

fn missing(unit: &str, what: &str, error: &io::Error) -> Problem {
    let kind = if error.kind() == io::ErrorKind::PermissionDenied {
        ProblemKind::Denied
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
fn ignore(unit: &str, context: &Path, dockerfile: &Path) -> Result<Ignore, Problem> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    for name in [PathBuf::from(own), PathBuf::from(".dockerignore")] {
        let text = match fs::read(context.join(&name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(missing(unit, &format!("`{}`", name.display()), &error)),
        };
        return Ignore::parse(&String::from_utf8_lossy(&text)).map_err(|pattern| {
            let words = format!("`{unit}`: `{pattern}` in `{}` is no pattern", name.display());
            Problem::new(ProblemKind::Refused, words).hint("Correct that line, or put a backslash before `[` and `\\`.")
        });
    }
    Ok(Ignore::default())
}

fn walk(
    unit: &str,
    context: &Path,
    dockerfile: &Path,
    ignore: &Ignore,
    entries: &mut Vec<Entry>,
) -> Result<(), Problem> {
    let mut open = vec![(PathBuf::new(), Above::new())];
    while let Some((folder, above)) = open.pop() {
        let listed = fs::read_dir(context.join(&folder));
        let listed = listed.map_err(|error| {
            missing(unit, &format!("the folder `{}` of the build context", folder.display()), &error)
        })?;
        for entry in listed {
            let entry = entry.map_err(|error| missing(unit, "the build context", &error))?;
            let path = folder.join(entry.file_name());
            let always = path == dockerfile || path == Path::new(".dockerignore");
            let (excluded, below) = ignore.excludes(&path, &above);
            let excluded = excluded && !always;
            // Links are not followed, so a loop of links is two small entries.
            let found = entry.metadata().map_err(|error| missing(unit, &format!("`{}`", path.display()), &error))?;
            if found.is_dir() && (!excluded || ignore.may_take_back_in(&path) || dockerfile.starts_with(&path)) {
                open.push((path.clone(), below));
            }
            if let Some(kind) = kind(&context.join(&path), &found).filter(|_| !excluded) {
                entries.push(Entry { path, kind, mode: found.mode() & 0o7777 });
            }
        }
    }
    Ok(())
}

/// Sockets, pipes and devices are not sent, as the docker command leaves sockets out.
fn kind(full: &Path, found: &Metadata) -> Option<Kind> {
    let is = found.file_type();
    if is.is_dir() {
        Some(Kind::Folder)
    } else if is.is_symlink() {
        Some(Kind::Link { target: fs::read_link(full).ok()? })
    } else if is.is_socket() || is.is_fifo() || is.is_block_device() || is.is_char_device() {
        None
    } else {
        Some(Kind::File { size: found.len() })
    }
}

fn contents(unit: &str, context: &Path, entries: &[Entry], known: &Known) -> Result<(Known, Option<String>), Problem> {
    let mut fresh = Known::new();
    let mut changed = None;
    for entry in entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. })) {
        let full = context.join(&entry.path);
        let what = || format!("the file `{}` of the build context", entry.path.display());
        let stamp = stamp(&fs::symlink_metadata(&full).map_err(|error| missing(unit, &what(), &error))?);
        let before = known.get(&entry.path);
        let digest = match before {
            Some((same, digest)) if *same == stamp => digest.clone(),
            _ => file_digest(&full).map_err(|error| {
                missing(unit, &what(), &error).hint("Let it be read, or leave it out with `.dockerignore`.")
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

fn stamp(found: &Metadata) -> Stamp {
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Stamp {
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

fn total(spec: &BuildSpec, dockerfile: &[u8], entries: &[Entry], contents: &Known) -> String {
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
            Kind::Folder => add(b"folder"),
            Kind::Link { target } => add(target.as_os_str().as_bytes()),
            Kind::File { .. } => {
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
fn store(path: &Path, known: &Known) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(known.len() * 160);
    for (name, (stamp, digest)) in known {
        let Stamp { size, modified, changed, inode, mode } = stamp;
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

fn load(path: &Path) -> Known {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.split(|byte| *byte == 0).filter_map(record).collect()
}

fn record(bytes: &[u8]) -> Option<(PathBuf, (Stamp, String))> {
    let mut fields = bytes.splitn(7, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let digest = text()?.to_owned();
    let stamp = Stamp {
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
    fn only_what_a_build_reads_changes_its_hash() {
        let root = tempfile::tempdir().unwrap();
        let (project, cache) = (root.path().join("p"), root.path().join("c"));
        fs::create_dir_all(project.join("src")).unwrap();
        fs::write(project.join("Dockerfile"), "FROM scratch\n").unwrap();
        fs::write(project.join("src/main.py"), "1").unwrap();
        fs::write(project.join(".dockerignore"), "*.log\n").unwrap();
        symlink("loop", project.join("loop")).unwrap();
        let look = || read("web", &project, &spec(), &cache).unwrap();
        let first = look();
        assert_eq!((look().hash == first.hash, look().changed), (true, None));
        fs::write(project.join("x.log"), "ignored").unwrap();
        assert_eq!(look().hash, first.hash);
        fs::write(project.join("src/main.py"), "2").unwrap();
        let second = look();
        assert_ne!(second.hash, first.hash);
        assert_eq!(second.changed.as_deref(), Some("src/main.py"));
        fs::rename(project.join("src/main.py"), project.join("src/other.py")).unwrap();
        assert_ne!(look().hash, second.hash);
        let named = fs::write(project.join(OsString::from_vec(b"caf\xe9".to_vec())), "name");
        assert!(named.is_ok() && look().entries.len() > second.entries.len());
        assert_eq!(load(&fs::read_dir(cache.join("builds")).unwrap().next().unwrap().unwrap().path()).len(), 4);
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let problem = read("web", root.path(), &spec(), root.path()).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::BuildInputMissing);
        assert!(problem.message.contains("Dockerfile"), "{problem}");
        let nowhere = BuildSpec { context: "./none".into(), ..spec() };
        assert!(read("web", root.path(), &nowhere, root.path()).unwrap_err().message.contains("`./none` is not there"));
    }
}
