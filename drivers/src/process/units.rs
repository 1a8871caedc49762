//! One unit's life as the driver sees it: create, start, stop, remove, observe, follow.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use plan::application::{RuntimeKind, Stop, Unit};
use plan::observed::{Observed, ObservedUnit, RunState};

use super::connection::{KeeperConnection, KeeperStarter, REPLY_TIMEOUT};
use super::keeper::{now_milliseconds, try_lock_file};
use super::launch::{Launcher, chown_folder};
use super::port_conflict::check_ports;
use super::prepare::recorded_build_identity;
use super::record::{Durable, PreviewRecord, RecordStore, RecordedState, StopRecord, UnitRecord};
use super::wire::{Event, Reply, Request, SpawnSpec};
use super::{ProcessDriver, cleanup, kernel, run_blocking};
use crate::driver::{Locations, Problem, ProblemKind, RuntimeEvent, Scope, StepOutcome};

impl ProcessDriver {
    pub(super) async fn create(&self, scope: &Scope, unit: &Unit) -> Result<StepOutcome, Problem> {
        let records = RecordStore::new(&scope.locations.state);
        let found = records.read_unit(&unit.name).map_err(|error| record_read_problem(&unit.name, &error))?;
        if let Some(found) = &found {
            if found.hash == unit.hash {
                return Ok(StepOutcome { handle: Some(found.handle.clone()), ..StepOutcome::default() });
            }
            if matches!(found.state, RecordedState::Running { .. }) {
                let message = format!("`{}` still runs as it was before the change", unit.name);
                return Err(Problem::new(ProblemKind::Refused, message));
            }
        }
        if kernel::parse_signal(&unit.stop.signal).is_none() {
            let message = format!("unknown stop signal `{}` of `{}`", unit.stop.signal, unit.name);
            return Err(Problem::new(ProblemKind::Refused, message).hint("Use a name such as `SIGTERM` or `SIGINT`."));
        }
        let launcher = Launcher::new(scope, unit, &self.inherited_env)?;
        launcher.build_spawn_spec(&launcher.spec.argv, &launcher.resolve_working_folder()?)?;
        self.initialise_data_folder(scope, &launcher).await?;
        let record = UnitRecord {
            unit: unit.name.clone(),
            handle: new_handle(&unit.name),
            hash: unit.hash.clone(),
            image: recorded_build_identity(scope, unit),
            ports: host_ports(unit),
            stop: stop_record(&unit.stop),
            state: RecordedState::Created,
        };
        let written =
            records.write_preview(&preview_record(scope)).and_then(|()| records.write_unit(&record, Durable::No));
        written.map_err(|error| record_write_problem(&unit.name, &error))?;
        Ok(StepOutcome { handle: Some(record.handle), ..StepOutcome::default() })
    }

    pub(super) async fn start(&self, scope: &Scope, unit: &Unit) -> Result<StepOutcome, Problem> {
        let records = RecordStore::new(&scope.locations.state);
        let Some(mut record) =
            records.read_unit(&unit.name).map_err(|error| record_read_problem(&unit.name, &error))?
        else {
            return Err(Problem::new(ProblemKind::NotFound, format!("`{}` is not created yet", unit.name)));
        };
        let handle = Some(record.handle.clone());
        let launcher = Launcher::new(scope, unit, &self.inherited_env)?;
        let folder = launcher.resolve_working_folder()?;
        let spawn = launcher.build_spawn_spec(&launcher.spec.argv, &folder)?;
        if let (Some(secrets), Some(known), false) =
            (&launcher.secrets_folder, launcher.resolve_account()?, unit.secrets.is_empty())
        {
            chown_folder(secrets, &known)?;
        }
        // A keeper that was just leaving when the unit was created may have taken this away.
        records.write_preview(&preview_record(scope)).map_err(|error| record_write_problem(&unit.name, &error))?;
        // A unit that runs already holds its ports itself.
        if !matches!(record.state, RecordedState::Running { .. }) {
            check_ports(unit)?;
        }
        record.ports = host_ports(unit);
        record.stop = stop_record(&unit.stop);
        let request = Request::Start { record: Box::new(record), spawn: Box::new(spawn.clone()) };
        match self.call_keeper(&scope.locations, &request, REPLY_TIMEOUT).await? {
            Reply::Started { .. } => Ok(StepOutcome { handle, ..StepOutcome::default() }),
            Reply::SpawnFailed { errno } => Err(spawn_problem(&unit.name, &spawn, errno)),
            other => Err(unexpected_reply_problem(&unit.name, other)),
        }
    }

