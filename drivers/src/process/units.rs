//! The driver's operations on units: create, start, stop, remove, observe, follow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use host::clock::now_milliseconds;
use plan::application::{RuntimeKind, Stop, Unit};
use plan::observed::{Observed, ObservedUnit, RunState, RuntimeObject};
use plan::shell_environment::ShellEnvironment;

use super::connection::{KeeperConnection, KeeperStarter, REPLY_TIMEOUT, request_new_socket};
use super::keeper::try_lock_file;
use super::launch::{Launcher, chown_folder};
use super::port_conflict::check_ports;
use super::prepare::recorded_build_identity;
use super::record::{Durable, PreviewRecord, RecordStore, RecordedState, StopRecord, UnitRecord};
use super::version::check_version;
use super::wire::{Event, Reply, Request, SpawnSpec};
use super::{ProcessDriver, cleanup, kernel, run_blocking};
use crate::driver::{RuntimeEvent, StepOutcome};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Scope};

impl ProcessDriver {
    pub(super) async fn create(&self, scope: &Scope, unit: &Unit) -> Result<StepOutcome, Problem> {
        let records = RecordStore::new(&scope.locations.state);
        let found = records.read_unit(&unit.name).map_err(|error| record_read_problem(&unit.name, &error))?;
        if let Some(found) = &found {
            if found.hash == unit.hash {
                return Ok(StepOutcome { handle: Some(found.handle.clone()), ..StepOutcome::default() });
            }
            if matches!(found.state, RecordedState::Running { .. }) {
                let message = format!("`{}` still runs its previous version", unit.name);
                return Err(Problem::new(ProblemKind::Refused, message));
            }
        }
        if kernel::parse_signal(&unit.stop.signal).is_none() {
            let message = format!("unknown stop signal `{}` of `{}`", unit.stop.signal, unit.name);
            return Err(Problem::new(ProblemKind::Refused, message).hint("Use a name such as `SIGTERM` or `SIGINT`."));
        }
        let launcher = Launcher::new(scope, unit, &self.inherited_env)?;
        let version_note = check_version(&launcher).await?;
        // Only for the check: a missing program or folder is reported before anything is created.
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
        let result =
            records.write_preview(&preview_record(scope)).and_then(|()| records.write_unit(&record, Durable::No));
        result.map_err(|error| record_write_problem(&unit.name, &error))?;
        let notes = version_note.into_iter().collect();
        Ok(StepOutcome { handle: Some(record.handle), notes, ..StepOutcome::default() })
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
        // The secrets folder has mode 0700, so the unit's user must own it to read the files.
        if let (Some(secrets), Some(account), false) =
            (&launcher.secrets_folder, launcher.resolve_account()?, unit.secrets.is_empty())
        {
            chown_folder(secrets, &account)?;
        }
        // A keeper that was shutting down when the unit was created may have deleted this record.
        records.write_preview(&preview_record(scope)).map_err(|error| record_write_problem(&unit.name, &error))?;
        // A running unit itself occupies its ports.
        if !matches!(record.state, RecordedState::Running { .. }) {
            check_ports(unit)?;
        }
        record.ports = host_ports(unit);
        record.stop = stop_record(&unit.stop);
        let request = Request::Start {
            record: Box::new(record),
            spawn: Box::new(spawn.clone()),
            shell_environment: scope.shell_environment.as_deref().cloned(),
        };
        match self.call_keeper(&scope.locations, &request, REPLY_TIMEOUT).await? {
            Reply::Started { .. } => Ok(StepOutcome { handle, ..StepOutcome::default() }),
            Reply::SpawnFailed { errno } => Err(spawn_problem(&unit.name, &spawn, errno)),
            other => Err(unexpected_reply_problem(&unit.name, other)),
        }
    }

