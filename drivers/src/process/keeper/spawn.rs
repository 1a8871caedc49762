//! Starts one program as a child of the keeper. The only file with `unsafe`: Rust has no safe way to run code between
//! fork and exec.

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

/// Starts the program and returns its pid. The child leads its own session and process group.
pub(crate) fn spawn_child(spec: &SpawnSpec, marker: &str, streams: ChildStdio) -> io::Result<i32> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).current_dir(&spec.dir).env_clear().envs(&spec.env).env(MARKER, marker);
    command.stdin(Stdio::from(streams.input)).stdout(Stdio::from(streams.output)).stderr(Stdio::from(streams.error));
    if let Some(account) = spec.account {
        // The standard library also drops root's supplementary groups when it changes the user.
        command.gid(account.gid).uid(account.uid);
    }
    set_pre_exec_hook(&mut command, spec.terminal);
    // Dropping the handle is fine: the keeper's own `waitpid` reaps this child together with all others.
    Ok(command.spawn()?.id().cast_signed())
}

fn set_pre_exec_hook(command: &mut Command, terminal: bool) {
    let keeper = rustix::process::getpid();
    let hook = move || {
        // A session of its own keeps a terminal's signals away, and its id identifies the unit's orphans later.
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        #[cfg(target_os = "linux")]
        {
            // Must come after the user change, because the kernel clears this setting then. The signal ends the program
            // if the keeper is killed. If the keeper died before this call, the check of the parent detects it.
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

/// Closes descriptors that the parent process left open, so that no service inherits a socket of another program.
pub(crate) fn close_inherited_descriptors() {
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return };
    let descriptors: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // One of these was the directory's own descriptor, which is closed by now.
    let is_still_open = |number: &i32| std::fs::symlink_metadata(format!("/dev/fd/{number}")).is_ok();
    for descriptor in descriptors.into_iter().filter(|number| *number > 2).filter(is_still_open) {
        #[expect(
            unsafe_code,
            reason = "the keeper has just started: nothing in this process owns a descriptor above 2"
        )]
        // SAFETY: as above, and the number was open a moment ago in this process of one thread.
        unsafe {
            rustix::io::close(descriptor);
        }
    }
}
