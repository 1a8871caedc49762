//! The keeper's state: running commands, ending commands, and the clients that wait for an end. One task owns it, and
//! no method in this file waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use host::clock::now_milliseconds;
use host::processes::{ProcessTable, own_children};
use plan::shell_environment::ShellEnvironment;
use rustix::process::{Signal, WaitOptions, wait};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::kernel::{self, ProcessIdentity};
use super::super::port_conflict;
use super::super::record::{Durable, RecordStore, RecordedState, StopRecord, UnitRecord};
use super::super::wire::{Event, Reply, SpawnSpec};
use super::output::{self, Log, LogProgress, OutputStream};
use super::slot::{Phase, Role, Slot, to_exit_record};
use super::spawn::{self, ChildStdio};
use super::{ExecStart, KeeperCommand};

/// Maximum events that a slow follower may lag behind before it must observe again.
const EVENT_QUEUE_CAPACITY: usize = 1024;
/// Interval between checks of processes that are ending; each death also wakes the keeper.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// A keeper without units exits if no request arrives within this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Keeper {
    records: RecordStore,
    nonce: String,
    mailbox: mpsc::Sender<KeeperCommand>,
    events: broadcast::Sender<Event>,
    slots: BTreeMap<u64, Slot>,
    next_slot: u64,
    /// Commands that wait for the end of another one with the same key.
    waiting_execs: VecDeque<Box<ExecStart>>,
    /// Tasks that copy output or watch exec clients. Each ends with the pipe or client that it serves.
    tasks: JoinSet<()>,
    /// For the next agent.
    shell_environment: Option<ShellEnvironment>,
    is_shutting_down: bool,
    /// Set while a slot is ending.
    next_check: Option<Instant>,
    idle_deadline: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(records: RecordStore, nonce: String, mailbox: mpsc::Sender<KeeperCommand>) -> Self {
        Self {
            records,
            nonce,
            mailbox,
            events: broadcast::Sender::new(EVENT_QUEUE_CAPACITY),
            slots: BTreeMap::new(),
            next_slot: 1,
            waiting_execs: VecDeque::new(),
            tasks: JoinSet::new(),
            shell_environment: None,
            is_shutting_down: false,
            next_check: None,
            idle_deadline: Some(Instant::now() + IDLE_TIMEOUT),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is_shutting_down && self.slots.is_empty() && self.waiting_execs.is_empty()
    }

    /// When to call `check_deadlines` without an event. `None` while nothing is pending, so that the keeper sleeps.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let running = self.slots.values().filter(|slot| matches!(slot.phase, Phase::Running) && !slot.was_killed);
        let kill_deadlines = running.filter_map(|slot| slot.kill_deadline);
        kill_deadlines.chain(self.next_check).chain(self.idle_deadline).min()
    }

    pub(crate) fn handle_command(&mut self, command: KeeperCommand) {
        match command {
            KeeperCommand::Start { record, spawn, shell_environment, reply } => {
                if shell_environment.is_some() {
                    self.shell_environment = shell_environment;
                }
                let result = self.start_unit(record, &spawn);
                // A client that disconnected finds the result by observing.
                drop(reply.send(result));
            }
            KeeperCommand::ReadShellEnvironment { reply } => drop(reply.send(self.shell_environment.clone())),
            KeeperCommand::Stop { unit, stop, remove, reply } => self.stop_unit(&unit, stop.as_ref(), remove, reply),
            KeeperCommand::Follow { reply } => drop(reply.send(self.events.subscribe())),
            KeeperCommand::WatchOutput { unit, reply } => drop(reply.send(self.subscribe_to_log(&unit))),
            KeeperCommand::Exec(start) => self.start_exec_alone(start),
            KeeperCommand::CancelExec { slot } => self.cancel_exec(slot),
            KeeperCommand::OutputDrained { slot } => {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    slot.open_pipes = slot.open_pipes.saturating_sub(1);
                }
                self.advance_ending_slots();
            }
        }
        // Reap finished tasks here, or the set would grow with every start and exec.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Reaps every dead child: the first processes of slots as well as adopted orphans.
    pub(crate) fn reap_children(&mut self) {
        // One SIGCHLD may announce several deaths, so reap until no dead child is left.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let exited_slot =
                self.slots.values_mut().find(|slot| slot.pid == pid && matches!(slot.phase, Phase::Running));
            if let Some(slot) = exited_slot {
                slot.phase = Phase::Ending { exit: to_exit_record(status), since: Instant::now(), empty_since: None };
            }
        }
        self.advance_ending_slots();
    }

    /// The first call stops all slots in an orderly way, the second kills them.
    pub(crate) fn terminate(&mut self) {
        let is_repeated = self.is_shutting_down;
        self.is_shutting_down = true;
        for slot in self.slots.values_mut() {
            let (signal, grace) =
                if is_repeated { (Signal::KILL, Duration::ZERO) } else { slot.stop_signal_and_grace(None) };
            slot.request_stop(signal, grace);
        }
    }

    pub(crate) fn check_deadlines(&mut self) {
        let now = Instant::now();
        let overdue: Vec<u64> = self.slots.iter().filter(|(_, slot)| slot.is_overdue(now)).map(|(id, _)| *id).collect();
        for id in overdue {
            self.kill_slot(id);
            if let Some(slot) = self.slots.get_mut(&id) {
                // Otherwise the passed deadline would wake the keeper repeatedly until SIGCHLD arrives.
                slot.was_killed = true;
            }
        }
        self.advance_ending_slots();
        if self.idle_deadline.is_some_and(|deadline| deadline <= now) {
            self.idle_deadline = None;
            self.shut_down_when_empty();
        }
    }

    /// Kills every remaining descendant of this keeper, so that the keeper leaves no process behind.
    pub(crate) fn kill_remaining(&mut self) {
        self.tasks.abort_all();
        for _ in 0..50 {
            let remaining = ProcessTable::read().descendants(&own_children());
            if remaining.is_empty() {
                return;
            }
            for process in &remaining {
                kernel::signal_process(process, Signal::KILL);
            }
            // Blocking is fine, because no client is served any more. Each round waits for one death and then reaps all
            // other dead children.
            let _ = wait(WaitOptions::empty());
            while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        }
    }

    fn start_unit(&mut self, mut record: Box<UnitRecord>, spawn: &SpawnSpec) -> Reply {
        if let Some(slot) = self.find_unit_slot(&record.unit) {
            return match (&slot.phase, &slot.role) {
                (Phase::Running, Role::Unit { started_at, .. }) if slot.kill_deadline.is_none() => {
                    Reply::Started { started_at: *started_at }
                }
                _ => Reply::Failed { message: format!("`{}` is still stopping", record.unit) },
            };
        }
        let log = match Log::open(&self.records, &record.unit) {
            Ok(log) => log,
            Err(error) => {
                return Reply::Failed { message: format!("cannot open the log of `{}`: {error}", record.unit) };
            }
        };
        let (slot, pid) = match self.spawn_with_log(spawn, &log) {
            Ok(spawned) => spawned,
            Err(error) => return spawn_failure_reply(&error),
        };
        let started_at = now_milliseconds();
        if let Err(error) = self.record_running(&mut record, pid, started_at) {
            // Without a record, a later cleanup could not find this process.
            kernel::signal_group(pid, Signal::KILL);
            return Reply::Failed {
                message: format!("cannot record `{}`, so it was not started: {error}", record.unit),
            };
        }
        self.idle_deadline = None;
        let event = Event::Started { unit: record.unit.clone(), handle: record.handle.clone() };
        let role = Role::Unit { record, log, started_at };
        self.slots.insert(slot, Slot::new(pid, self.marker_for(slot), role, 2));
        self.publish_event(event);
        Reply::Started { started_at }
    }

    /// Starts the program and copies both of its output streams into the log.
    fn spawn_with_log(&mut self, spec: &SpawnSpec, log: &Arc<Log>) -> io::Result<(u64, i32)> {
        let slot = self.next_slot_id();
        let (output_reader, output) = io::pipe()?;
        let (error_reader, error) = io::pipe()?;
        let streams = ChildStdio::without_input(output.into(), error.into())?;
        let pid = spawn::spawn_child(spec, &self.marker_for(slot), streams)?;
        for (pipe, stream) in [(output_reader, OutputStream::Stdout), (error_reader, OutputStream::Stderr)] {
            let (log, mailbox) = (log.clone(), self.mailbox.clone());
            self.tasks.spawn(async move {
                output::copy_to_log(pipe.into(), stream, log).await;
                drop(mailbox.send(KeeperCommand::OutputDrained { slot }).await);
            });
        }
        Ok((slot, pid))
    }

    /// Records the process before the start is announced, so that a killed keeper's successor can clean it up.
    fn record_running(&self, record: &mut UnitRecord, pid: i32, started_at: i64) -> io::Result<()> {
        let process = ProcessIdentity::of_pid(pid).ok_or(io::ErrorKind::NotFound)?;
        record.state = RecordedState::Running { process, started_at };
        self.records.write_unit(record, Durable::No)
    }

    /// Starts a command once no other one with its key is left. The agent of the other one was killed, and a command
    /// that initialises a data folder must not run twice at the same time.
    fn start_exec_alone(&mut self, start: Box<ExecStart>) {
        let key = start.exclusive.as_deref();
        let other = self.slots.values_mut().find(|slot| key.is_some_and(|key| slot.has_exclusive_key(key)));
        match other {
            Some(slot) => {
                slot.request_stop(Signal::KILL, Duration::ZERO);
                self.waiting_execs.push_back(start);
            }
            None => self.start_exec(*start),
        }
    }

    fn start_waiting_execs(&mut self) {
        for start in std::mem::take(&mut self.waiting_execs) {
            // Its client may have given up meanwhile.
            if !start.reply.is_closed() {
                self.start_exec_alone(start);
            }
        }
    }

    fn start_exec(&mut self, start: ExecStart) {
        let ExecStart { spawn: spec, exclusive, descriptors, cancelled, reply } = start;
        let spec = &*spec;
        let slot = self.next_slot_id();
        let Ok([input, output, error]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return drop(reply.try_send(Reply::Failed { message: "a command needs three descriptors".to_owned() }));
        };
        match spawn::spawn_child(spec, &self.marker_for(slot), ChildStdio { input, output, error }) {
            Err(error) => drop(reply.try_send(spawn_failure_reply(&error))),
            Ok(pid) => {
                self.idle_deadline = None;
                drop(reply.try_send(Reply::Started { started_at: now_milliseconds() }));
                self.slots.insert(slot, Slot::new(pid, self.marker_for(slot), Role::Exec { reply, exclusive }, 0));
                let mailbox = self.mailbox.clone();
                self.tasks.spawn(async move {
                    drop(cancelled.await);
                    drop(mailbox.send(KeeperCommand::CancelExec { slot }).await);
                });
            }
        }
    }

    fn cancel_exec(&mut self, slot: u64) {
        if let Some(slot) = self.slots.get_mut(&slot)
            && matches!(slot.role, Role::Exec { .. })
        {
            slot.request_stop(Signal::HUP, Duration::from_secs(1));
        }
    }

    fn stop_unit(&mut self, unit: &str, stop: Option<&StopRecord>, remove: bool, reply: oneshot::Sender<Reply>) {
        let slot_of_unit = self.slots.values_mut().find(|slot| slot.is_unit(unit));
        let Some(slot) = slot_of_unit else {
            let reply_result = if remove { self.remove_record(unit) } else { Reply::Done };
            return drop(reply.send(reply_result));
        };
        slot.should_remove |= remove;
        // `finish_slot` sends the reply when no process of the slot is left.
        slot.waiters.push(reply);
        let (signal, grace) = slot.stop_signal_and_grace(stop);
        slot.request_stop(signal, grace);
    }

    fn remove_record(&mut self, unit: &str) -> Reply {
        match self.records.remove_unit(unit) {
            Ok(()) => {
                self.shut_down_when_empty();
                Reply::Done
            }
            Err(error) => Reply::Failed { message: format!("cannot remove the record of `{unit}`: {error}") },
        }
    }

    fn shut_down_when_empty(&mut self) {
        let is_empty = self.records.read_units().is_ok_and(|units| units.is_empty());
        self.is_shutting_down |= is_empty && self.slots.is_empty();
    }

    fn subscribe_to_log(&self, unit: &str) -> Option<watch::Receiver<LogProgress>> {
        match &self.find_unit_slot(unit)?.role {
            Role::Unit { log, .. } => Some(log.subscribe()),
            Role::Exec { .. } => None,
        }
    }

    /// Advances every ending slot as far as possible now.
    fn advance_ending_slots(&mut self) {
        let now = Instant::now();
        let ending_ids: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot.phase, Phase::Ending { .. }))
            .map(|(id, _)| *id)
            .collect();
        for id in ending_ids {
            let is_empty = self.signal_remaining(id, now);
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if slot.check_finished(is_empty, now)
                && let Some(slot) = self.slots.remove(&id)
            {
                self.finish_slot(slot);
            }
        }
        if !self.waiting_execs.is_empty() {
            self.start_waiting_execs();
        }
        let any_ending = self.slots.values().any(|slot| matches!(slot.phase, Phase::Ending { .. }));
        self.next_check = any_ending.then(|| now + CHECK_INTERVAL);
    }

    /// Signals a slot's remaining processes and returns true if there are none. During the grace period of a stop, they
    /// receive only the stop signal, so that they can exit without a kill.
    fn signal_remaining(&mut self, id: u64, now: Instant) -> bool {
        let (leaders, is_only_slot) = (self.living_leaders(), self.slots.len() == 1);
        let Some(slot) = self.slots.get_mut(&id) else { return true };
        let is_graceful = slot.kill_deadline.is_some_and(|deadline| deadline > now);
        let signal = if is_graceful { slot.take_due_signal(now) } else { Some((Signal::KILL, false)) };
        slot.process_tree(&leaders, is_only_slot).signal_remaining(signal)
    }

    fn kill_slot(&self, id: u64) {
        let Some(slot) = self.slots.get(&id) else { return };
        let leaders = self.living_leaders();
        slot.process_tree(&leaders, self.slots.len() == 1).signal_remaining(Some((Signal::KILL, false)));
        if matches!(slot.phase, Phase::Running) {
            kernel::signal_group(slot.pid, Signal::KILL);
        }
    }

    fn living_leaders(&self) -> BTreeSet<i32> {
        self.slots.values().filter(|slot| matches!(slot.phase, Phase::Running)).map(|slot| slot.pid).collect()
    }

    fn finish_slot(&mut self, slot: Slot) {
        let Phase::Ending { mut exit, .. } = slot.phase else { return };
        let mut result = Reply::Done;
        match slot.role {
            Role::Exec { reply, .. } => {
                drop(reply.try_send(Reply::Exited { exit }));
                // A keeper that was started only for this command exits if no unit follows.
                self.idle_deadline = Some(Instant::now() + IDLE_TIMEOUT);
            }
            Role::Unit { mut record, log, started_at } => {
                // Only a failure can be a port conflict; skip reading the log after a success or a signal.
                if exit.code.is_some_and(|code| code != 0) {
                    exit.error =
                        port_conflict::find_address_in_use_error(&self.records.log_path(&record.unit), started_at);
                }
                record.state = RecordedState::Exited { started_at, exit: exit.clone() };
                // Only a job that succeeded without a stop request must survive a power failure; see `write_unit`.
                let durable =
                    if exit.code == Some(0) && slot.kill_deadline.is_none() { Durable::Yes } else { Durable::No };
                if let Err(error) = self.records.write_exit(&record, durable) {
                    result = Reply::Failed { message: format!("cannot record the exit of `{}`: {error}", record.unit) };
                }
                log.mark_ended();
                // The record is written before the event, because followers observe as soon as they receive it.
                self.publish_event(Event::Exited { unit: record.unit.clone(), handle: record.handle.clone(), exit });
                if slot.should_remove {
                    result = self.remove_record(&record.unit);
                }
            }
        }
        for waiter in slot.waiters {
            drop(waiter.send(result.clone()));
        }
    }

    fn publish_event(&self, event: Event) {
        // Sending fails only if there is no subscriber, which is fine.
        drop(self.events.send(event));
    }

    fn find_unit_slot(&self, unit: &str) -> Option<&Slot> {
        self.slots.values().find(|slot| slot.is_unit(unit))
    }

    fn next_slot_id(&mut self) -> u64 {
        self.next_slot += 1;
        self.next_slot
    }

    fn marker_for(&self, slot: u64) -> String {
        format!("{}.{slot}", self.nonce)
    }
}

fn spawn_failure_reply(error: &io::Error) -> Reply {
    match error.raw_os_error() {
        Some(errno) => Reply::SpawnFailed { errno },
        None => Reply::Failed { message: format!("cannot start the program: {error}") },
    }
}
