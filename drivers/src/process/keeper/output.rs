//! Copies a unit's output from its pipes into its log file.
//!
//! Children write into pipes that the keeper reads, not directly into the file, for three reasons: each line gets its
//! time and stream, the file's size is bounded, and a program that writes without end is slowed down (its pipe fills)
//! instead of filling the disk or the memory. A pipe is safe here because its reader outlives the agent. If the keeper
//! itself is killed, its children are killed with it, so none of them receives SIGPIPE.
//!
//! Line format: `<unix milliseconds> <o|e> <bytes as written>\n`. The text is stored as bytes; readers decode UTF-8.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host::clock::now_milliseconds;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use super::super::record::{RecordStore, create_private_folder};

/// Longer lines are split.
pub(crate) const LINE_MAX: usize = 16 * 1024;

/// A file that would exceed this size is renamed to `.log.1`, replacing the previous `.log.1`.
const FILE_MAX: u64 = 10 * 1024 * 1024;

/// An unfinished line (such as a prompt) is written after this time.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_millis(500);

/// Sent to subscribers of a log: the bytes written so far, and whether the log is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LogProgress {
    pub bytes: u64,
    pub has_ended: bool,
}

/// One unit's log; both output streams write to it.
pub(crate) struct Log {
    log_file: Mutex<LogFile>,
    progress: watch::Sender<LogProgress>,
}

struct LogFile {
    file: File,
    size: u64,
    path: PathBuf,
    rotated_path: PathBuf,
    size_limit: u64,
}