    /// Sends a request. If the keeper is shutting down and closes without a reply, sends it to the next keeper.
    async fn call_keeper(&self, locations: &Locations, request: &Request, timeout: Duration) -> Result<Reply, Problem> {
        let mut connection = self.starter.connect_or_start(locations).await?;
        match connection.call(request, timeout).await {
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                self.starter.connect_or_start(locations).await?.call(request, timeout).await
            }
            reply => reply,
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
        locations: &Locations,
        unit: &str,
        stop: Option<StopRecord>,
        remove: bool,
    ) -> Result<StepOutcome, Problem> {
        let records = RecordStore::new(&locations.state);
        let Some(record) = records.read_unit(unit).map_err(|error| record_read_problem(unit, &error))? else {
            return Ok(StepOutcome::default());
        };
        let grace = stop.as_ref().unwrap_or(&record.stop).grace_milliseconds;
        // The keeper replies only after the unit has ended, so its grace period adds to the deadline.
        let timeout = Duration::from_millis(grace) + REPLY_TIMEOUT;
        let request = match remove {
            true => Request::Remove { unit: unit.to_owned() },
            false => Request::Stop { unit: unit.to_owned(), stop },
        };
        let Some(mut connection) = connect_to_living_keeper(locations).await? else {
            let (locations, unit) = (locations.clone(), unit.to_owned());
            return run_blocking(move || end_without_keeper(&locations, &unit, remove)).await;
        };
        match connection.call(&request, timeout).await? {
            Reply::Done => Ok(StepOutcome::default()),
            other => Err(unexpected_reply_problem(unit, other)),
        }
    }
}

