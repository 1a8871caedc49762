//! From a unit's pipes into its log file.
//!
//! Children write into pipes that the keeper reads, not straight into the file: only so can each line carry its time
//! and stream, can the file be bounded, and can a program that writes without end be slowed down (the pipe fills)
//! instead of filling the disk or the memory. A pipe is safe here because its reader outlives the agent; when the
//! keeper itself is killed, its children are killed with it, so nobody lives to meet SIGPIPE.
//!
//! Format of a line: `<unix milliseconds> <o|e> <bytes as written>\n`. Text is kept as bytes; readers decide about UTF-8.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use super::super::record::{Records, private_folder};

/// Longer lines are cut into pieces.
pub(crate) const LINE_MAX: usize = 16 * 1024;

/// The file before this size is kept as `.log.1`, the one before that goes.
const FILE_MAX: u64 = 10 * 1024 * 1024;

/// An unfinished line (a prompt) is shown after this long.
const PARTIAL: Duration = Duration::from_millis(500);

/// What watchers of a log are told: how much was written, and whether that was all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mark {
    pub bytes: u64,
    pub ended: bool,
}

/// One unit's log, written by both of its streams.
pub(crate) struct Log {
    file: Mutex<Sink>,
    mark: watch::Sender<Mark>,
}

struct Sink {
    file: File,
    size: u64,
    path: PathBuf,
    rotated: PathBuf,
    size_max: u64,
}

impl Log {
    pub(crate) fn open(records: &Records, unit: &str) -> io::Result<Arc<Self>> {
        let path = records.log(unit);
        if let Some(folder) = path.parent() {
            private_folder(folder)?;
        }
        let file = append(&path)?;
        let size = file.metadata()?.len();
        let sink = Sink { file, size, path, rotated: records.rotated_log(unit), size_max: FILE_MAX };
        Ok(Arc::new(Self { file: Mutex::new(sink), mark: watch::Sender::new(Mark::default()) }))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Mark> {
        self.mark.subscribe()
    }

    pub(crate) fn end(&self) {
        self.mark.send_modify(|mark| mark.ended = true);
    }

    fn write(&self, framed: &[u8]) {
        let mut sink = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not stop the program whose log it is: the lines are lost, the pipe is still emptied.
        drop(sink.write(framed));
        drop(sink);
        self.mark.send_modify(|mark| mark.bytes += framed.len() as u64);
    }
}

impl Sink {
    fn write(&mut self, framed: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + framed.len() as u64 > self.size_max {
            fs::rename(&self.path, &self.rotated)?;
            self.file = append(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(framed)?;
        self.size += framed.len() as u64;
        Ok(())
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// Copies one pipe into the log until its last writer is gone.
pub(crate) async fn copy(pipe: OwnedFd, stream: Stream, log: Arc<Log>) {
    let Ok(receiver) = Receiver::from_owned_fd(pipe) else { return };
    let mut lines = Lines::new(stream);
    loop {
        let ready = receiver.readable();
        if lines.unfinished() {
            match tokio::time::timeout(PARTIAL, ready).await {
                Err(_) => {
                    lines.flush(&log);
                    continue;
                }
                Ok(Err(_)) => break,
                Ok(Ok(())) => {}
            }
        } else if ready.await.is_err() {
            break;
        }
        match pull(&receiver, &mut lines, &log) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        // A flood on one pipe lets the others and the socket have their turn.
        tokio::task::yield_now().await;
    }
    lines.flush(&log);
}

/// Apart from the waiting, so that the buffer lives on the stack only and fifty quiet units cost no memory.
fn pull(receiver: &Receiver, lines: &mut Lines, log: &Log) -> io::Result<usize> {
    let mut buffer = [0; LINE_MAX];
    let count = receiver.try_read(&mut buffer)?;
    lines.take(&buffer[..count], log);
    Ok(count)
}

/// Cuts bytes into framed lines.
struct Lines {
    stream: Stream,
    partial: Vec<u8>,
    framed: Vec<u8>,
}

impl Lines {
    fn new(stream: Stream) -> Self {
        Self { stream, partial: Vec::new(), framed: Vec::new() }
    }

    fn unfinished(&self) -> bool {
        !self.partial.is_empty()
    }

    fn take(&mut self, bytes: &[u8], log: &Log) {
        let now = now_milliseconds();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.ends_with(b"\n");
            let mut text = piece.strip_suffix(b"\n").unwrap_or(piece);
            while self.partial.len() + text.len() > LINE_MAX {
                let (head, rest) = text.split_at(LINE_MAX - self.partial.len());
                self.partial.extend_from_slice(head);
                self.frame(now);
                text = rest;
            }
            self.partial.extend_from_slice(text);
            if whole {
                self.frame(now);
            }
        }
        self.send(log);
    }

    fn flush(&mut self, log: &Log) {
        if self.unfinished() {
            self.frame(now_milliseconds());
        }
        self.send(log);
    }

    fn send(&mut self, log: &Log) {
        if !self.framed.is_empty() {
            log.write(&self.framed);
        }
        self.framed = Vec::new();
    }

    fn frame(&mut self, now: i64) {
        let stream = if self.stream == Stream::Output { 'o' } else { 'e' };
        self.framed.extend_from_slice(format!("{now} {stream} ").as_bytes());
        let text = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        self.framed.extend_from_slice(text);
        self.framed.push(b'\n');
        self.partial = Vec::new();
    }
}

pub(crate) fn now_milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(size_max: u64) -> (tempfile::TempDir, Records, Arc<Log>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let records = Records::new(folder.path());
        let log = Log::open(&records, "web").expect("log opens");
        log.file.lock().expect("not poisoned").size_max = size_max;
        (folder, records, log)
    }

    fn texts(file: &PathBuf) -> Vec<Vec<u8>> {
        let bytes = fs::read(file).expect("log is there");
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| line.splitn(3, |byte| *byte == b' ').nth(2).expect("framed").to_vec()).collect()
    }

    #[test]
    fn lines_are_cut_and_bytes_kept() {
        let (_folder, records, log) = log(FILE_MAX);
        let mut lines = Lines::new(Stream::Output);
        lines.take(b"one\r\ntw", &log);
        lines.take(b"o\n\xff\xfe\n\n", &log);
        lines.take(&[b'x'; LINE_MAX + 5], &log);
        lines.flush(&log);
        let expected: Vec<Vec<u8>> =
            vec![b"one".to_vec(), b"two".to_vec(), b"\xff\xfe".to_vec(), vec![], vec![b'x'; LINE_MAX], vec![b'x'; 5]];
        assert_eq!(texts(&records.log("web")), expected);
    }

    #[test]
    fn a_full_file_is_put_aside_once() {
        let (_folder, records, log) = log(64);
        let mut lines = Lines::new(Stream::Error);
        for number in 0..9 {
            lines.take(format!("line number {number}\n").as_bytes(), &log);
        }
        let (old, new) = (texts(&records.rotated_log("web")), texts(&records.log("web")));
        assert_eq!(new.last().map(Vec::as_slice), Some(b"line number 8".as_slice()));
        assert!(old.len() + new.len() < 9 && !old.is_empty());
    }
}
