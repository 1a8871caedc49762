//! Decides whether a process may approve a request. A program must not approve its own request: not through a terminal
//! that it drives, through a child, or through a detached child.
//!
//! Programs of the same user can ultimately do anything that the user can. The check raises the effort from a pipe to
//! an attack, and [`Weakness`] names what is left of it. The data exists only on Linux; on other systems processes cannot
//! be distinguished, and nothing is approved.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use host::processes::{self, Process, all_pids};
use serde::{Deserialize, Serialize};

/// Limits the walk up the process table.
const CHAIN_MAX: usize = 64;
const COMPARE_CHUNK_BYTES: usize = 64 * 1024;
/// Major numbers of pseudo-terminals (Linux, Documentation/admin-guide/devices.txt).
const PTS_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;

/// Processes by pid: those of this machine, or those of a test.
pub trait ProcessTable {
    fn process(&self, pid: i32) -> Option<Process>;
    /// The process that has the master side of a pseudo-terminal open: the terminal program, `tmux`, `script`.
    fn terminal_master(&self, terminal: u64) -> Option<i32>;
    /// Whether it is a language server of this same binary, which forwards the user's decision from an editor.
    fn is_language_server(&self, pid: i32) -> bool;
    /// The control group of a process. Programs cannot leave it without the help of a service.
    fn control_group(&self, pid: i32) -> Option<String>;
    /// Whether the system installed this program, so that the user's programs cannot have written it.
    fn is_system_program(&self, pid: i32) -> bool;
}

/// The requester and its parents up to the shell of its terminal: all processes that could act for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessAncestry {
    members: Vec<(i32, u64)>,
    terminal: u64,
    /// The leader of the terminal's session. The kernel reuses terminal numbers after their leader has ended.
    leader: Option<(i32, u64)>,
    /// The processes above, which opened this terminal and may have opened others.
    #[serde(default)]
    openers: Vec<(i32, u64)>,
    #[serde(default)]
    control_group: Option<String>,
}

/// Terminal programs without a command that types into them, and the programs of remote logins. Multiplexers, editors
/// and unknown programs are not among them.
const TERMINAL_PROGRAMS: [&str; 18] = [
    "alacritty",
    "contour",
    "foot",
    "footclient",
    "ghostty",
    "gnome-console",
    "gnome-terminal-",
    "kgx",
    "lxterminal",
    "mate-terminal",
    "ptyxis",
    "ptyxis-agent",
    "rxvt",
    "sshd",
    "sshd-session",
    "urxvt",
    "xfce4-terminal",
    "xterm",
];

/// Why an approval may have been given by a program of the user instead of the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Weakness {
    #[error("an editor sent it, and programs can write into an editor's pipes")]
    Editor,
    #[error("the requester runs in a terminal of the same terminal program")]
    SameTerminalProgram,
    #[error("other programs may be able to type into this terminal (a multiplexer, an editor or an unknown program)")]
    OtherTerminalProgram,
    #[error("the terminal program was started after the request")]
    NewTerminalProgram,
    #[error("the terminal program and the requester are in the same control group")]
    SameControlGroup,
    #[error("the requester is unknown")]
    UnknownRequester,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denial {
    #[error("a program cannot approve its own request: this one was started by the requester")]
    Descendant,
    #[error("the request came through this editor, and any program in it could have made it")]
    SameEditor,
    #[error("a program cannot approve its own request: this terminal is driven by the requester")]
    DrivenTerminal,
    #[error("the request came from this terminal, and any program in it could have typed this")]
    SameTerminal,
    #[error("an approval is given in a terminal, and this program has none")]
    NoTerminal,
    #[error("this terminal or editor was opened by a program that was started after the request")]
    TooNew,
    #[error("too many different programs asked for this; one of them may be this one")]
    TooManyRequesters,
    #[error("the password was not entered")]
    NoPassword,
    #[error("this runs in a coding agent's session, which approves nothing")]
    InSession,
    #[error("the process that gives this approval cannot be identified")]
    UnknownProcess,
}

impl Denial {
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Descendant | Self::DrivenTerminal | Self::SameTerminal | Self::NoTerminal | Self::InSession => {
                "Approve it in another terminal, not in the one that made the request."
            }
            Self::SameEditor => "Approve it in a terminal outside of this editor.",
            Self::TooNew => {
                "Use a terminal program that ran before, or run `pdev up` again and approve the new request here."
            }
            Self::NoPassword => "Approve it again and enter your password.",
            Self::TooManyRequesters => "Wait 15 minutes and run `pdev up` once.",
            Self::UnknownProcess => "Set `ask = \"never\"` in the identity's section of identities.toml instead.",
        }
    }
}

