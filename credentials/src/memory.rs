//! What others of the same user may see of this process's memory: nothing. And what of it the disk may see: not the keys
//! and leases that are kept.
//!
//! It does not hide anything from root. Copies that last for one request (an answer on its way to a tool, a body on its way
//! to a source) are not locked, and those that a library makes of them are not wiped.

use memmap2::MmapMut;
use zeroize::{Zeroize, Zeroizing};

/// No core file, and no look into this process by others of the same user: it holds credentials, or is about to.
/// Programs started from here have it no longer (execve(2)).
pub fn make_undumpable() {
    // Stops core files too, also those that are piped to a program (core(5)). The limit of core files is left alone: it
    // would pass to every program that is started from here, and those are the person's own.
    #[cfg(target_os = "linux")]
    let _best_effort = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    #[cfg(not(target_os = "linux"))]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Core);
        let _best_effort = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: limit.maximum });
    }
}

/// Bytes that are kept: on pages of their own, which are locked into memory where the system allows it, left out of core
/// files and of forked processes, and wiped when dropped.
pub(crate) enum ProtectedBytes {
    Pages {
        pages: MmapMut,
        length: usize,
        is_locked: bool,
    },
    /// Where there are no pages to be had.
    Heap(Zeroizing<Vec<u8>>),
}

impl ProtectedBytes {
    /// Takes bytes over and wipes them where they were.
    pub(crate) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        // One byte at least: there is no map of none.
        let Ok(mut pages) = MmapMut::map_anon(bytes.len().max(1)) else { return Self::Heap(bytes) };
        // Locked before anything is written: a page that was swapped out stays on the disk.
        let is_locked = pages.lock().is_ok();
        #[cfg(target_os = "linux")]
        for advice in [memmap2::Advice::DontDump, memmap2::Advice::DontFork] {
            let _best_effort = pages.advise(advice);
        }
        pages[..bytes.len()].copy_from_slice(&bytes);
        Self::Pages { pages, length: bytes.len(), is_locked }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Pages { pages, length, .. } => &pages[..*length],
            Self::Heap(bytes) => bytes,
        }
    }

    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Self::Pages { is_locked: true, .. })
    }
}

impl Drop for ProtectedBytes {
    fn drop(&mut self) {
        if let Self::Pages { pages, .. } = self {
            pages.as_mut().zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protected_bytes_are_readable_and_locked() {
        for bytes in [&b""[..], b"canary", &[7; 10_000]] {
            let kept = ProtectedBytes::new(Zeroizing::new(bytes.to_vec()));
            assert_eq!(kept.bytes(), bytes);
            assert!(matches!(kept, ProtectedBytes::Pages { .. }));
            if kept.is_locked() && cfg!(target_os = "linux") {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
                assert_ne!(line.trim(), "0 kB", "{line}");
            }
        }
    }
}