/// Connects to the living keeper, even if its socket was deleted. `None` if there is no keeper.
pub(super) async fn connect_to_living_keeper(locations: &Locations) -> Result<Option<KeeperConnection>, Problem> {
    for attempt in 0..20_u32 {
        if let Some(connection) = KeeperConnection::open(locations).await? {
            return Ok(Some(connection));
        }
        let records = RecordStore::new(&locations.state);
        let keeper = records.read_living_keeper().map_err(|error| Problem::io("cannot read `keeper.json`", &error))?;
        if keeper.is_none() {
            return Ok(None);
        }
        // Signal the keeper only after it had time to bind its first socket or to shut down.
        if attempt > 3 {
            request_new_socket(&records, &locations.runtime)?;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(Problem::new(ProblemKind::Unavailable, "the preview's keeper is alive but cannot be reached".to_owned())
        .hint("End the process named in `keeper.json` of the preview's state folder; its programs end with it."))
}

fn end_without_keeper(locations: &Locations, unit: &str, remove: bool) -> Result<StepOutcome, Problem> {
    let records = RecordStore::new(&locations.state);
    let problem = |error: &io::Error| Problem::io(format!("cannot stop `{unit}`"), error);
    // The lock keeps a new keeper from starting during the cleanup.
    let Some(_lock) = try_lock_file(&records.lock_path()).map_err(|error| problem(&error))? else {
        return Err(Problem::new(ProblemKind::Unavailable, "a new keeper has just started".to_owned()));
    };
    cleanup::clean_up_after_keeper(&records).map_err(|error| problem(&error))?;
    if remove {
        records.remove_unit(unit).map_err(|error| problem(&error))?;
        // After the last unit, the keeper's files go too, as if the keeper had shut down.
        if records.read_units().map_err(|error| problem(&error))?.is_empty() {
            records.remove_keeper_files().map_err(|error| problem(&error))?;
            // Best effort: a runtime folder that still contains other files stays.
            drop(super::record::remove_if_exists(&super::wire::socket_path(&locations.runtime)));
            drop(fs::remove_dir(&locations.runtime));
        }
    }
    Ok(StepOutcome::default())
}

/// Reads the record files. If they claim that units run under a keeper that was killed, cleans up first.
pub(super) fn observe(locations: &Locations) -> Result<Observed, Problem> {
    let records = RecordStore::new(&locations.state);
    let problem = |error: &io::Error| Problem::io(format!("cannot read `{}`", locations.state.display()), error);
    let mut units = records.read_units().map_err(|error| problem(&error))?;
    let any_running = units.iter().any(|unit| matches!(unit.state, RecordedState::Running { .. }));
    if any_running && records.read_living_keeper().map_err(|error| problem(&error))?.is_none() {
        // If the lock is taken, a new keeper has just started, and it does this cleanup.
        if let Some(_lock) = try_lock_file(&records.lock_path()).map_err(|error| problem(&error))? {
            cleanup::clean_up_after_keeper(&records).map_err(|error| problem(&error))?;
            units = records.read_units().map_err(|error| problem(&error))?;
        }
    }
    let units = units.into_iter().map(|unit| (unit.unit.clone(), to_observed_unit(unit))).collect();
    Ok(Observed { units, volumes: list_data_folders(&locations.data), ..Observed::default() })
}

fn to_observed_unit(record: UnitRecord) -> ObservedUnit {
    let (state, started_at) = match record.state {
        RecordedState::Created => (RunState::Created, None),
        RecordedState::Running { started_at, .. } => (RunState::Running, Some(started_at)),
        RecordedState::Exited { started_at, exit } => (RunState::Exited(exit.into()), Some(started_at)),
    };
    ObservedUnit {
        name: record.unit,
        runtime: RuntimeKind::PROCESS,
        handle: record.handle,
        hash: record.hash,
        image: record.image,
        state,
        address: None,
        host_ports: record.ports,
        started_at,
        connected: true,
        health: None,
    }
}

fn list_data_folders(data: &Path) -> BTreeSet<RuntimeObject> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.map(|name| RuntimeObject { name, runtime: RuntimeKind::PROCESS }).collect()
}

pub(super) fn remove_data_folder(locations: &Locations, volume: &str) -> Result<StepOutcome, Problem> {
    let folder: PathBuf = locations.data.join(volume);
    // Data of a program with its own user may be elsewhere, with a symbolic link at this path.
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

/// The environment that the living keeper holds.
pub(super) async fn read_shell_environment(locations: &Locations) -> Result<Option<ShellEnvironment>, Problem> {
    let Some(mut connection) = connect_to_living_keeper(locations).await? else { return Ok(None) };
    match connection.call(&Request::ShellEnvironment, REPLY_TIMEOUT).await? {
        Reply::ShellEnvironment { environment } => Ok(environment),
        other => Err(unexpected_reply_problem("environment", other)),
    }
}

/// Follows events. Subscribes before the first start, so that no exit is missed: this starts a keeper if there is none,
/// and that keeper shuts down again if no unit follows.
pub(super) async fn follow_events(
    starter: &KeeperStarter,
    locations: &Locations,
) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
    let mut connection = starter.connect_or_start(locations).await?;
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

/// Translates the operating system's error into a problem, as precisely as the errno and the file system allow.
pub(super) fn spawn_problem(unit: &str, spawn: &SpawnSpec, errno: i32) -> Problem {
    let error = io::Error::from_raw_os_error(errno);
    let program = Path::new(&spawn.program);
    let message_prefix = format!("cannot start `{unit}`: `{}`", program.display());
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NOEXEC) => Problem::new(
            ProblemKind::ExecFormat,
            format!("{message_prefix} is not a program for this machine (exec format error)"),
        )
        .hint("A script needs a first line such as `#!/bin/sh`; a binary must be built for this processor."),
        Some(rustix::io::Errno::NOENT) if !Path::new(&spawn.dir).is_dir() => {
            Problem::new(ProblemKind::NotFound, format!("cannot start `{unit}`: its working folder does not exist"))
        }
        // `execve` also returns ENOENT if the file exists but its `#!` interpreter does not.
        Some(rustix::io::Errno::NOENT) if program.exists() => Problem::new(
            ProblemKind::ProgramNotFound,
            format!("{message_prefix} names an interpreter that does not exist{}", interpreter_note(program)),
        )
        .hint("Install the interpreter or correct the first line of the script."),
        Some(rustix::io::Errno::NOENT) => {
            Problem::new(ProblemKind::ProgramNotFound, format!("{message_prefix} does not exist"))
        }
        Some(rustix::io::Errno::TOOBIG) => {
            Problem::new(ProblemKind::Refused, format!("{message_prefix}: arguments and environment are too long"))
        }
        Some(rustix::io::Errno::NOMEM | rustix::io::Errno::AGAIN) => {
            Problem::new(ProblemKind::OutOfMemory, format!("{message_prefix}: {error}"))
        }
        _ => Problem::io(message_prefix, &error),
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

fn unexpected_reply_problem(unit: &str, reply: Reply) -> Problem {
    match reply {
        Reply::Failed { message } => Problem::new(ProblemKind::Internal, message),
        other => {
            Problem::new(ProblemKind::Internal, format!("the keeper sent an unexpected reply for `{unit}`: {other:?}"))
        }
    }
}

fn record_read_problem(unit: &str, error: &io::Error) -> Problem {
    Problem::io(format!("cannot read the record of `{unit}`"), error)
}

fn record_write_problem(unit: &str, error: &io::Error) -> Problem {
    Problem::io(format!("cannot write the record of `{unit}`"), error)
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

/// Differs for every creation, so that a step for an earlier object never affects its replacement.
fn new_handle(unit: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{unit}.{:x}.{:x}.{count:x}", now_milliseconds(), std::process::id())
}