    /// A keeper that is just leaving closes without an answer: then the next one is asked.
    async fn call_keeper(&self, places: &Locations, request: &Request, patience: Duration) -> Result<Reply, Problem> {
        let mut connection = self.starter.connect_or_start(places).await?;
        match connection.call(request, patience).await {
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                self.starter.connect_or_start(places).await?.call(request, patience).await
            }
            answer => answer,
        }
    }

    pub(super) async fn stop(&self, scope: &Scope, unit: &str) -> Result<StepOutcome, Problem> {
        let stop = scope.application.units.get(unit).map(|unit| stop_record(&unit.stop));
        self.stop_or_remove(&scope.locations, unit, stop, false).await
    }

    pub(super) async fn remove(&self, scope: &Scope, unit: &str, handle: &str) -> Result<StepOutcome, Problem> {
        let records = RecordStore::new(&scope.locations.state);
        let found = records.read_unit(unit).map_err(|error| record_read_problem(unit, &error))?;
        if found.is_some_and(|found| found.handle == handle) {
            return self.stop_or_remove(&scope.locations, unit, None, true).await;
        }
        Ok(StepOutcome::default())
    }

    async fn stop_or_remove(
        &self,
        places: &Locations,
        unit: &str,
        stop: Option<StopRecord>,
        remove: bool,
    ) -> Result<StepOutcome, Problem> {
        let records = RecordStore::new(&places.state);
        let Some(record) = records.read_unit(unit).map_err(|error| record_read_problem(unit, &error))? else {
            return Ok(StepOutcome::default());
        };
        let grace = stop.as_ref().unwrap_or(&record.stop).grace_milliseconds;
        let patience = Duration::from_millis(grace) + REPLY_TIMEOUT;
        let request = match remove {
            true => Request::Remove { unit: unit.to_owned() },
            false => Request::Stop { unit: unit.to_owned(), stop },
        };
        let Some(mut connection) = connect_to_living_keeper(places).await? else {
            let (places, unit) = (places.clone(), unit.to_owned());
            return run_blocking(move || end_without_keeper(&places, &unit, remove)).await;
        };
        match connection.call(&request, patience).await? {
            Reply::Done => Ok(StepOutcome::default()),
            other => Err(unexpected_reply_problem(unit, other)),
        }
    }
}

