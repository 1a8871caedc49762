//! Streams a build context as a tar.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;

use super::inputs::{BuildInputs, ContextEntry, EntryKind};

/// Maximum chunks of the tar that wait for the builder.
const QUEUE_CAPACITY: usize = 16;
const CHUNK_SIZE: usize = 256 << 10;

pub(crate) type ContextTask = tokio::task::JoinHandle<io::Result<()>>;

/// Streams the tar as a request body. A blocking thread writes it a few chunks ahead of the engine, so it is never in
/// memory as a whole.
pub(crate) fn stream_context(inputs: Arc<BuildInputs>) -> (impl Stream<Item = Bytes> + Send + 'static, ContextTask) {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE_CAPACITY);
    let context_task = tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(ChunkWriter { sender, buffer: Vec::with_capacity(CHUNK_SIZE) });
        for entry in &inputs.entries {
            append_entry(&mut tar, &inputs.context_folder, entry)?;
        }
        tar.into_inner()?.flush_all()
    });
    let pieces =
        stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|chunk| (chunk, receiver)) });
    (pieces, context_task)
}

fn append_entry(tar: &mut tar::Builder<ChunkWriter>, context: &Path, entry: &ContextEntry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    // Programs in the image use the times, for example a web server for `If-Modified-Since`.
    header.set_mtime(entry.modified);
    // The same for each user.
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(entry.mode);
    match &entry.kind {
        EntryKind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, &entry.path, io::empty())
        }
        EntryKind::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, &entry.path, target)
        }
        EntryKind::Inline { bytes } => {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, &entry.path, bytes.as_slice())
        }
        EntryKind::File { size } => {
            header.set_size(*size);
            let file = match std::fs::File::open(context.join(&entry.path)) {
                // It vanished after the scan. Its absence changes the hash, so the next plan builds again.
                Err(error) if host::files::is_vanished(&error) => return Ok(()),
                file => file?,
            };
            // Truncates a file that has grown and pads one that has shrunk. The tar stays valid, and the changed hash
            // reveals the edit after the build.
            let padded = io::Read::chain(io::Read::take(file, *size), io::repeat(0));
            tar.append_data(&mut header, &entry.path, io::Read::take(padded, *size))
        }
    }
}

struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn flush_all(mut self) -> io::Result<()> {
        self.send_chunk()
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_SIZE)));
        self.sender.blocking_send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_SIZE {
            self.send_chunk()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
