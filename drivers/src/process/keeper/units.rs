//! The keeper's state: which commands run, which are ending, and who waits for that. Owned by one task; nothing in
//! here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, WaitOptions, wait};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::clash;
use super::super::kernel::{self, Identity};
use super::super::record::{Durable, Recorded, Records, StopRecord, UnitRecord};
use super::super::wire::{Answer, Event, Spawn};
use super::Order;
use super::output::{self, Log, Mark, Stream, now_milliseconds};
use super::slot::{Phase, Role, Slot, exit_of};
use super::spawn::{self, Streams};

/// Events that a slow follower may be behind before it is told to observe afresh.
const EVENTS_MAX: usize = 1024;
/// Between looks at what should be dying; each death also wakes us.
const LOOK: Duration = Duration::from_millis(20);
/// A keeper without any unit waits this long for the next order.
const LINGER: Duration = Duration::from_secs(1);

pub(crate) struct Keeper {
    records: Records,
    nonce: String,
    mailbox: mpsc::Sender<Order>,
    events: broadcast::Sender<Event>,
    slots: BTreeMap<u64, Slot>,
    next_slot: u64,
    /// Copiers of output and watchers of exec clients; they end with what they serve.
    tasks: JoinSet<()>,
    leaving: bool,
    /// While something is ending.
    look_at: Option<Instant>,
    idle_until: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(records: Records, nonce: String, mailbox: mpsc::Sender<Order>) -> Self {
        Self {
            records,
            nonce,
            mailbox,
            events: broadcast::Sender::new(EVENTS_MAX),
            slots: BTreeMap::new(),
            next_slot: 1,
            tasks: JoinSet::new(),
            leaving: false,
            look_at: None,
            idle_until: Some(Instant::now() + LINGER),
        }
    }

    pub(crate) fn finished(&self) -> bool {
        self.leaving && self.slots.is_empty()
    }

