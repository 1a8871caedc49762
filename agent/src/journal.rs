//! The event history in SQLite: operations, steps, events. One writer thread behind a bounded queue.
//!
//! No decision depends on the journal. A lost or broken journal is replaced by an empty one, and no preview is
//! affected.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use protocol::{Event, EventKind};
use rusqlite::{Connection, params};

/// If this many events wait for the writer, further ones are dropped and logged: history must not slow the work down.
const QUEUE_CAPACITY: usize = 4096;
/// Events retained on disk. Older ones are deleted when the journal is opened.
const EVENTS_RETAINED: i64 = 50_000;

pub struct Journal {
    sender: Option<SyncSender<Entry>>,
    writer: Option<JoinHandle<()>>,
    /// The highest event id of earlier runs of the agent.
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
    /// Opens the journal. A broken one is renamed to `*.broken` and replaced; without a writable disk, no history is
    /// kept.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let opened = open_database(path).or_else(|_| {
            let broken_path = path.with_extension("broken");
            let _moved = std::fs::rename(path, &broken_path);
            open_database(path)
        });
        let Ok(connection) = opened else {
            tracing::warn!(path = %path.display(), "the journal cannot be written, so no history is stored");
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
        // Build output is long and not needed later: a failed build has its last lines in its problem.
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
            tracing::warn!(id = lost.id, "the journal's queue is full, so an event is not stored");
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing the channel ends the writer after it has written the queued events.
        drop(self.sender.take());
        if let Some(writer) = self.writer.take() {
            let _joined = writer.join();
        }
    }
}

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode, NORMAL may lose the last transactions on power failure, but does not corrupt the database.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // 256 KiB instead of the default 2 MB, to keep the agent's memory small.
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
        // All waiting events go into one transaction, so that they share one sync.
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
