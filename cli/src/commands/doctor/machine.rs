//! Checks the operating system: name resolution, ports, limits, disk space, clock and git.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::process::Command;

use host::disk_space::disk_space;

use super::Finding;
use crate::humanize;

const PROXY_PORT: u16 = 8642;

pub(super) fn versions() -> Finding {
    let system = rustix::system::uname();
    let name = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Finding::fine(
        "versions",
        format!(
            "pdev {}, {} {} {}",
            env!("CARGO_PKG_VERSION"),
            name(system.sysname()),
            name(system.release()),
            name(system.machine())
        ),
    )
}

/// Resolves a host name like those of previews with the system's resolver. Browsers and curl do not need it for
/// `*.localhost`.
pub(super) fn name_resolution() -> Finding {
    const HOST: &str = "web.main.shop.localhost";
    let hint =
        "Use the `127.0.0.1:PORT` of `pdev status`, or enable systemd-resolved; browsers and curl are not affected.";
    match (HOST, 80).to_socket_addrs() {
        Ok(addresses) => {
            let addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
            if addresses.iter().all(IpAddr::is_loopback) {
                return Finding::fine("names", format!("`{HOST}` resolves to this machine"));
            }
            Finding::broken("names", format!("`{HOST}` resolves to `{addresses:?}`, another machine"), hint)
        }
        Err(_) => Finding::warning("names", format!("the system does not resolve `{HOST}`"), hint),
    }
}

pub(super) fn proxy_port(running: Option<u16>) -> Finding {
    if let Some(port) = running {
        let address = format!("127.0.0.1:{port}");
        return if port == PROXY_PORT {
            Finding::fine("proxy", address)
        } else {
            Finding::fine("proxy", format!("{address}, because port {PROXY_PORT} was in use when it was chosen"))
        };
    }
    match TcpListener::bind(("127.0.0.1", PROXY_PORT)) {
        Ok(_) => Finding::fine("proxy", format!("port {PROXY_PORT} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::warning(
            "proxy",
            format!("port {PROXY_PORT} is in use by another program"),
            format!("Find it with `ss -ltnp 'sport = :{PROXY_PORT}'`, or let the agent use the next free port."),
        ),
        Err(error) => Finding::broken(
            "proxy",
            format!("cannot listen on 127.0.0.1: {}", humanize::io_error(&error)),
            "Allow local ports in your sandbox or firewall, or run pdev outside of it.",
        ),
    }
}

pub(super) fn inotify() -> Finding {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let (Some(watches), Some(instances)) = (read("max_user_watches"), read("max_user_instances")) else {
        return Finding::fine("inotify", "not available on this system");
    };
    let message = format!("{watches} watches, {instances} instances for each user");
    if watches < 65_536 || instances < 128 {
        let hint = "Raise the limits, or watching large folders may fail: `sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`.";
        return Finding::warning("inotify", message, hint);
    }
    Finding::fine("inotify", message)
}

pub(super) fn disk() -> Finding {
    // The nearest existing folder: the data folder may not exist yet.
    let home = std::env::var_os("XDG_DATA_HOME").or_else(|| std::env::var_os("HOME")).unwrap_or_else(|| "/".into());
    let folder = Path::new(&home).ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let Ok(space) = disk_space(folder) else {
        return Finding::warning(
            "disk",
            format!("cannot determine the free space of `{}`", folder.display()),
            "Check that it is mounted.",
        );
    };
    let free_megabytes = space.free_bytes / 1_000_000;
    let message = format!("{} free for `{}`", format_size(free_megabytes), folder.display());
    if let Some(free_files) = space.free_files.filter(|files| *files < 10_000) {
        let message = format!("only {free_files} more files fit on the disk of `{}`", folder.display());
        return Finding::broken("disk", message, "Remove files, or old images with `docker system prune`.");
    }
    match free_megabytes {
        0..500 => Finding::broken("disk", message, "Free some space: `docker system prune` removes unused images."),
        500..5000 => Finding::warning(
            "disk",
            message,
            "Free some space, or images and databases may not fit: `docker system prune` removes unused images.",
        ),
        _ => Finding::fine("disk", message),
    }
}

fn format_size(megabytes: u64) -> String {
    if megabytes < 10_000 { format!("{megabytes} MB") } else { format!("{} GB", megabytes / 1000) }
}

/// A clock that is earlier than the build of this program breaks credentials, certificates and the order of logs.
pub(super) fn clock() -> Finding {
    let built = std::env::current_exe().and_then(std::fs::metadata).and_then(|metadata| metadata.modified());
    match built {
        Ok(built) if built > host::clock::now() => Finding::broken(
            "clock",
            "it is earlier than the build time of this program",
            "Set the clock: `timedatectl set-ntp true`.",
        ),
        _ => Finding::fine("clock", "plausible"),
    }
}

pub(super) fn git() -> Finding {
    match Command::new("git").arg("--version").output() {
        Ok(output) if output.status.success() => Finding::fine(
            "git",
            String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("git version ").to_owned(),
        ),
        Ok(_) | Err(_) => {
            Finding::warning("git", "not found", "Install git; without it, every checkout counts as the branch `main`.")
        }
    }
}
