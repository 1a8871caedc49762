//! Reads a unit's log files: the last lines, the lines since a time, and new lines while the unit runs.
//!
//! Following needs no polling: the keeper sends an event when the file grows. The stream ends after the unit has ended
//! and its last line was read, as with a container.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::connection::{KeeperConnection, REPLY_TIMEOUT};
use super::record::RecordStore;
use super::run_blocking;
use super::units::connect_to_living_keeper;
use super::wire::{Event, Reply, Request};
use crate::driver::{LogLine, LogRequest};
use crate::problem::Problem;
use crate::scope::Locations;

/// Bytes per read; this also bounds what waits for a slow reader.
const READ_BATCH_BYTES: usize = 256 * 1024;
/// Bytes per step backwards in the search for the last lines.
const SEEK_STEP_BYTES: u64 = 64 * 1024;

pub(super) async fn stream_logs(
    locations: &Locations,
    unit: &str,
    request: LogRequest,
) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
    let records = RecordStore::new(&locations.state);
    // Subscribe before the first read, so that no line written in between is missed.
    let output_events = if request.follow { subscribe_to_output(locations, unit).await? } else { None };
    let since = request.since;
    let cursor = run_blocking({
        let records = records.clone();
        let unit = unit.to_owned();
        move || LogCursor::open(&records, &unit, request.tail, since).map_err(|error| log_read_problem(&error))
    })
    .await?;
    let log_stream = LogStream { cursor: Some(cursor), pending_lines: VecDeque::new(), output_events, since };
    Ok(stream::unfold(log_stream, LogStream::next_line).boxed())
}

async fn subscribe_to_output(locations: &Locations, unit: &str) -> Result<Option<KeeperConnection>, Problem> {
    let Some(mut connection) = connect_to_living_keeper(locations).await? else { return Ok(None) };
    let reply = connection.call(&Request::Output { unit: unit.to_owned() }, REPLY_TIMEOUT).await?;
    Ok((reply == Reply::Following).then_some(connection))
}

fn log_read_problem(error: &io::Error) -> Problem {
    Problem::io("cannot read the log", error)
}

struct LogStream {
    /// `None` after a failure.
    cursor: Option<LogCursor>,
    pending_lines: VecDeque<LogLine>,
    /// `None` if no more output will come.
    output_events: Option<KeeperConnection>,
    since: Option<i64>,
}

impl LogStream {
    async fn next_line(mut self) -> Option<(Result<LogLine, Problem>, Self)> {
        loop {
            if let Some(line) = self.pending_lines.pop_front() {
                return Some((Ok(line), self));
            }
            let mut cursor = self.cursor.take()?;
            let since = self.since;
            let result = run_blocking(move || {
                let lines = cursor.read_batch(since).map_err(|error| log_read_problem(&error))?;
                Ok((cursor, lines))
            });
            match result.await {
                Ok((cursor, Some(lines))) => {
                    self.pending_lines.extend(lines);
                    self.cursor = Some(cursor);
                }
                Ok((cursor, None)) => {
                    // At the end of the file: wait until the keeper reports growth. Any other event ends the stream
                    // after the next read, which returns the lines written before the end.
                    self.cursor = Some(cursor);
                    let mut output_events = self.output_events.take()?;
                    if let Ok(Some(Event::Wrote)) = output_events.receive().await {
                        self.output_events = Some(output_events);
                    }
                }
                Err(problem) => return Some((Err(problem), self)),
            }
        }
    }
}

/// A position in the log: first in the rotated file, then in the current one, then in its replacement after a rotation.
struct LogCursor {
    files: VecDeque<File>,
    path: PathBuf,
    partial_line: Vec<u8>,
}

