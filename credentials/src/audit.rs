//! The audit log: which program received a lease of which identity, and when. Each entry is one line of JSON, appended;
//! it never contains the credential.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A larger log is rotated. One older generation is kept next to the current file.
const BYTES_MAX: u64 = 8 << 20;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Unix milliseconds.
    pub at: i64,
    /// `issued`, `refused`, `renewed`, `signed_in`, `signed_out`, `approved`, `not_approved`, `revoked`,
    /// `session_began`, `session_over`, `preview_held`.
    #[serde(rename = "what")]
    pub action: String,
    pub identity: String,
    /// The credential format: `aws`, `kubectl`, `docker`, `git`, `cargo`, `token`, `env`; for endpoints `ecs`, `imds`,
    /// `gce`, `msi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "outlet")]
    pub format: Option<String>,
    /// Executables from the requester upwards, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The coding agent's session of the requester: its name and id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The reason, if the request was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Appends one line in a single write, so that the lines of two writers do not mix.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if let Some(folder) = self.path.parent() {
            crate::storage::create_private_folder(folder)?;
        }
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > BYTES_MAX) {
            fs::rename(&self.path, rotated_path(&self.path))?;
        }
        File::options().create(true).append(true).mode(0o600).open(&self.path)?.write_all(&line)
    }

    /// All entries, oldest first. A line that a crash truncated is skipped.
    ///
    /// # Errors
    /// When a file exists and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for path in [rotated_path(&self.path), self.path.clone()] {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).lines() {
                entries.extend(serde_json::from_str::<Entry>(&line?));
            }
        }
        Ok(entries)
    }
}

fn rotated_path(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_cut_ones_left_out() {
        let root = tempfile::tempdir().unwrap();
        let audit = AuditLog::new(root.path().join("deep/audit.jsonl"));
        let entry = |at| Entry { at, action: "issued".into(), identity: "a".into(), ..Entry::default() };
        audit.append(&entry(1)).unwrap();
        audit.append(&entry(2)).unwrap();
        let text = fs::read_to_string(&audit.path).unwrap();
        fs::write(&audit.path, format!("{text}{{\"at\":3,\"wh\n")).unwrap();
        audit.append(&entry(4)).unwrap();
        assert_eq!(audit.read().unwrap().iter().map(|entry| entry.at).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
