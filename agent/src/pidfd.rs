//! A process that is waited for and signalled by a descriptor (pidfd), so that another one with its number is left alone.
//!
//! Linux only: elsewhere no process can be pinned, and who needs one says so.

#[cfg(target_os = "linux")]
pub(crate) use linux::PidFd;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::PidFd;

#[cfg(target_os = "linux")]
mod linux {
    use credentials::approval::ancestry::{ProcessTable, SystemProcesses};
    use rustix::fd::OwnedFd;
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(crate) struct PidFd(OwnedFd);

    impl PidFd {
        /// None when it is gone, or its number is another one's by now.
        pub(crate) fn open((pid, start): (i32, u64)) -> Option<Self> {
            let pinned = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            SystemProcesses.process(pid).filter(|process| process.start == start).map(|_| Self(pinned))
        }

        pub(crate) fn terminate(&self) {
            let _gone_is_fine = pidfd_send_signal(&self.0, Signal::TERM);
        }

        pub(crate) async fn wait_for_exit(self) {
            if let Some(process) = to_async_fd(self.0) {
                drop(process.readable().await);
            }
        }
    }

    #[expect(deprecated, reason = "sound for a descriptor that it owns; what replaces it is an unsafe function")]
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
