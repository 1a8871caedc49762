//! Whether the one who approves is another than those who asked: a program must not approve its own request by a
//! terminal that it drives, by a child, or by a child that it let go.
//!
//! Programs of the same user can do anything that the user can, at last; this makes it take an attack instead of a
//! pipe. Only Linux tells what is needed; elsewhere nobody can be told apart, and nothing is approved.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How far up the process table anybody is followed.
const CHAIN_MAX: usize = 64;
const COMPARE_CHUNK_BYTES: usize = 64 * 1024;
/// Major numbers of pseudo-terminals (Linux, Documentation/admin-guide/devices.txt).
const PTS_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Ticks since the machine started: with it a number that was given to another process is told.
    pub start: u64,
    /// Device number of its terminal; 0 without one.
    pub terminal: u64,
    pub session: i32,
    pub name: String,
    /// Its first thread ended. Others may go on, so that it still counts as a parent.
    pub has_ended: bool,
}

pub trait ProcessTable {
    fn process(&self, pid: i32) -> Option<Process>;
    /// Who holds the other end of a pseudo-terminal: the terminal program, `tmux`, `script`.
    fn terminal_master(&self, terminal: u64) -> Option<i32>;
    /// Whether it is the language server of this very program, which passes on what a person said in an editor.
    fn is_language_server(&self, pid: i32) -> bool;
}

/// The asker and what started it, up to the shell of its terminal: all that could act for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessAncestry {
    members: Vec<(i32, u64)>,
    terminal: u64,
    /// The leader of that terminal's session. Numbers of terminals are given again when their leader has gone.
    leader: Option<(i32, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denial {
    #[error("a program cannot approve its own request: this one was started by what asked")]
    Descendant,
    #[error("the request came through this editor, and any program in it could have made it")]
    SameEditor,
    #[error("a program cannot approve its own request: this terminal is driven by what asked")]
    DrivenTerminal,
    #[error("the request came from this terminal, and whatever runs in it could have typed this")]
    SameTerminal,
    #[error("an approval is given in a terminal, and this program has none")]
    NoTerminal,
    #[error("this terminal, or this editor, was opened by something that was started after the request")]
    TooNew,
    #[error("too many different programs asked for this; one of them may be this one")]
    TooManyRequesters,
    #[error("this runs in a coding agent's session, which approves nothing")]
    InSession,
    #[error("it cannot be told who gives this approval")]
    UnknownProcess,
}

impl Denial {
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Descendant | Self::DrivenTerminal | Self::SameTerminal | Self::NoTerminal | Self::InSession => {
                "Approve it in a terminal of your own, beside the one that asked."
            }
            Self::SameEditor => "Approve it in a terminal outside of this editor.",
            Self::TooNew => "Use a terminal program that ran before, or ask again with `pdev up` and approve it here.",
            Self::TooManyRequesters => "Wait 15 minutes and run `pdev up` once.",
            Self::UnknownProcess => "Say `ask = \"never\"` in the identity's section of identities.toml instead.",
        }
    }
}

/// From the process upwards, without the first of all and without the user's service manager, which started everything.
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
    // Up to the leader of the terminal's session: above it is what opened the terminal, and opens others too.
    let leader = chain.iter().find(|process| process.terminal != 0).map(|process| process.session);
    let last = chain.iter().position(|process| Some(process.pid) == leader).unwrap_or(chain.len() - 1);
    let leader = leader.and_then(|leader| processes.process(leader)).map(|leader| (leader.pid, leader.start));
    let members = chain[..=last].iter().map(|process| (process.pid, process.start)).collect();
    Some(ProcessAncestry { members, terminal, leader })
}