/// The process and its ancestors, without process 1 and without the user's service manager, which started every
/// program.
fn process_chain(pid: i32, processes: &dyn ProcessTable) -> Vec<Process> {
    let mut chain = Vec::new();
    let mut next = pid;
    while next > 1 && chain.len() < CHAIN_MAX {
        let Some(process) = processes.process(next) else { break };
        next = process.parent;
        if process.name != "systemd" {
            chain.push(process);
        }
    }
    chain
}

#[must_use]
pub fn ancestry_of(pid: i32, processes: &dyn ProcessTable) -> Option<ProcessAncestry> {
    let chain = process_chain(pid, processes);
    if chain.is_empty() {
        return None;
    }
    let terminal = chain.iter().map(|process| process.terminal).find(|terminal| *terminal != 0).unwrap_or_default();
    // Stop at the leader of the terminal's session. The process above it opened this terminal and also opens others.
    let leader = chain.iter().find(|process| process.terminal != 0).map(|process| process.session);
    let last = chain.iter().position(|process| Some(process.pid) == leader).unwrap_or(chain.len() - 1);
    let leader = leader.and_then(|leader| processes.process(leader)).map(|leader| (leader.pid, leader.start));
    let (members, openers) = chain.split_at(last + 1);
    let with_start = |part: &[Process]| part.iter().map(|process| (process.pid, process.start)).collect();
    let control_group = processes.control_group(pid);
    Some(ProcessAncestry {
        members: with_start(members),
        terminal,
        leader,
        openers: with_start(openers),
        control_group,
    })
}

/// Checks that `approver` is neither a requester nor driven by one. `requested_at` is in ticks since the machine
/// started. Returns what makes the approval weak; `None` if only the user can have given it.
///
/// # Errors
/// The reason why `approver` may not approve.
pub fn check_approver(
    ancestries: &[ProcessAncestry],
    requested_at: u64,
    approver: i32,
    processes: &dyn ProcessTable,
) -> Result<Option<Weakness>, Denial> {
    let approver_chain = process_chain(approver, processes);
    let Some(first) = approver_chain.first() else { return Err(Denial::UnknownProcess) };
    let related =
        |process: &Process| ancestries.iter().any(|ancestry| ancestry.members.contains(&(process.pid, process.start)));
    let terminal = first.terminal;
    let still_open = |ancestry: &ProcessAncestry| {
        let leader = |(pid, start)| processes.process(pid).filter(|leader| leader.start == start);
        ancestry.leader.and_then(leader).is_some_and(|leader| leader.terminal == ancestry.terminal)
    };
    if terminal != 0 && ancestries.iter().any(|ancestry| ancestry.terminal == terminal && still_open(ancestry)) {
        return Err(Denial::SameTerminal);
    }
    if approver_chain.iter().any(related) {
        // Report `SameEditor` only if the language server itself forwarded the request.
        let carried = related(first) && processes.is_language_server(approver);
        return Err(if carried { Denial::SameEditor } else { Denial::Descendant });
    }
    // The only ancestor of a detached child is process 1, so its chain of openers is empty and `all` is true.
    let too_new = |openers: &[Process]| openers.iter().all(|opener| opener.start > requested_at);
    if terminal == 0 {
        // The editor opened its language server, as a terminal program opens a terminal.
        return match processes.is_language_server(approver) {
            true if too_new(&approver_chain[1..]) => Err(Denial::TooNew),
            true => Ok(Some(Weakness::Editor)),
            false => Err(Denial::NoTerminal),
        };
    }
    if !PTS_MAJORS.contains(&major(terminal)) {
        // A console, so a user sits at the machine.
        return Ok(None);
    }
    // The master side may belong to a process of another user whose open files are hidden (sshd). Then use the process
    // that started the shell.
    let holder =
        processes.terminal_master(terminal).or_else(|| processes.process(first.session).map(|leader| leader.parent));
    let openers = holder.map(|holder| process_chain(holder, processes)).unwrap_or_default();
    if openers.iter().any(related) {
        return Err(Denial::DrivenTerminal);
    }
    if too_new(&openers) {
        return Err(Denial::TooNew);
    }
    Ok(find_weakness(ancestries, requested_at, &openers, processes))
}

