//! The process runtime's records on disk: one file per unit, one for the keeper, one for the preview.
//!
//! `observe` reads these files, so a finished job's exit code is available without a keeper. While a unit runs, only
//! the keeper writes its file; before and after, the driver does. The files contain no secrets.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use host::files::{Flush, replace_file_with};
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
    /// Host ports by port name.
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
    /// Part of the marker in the environment of every process that this keeper started.
    pub nonce: String,
    pub protocol: u32,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct PreviewRecord {
    pub id: String,
    pub app: String,
    pub branch: String,
    pub environment: String,
    /// `None` if the path is not UTF-8.
    pub project: Option<PathBuf>,
}

/// The record files of one preview, in its state folder.
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

    /// The record of the keeper, if that keeper is alive now.
    pub(crate) fn read_living_keeper(&self) -> io::Result<Option<KeeperRecord>> {
        Ok(self.read_keeper()?.filter(|keeper| keeper.process.is_alive()))
    }

    /// Where the agent expects the keeper's socket, if that differs from where the keeper was started.
    pub(crate) fn read_socket_folder(&self) -> io::Result<Option<PathBuf>> {
        read_json(&self.state_folder.join("socket.json"))
    }

    pub(crate) fn write_socket_folder(&self, runtime: &Path) -> io::Result<()> {
        if self.read_socket_folder()?.as_deref() == Some(runtime) {
            return Ok(());
        }
        write_json(&self.state_folder.join("socket.json"), &runtime, Durable::No)
    }

    pub(crate) fn read_preview(&self) -> io::Result<Option<PreviewRecord>> {
        read_json(&self.state_folder.join("process.json"))
    }

    pub(crate) fn write_preview(&self, record: &PreviewRecord) -> io::Result<()> {
        // Skip the durable write if nothing changed: every `start` calls this.
        if self.read_preview()?.as_ref() == Some(record) {
            return Ok(());
        }
        write_json(&self.state_folder.join("process.json"), record, Durable::Yes)
    }

    pub(crate) fn read_unit(&self, unit: &str) -> io::Result<Option<UnitRecord>> {
        read_json(&self.unit_path(unit))
    }

    /// Writes a unit's record. The page cache survives any kill -9, and a running process's record matters only until
    /// the next boot. Only a job's success is worth flushing to disk, because the job would run again after a power
    /// failure.
    pub(crate) fn write_unit(&self, record: &UnitRecord, durable: Durable) -> io::Result<()> {
        write_json(&self.unit_path(&record.unit), record, durable)
    }

    /// Writes a unit's exit even if the disk is full: `observe` would trust a record that still says "running". Falls
    /// back to overwriting the old record in place; if that fails too, removes the record.
    pub(crate) fn write_exit(&self, record: &UnitRecord, durable: Durable) -> io::Result<()> {
        let Err(error) = self.write_unit(record, durable) else { return Ok(()) };
        let path = self.unit_path(&record.unit);
        if overwrite_in_place(&path, &serde_json::to_vec(record)?).is_ok() {
            return Ok(());
        }
        remove_if_exists(&path)?;
        Err(error)
    }

    /// Removes the unit's record and logs. After the last unit, `discover` does not find the preview any more.
    pub(crate) fn remove_unit(&self, unit: &str) -> io::Result<()> {
        // Remove the record first: if a later removal fails, only a log file is left.
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
            // Skips the temporary files of `write_atomically`.
            if path.extension().is_some_and(|extension| extension == "json") {
                units.extend(read_json::<UnitRecord>(&path)?);
            }
        }
        Ok(units)
    }

    /// Removes the files of a keeper without units: its record, its log, its lock and the preview's record.
    pub(crate) fn remove_keeper_files(&self) -> io::Result<()> {
        for name in ["keeper.json", "process.json", "socket.json", "keeper.log", "keeper.lock"] {
            remove_if_exists(&self.state_folder.join(name))?;
        }
        for name in ["units", "logs"] {
            // Removing a folder that is not empty fails, as intended: other programs own the files in it.
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

/// Replaces a file atomically: a reader sees either the old or the new content.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], durable: Durable, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        create_private_folder(folder)?;
    }
    let flush = if durable == Durable::Yes { Flush::Contents } else { Flush::Nothing };
    replace_file_with(path, bytes, mode, flush)
}

fn write_json(path: &Path, value: &impl Serialize, durable: Durable) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec(value)?, durable, 0o600)
}

/// Overwrites the blocks that the file already has, so that no new space is needed. Trailing spaces are valid in JSON.
fn overwrite_in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    let old_length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut padded = bytes.to_vec();
    padded.resize(padded.len().max(old_length), b' ');
    file.write_all(&padded)
}

/// A damaged file counts as absent, for example after a power failure during a write that was not flushed. Creating the
/// unit again restores everything in these files.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
