//! Paths of unix sockets that are longer than a socket address allows.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// `sun_path` has 108 bytes on Linux (unix(7)) and 104 on macOS, with the final zero byte.
const ADDRESS_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A path by which a socket can be bound or connected. On Linux, a path that is too long is replaced by one below
/// `/proc/self/fd`, which is valid as long as this value exists.
pub struct SocketAddressPath {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl SocketAddressPath {
    /// # Errors
    /// When the path is too long and its folder cannot be opened, or when this system has no way around the limit.
    pub fn new(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().len() <= ADDRESS_BYTES_MAX {
            return Ok(Self { path: socket.to_owned(), _folder: None });
        }
        Self::through_descriptor(socket)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(target_os = "linux")]
    fn through_descriptor(socket: &Path) -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use rustix::fs::{Mode, OFlags, open};
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }

    #[cfg(not(target_os = "linux"))]
    fn through_descriptor(_: &Path) -> io::Result<Self> {
        let message = format!("the path of a socket has at most {ADDRESS_BYTES_MAX} bytes on this system");
        Err(io::Error::new(io::ErrorKind::InvalidFilename, message))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn long_paths_can_be_bound_and_connected() {
        let folder = tempfile::tempdir().unwrap();
        for length in [20, 60, 120, 200] {
            let folder = folder.path().join("x".repeat(length));
            std::fs::create_dir(&folder).unwrap();
            let socket = folder.join("agent.sock");
            assert!(SocketAddressPath::new(&folder.join("absent").join("y".repeat(99))).is_err());
            let _listener = UnixListener::bind(SocketAddressPath::new(&socket).unwrap().path()).unwrap();
            assert!(socket.exists(), "the socket has its own path");
            UnixStream::connect(SocketAddressPath::new(&socket).unwrap().path()).unwrap();
        }
    }
}
