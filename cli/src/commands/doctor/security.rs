//! `pdev doctor security`: what protects this machine, and what does not. `docs/security.md` lists the attackers.

use credentials::approval::ancestry::{ProcessTable, SystemProcesses};
use credentials::identity::ApprovalPolicy;

use super::Finding;
use crate::commands::identity::load_identities;
use crate::vault_access::credential_paths;

pub(super) async fn check() -> Vec<Finding> {
    let mut findings = vec![ancestry(), control_group(), approval_policy(), polkit().await];
    findings.extend([session_namespace(), session_bus(), process_memory(), container_engine()]);
    if let Ok(paths) = credential_paths() {
        findings.push(super::credentials::check_vault(&paths).await);
    }
    findings
}

/// Sessions, endpoints and approvals follow a process to its ancestors.
fn ancestry() -> Finding {
    match SystemProcesses.process(std::process::id().cast_signed()) {
        Some(_) => Finding::fine("ancestry", "the ancestors of each program are known"),
        None => Finding::warning(
            "ancestry",
            "this system does not report the ancestors of programs: no sessions, endpoints of local services and approvals",
            "Use Linux, or `ask = \"never\"` for identities that every repository may use.",
        ),
    }
}

fn control_group() -> Finding {
    match SystemProcesses.control_group(std::process::id().cast_signed()).filter(|group| group.len() > 1) {
        Some(group) => Finding::fine("groups", format!("programs have separate control groups (this one: `{group}`)")),
        None => Finding::warning(
            "groups",
            "all programs are in one control group, so approvals in a terminal are weak",
            "Use a login with systemd, or let polkit ask for the password.",
        ),
    }
}

fn approval_policy() -> Finding {
    let policy =
        credential_paths().and_then(|paths| load_identities(&paths)).map(|(identities, _)| identities.approval);
    match policy {
        Ok(ApprovalPolicy::Strict) | Err(_) => Finding::fine("approval", "strict: weak approvals are refused"),
        Ok(ApprovalPolicy::Normal) => Finding::warning(
            "approval",
            "weak approvals count: programs may be able to type them into tmux, editors or their own terminals",
            "Write `approval = \"strict\"` at the top of identities.toml.",
        ),
    }
}

async fn polkit() -> Finding {
    #[cfg(target_os = "linux")]
    if agent::password_prompt::is_available().await {
        return Finding::fine("polkit", "asks for your password instead of accepting a weak approval");
    }
    Finding::warning(
        "polkit",
        "does not ask for your password: it is not running, or does not know `dev.pdev.approve`",
        "Run `sudo install -m 644 docs/polkit/dev.pdev.policy /usr/share/polkit-1/actions/` in pdev's repository.",
    )
}

#[cfg(target_os = "linux")]
fn session_namespace() -> Finding {
    use crate::guard::hidden_sockets::{CHECK_OPTION, SUBCOMMAND};
    let checked = std::env::current_exe()
        .and_then(|program| std::process::Command::new(program).args([SUBCOMMAND, CHECK_OPTION]).status());
    match checked {
        Ok(status) if status.success() && rustix::process::geteuid().is_root() => Finding::warning(
            "sessions",
            "hide the sockets of tmux, container engines and the session bus, but root's programs can undo that",
            "Run coding agents as an ordinary user.",
        ),
        Ok(status) if status.success() => {
            Finding::fine("sessions", "hide the sockets of tmux, screen, container engines and the session bus")
        }
        _ => Finding::warning(
            "sessions",
            "cannot hide the sockets of tmux, container engines and the session bus: no mount namespace",
            "Allow user namespaces: `sudo sysctl user.max_user_namespaces=10000`, and on Ubuntu \
             `kernel.apparmor_restrict_unprivileged_userns=0`.",
        ),
    }
}

#[cfg(not(target_os = "linux"))]
fn session_namespace() -> Finding {
    Finding::warning("sessions", "need Linux", "Run coding agents as another user.")
}

fn session_bus() -> Finding {
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    if address.contains("unix:abstract=") {
        return Finding::warning(
            "bus",
            "the session bus has an abstract socket, which sessions of coding agents can reach",
            "Use the bus of systemd: `DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus`.",
        );
    }
    Finding::fine("bus", if address.is_empty() { "no session bus" } else { "sessions of coding agents do not see it" })
}

/// The agent does not depend on this: its memory is closed to other programs of the user.
fn process_memory() -> Finding {
    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().as_deref().map(str::trim) {
        Some("0") | None => Finding::warning(
            "memory",
            "programs of one user can read each other's memory; the agent's is closed to them",
            "Run `sudo sysctl kernel.yama.ptrace_scope=1`.",
        ),
        Some(_) => Finding::fine("memory", "programs cannot read the memory of programs that they did not start"),
    }
}

fn container_engine() -> Finding {
    let socket = std::path::Path::new("/run/docker.sock");
    match rustix::fs::access(socket, rustix::fs::Access::WRITE_OK) {
        Ok(()) if !rustix::process::geteuid().is_root() => Finding::warning(
            "engine",
            "your programs can open `/run/docker.sock`, and whoever can open it controls this machine",
            "Use a rootless engine.",
        ),
        _ => Finding::fine("engine", "no socket of root's engine is open to your programs"),
    }
}