/// # Errors
/// Why not.
pub fn check_approver(
    families: &[ProcessAncestry],
    asked: u64,
    by: i32,
    processes: &dyn ProcessTable,
) -> Result<(), Denial> {
    let own = process_chain(by, processes);
    let Some(first) = own.first() else { return Err(Denial::UnknownProcess) };
    let related =
        |process: &Process| families.iter().any(|family| family.members.contains(&(process.pid, process.start)));
    let terminal = first.terminal;
    let still_open = |family: &ProcessAncestry| {
        let leader = |(pid, start)| processes.process(pid).filter(|leader| leader.start == start);
        family.leader.and_then(leader).is_some_and(|leader| leader.terminal == family.terminal)
    };
    if terminal != 0 && families.iter().any(|family| family.terminal == terminal && still_open(family)) {
        return Err(Denial::SameTerminal);
    }
    if own.iter().any(related) {
        // Of the server itself only where it carried the request.
        let carried = related(first) && processes.is_language_server(by);
        return Err(if carried { Denial::SameEditor } else { Denial::Descendant });
    }
    // A child that was let go has nobody above it but the first process.
    let too_new = |openers: &[Process]| openers.iter().all(|opener| opener.start > asked);
    if terminal == 0 {
        // What a terminal's opener is to a terminal, the editor is to its language server.
        return match processes.is_language_server(by) {
            true if too_new(&own[1..]) => Err(Denial::TooNew),
            true => Ok(()),
            false => Err(Denial::NoTerminal),
        };
    }
    if !PTS_MAJORS.contains(&major(terminal)) {
        // A console: somebody sits at the machine.
        return Ok(());
    }
    // The other end may belong to somebody whose open files are not shown (sshd); then it is whoever started the shell.
    let holder =
        processes.terminal_master(terminal).or_else(|| processes.process(first.session).map(|leader| leader.parent));
    let openers = holder.map(|holder| process_chain(holder, processes)).unwrap_or_default();
    if openers.iter().any(related) {
        return Err(Denial::DrivenTerminal);
    }
    if too_new(&openers) { Err(Denial::TooNew) } else { Ok(()) }
}

/// The layout of `dev_t` in `/proc/PID/stat`.
fn major(terminal: u64) -> u64 {
    (terminal >> 8) & 0xfff
}

fn minor(terminal: u64) -> u64 {
    (terminal & 0xff) | ((terminal >> 12) & 0xfff00)
}

/// This machine's, by `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemProcesses;

impl SystemProcesses {
    /// Ticks since the machine started.
    #[must_use]
    pub fn uptime_ticks(self) -> u64 {
        /// What `/proc` counts in, on every Linux that people run.
        const TICKS_PER_SECOND: f64 = 100.0;
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: f64 = text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ticks are small and positive")]
        let ticks = (seconds * TICKS_PER_SECOND) as u64;
        ticks
    }
}

impl ProcessTable for SystemProcesses {
    fn process(&self, pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold some itself.
        let (before, rest) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
        Some(Process {
            pid,
            parent: i32::try_from(number(1)?).ok()?,
            session: i32::try_from(number(3)?).ok()?,
            terminal: u64::try_from(number(4)?).unwrap_or_default(),
            start: u64::try_from(number(19)?).ok()?,
            has_ended: matches!(fields.first(), Some(&("Z" | "X"))),
            name,
        })
    }

    fn terminal_master(&self, terminal: u64) -> Option<i32> {
        let wanted = format!("tty-index:\t{}", minor(terminal));
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| holds_terminal_master(*pid, &wanted))
    }

    /// By file, not by name: any program may call itself so. An editor may have a copy of its own; a server that outlived an
    /// update of this program is none.
    fn is_language_server(&self, pid: i32) -> bool {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"lsp".as_slice())
            && is_same_program(Path::new("/proc/self/exe"), Path::new(&format!("/proc/{pid}/exe"))).unwrap_or(false)
    }
}

/// The same file, or the same bytes.
fn is_same_program(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (fs::File::open(one)?, fs::File::open(other)?);
    let (first, second) = (one.metadata()?, other.metadata()?);
    if (first.dev(), first.ino()) == (second.dev(), second.ino()) {
        return Ok(true);
    }
    if first.len() != second.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; COMPARE_CHUNK_BYTES], vec![0; COMPARE_CHUNK_BYTES]);
    let mut rest = usize::try_from(first.len()).unwrap_or_default();
    while rest > 0 {
        let some = rest.min(COMPARE_CHUNK_BYTES);
        one.read_exact(&mut left[..some])?;
        other.read_exact(&mut right[..some])?;
        if left[..some] != right[..some] {
            return Ok(false);
        }
        rest -= some;
    }
    Ok(true)
}

fn holds_terminal_master(pid: i32, wanted: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let is_master = |path: &Path| {
        fs::read_link(path).is_ok_and(|to| to == Path::new("/dev/ptmx") || to == Path::new("/dev/pts/ptmx"))
    };
    open.flatten().filter(|entry| is_master(&entry.path())).any(|entry| {
        let about = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
        fs::read_to_string(about).is_ok_and(|text| text.lines().any(|line| line == wanted))
    })
}