impl Log {
    pub(crate) fn open(records: &RecordStore, unit: &str) -> io::Result<Arc<Self>> {
        let path = records.log_path(unit);
        if let Some(folder) = path.parent() {
            create_private_folder(folder)?;
        }
        let file = open_for_append(&path)?;
        let size = file.metadata()?.len();
        let log_file = LogFile { file, size, path, rotated_path: records.rotated_log_path(unit), size_limit: FILE_MAX };
        Ok(Arc::new(Self { log_file: Mutex::new(log_file), progress: watch::Sender::new(LogProgress::default()) }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LogProgress> {
        self.progress.subscribe()
    }

    pub(crate) fn mark_ended(&self) {
        self.progress.send_modify(|progress| progress.has_ended = true);
    }

    fn write(&self, framed: &[u8]) {
        let mut log_file = self.log_file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not stop the program: the lines are lost, but the pipe is still emptied.
        drop(log_file.write(framed));
        drop(log_file);
        self.progress.send_modify(|progress| progress.bytes += framed.len() as u64);
    }
}

impl LogFile {
    fn write(&mut self, framed: &[u8]) -> io::Result<()> {
        // Rotate before the write, so that no file exceeds the limit.
        if self.size > 0 && self.size + framed.len() as u64 > self.size_limit {
            fs::rename(&self.path, &self.rotated_path)?;
            self.file = open_for_append(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(framed)?;
        self.size += framed.len() as u64;
        Ok(())
    }
}

fn open_for_append(path: &PathBuf) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

/// Copies one pipe into the log until its last writer has closed it.
pub(crate) async fn copy_to_log(pipe: OwnedFd, stream: OutputStream, log: Arc<Log>) {
    let Ok(receiver) = Receiver::from_owned_fd(pipe) else { return };
    let mut lines = LineFramer::new(stream);
    loop {
        let readable = receiver.readable();
        if lines.has_partial_line() {
            match tokio::time::timeout(PARTIAL_LINE_TIMEOUT, readable).await {
                Err(_) => {
                    lines.flush(&log);
                    continue;
                }
                Ok(Err(_)) => break,
                Ok(Ok(())) => {}
            }
        } else if readable.await.is_err() {
            break;
        }
        match read_chunk(&receiver, &mut lines, &log) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        // Yield, so that heavy output on one pipe does not delay other pipes and the socket.
        tokio::task::yield_now().await;
    }
    lines.flush(&log);
}

/// A separate function without an await, so that the buffer is on the stack only and idle units cost no memory.
fn read_chunk(receiver: &Receiver, lines: &mut LineFramer, log: &Log) -> io::Result<usize> {
    let mut buffer = [0; LINE_MAX];
    let count = receiver.try_read(&mut buffer)?;
    lines.push_bytes(&buffer[..count], log);
    Ok(count)
}

/// Splits bytes into lines and adds the time and stream to each.
struct LineFramer {
    stream: OutputStream,
    partial_line: Vec<u8>,
    framed: Vec<u8>,
}

impl LineFramer {
    fn new(stream: OutputStream) -> Self {
        Self { stream, partial_line: Vec::new(), framed: Vec::new() }
    }

    fn has_partial_line(&self) -> bool {
        !self.partial_line.is_empty()
    }

    fn push_bytes(&mut self, bytes: &[u8], log: &Log) {
        let now = now_milliseconds();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_complete = piece.ends_with(b"\n");
            let mut text = piece.strip_suffix(b"\n").unwrap_or(piece);
            while self.partial_line.len() + text.len() > LINE_MAX {
                let (first_part, remaining) = text.split_at(LINE_MAX - self.partial_line.len());
                self.partial_line.extend_from_slice(first_part);
                self.frame_line(now);
                text = remaining;
            }
            self.partial_line.extend_from_slice(text);
            if is_complete {
                self.frame_line(now);
            }
        }
        self.write_framed(log);
    }

    fn flush(&mut self, log: &Log) {
        if self.has_partial_line() {
            self.frame_line(now_milliseconds());
        }
        self.write_framed(log);
    }

    fn write_framed(&mut self, log: &Log) {
        if !self.framed.is_empty() {
            log.write(&self.framed);
        }
        // Release the buffer instead of clearing it, so that idle units cost no memory.
        self.framed = Vec::new();
    }

    fn frame_line(&mut self, now: i64) {
        let stream = if self.stream == OutputStream::Stdout { 'o' } else { 'e' };
        self.framed.extend_from_slice(format!("{now} {stream} ").as_bytes());
        let text = self.partial_line.strip_suffix(b"\r").unwrap_or(&self.partial_line);
        self.framed.extend_from_slice(text);
        self.framed.push(b'\n');
        self.partial_line = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_test_log(size_limit: u64) -> (tempfile::TempDir, RecordStore, Arc<Log>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let records = RecordStore::new(folder.path());
        let log = Log::open(&records, "web").expect("log opens");
        log.log_file.lock().expect("not poisoned").size_limit = size_limit;
        (folder, records, log)
    }

    fn read_texts(file: &PathBuf) -> Vec<Vec<u8>> {
        let bytes = fs::read(file).expect("the log exists");
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| line.splitn(3, |byte| *byte == b' ').nth(2).expect("framed").to_vec()).collect()
    }

    #[test]
    fn long_lines_are_split_and_raw_bytes_preserved() {
        let (_folder, records, log) = open_test_log(FILE_MAX);
        let mut lines = LineFramer::new(OutputStream::Stdout);
        lines.push_bytes(b"one\r\ntw", &log);
        lines.push_bytes(b"o\n\xff\xfe\n\n", &log);
        lines.push_bytes(&[b'x'; LINE_MAX + 5], &log);
        lines.flush(&log);
        let expected: Vec<Vec<u8>> =
            vec![b"one".to_vec(), b"two".to_vec(), b"\xff\xfe".to_vec(), vec![], vec![b'x'; LINE_MAX], vec![b'x'; 5]];
        assert_eq!(read_texts(&records.log_path("web")), expected);
    }

    #[test]
    fn full_log_file_is_rotated() {
        let (_folder, records, log) = open_test_log(64);
        let mut lines = LineFramer::new(OutputStream::Stderr);
        for number in 0..9 {
            lines.push_bytes(format!("line number {number}\n").as_bytes(), &log);
        }
        let (old, new) = (read_texts(&records.rotated_log_path("web")), read_texts(&records.log_path("web")));
        assert_eq!(new.last().map(Vec::as_slice), Some(b"line number 8".as_slice()));
        assert!(old.len() + new.len() < 9 && !old.is_empty());
    }
}
