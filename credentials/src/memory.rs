//! Hides this process's memory from other processes of the same user, and keeps stored keys and leases out of the swap.
//!
//! Nothing is hidden from root. Copies that exist for one request (a response to a tool, a body sent to a source) are
//! not locked, and copies that a library makes of them are not wiped.

use memmap2::MmapMut;
use zeroize::{Zeroize, Zeroizing};

/// Disables core files and ptrace by other processes of the user, because this process holds credentials or is about
/// to. Programs that this process starts do not inherit the setting (execve(2)).
pub fn make_undumpable() {
    // This also stops core files that are piped to a program (core(5)). The limit of core files stays unchanged: child
    // processes would inherit it, and they are the user's own programs.
    #[cfg(target_os = "linux")]
    let _best_effort = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    #[cfg(not(target_os = "linux"))]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Core);
        let _best_effort = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: limit.maximum });
    }
}

/// Long-lived bytes on separate memory pages. The pages are locked where the system allows it, excluded from core files
/// and forked processes, and wiped when dropped.
pub(crate) enum ProtectedBytes {
    Pages {
        pages: MmapMut,
        length: usize,
        is_locked: bool,
    },
    /// The fallback if no pages can be mapped.
    Heap(Zeroizing<Vec<u8>>),
}

impl ProtectedBytes {
    /// Copies the bytes to protected pages and wipes the original.
    pub(crate) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        // At least one byte, because an empty mapping is an error.
        let Ok(mut pages) = MmapMut::map_anon(bytes.len().max(1)) else { return Self::Heap(bytes) };
        // Lock before writing, because a page that was swapped out stays on disk.
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
            let protected = ProtectedBytes::new(Zeroizing::new(bytes.to_vec()));
            assert_eq!(protected.bytes(), bytes);
            assert!(matches!(protected, ProtectedBytes::Pages { .. }));
            if protected.is_locked() && cfg!(target_os = "linux") {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
                assert_ne!(line.trim(), "0 kB", "{line}");
            }
        }
    }
}
