//! Starting one program as a child of the keeper: the only place with `unsafe`, because what happens between fork and
//! exec cannot be said safely.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::super::kernel::MARKER;
use super::super::wire::SpawnSpec;

/// Standard input, output and error of a child.
pub(crate) struct ChildStdio {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub error: OwnedFd,
}

impl ChildStdio {
    pub(crate) fn without_input(output: OwnedFd, error: OwnedFd) -> io::Result<Self> {
        Ok(Self { input: File::open("/dev/null")?.into(), output, error })
    }
}

/// Returns the pid. The child leads a session and a process group of its own.
pub(crate) fn spawn_child(what: &SpawnSpec, marker: &str, streams: ChildStdio) -> io::Result<i32> {
    let mut command = Command::new(&what.program);
    command.args(&what.arguments).current_dir(&what.dir).env_clear().envs(&what.env).env(MARKER, marker);
    command.stdin(Stdio::from(streams.input)).stdout(Stdio::from(streams.output)).stderr(Stdio::from(streams.error));
    if let Some(account) = what.account {
        // The standard library also drops root's supplementary groups when it changes the user.
        command.gid(account.gid).uid(account.uid);
    }
    set_pre_exec_hook(&mut command, what.terminal);
    // The child is reaped by the keeper's own `waitpid`, with all the others.
    Ok(command.spawn()?.id().cast_signed())
}

fn set_pre_exec_hook(command: &mut Command, terminal: bool) {
    let keeper = rustix::process::getpid();
    let hook = move || {
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        #[cfg(target_os = "linux")]
        {
            // After the user changed, because the kernel forgets this wish then. It ends the program when somebody
            // kills the keeper, and a keeper that died before the wish is noticed here.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            if rustix::process::getppid() != Some(keeper) {
                return Err(io::Error::from(rustix::io::Errno::SRCH));
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _unused = keeper;
        Ok(())
    };
    #[expect(unsafe_code, reason = "the hook makes plain system calls only: async-signal-safe, no allocation, no lock")]
    // SAFETY: see the reason above; rustix calls the kernel without touching shared state of the parent.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Closes what a careless parent left open, so that no service inherits somebody's socket.
pub(crate) fn close_inherited_descriptors() {
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return };
    let open: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The listing's own descriptor is closed by now.
    let still_open = |number: &i32| std::fs::symlink_metadata(format!("/dev/fd/{number}")).is_ok();
    for descriptor in open.into_iter().filter(|number| *number > 2).filter(still_open) {
        #[expect(unsafe_code, reason = "the keeper has just begun: nothing in this process owns a descriptor above 2")]
        // SAFETY: as above, and the number was open a moment ago in this process of one thread.
        unsafe {
            rustix::io::close(descriptor);
        }
    }
}
