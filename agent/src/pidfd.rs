//! Waits for and signals a process through a descriptor (pidfd), so that a later process with the same pid is not
//! affected.
//!
//! Linux only. On other systems no process can be opened, and the features that need one report that.

#[cfg(target_os = "linux")]
pub(crate) use linux::PidFd;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::PidFd;

#[cfg(target_os = "linux")]
mod linux {
    use host::processes;
    use rustix::fd::OwnedFd;
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(crate) struct PidFd(OwnedFd);

    impl PidFd {
        /// `None` if the process has ended, also if another process has its pid by now.
        pub(crate) fn open((pid, start): (i32, u64)) -> Option<Self> {
            let descriptor = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Compare the start time after opening: from here on, the descriptor cannot refer to another process.
            processes::find(pid).filter(|process| process.start == start).map(|_| Self(descriptor))
        }

        pub(crate) fn terminate(&self) {
            // Fails only for a process that has ended, which is the goal.
            let _ended_already = pidfd_send_signal(&self.0, Signal::TERM);
        }

        pub(crate) async fn wait_for_exit(self) {
            if let Some(process) = to_async_fd(self.0) {
                drop(process.readable().await);
            }
        }
    }

    #[expect(deprecated, reason = "sound for a descriptor that it owns; the replacement is an unsafe function")]
    fn to_async_fd(process: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(process, Interest::READABLE).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod unsupported {
    pub(crate) enum PidFd {}

    impl PidFd {
        pub(crate) fn open(_process: (i32, u64)) -> Option<Self> {
            None
        }

        pub(crate) fn terminate(&self) {
            match *self {}
        }

        pub(crate) async fn wait_for_exit(self) {
            match self {}
        }
    }
}