/// The living keeper, even when its socket was swept away. None when there is none.
pub(super) async fn connect_to_living_keeper(places: &Locations) -> Result<Option<KeeperConnection>, Problem> {
    for attempt in 0..20_u32 {
        if let Some(connection) = KeeperConnection::open(places).await? {
            return Ok(Some(connection));
        }
        let records = RecordStore::new(&places.state);
        let keeper = records.read_living_keeper().map_err(|error| Problem::io("cannot read `keeper.json`", &error))?;
        let Some(keeper) = keeper else { return Ok(None) };
        // Told only after it had the time to bind its first socket or to leave.
        if attempt > 3 {
            keeper.process.signal(rustix::process::Signal::HUP);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Problem::new(ProblemKind::Unavailable, "the preview's keeper is alive but cannot be reached".to_owned())
        .hint("End the process named in `keeper.json` of the preview's state folder; its programs end with it."))
}

fn end_without_keeper(places: &Locations, unit: &str, remove: bool) -> Result<StepOutcome, Problem> {
    let records = RecordStore::new(&places.state);
    let problem = |error: &io::Error| Problem::io(format!("cannot end `{unit}`"), error);
    let Some(_lock) = try_lock_file(&records.lock_path()).map_err(|error| problem(&error))? else {
        return Err(Problem::new(ProblemKind::Unavailable, "a keeper has just begun".to_owned()));
    };
    cleanup::clean_up_after_keeper(&records).map_err(|error| problem(&error))?;
    if remove {
        records.remove_unit(unit).map_err(|error| problem(&error))?;
        if records.read_units().map_err(|error| problem(&error))?.is_empty() {
            records.remove_keeper_files().map_err(|error| problem(&error))?;
            drop(super::record::remove_if_exists(&super::connection::socket_path(&places.runtime)));
            drop(fs::remove_dir(&places.runtime));
        }
    }
    Ok(StepOutcome::default())
}

/// Reads the files; only when they speak of a keeper that was killed is anything cleaned up first.
pub(super) fn observe(places: &Locations) -> Result<Observed, Problem> {
    let records = RecordStore::new(&places.state);
    let problem = |error: &io::Error| Problem::io(format!("cannot read `{}`", places.state.display()), error);
    let mut units = records.read_units().map_err(|error| problem(&error))?;
    let running = units.iter().any(|unit| matches!(unit.state, RecordedState::Running { .. }));
    if running && records.read_living_keeper().map_err(|error| problem(&error))?.is_none() {
        // Without the lock a new keeper has begun in this moment, and cleans up itself.
        if let Some(_lock) = try_lock_file(&records.lock_path()).map_err(|error| problem(&error))? {
            cleanup::clean_up_after_keeper(&records).map_err(|error| problem(&error))?;
            units = records.read_units().map_err(|error| problem(&error))?;
        }
    }
    let units = units.into_iter().map(|unit| (unit.unit.clone(), to_observed_unit(unit))).collect();
    Ok(Observed { units, volumes: list_data_folders(&places.data), ..Observed::default() })
}

fn to_observed_unit(record: UnitRecord) -> ObservedUnit {
    let (state, started_at) = match record.state {
        RecordedState::Created => (RunState::Created, None),
        RecordedState::Running { started_at, .. } => (RunState::Running, Some(started_at)),
        RecordedState::Exited { started_at, exit } => (RunState::Exited(exit.into()), Some(started_at)),
    };
    ObservedUnit {
        name: record.unit,
        runtime: RuntimeKind::Process,
        handle: record.handle,
        hash: record.hash,
        image: record.image,
        state,
        address: None,
        host_ports: record.ports,
        started_at,
        connected: true,
    }
}

fn list_data_folders(data: &Path) -> std::collections::BTreeSet<String> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

pub(super) fn remove_data_folder(places: &Locations, volume: &str) -> Result<StepOutcome, Problem> {
    let folder: PathBuf = places.data.join(volume);
    // Data of a program with a user of its own may lie elsewhere, with a link in its place.
    if let Ok(real) = fs::read_link(&folder) {
        remove_tree(&real)?;
        fs::remove_file(&folder).map_err(|error| data_removal_problem(&folder, &error))?;
        return Ok(StepOutcome::default());
    }
    remove_tree(&folder)?;
    Ok(StepOutcome::default())
}

fn data_removal_problem(folder: &Path, error: &io::Error) -> Problem {
    Problem::io(format!("cannot remove the data folder `{}`", folder.display()), error)
}

fn remove_tree(folder: &Path) -> Result<(), Problem> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(data_removal_problem(folder, &error)),
        _ => Ok(()),
    }
}

/// Begins before the first start, so that no exit is missed: a keeper is started for it, and leaves if nothing comes.
pub(super) async fn follow_events(
    starter: &KeeperStarter,
    places: &Locations,
) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
    let mut connection = starter.connect_or_start(places).await?;
    match connection.call(&Request::Follow, REPLY_TIMEOUT).await? {
        Reply::Following => {}
        other => return Err(unexpected_reply_problem("follow", other)),
    }
    let events = stream::unfold(Some(connection), move |connection| async move {
        let mut connection = connection?;
        Some(match connection.receive::<Event>().await {
            Ok(Some(Event::Started { unit, handle })) => (RuntimeEvent::Started { unit, handle }, Some(connection)),
            Ok(Some(Event::Exited { unit, handle, exit })) => {
                (RuntimeEvent::Exited { unit, handle, exit: exit.into() }, Some(connection))
            }
            Ok(Some(_)) => (RuntimeEvent::ConnectionLost { reason: "events were missed".to_owned() }, None),
            Ok(None) => (RuntimeEvent::ConnectionLost { reason: "the preview's keeper ended".to_owned() }, None),
            Err(problem) => (RuntimeEvent::ConnectionLost { reason: problem.message }, None),
        })
    });
    Ok(events.boxed())
}