    /// When to look again though nothing happened; none while all is quiet.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let up = self.slots.values().filter(|slot| matches!(slot.phase, Phase::Up) && !slot.killed);
        let killing = up.filter_map(|slot| slot.kill_at);
        killing.chain(self.look_at).chain(self.idle_until).min()
    }

    pub(crate) fn obey(&mut self, order: Order) {
        match order {
            Order::Start { record, spawn, reply } => {
                let answer = self.start(record, &spawn);
                // A client that went away learns of it by observing.
                drop(reply.send(answer));
            }
            Order::Stop { unit, stop, remove, reply } => self.stop(&unit, stop.as_ref(), remove, reply),
            Order::Follow { reply } => drop(reply.send(self.events.subscribe())),
            Order::Output { unit, reply } => drop(reply.send(self.watch(&unit))),
            Order::Exec { spawn, descriptors, cancelled, reply } => self.exec(&spawn, descriptors, cancelled, reply),
            Order::Cancel { slot } => self.cancel(slot),
            Order::Drained { slot } => {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    slot.pipes = slot.pipes.saturating_sub(1);
                }
                self.settle();
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Collects every dead child: first processes of slots and adopted orphans alike.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let found = self.slots.values_mut().find(|slot| slot.pid == pid && matches!(slot.phase, Phase::Up));
            if let Some(slot) = found {
                slot.phase = Phase::Ending { exit: exit_of(status), since: Instant::now(), empty_since: None };
            }
        }
        self.settle();
    }

    /// The first request ends everything in order, the second at once.
    pub(crate) fn terminate(&mut self) {
        let again = self.leaving;
        self.leaving = true;
        for slot in self.slots.values_mut() {
            let (signal, grace) = if again { (Signal::KILL, Duration::ZERO) } else { slot.farewell(None) };
            slot.ask_to_end(signal, grace);
        }
    }

    pub(crate) fn look_again(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> = self.slots.iter().filter(|(_, slot)| slot.overdue(now)).map(|(id, _)| *id).collect();
        for id in due {
            self.kill(id);
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.killed = true;
            }
        }
        self.settle();
        if self.idle_until.is_some_and(|until| until <= now) {
            self.idle_until = None;
            self.leave_when_empty();
        }
    }

    /// Nothing that came from this keeper stays behind.
    pub(crate) fn end(&mut self) {
        self.tasks.abort_all();
        for _ in 0..50 {
            let rest = kernel::Table::read().descendants(&kernel::own_children());
            if rest.is_empty() {
                return;
            }
            for stat in &rest {
                kernel::signal_seen(stat, Signal::KILL);
            }
            // Blocking is fine: nobody is served any more. Each round waits for one death and takes all others along.
            let _ = wait(WaitOptions::empty());
            while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        }
    }

    fn start(&mut self, mut record: Box<UnitRecord>, spawn: &Spawn) -> Answer {
        if let Some(slot) = self.unit(&record.unit) {
            return match (&slot.phase, &slot.role) {
                (Phase::Up, Role::Unit { started_at, .. }) if slot.kill_at.is_none() => {
                    Answer::Started { started_at: *started_at }
                }
                _ => Answer::Failed { message: format!("`{}` is still ending", record.unit) },
            };
        }
        let log = match Log::open(&self.records, &record.unit) {
            Ok(log) => log,
            Err(error) => {
                return Answer::Failed { message: format!("cannot open the log of `{}`: {error}", record.unit) };
            }
        };
        let (slot, pid) = match self.launch(spawn, &log) {
            Ok(launched) => launched,
            Err(error) => return refused(&error),
        };
        let started_at = now_milliseconds();
        if let Err(error) = self.note_running(&mut record, pid, started_at) {
            kernel::signal_group(pid, Signal::KILL);
            return Answer::Failed {
                message: format!("cannot record `{}`, so it was not started: {error}", record.unit),
            };
        }
        self.idle_until = None;
        let event = Event::Started { unit: record.unit.clone(), handle: record.handle.clone() };
        let role = Role::Unit { record, log, started_at };
        self.slots.insert(slot, Slot::new(pid, self.marker(slot), role, 2));
        self.tell(event);
        Answer::Started { started_at }
    }

    /// Starts the program with both its streams copied into the log.
    fn launch(&mut self, what: &Spawn, log: &Arc<Log>) -> io::Result<(u64, i32)> {
        let slot = self.new_slot();
        let (output_reader, output) = io::pipe()?;
        let (error_reader, error) = io::pipe()?;
        let streams = Streams::without_input(output.into(), error.into())?;
        let pid = spawn::spawn(what, &self.marker(slot), streams)?;
        for (pipe, stream) in [(output_reader, Stream::Output), (error_reader, Stream::Error)] {
            let (log, mailbox) = (log.clone(), self.mailbox.clone());
            self.tasks.spawn(async move {
                output::copy(pipe.into(), stream, log).await;
                drop(mailbox.send(Order::Drained { slot }).await);
            });
        }
        Ok((slot, pid))
    }

    /// Before anyone hears of the start, so that a killed keeper's successor knows what to clean up.
    fn note_running(&self, record: &mut UnitRecord, pid: i32, started_at: i64) -> io::Result<()> {
        let process = Identity::of(pid).ok_or(io::ErrorKind::NotFound)?;
        record.state = Recorded::Running { process, started_at };
        self.records.write_unit(record, Durable::No)
    }

    fn exec(
        &mut self,
        what: &Spawn,
        descriptors: Vec<OwnedFd>,
        cancelled: oneshot::Receiver<()>,
        reply: mpsc::Sender<Answer>,
    ) {
        let slot = self.new_slot();
        let Ok([input, output, error]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            return drop(reply.try_send(Answer::Failed { message: "a command needs three descriptors".to_owned() }));
        };
        match spawn::spawn(what, &self.marker(slot), Streams { input, output, error }) {
            Err(error) => drop(reply.try_send(refused(&error))),
            Ok(pid) => {
                self.idle_until = None;
                drop(reply.try_send(Answer::Started { started_at: now_milliseconds() }));
                self.slots.insert(slot, Slot::new(pid, self.marker(slot), Role::Exec { reply }, 0));
                let mailbox = self.mailbox.clone();
                self.tasks.spawn(async move {
                    drop(cancelled.await);
                    drop(mailbox.send(Order::Cancel { slot }).await);
                });
            }
        }
    }

    fn cancel(&mut self, slot: u64) {
        if let Some(slot) = self.slots.get_mut(&slot)
            && matches!(slot.role, Role::Exec { .. })
        {
            slot.ask_to_end(Signal::HUP, Duration::from_secs(1));
        }
    }

    fn stop(&mut self, unit: &str, stop: Option<&StopRecord>, remove: bool, reply: oneshot::Sender<Answer>) {
        let found = self.slots.values_mut().find(|slot| slot.is_unit(unit));
        let Some(slot) = found else {
            let answer = if remove { self.forget(unit) } else { Answer::Done };
            return drop(reply.send(answer));
        };
        slot.remove |= remove;
        slot.waiters.push(reply);
        let (signal, grace) = slot.farewell(stop);
        slot.ask_to_end(signal, grace);
    }

    fn forget(&mut self, unit: &str) -> Answer {
        match self.records.remove_unit(unit) {
            Ok(()) => {
                self.leave_when_empty();
                Answer::Done
            }
            Err(error) => Answer::Failed { message: format!("cannot remove what is recorded of `{unit}`: {error}") },
        }
    }

    fn leave_when_empty(&mut self) {
        let no_units = self.records.units().is_ok_and(|units| units.is_empty());
        self.leaving |= no_units && self.slots.is_empty();
    }

    fn watch(&self, unit: &str) -> Option<watch::Receiver<Mark>> {
        match &self.unit(unit)?.role {
            Role::Unit { log, .. } => Some(log.watch()),
            Role::Exec { .. } => None,
        }
    }

    /// Brings every ending slot as far as it can go now.
    fn settle(&mut self) {
        let now = Instant::now();
        let ending: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot.phase, Phase::Ending { .. }))
            .map(|(id, _)| *id)
            .collect();
        for id in ending {
            let empty = self.end_rest(id, now);
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if slot.over(empty, now)
                && let Some(slot) = self.slots.remove(&id)
            {
                self.finish(slot);
            }
        }
        let ending = self.slots.values().any(|slot| matches!(slot.phase, Phase::Ending { .. }));
        self.look_at = ending.then(|| now + LOOK);
    }

    /// True when nothing of the slot is left. Within the grace of a stop the rest may end by itself.
    fn end_rest(&mut self, id: u64, now: Instant) -> bool {
        let (leaders, alone) = (self.living_leaders(), self.slots.len() == 1);
        let Some(slot) = self.slots.get_mut(&id) else { return true };
        let graceful = slot.kill_at.is_some_and(|at| at > now);
        let told = if graceful { slot.farewell_now(now) } else { Some((Signal::KILL, false)) };
        slot.family(&leaders, alone).end_rest(told)
    }

    fn kill(&self, id: u64) {
        let Some(slot) = self.slots.get(&id) else { return };
        let leaders = self.living_leaders();
        slot.family(&leaders, self.slots.len() == 1).end_rest(Some((Signal::KILL, false)));
        if matches!(slot.phase, Phase::Up) {
            kernel::signal_group(slot.pid, Signal::KILL);
        }
    }

    fn living_leaders(&self) -> BTreeSet<i32> {
        self.slots.values().filter(|slot| matches!(slot.phase, Phase::Up)).map(|slot| slot.pid).collect()
    }

    fn finish(&mut self, slot: Slot) {
        let Phase::Ending { mut exit, .. } = slot.phase else { return };
        let mut answer = Answer::Done;
        match slot.role {
            Role::Exec { reply } => {
                drop(reply.try_send(Answer::Exited { exit }));
                self.idle_until = Some(Instant::now() + LINGER);
            }
            Role::Unit { mut record, log, started_at } => {
                if exit.code.is_some_and(|code| code != 0) {
                    exit.error = clash::complaint(&self.records.log(&record.unit), started_at);
                }
                record.state = Recorded::Exited { started_at, exit: exit.clone() };
                let durable = if exit.code == Some(0) && slot.kill_at.is_none() { Durable::Yes } else { Durable::No };
                if let Err(error) = self.records.write_end(&record, durable) {
                    answer = Answer::Failed { message: format!("cannot record the end of `{}`: {error}", record.unit) };
                }
                log.end();
                self.tell(Event::Exited { unit: record.unit.clone(), handle: record.handle.clone(), exit });
                if slot.remove {
                    answer = self.forget(&record.unit);
                }
            }
        }
        for waiter in slot.waiters {
            drop(waiter.send(answer.clone()));
        }
    }

    fn tell(&self, event: Event) {
        // No follower at the moment is fine.
        drop(self.events.send(event));
    }

    fn unit(&self, unit: &str) -> Option<&Slot> {
        self.slots.values().find(|slot| slot.is_unit(unit))
    }

    fn new_slot(&mut self) -> u64 {
        self.next_slot += 1;
        self.next_slot
    }

    fn marker(&self, slot: u64) -> String {
        format!("{}.{slot}", self.nonce)
    }
}

fn refused(error: &io::Error) -> Answer {
    match error.raw_os_error() {
        Some(errno) => Answer::SpawnFailed { errno },
        None => Answer::Failed { message: format!("cannot start the program: {error}") },
    }
}
