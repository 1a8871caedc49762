//! History in SQLite: operations, steps, events. One writer thread behind a bounded queue.
//!
//! Nothing is decided by what stands here; a lost or broken journal is begun anew and costs no preview.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use protocol::{Event, EventKind};
use rusqlite::{Connection, params};

/// Events beyond this many waiting ones are dropped and counted: history must never slow the work down.
const QUEUE_CAPACITY: usize = 4096;
/// Kept on disk; older ones go at start.
const EVENTS_RETAINED: i64 = 50_000;

pub struct Journal {
    sender: Option<SyncSender<Entry>>,
    writer: Option<JoinHandle<()>>,
    /// The highest event id of earlier lives of the agent.
    pub last_id: u64,
}

struct Entry {
    id: u64,
    at: i64,
    preview: String,
    operation: Option<u64>,
    kind: &'static str,
    json: String,
}

impl Journal {
    /// Opens the journal, or begins a new one beside a broken one; without any disk it is a journal that forgets.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let opened = open_database(path).or_else(|_| {
            let aside = path.with_extension("broken");
            let _moved = std::fs::rename(path, &aside);
            open_database(path)
        });
        let Ok(connection) = opened else {
            tracing::warn!(path = %path.display(), "the journal cannot be written; history is not kept");
            return Self { sender: None, writer: None, last_id: 0 };
        };
        let last = connection.query_row("SELECT coalesce(max(id), 0) FROM event", [], |row| row.get::<_, i64>(0));
        let last_id = u64::try_from(last.unwrap_or_default()).unwrap_or_default();
        let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
        let path = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_entries(&connection, &receiver, &path))
            .ok();
        Self { sender: Some(sender), writer, last_id }
    }

    pub fn record(&self, event: &Event) {
        // Build output is long and of no use later; the last lines of a failure are inside its problem.
        if matches!(event.kind, EventKind::Progress { .. }) {
            return;
        }
        let Some(sender) = &self.sender else { return };
        let Ok(json) = serde_json::to_string(event) else { return };
        let entry = Entry {
            id: event.id,
            at: event.at,
            preview: event.preview.id.clone(),
            operation: event.operation,
            kind: kind_name(&event.kind),
            json,
        };
        if let Err(TrySendError::Full(lost)) = sender.try_send(entry) {
            tracing::warn!(id = lost.id, "the journal is behind; an event is not kept");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(writer) = self.writer.take() {
            let _joined = writer.join();
        }
    }
}

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // A small cache: the agent's memory is for previews, not for history.
    connection.pragma_update(None, "cache_size", -256)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS event (
           id INTEGER PRIMARY KEY, at INTEGER NOT NULL, preview TEXT NOT NULL,
           operation INTEGER, kind TEXT NOT NULL, json TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS event_preview ON event (preview, id);
         PRAGMA user_version = 1;",
    )?;
    connection.execute("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?1", [EVENTS_RETAINED])?;
    Ok(connection)
}

fn write_entries(connection: &Connection, receiver: &Receiver<Entry>, path: &Path) {
    while let Ok(first) = receiver.recv() {
        // What waits together is written together: one transaction, one sync.
        let batch: Vec<Entry> = std::iter::once(first).chain(receiver.try_iter().take(256)).collect();
        if let Err(error) = write_batch(connection, &batch) {
            tracing::warn!(path = %path.display(), %error, "the journal cannot be written");
        }
    }
}

fn write_batch(connection: &Connection, batch: &[Entry]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for entry in batch {
            let id = i64::try_from(entry.id).unwrap_or(i64::MAX);
            let operation = entry.operation.and_then(|operation| i64::try_from(operation).ok());
            insert.execute(params![id, entry.at, entry.preview, operation, entry.kind, entry.json])?;
        }
    }
    transaction.commit()
}

fn kind_name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::OperationStarted { .. } => "operation_started",
        EventKind::Planned { .. } => "planned",
        EventKind::StepStarted { .. } => "step_started",
        EventKind::StepFinished { .. } => "step_finished",
        EventKind::StepFailed { .. } => "step_failed",
        EventKind::Progress { .. } => "progress",
        EventKind::UnitChanged { .. } => "unit_changed",
        EventKind::Noted { .. } => "noted",
        EventKind::Finished { .. } => "finished",
        EventKind::Failed { .. } => "failed",
        EventKind::Superseded { .. } => "superseded",
        EventKind::IdentityChanged { .. } => "identity_changed",
        EventKind::AgentStopping => "agent_stopping",
    }
}

#[cfg(test)]
mod tests {
    use protocol::status::PreviewRef;

    use super::*;

    fn event(id: u64) -> Event {
        Event { id, at: 1, preview: PreviewRef::default(), operation: None, kind: EventKind::AgentStopping }
    }

    #[test]
    fn last_event_id_survives_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = Journal::open(&path);
        journal.record(&event(41));
        drop(journal);
        assert_eq!(Journal::open(&path).last_id, 41);
    }

    #[test]
    fn broken_journal_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        std::fs::write(&path, "this is no database, and long enough to be sure of it").unwrap();
        let journal = Journal::open(&path);
        journal.record(&event(1));
        drop(journal);
        assert_eq!(Journal::open(&path).last_id, 1);
        assert!(path.with_extension("broken").exists());
    }
}