impl LogCursor {
    fn open(records: &RecordStore, unit: &str, tail: Option<usize>, since: Option<i64>) -> io::Result<Self> {
        let path = records.log_path(unit);
        let mut files = VecDeque::new();
        for path in [records.rotated_log_path(unit), path.clone()] {
            match File::open(&path) {
                Ok(file) if was_written_since(&file, since)? => files.push_back(file),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let mut cursor = Self { files, path, partial_line: Vec::new() };
        if let Some(count) = tail {
            cursor.seek_tail(count)?;
        }
        Ok(cursor)
    }

    /// Skips all but the last `count` lines.
    fn seek_tail(&mut self, count: usize) -> io::Result<()> {
        let mut remaining = count;
        for index in (0..self.files.len()).rev() {
            let (found, start) = find_last_lines(&mut self.files[index], remaining)?;
            self.files[index].seek(SeekFrom::Start(start))?;
            remaining -= found;
            if remaining == 0 {
                self.files.drain(..index);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next lines, possibly an empty batch if all are older than `since`; `None` at the end.
    fn read_batch(&mut self, since: Option<i64>) -> io::Result<Option<Vec<LogLine>>> {
        let has_next_file = self.files.len() > 1;
        let Some(file) = self.files.front_mut() else {
            return Ok(self.switch_to_new_file(None)?.then(Vec::new));
        };
        let mut batch = Vec::with_capacity(READ_BATCH_BYTES);
        if file.take(READ_BATCH_BYTES as u64).read_to_end(&mut batch)? == 0 {
            if has_next_file {
                self.files.pop_front();
                return Ok(Some(Vec::new()));
            }
            let inode = file.metadata()?.ino();
            return Ok(self.switch_to_new_file(Some(inode))?.then(Vec::new));
        }
        let mut lines = Vec::new();
        // A batch may end within a line; its start waits in `partial_line` for the next batch.
        for piece in batch.split_inclusive(|byte| *byte == b'\n') {
            self.partial_line.extend_from_slice(piece);
            if let Some(line) = self.partial_line.strip_suffix(b"\n") {
                lines.extend(parse_line(line).filter(|line| since.is_none_or(|since| line.timestamp >= since)));
                self.partial_line.clear();
            }
        }
        Ok(Some(lines))
    }

    /// After a rotation, the path leads to another file than the one that was read to its end.
    fn switch_to_new_file(&mut self, read_inode: Option<u64>) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(found) if Some(found.ino()) != read_inode => {
                self.files.clear();
                self.files.push_back(File::open(&self.path)?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn was_written_since(file: &File, since: Option<i64>) -> io::Result<bool> {
    // A file that was last written before `since` contains no line that is new enough.
    let metadata = file.metadata()?;
    let last_written = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    Ok(since.is_none_or(|since| last_written >= since))
}

/// Returns how many of the last `count` lines are in this file, and the offset at which they start.
fn find_last_lines(file: &mut File, count: usize) -> io::Result<(usize, u64)> {
    let mut position = file.metadata()?.len();
    if count == 0 {
        return Ok((0, position));
    }
    // The file ends with a line end, so `count` lines start after the line end number `count + 1` from the end.
    let (mut line_ends, mut block) = (0, Vec::new());
    while position > 0 {
        let block_start = position.saturating_sub(SEEK_STEP_BYTES);
        block.clear();
        file.seek(SeekFrom::Start(block_start))?;
        Read::by_ref(file).take(position - block_start).read_to_end(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            line_ends += 1;
            if line_ends == count + 1 {
                return Ok((count, block_start + index as u64 + 1));
            }
        }
        position = block_start;
    }
    Ok((line_ends, 0))
}

fn parse_line(line: &[u8]) -> Option<LogLine> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let timestamp = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let is_stderr = parts.next()? == b"e";
    Some(LogLine { timestamp, is_stderr, text: String::from_utf8_lossy(parts.next()?).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(cursor: &mut LogCursor, since: Option<i64>) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(lines) = cursor.read_batch(since).expect("reads") {
            texts.extend(lines.into_iter().map(|line| line.text));
        }
        texts
    }

    #[test]
    fn tail_and_since_include_rotated_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let records = RecordStore::new(folder.path());
        fs::create_dir(folder.path().join("logs")).expect("folder");
        let lines = |range: std::ops::Range<i64>| range.map(|at| format!("{at} o line {at}\n")).collect::<String>();
        fs::write(records.rotated_log_path("web"), lines(0..5)).expect("written");
        fs::write(records.log_path("web"), lines(5..8)).expect("written");
        for (tail, since, first, count) in [
            (None, None, "line 0", 8),
            (Some(2), None, "line 6", 2),
            (Some(3), None, "line 5", 3),
            (Some(4), None, "line 4", 4),
            (Some(99), None, "line 0", 8),
            (None, Some(6), "line 6", 2),
            (Some(4), Some(7), "line 7", 1),
        ] {
            let mut cursor = LogCursor::open(&records, "web", tail, since).expect("opens");
            let texts = texts(&mut cursor, since);
            assert_eq!((texts.first().map(String::as_str), texts.len()), (Some(first), count), "{tail:?} {since:?}");
        }
        let mut empty_tail = LogCursor::open(&records, "web", Some(0), None).expect("opens");
        assert!(texts(&mut empty_tail, None).is_empty());
    }

    #[test]
    fn reading_continues_after_rotation() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let records = RecordStore::new(folder.path());
        fs::create_dir(folder.path().join("logs")).expect("folder");
        fs::write(records.log_path("web"), "1 o one\n2 e tw").expect("written");
        let mut cursor = LogCursor::open(&records, "web", None, None).expect("opens");
        assert_eq!(texts(&mut cursor, None), ["one"]);
        fs::write(records.log_path("web"), "1 o one\n2 e two\n").expect("written");
        fs::rename(records.log_path("web"), records.rotated_log_path("web")).expect("rotated");
        fs::write(records.log_path("web"), "3 o three\n").expect("written");
        assert_eq!(texts(&mut cursor, None), ["two", "three"]);
    }
}