/// `openers` are the program that holds the terminal's master side, and its parents.
fn find_weakness(
    ancestries: &[ProcessAncestry],
    requested_at: u64,
    openers: &[Process],
    processes: &dyn ProcessTable,
) -> Option<Weakness> {
    let Some(holder) = openers.first() else { return Some(Weakness::OtherTerminalProgram) };
    if ancestries.is_empty() {
        return Some(Weakness::UnknownRequester);
    }
    if !TERMINAL_PROGRAMS.contains(&holder.name.as_str()) || !processes.is_system_program(holder.pid) {
        return Some(Weakness::OtherTerminalProgram);
    }
    if ancestries.iter().any(|ancestry| ancestry.openers.contains(&(holder.pid, holder.start))) {
        return Some(Weakness::SameTerminalProgram);
    }
    if holder.start > requested_at {
        return Some(Weakness::NewTerminalProgram);
    }
    // A requester that left its parent still has its control group.
    let control_group = processes.control_group(holder.pid).filter(|group| !group.is_empty());
    let is_other = |ancestry: &ProcessAncestry| {
        ancestry.control_group.is_some() && control_group.is_some() && ancestry.control_group != control_group
    };
    (!ancestries.iter().all(is_other)).then_some(Weakness::SameControlGroup)
}

/// The layout of `dev_t` in `/proc/PID/stat`.
fn major(terminal: u64) -> u64 {
    (terminal >> 8) & 0xfff
}

fn minor(terminal: u64) -> u64 {
    (terminal & 0xff) | ((terminal >> 12) & 0xfff00)
}

/// The processes of this machine, read from `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemProcesses;

impl ProcessTable for SystemProcesses {
    fn process(&self, pid: i32) -> Option<Process> {
        processes::find(pid)
    }

    fn terminal_master(&self, terminal: u64) -> Option<i32> {
        let tty_index = format!("tty-index:\t{}", minor(terminal));
        all_pids().into_iter().find(|pid| holds_terminal_master(*pid, &tty_index))
    }

    /// Compares the binary, not the name, which any program can choose. An editor may have its own copy of the binary.
    /// A server that still runs an older version of this program does not match.
    fn is_language_server(&self, pid: i32) -> bool {
        processes::command_line(pid).iter().nth(1) == Some(b"lsp".as_slice())
            && is_same_program(Path::new("/proc/self/exe"), Path::new(&format!("/proc/{pid}/exe"))).unwrap_or(false)
    }

    fn control_group(&self, pid: i32) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        // The unified hierarchy, or the one in which systemd keeps sessions.
        let path = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
        path("0::")
            .or_else(|| text.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path)))
            .map(str::to_owned)
    }

    fn is_system_program(&self, pid: i32) -> bool {
        match processes::executable(pid) {
            // The link also opens a file that was replaced by an update.
            Some(_) => fs::metadata(format!("/proc/{pid}/exe"))
                .is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0),
            // sshd hides its executable. Every program can do that, but none can be a child of root's sshd.
            None => processes::find(pid)
                .and_then(|process| processes::find(process.parent))
                .is_some_and(|parent| parent.pid > 1 && parent.name.starts_with("sshd") && runs_as_root(parent.pid)),
        }
    }
}

fn runs_as_root(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"))
}

/// Whether two files are the same inode or have the same content.
fn is_same_program(left_file: &Path, right_file: &Path) -> io::Result<bool> {
    let (mut left_file, mut right_file) = (fs::File::open(left_file)?, fs::File::open(right_file)?);
    let (left_metadata, right_metadata) = (left_file.metadata()?, right_file.metadata()?);
    if (left_metadata.dev(), left_metadata.ino()) == (right_metadata.dev(), right_metadata.ino()) {
        return Ok(true);
    }
    if left_metadata.len() != right_metadata.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COMPARE_CHUNK_BYTES], vec![0; COMPARE_CHUNK_BYTES]);
    let mut remaining = usize::try_from(left_metadata.len()).unwrap_or_default();
    while remaining > 0 {
        let length = remaining.min(COMPARE_CHUNK_BYTES);
        left_file.read_exact(&mut left[..length])?;
        right_file.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
        remaining -= length;
    }
    Ok(true)
}

fn holds_terminal_master(pid: i32, tty_index: &str) -> bool {
    let Ok(open_files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let is_master = |path: &Path| {
        fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/ptmx") || target == Path::new("/dev/pts/ptmx"))
    };
    open_files.flatten().filter(|entry| is_master(&entry.path())).any(|entry| {
        let info_path = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
        fs::read_to_string(info_path).is_ok_and(|text| text.lines().any(|line| line == tty_index))
    })
}
