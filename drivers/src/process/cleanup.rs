//! Cleanup after a killed keeper: ends the processes that its programs left behind, and records how the units ended.
//!
//! The keeper's direct children died with it (parent death signal). Other descendants are found by the marker in their
//! environment, by their recorded identity, and as descendants of both. A process that is not provably ours is left
//! alone.

use std::io;
use std::time::{Duration, Instant};

use host::clock::now_milliseconds;
use host::processes::{Process, ProcessTable, boot_id};
use rustix::process::Signal;

use super::kernel::{self, ProcessIdentity};
use super::record::{Durable, ExitRecord, KeeperRecord, RecordStore, RecordedState};

/// Killed processes are gone within this time, unless they are stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Requires the keeper's lock, which proves that no keeper is alive. Blocks only if it must kill processes.
pub(crate) fn clean_up_after_keeper(records: &RecordStore) -> io::Result<()> {
    let Some(keeper) = records.read_keeper()? else { return Ok(()) };
    let mut orphaned: Vec<_> = records.read_units()?;
    orphaned.retain(|unit| matches!(unit.state, RecordedState::Running { .. }));
    if keeper.process.boot == boot_id() {
        // After a reboot, all recorded pids belong to other processes.
        let recorded = orphaned.iter().filter_map(|unit| match &unit.state {
            RecordedState::Running { process, .. } => Some(process.clone()),
            _ => None,
        });
        kill_all(&keeper, &recorded.collect::<Vec<_>>());
    }
    for mut unit in orphaned {
        let RecordedState::Running { started_at, .. } = unit.state else { continue };
        let error = Some(exit_reason(&keeper));
        let exit = ExitRecord { code: None, signal: Some(9), error, at: Some(now_milliseconds()) };
        unit.state = RecordedState::Exited { started_at, exit };
        records.write_unit(&unit, Durable::No)?;
    }
    Ok(())
}

fn exit_reason(keeper: &KeeperRecord) -> String {
    if keeper.process.boot == boot_id() {
        "the preview's keeper was killed, and its programs were ended".to_owned()
    } else {
        "the machine was restarted".to_owned()
    }
}

fn kill_all(keeper: &KeeperRecord, recorded: &[ProcessIdentity]) {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let remaining = find_remaining_processes(keeper, recorded);
        if remaining.is_empty() || Instant::now() > deadline {
            return;
        }
        for process in &remaining {
            kernel::signal_process(process, Signal::KILL);
        }
        // They are not our children, so no signal announces their death. A killed process needs a moment to be gone.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn find_remaining_processes(keeper: &KeeperRecord, recorded: &[ProcessIdentity]) -> Vec<Process> {
    let table = ProcessTable::read();
    let marked = table.iter().filter(|process| {
        // A process that is older than the keeper cannot come from it, regardless of its environment.
        process.start >= keeper.process.start
            && kernel::marker(process.pid)
                .is_some_and(|marker| marker.strip_prefix(&keeper.nonce).is_some_and(|suffix| suffix.starts_with('.')))
    });
    let mut roots: Vec<i32> = marked.map(|process| process.pid).collect();
    roots.extend(recorded.iter().filter(|process| process.is_alive()).map(|process| process.pid));
    let mut remaining = table.descendants(&roots);
    // Zombies are dead already, and this process must not kill itself.
    remaining.retain(|process| !process.has_ended && process.pid != std::process::id().cast_signed());
    remaining
}
