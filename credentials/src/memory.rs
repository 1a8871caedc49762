//! What others of the same user may see of this process's memory: nothing.
//!
//! It does not hide anything from root, and does not lock pages: what is swapped out is for the disk's encryption.

/// No core file, and no look into this process by others of the same user: it holds credentials, or is about to.
/// Programs started from here have it no longer (execve(2)), but for the soft limit of core files.
pub fn keep_private() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Core);
    let _best_effort = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: limit.maximum });
    #[cfg(target_os = "linux")]
    let _best_effort = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
