//! Hides sockets from the programs of a session, in a mount namespace of its own: those of terminal multiplexers, of
//! container engines and of the session bus. Each of them starts programs that do not descend from the session.
//!
//! Landlock does not restrict connecting to sockets. An ordinary user needs a user namespace, in which files of other
//! users have no known owner. Sockets without a path (abstract ones) cannot be hidden.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use super::start_failure;
use crate::terminal::{Color, Terminal};

/// The first argument of the process that becomes the session's program; no command of this name exists.
pub(crate) const SUBCOMMAND: &str = "session-program";

/// Instead of a program: only tests whether sockets can be hidden.
pub(crate) const CHECK_OPTION: &str = "--check";

/// Hides the sockets and becomes the program. Its arguments are the program and its own arguments.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let terminal = Terminal::new(Color::Auto);
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let Some((program, arguments)) = arguments.split_first() else { return crate::exit::INVALID_INPUT };
    if program == CHECK_OPTION {
        return if hide(&[]).is_ok() { crate::exit::OK } else { crate::exit::FAILED };
    }
    let sockets = find_sockets();
    if !sockets.is_empty()
        && let Err(error) = hide(&sockets)
    {
        let names: Vec<String> = sockets.iter().map(|path| path.display().to_string()).collect();
        terminal.eprint_line(&format!(
            "note: these sockets stay open to the session, and programs can leave it through them ({error}): {}",
            names.join(", ")
        ));
    }
    let failure = start_failure(program, &Command::new(program).args(arguments).exec());
    crate::print_failure(&failure, &terminal, false);
    failure.exit_code
}

/// Sockets, and folders with sockets, that exist.
fn find_sockets() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let uid = rustix::process::geteuid().as_raw();
    let runtime = variable("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from(format!("/run/user/{uid}")), PathBuf::from);
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let temporary = variable("TMUX_TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let user = variable("USER").unwrap_or_default();
    let mut paths = vec![
        PathBuf::from(format!("/tmp/tmux-{uid}")),
        temporary.join(format!("tmux-{uid}")),
        PathBuf::from(format!("/run/screen/S-{user}")),
        home.join(".screen"),
        runtime.join("zellij"),
        PathBuf::from("/run/docker.sock"),
        PathBuf::from("/run/podman/podman.sock"),
        PathBuf::from("/run/containerd/containerd.sock"),
        runtime.join("docker.sock"),
        runtime.join("podman"),
        home.join(".docker/run/docker.sock"),
        home.join(".docker/desktop/docker.sock"),
        runtime.join("bus"),
        runtime.join("systemd/private"),
    ];
    paths.extend(variable("SCREENDIR").map(PathBuf::from));
    paths.extend(variable("TMUX").and_then(|value| Some(PathBuf::from(value.split(',').next()?))));
    paths.extend(variable("DOCKER_HOST").and_then(|value| value.strip_prefix("unix://").map(PathBuf::from)));
    paths.extend(variable("CONTAINER_HOST").and_then(|value| value.strip_prefix("unix://").map(PathBuf::from)));
    paths.extend(bus_paths(&variable("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default()));
    // A link could lead to the same socket by another path.
    let mut found: Vec<PathBuf> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// `unix:path=/run/user/1000/bus,guid=…;…`
fn bus_paths(addresses: &str) -> impl Iterator<Item = PathBuf> {
    let parts = addresses.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let keys = parts.flat_map(|address| address.split(','));
    keys.filter_map(|pair| pair.strip_prefix("path=").map(PathBuf::from))
}

fn hide(sockets: &[PathBuf]) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let namespaces = match uid.is_root() {
        true => UnshareFlags::NEWNS,
        false => UnshareFlags::NEWNS | UnshareFlags::NEWUSER,
    };
    #[expect(
        unsafe_code,
        reason = "this process has one thread and no descriptors or pointers that a namespace affects"
    )]
    // SAFETY: see the reason above; `FILES` is not among the flags.
    unsafe {
        rustix::thread::unshare_unsafe(namespaces)?;
    }
    if !uid.is_root() {
        // user_namespaces(7): without this line, an ordinary user may not write the map of groups.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1", uid = uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1", gid = gid.as_raw()))?;
    }
    // No mount of this namespace reaches the machine; mounts of the machine still appear here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    sockets.iter().try_for_each(|path| cover(path))
}

fn cover(path: &Path) -> io::Result<()> {
    let result = if path.is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
        mount("tmpfs", path, "tmpfs", flags, Some(c"mode=0700,size=4k"))
    } else {
        mount_bind("/dev/null", path)
    };
    match result {
        // Removed since it was found.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_addresses_with_paths_are_found() {
        let addresses = "unix:path=/run/user/1/bus,guid=ab;unix:abstract=/tmp/x;tcp:host=a;unix:guid=c,path=/b";
        let expected = ["/run/user/1/bus", "/b"].map(PathBuf::from);
        assert_eq!(bus_paths(addresses).collect::<Vec<_>>(), expected);
    }
}