/// What the operating system's refusal means, told apart as far as it can be known from outside.
pub(super) fn spawn_problem(unit: &str, spawn: &SpawnSpec, errno: i32) -> Problem {
    let error = io::Error::from_raw_os_error(errno);
    let program = Path::new(&spawn.program);
    let cannot = format!("cannot start `{unit}`: `{}`", program.display());
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NOEXEC) => Problem::new(
            ProblemKind::ExecFormat,
            format!("{cannot} is not a program for this machine (exec format error)"),
        )
        .hint("A script needs a first line such as `#!/bin/sh`; a binary must be built for this processor."),
        Some(rustix::io::Errno::NOENT) if !Path::new(&spawn.dir).is_dir() => {
            Problem::new(ProblemKind::NotFound, format!("cannot start `{unit}`: its folder is gone"))
        }
        Some(rustix::io::Errno::NOENT) if program.exists() => Problem::new(
            ProblemKind::ProgramNotFound,
            format!("{cannot} names an interpreter that is not there{}", interpreter_note(program)),
        )
        .hint("Install the interpreter or correct the first line of the script."),
        Some(rustix::io::Errno::NOENT) => Problem::new(ProblemKind::ProgramNotFound, format!("{cannot} is not there")),
        Some(rustix::io::Errno::TOOBIG) => {
            Problem::new(ProblemKind::Refused, format!("{cannot}: arguments and environment are too long"))
        }
        Some(rustix::io::Errno::NOMEM | rustix::io::Errno::AGAIN) => {
            Problem::new(ProblemKind::OutOfMemory, format!("{cannot}: {error}"))
        }
        _ => Problem::io(cannot, &error),
    }
}

fn interpreter_note(program: &Path) -> String {
    let start = fs::read(program).unwrap_or_default();
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.strip_prefix(b"#!") {
        Some(line) if line.len() < 256 => format!(" (`{}`)", String::from_utf8_lossy(line).trim()),
        _ => String::new(),
    }
}

fn unexpected_reply_problem(unit: &str, answer: Reply) -> Problem {
    match answer {
        Reply::Failed { message } => Problem::new(ProblemKind::Internal, message),
        other => Problem::new(ProblemKind::Internal, format!("the keeper answered `{unit}` with {other:?}")),
    }
}

fn record_read_problem(unit: &str, error: &io::Error) -> Problem {
    Problem::io(format!("cannot read what is recorded of `{unit}`"), error)
}

fn record_write_problem(unit: &str, error: &io::Error) -> Problem {
    Problem::io(format!("cannot record `{unit}`"), error)
}

fn host_ports(unit: &Unit) -> BTreeMap<String, u16> {
    unit.ports.iter().map(|(name, port)| (name.clone(), port.host_port)).collect()
}

fn stop_record(stop: &Stop) -> StopRecord {
    let grace_milliseconds = u64::try_from(stop.grace.as_millis()).unwrap_or(u64::MAX);
    StopRecord { signal: stop.signal.clone(), grace_milliseconds }
}

fn preview_record(scope: &Scope) -> PreviewRecord {
    let name = &scope.preview;
    PreviewRecord {
        id: name.id.0.clone(),
        app: name.app.clone(),
        branch: name.branch.clone(),
        environment: name.environment.clone(),
        project: scope.locations.project.to_str().map(PathBuf::from),
    }
}

/// Differs for each creation, so that a step about an earlier one never hits its successor.
fn new_handle(unit: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{unit}.{:x}.{:x}.{count:x}", now_milliseconds(), std::process::id())
}
