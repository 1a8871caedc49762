//! What the process runtime remembers on disk: one file per unit, one about the keeper, one about the preview.
//!
//! These files are the truth that `observe` reads, so no keeper is needed to learn a finished job's exit code. The
//! keeper alone writes a unit's file while the unit runs; the driver does before and after. Nothing secret is in them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::kernel::ProcessIdentity;
use plan::observed::Exit;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct UnitRecord {
    pub unit: String,
    pub handle: String,
    pub hash: String,
    pub image: Option<String>,
    /// By port name.
    pub ports: BTreeMap<String, u16>,
    pub stop: StopRecord,
    pub state: RecordedState,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StopRecord {
    pub signal: String,
    pub grace_milliseconds: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum RecordedState {
    Created,
    Running { process: ProcessIdentity, started_at: i64 },
    Exited { started_at: i64, exit: ExitRecord },
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub error: Option<String>,
    pub at: Option<i64>,
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        Self {
            code: record.code,
            signal: record.signal,
            out_of_memory: false,
            error: record.error,
            ended_at: record.at,
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct KeeperRecord {
    pub process: ProcessIdentity,
    /// In the environment of everything it started.
    pub nonce: String,
    pub protocol: u32,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct PreviewRecord {
    pub id: String,
    pub app: String,
    pub branch: String,
    pub environment: String,
    /// Absent when the path is not UTF-8.
    pub project: Option<PathBuf>,
}

/// The files of one preview below `<places.state>`.
#[derive(Clone, Debug)]
pub(crate) struct RecordStore {
    state_folder: PathBuf,
}

impl RecordStore {
    pub(crate) fn new(state: &Path) -> Self {
        Self { state_folder: state.to_owned() }
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.state_folder.join("keeper.lock")
    }

    pub(crate) fn log_path(&self, unit: &str) -> PathBuf {
        self.state_folder.join("logs").join(format!("{unit}.log"))
    }

    pub(crate) fn rotated_log_path(&self, unit: &str) -> PathBuf {
        self.state_folder.join("logs").join(format!("{unit}.log.1"))
    }

    pub(crate) fn read_keeper(&self) -> io::Result<Option<KeeperRecord>> {
        read_json(&self.state_folder.join("keeper.json"))
    }

    pub(crate) fn write_keeper(&self, record: &KeeperRecord) -> io::Result<()> {
        write_json(&self.state_folder.join("keeper.json"), record, Durable::No)
    }

    /// The keeper that is alive now, if one is.
    pub(crate) fn read_living_keeper(&self) -> io::Result<Option<KeeperRecord>> {
        Ok(self.read_keeper()?.filter(|keeper| keeper.process.is_alive()))
    }

    pub(crate) fn read_preview(&self) -> io::Result<Option<PreviewRecord>> {
        read_json(&self.state_folder.join("process.json"))
    }

    pub(crate) fn write_preview(&self, record: &PreviewRecord) -> io::Result<()> {
        if self.read_preview()?.as_ref() == Some(record) {
            return Ok(());
        }
        write_json(&self.state_folder.join("process.json"), record, Durable::Yes)
    }

    pub(crate) fn read_unit(&self, unit: &str) -> io::Result<Option<UnitRecord>> {
        read_json(&self.unit_path(unit))
    }

    /// The page cache survives any kill -9, and a running process's record matters within this boot only. What is
    /// worth the disk's round trip is that a job succeeded, because it would run again after a power cut.
    pub(crate) fn write_unit(&self, record: &UnitRecord, durable: Durable) -> io::Result<()> {
        write_json(&self.unit_path(&record.unit), record, durable)
    }

    /// The end of a unit has to be known even when the disk is full: a record that went on saying "running" would be
    /// believed. Its old place is written over then, and where not even that works the record goes.
    pub(crate) fn write_exit(&self, record: &UnitRecord, durable: Durable) -> io::Result<()> {
        let Err(error) = self.write_unit(record, durable) else { return Ok(()) };
        let path = self.unit_path(&record.unit);
        if overwrite_in_place(&path, &serde_json::to_vec(record)?).is_ok() {
            return Ok(());
        }
        remove_if_exists(&path)?;
        Err(error)
    }

    /// The unit's record and its logs; with the last unit the preview is no longer found.
    pub(crate) fn remove_unit(&self, unit: &str) -> io::Result<()> {
        for file in [self.unit_path(unit), self.log_path(unit), self.rotated_log_path(unit)] {
            remove_if_exists(&file)?;
        }
        if self.read_units()?.is_empty() {
            remove_if_exists(&self.state_folder.join("process.json"))?;
        }
        Ok(())
    }

    pub(crate) fn read_units(&self) -> io::Result<Vec<UnitRecord>> {
        let entries = match fs::read_dir(self.state_folder.join("units")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut units = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                units.extend(read_json::<UnitRecord>(&path)?);
            }
        }
        Ok(units)
    }

    /// Takes away what a keeper without units leaves: its record, its lock and the preview's own file.
    pub(crate) fn remove_keeper_files(&self) -> io::Result<()> {
        for name in ["keeper.json", "process.json", "keeper.log", "keeper.lock"] {
            remove_if_exists(&self.state_folder.join(name))?;
        }
        for name in ["units", "logs"] {
            // Not empty means that something else put files there: theirs to remove.
            drop(fs::remove_dir(self.state_folder.join(name)));
        }
        Ok(())
    }

    fn unit_path(&self, unit: &str) -> PathBuf {
        self.state_folder.join("units").join(format!("{unit}.json"))
    }
}

pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    No,
}

/// Replaces a file whole: a reader sees the old text or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], durable: Durable, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        create_private_folder(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two units created at once write the preview's record at once; each needs an unfinished file of its own.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    name.push(format!(".{}-{number}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = write_new_file(&fresh, bytes, durable, mode).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        drop(fs::remove_file(&fresh));
    }
    written
}

fn write_new_file(path: &Path, bytes: &[u8], durable: Durable, mode: u32) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(true).write(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    if durable == Durable::Yes {
        file.sync_data()?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize, durable: Durable) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value)?, durable, 0o600)
}

/// Into the blocks that the file has already: spaces at the end of JSON mean nothing.
fn overwrite_in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    let old = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut padded = bytes.to_vec();
    padded.resize(padded.len().max(old), b' ');
    file.write_all(&padded)
}

/// A damaged file (a power cut in the middle of a write that was not flushed) counts as absent: everything in these
/// files can be found again by creating the unit anew.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
