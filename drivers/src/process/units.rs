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

use super::clash::check_ports;
use super::connection::{ANSWER_MAX, Connection, Starter};
use super::keeper::{now_milliseconds, take_lock};
use super::launch::{Launcher, give};
use super::prepare::built_identity;
use super::record::{Durable, PreviewRecord, Recorded, Records, StopRecord, UnitRecord};
use super::wire::{Answer, Event, Request, Spawn};
use super::{ProcessDriver, blocking, kernel, leftovers};
use crate::driver::{Performed, Places, Problem, ProblemKind, RuntimeEvent, Scope};

impl ProcessDriver {
    pub(super) async fn create(&self, scope: &Scope, unit: &Unit) -> Result<Performed, Problem> {
        let records = Records::new(&scope.places.state);
        let found = records.unit(&unit.name).map_err(|error| unreadable(&unit.name, &error))?;
        if let Some(found) = &found {
            if found.hash == unit.hash {
                return Ok(Performed { handle: Some(found.handle.clone()), ..Performed::default() });
            }
            if matches!(found.state, Recorded::Running { .. }) {
                let message = format!("`{}` still runs as it was before the change", unit.name);
                return Err(Problem::new(ProblemKind::Refused, message));
            }
        }
        if kernel::signal_named(&unit.stop.signal).is_none() {
            let message = format!("unknown stop signal `{}` of `{}`", unit.stop.signal, unit.name);
            return Err(Problem::new(ProblemKind::Refused, message).hint("Use a name such as `SIGTERM` or `SIGINT`."));
        }
        let launcher = Launcher::new(scope, unit, &self.inherited)?;
        launcher.spawn(&launcher.spec.argv, &launcher.folder()?)?;
        self.initialise(scope, &launcher).await?;
        let record = UnitRecord {
            unit: unit.name.clone(),
            handle: new_handle(&unit.name),
            hash: unit.hash.clone(),
            image: built_identity(scope, unit),
            ports: host_ports(unit),
            stop: stop_record(&unit.stop),
            state: Recorded::Created,
        };
        let written =
            records.write_preview(&preview_record(scope)).and_then(|()| records.write_unit(&record, Durable::No));
        written.map_err(|error| unrecordable(&unit.name, &error))?;
        Ok(Performed { handle: Some(record.handle), ..Performed::default() })
    }

    pub(super) async fn start(&self, scope: &Scope, unit: &Unit) -> Result<Performed, Problem> {
        let records = Records::new(&scope.places.state);
        let Some(mut record) = records.unit(&unit.name).map_err(|error| unreadable(&unit.name, &error))? else {
            return Err(Problem::new(ProblemKind::NotFound, format!("`{}` is not created yet", unit.name)));
        };
        let handle = Some(record.handle.clone());
        let launcher = Launcher::new(scope, unit, &self.inherited)?;
        let folder = launcher.folder()?;
        let spawn = launcher.spawn(&launcher.spec.argv, &folder)?;
        if let (Some(secrets), Some(known), false) = (&launcher.secrets, launcher.account()?, unit.secrets.is_empty()) {
            give(secrets, &known)?;
        }
        // A keeper that was just leaving when the unit was created may have taken this away.
        records.write_preview(&preview_record(scope)).map_err(|error| unrecordable(&unit.name, &error))?;
        // A unit that runs already holds its ports itself.
        if !matches!(record.state, Recorded::Running { .. }) {
            check_ports(unit)?;
        }
        record.ports = host_ports(unit);
        record.stop = stop_record(&unit.stop);
        let request = Request::Start { record: Box::new(record), spawn: Box::new(spawn.clone()) };
        match self.ask(&scope.places, &request, ANSWER_MAX).await? {
            Answer::Started { .. } => Ok(Performed { handle, ..Performed::default() }),
            Answer::SpawnFailed { errno } => Err(refused(&unit.name, &spawn, errno)),
            other => Err(unexpected(&unit.name, other)),
        }
    }

    /// A keeper that is just leaving closes without an answer: then the next one is asked.
    async fn ask(&self, places: &Places, request: &Request, patience: Duration) -> Result<Answer, Problem> {
        let mut connection = self.starter.connect(places).await?;
        match connection.ask(request, patience).await {
            Err(problem) if problem.kind == ProblemKind::Unavailable => {
                self.starter.connect(places).await?.ask(request, patience).await
            }
            answer => answer,
        }
    }

    pub(super) async fn stop(&self, scope: &Scope, unit: &str) -> Result<Performed, Problem> {
        let stop = scope.application.units.get(unit).map(|unit| stop_record(&unit.stop));
        self.end(&scope.places, unit, stop, false).await
    }

    pub(super) async fn remove(&self, scope: &Scope, unit: &str, handle: &str) -> Result<Performed, Problem> {
        let records = Records::new(&scope.places.state);
        let found = records.unit(unit).map_err(|error| unreadable(unit, &error))?;
        if found.is_some_and(|found| found.handle == handle) {
            return self.end(&scope.places, unit, None, true).await;
        }
        Ok(Performed::default())
    }

    async fn end(
        &self,
        places: &Places,
        unit: &str,
        stop: Option<StopRecord>,
        remove: bool,
    ) -> Result<Performed, Problem> {
        let records = Records::new(&places.state);
        let Some(record) = records.unit(unit).map_err(|error| unreadable(unit, &error))? else {
            return Ok(Performed::default());
        };
        let grace = stop.as_ref().unwrap_or(&record.stop).grace_milliseconds;
        let patience = Duration::from_millis(grace) + ANSWER_MAX;
        let request = match remove {
            true => Request::Remove { unit: unit.to_owned() },
            false => Request::Stop { unit: unit.to_owned(), stop },
        };
        let Some(mut connection) = reach(places).await? else {
            let (places, unit) = (places.clone(), unit.to_owned());
            return blocking(move || end_without_keeper(&places, &unit, remove)).await;
        };
        match connection.ask(&request, patience).await? {
            Answer::Done => Ok(Performed::default()),
            other => Err(unexpected(unit, other)),
        }
    }
}

/// The living keeper, even when its socket was swept away. None when there is none.
pub(super) async fn reach(places: &Places) -> Result<Option<Connection>, Problem> {
    for attempt in 0..20_u32 {
        if let Some(connection) = Connection::open(places).await? {
            return Ok(Some(connection));
        }
        let records = Records::new(&places.state);
        let keeper = records.living_keeper().map_err(|error| Problem::io("cannot read `keeper.json`", &error))?;
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

fn end_without_keeper(places: &Places, unit: &str, remove: bool) -> Result<Performed, Problem> {
    let records = Records::new(&places.state);
    let problem = |error: &io::Error| Problem::io(format!("cannot end `{unit}`"), error);
    let Some(_lock) = take_lock(&records.lock()).map_err(|error| problem(&error))? else {
        return Err(Problem::new(ProblemKind::Unavailable, "a keeper has just begun".to_owned()));
    };
    leftovers::clean(&records).map_err(|error| problem(&error))?;
    if remove {
        records.remove_unit(unit).map_err(|error| problem(&error))?;
        if records.units().map_err(|error| problem(&error))?.is_empty() {
            records.remove_rest().map_err(|error| problem(&error))?;
            drop(super::record::remove_file(&super::connection::socket(&places.runtime)));
            drop(fs::remove_dir(&places.runtime));
        }
    }
    Ok(Performed::default())
}

/// Reads the files; only when they speak of a keeper that was killed is anything cleaned up first.
pub(super) fn observe(places: &Places) -> Result<Observed, Problem> {
    let records = Records::new(&places.state);
    let problem = |error: &io::Error| Problem::io(format!("cannot read `{}`", places.state.display()), error);
    let mut units = records.units().map_err(|error| problem(&error))?;
    let running = units.iter().any(|unit| matches!(unit.state, Recorded::Running { .. }));
    if running && records.living_keeper().map_err(|error| problem(&error))?.is_none() {
        // Without the lock a new keeper has begun in this moment, and cleans up itself.
        if let Some(_lock) = take_lock(&records.lock()).map_err(|error| problem(&error))? {
            leftovers::clean(&records).map_err(|error| problem(&error))?;
            units = records.units().map_err(|error| problem(&error))?;
        }
    }
    let units = units.into_iter().map(|unit| (unit.unit.clone(), observed(unit))).collect();
    Ok(Observed { units, volumes: data_folders(&places.data), ..Observed::default() })
}

fn observed(record: UnitRecord) -> ObservedUnit {
    let (state, started_at) = match record.state {
        Recorded::Created => (RunState::Created, None),
        Recorded::Running { started_at, .. } => (RunState::Running, Some(started_at)),
        Recorded::Exited { started_at, exit } => (RunState::Exited(exit.into()), Some(started_at)),
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

fn data_folders(data: &Path) -> std::collections::BTreeSet<String> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

pub(super) fn remove_data(places: &Places, volume: &str) -> Result<Performed, Problem> {
    let folder: PathBuf = places.data.join(volume);
    // Data of a program with a user of its own may lie elsewhere, with a link in its place.
    if let Ok(real) = fs::read_link(&folder) {
        remove_tree(&real)?;
        fs::remove_file(&folder).map_err(|error| unremovable(&folder, &error))?;
        return Ok(Performed::default());
    }
    remove_tree(&folder)?;
    Ok(Performed::default())
}

fn unremovable(folder: &Path, error: &io::Error) -> Problem {
    Problem::io(format!("cannot remove the data folder `{}`", folder.display()), error)
}

fn remove_tree(folder: &Path) -> Result<(), Problem> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unremovable(folder, &error)),
        _ => Ok(()),
    }
}

/// Begins before the first start, so that no exit is missed: a keeper is started for it, and leaves if nothing comes.
pub(super) async fn follow(starter: &Starter, places: &Places) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
    let mut connection = starter.connect(places).await?;
    match connection.ask(&Request::Follow, ANSWER_MAX).await? {
        Answer::Following => {}
        other => return Err(unexpected("follow", other)),
    }
    let events = stream::unfold(Some(connection), move |connection| async move {
        let mut connection = connection?;
        Some(match connection.next::<Event>().await {
            Ok(Some(Event::Started { unit, handle })) => (RuntimeEvent::Started { unit, handle }, Some(connection)),
            Ok(Some(Event::Exited { unit, handle, exit })) => {
                (RuntimeEvent::Exited { unit, handle, exit: exit.into() }, Some(connection))
            }
            Ok(Some(_)) => (RuntimeEvent::Lost { reason: "events were missed".to_owned() }, None),
            Ok(None) => (RuntimeEvent::Lost { reason: "the preview's keeper ended".to_owned() }, None),
            Err(problem) => (RuntimeEvent::Lost { reason: problem.message }, None),
        })
    });
    Ok(events.boxed())
}

/// What the operating system's refusal means, told apart as far as it can be known from outside.
pub(super) fn refused(unit: &str, spawn: &Spawn, errno: i32) -> Problem {
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
            format!("{cannot} names an interpreter that is not there{}", interpreter(program)),
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

fn interpreter(program: &Path) -> String {
    let start = fs::read(program).unwrap_or_default();
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.strip_prefix(b"#!") {
        Some(line) if line.len() < 256 => format!(" (`{}`)", String::from_utf8_lossy(line).trim()),
        _ => String::new(),
    }
}

fn unexpected(unit: &str, answer: Answer) -> Problem {
    match answer {
        Answer::Failed { message } => Problem::new(ProblemKind::Internal, message),
        other => Problem::new(ProblemKind::Internal, format!("the keeper answered `{unit}` with {other:?}")),
    }
}

fn unreadable(unit: &str, error: &io::Error) -> Problem {
    Problem::io(format!("cannot read what is recorded of `{unit}`"), error)
}

fn unrecordable(unit: &str, error: &io::Error) -> Problem {
    Problem::io(format!("cannot record `{unit}`"), error)
}

fn host_ports(unit: &Unit) -> BTreeMap<String, u16> {
    unit.ports.iter().map(|(name, port)| (name.clone(), port.host)).collect()
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
        project: scope.places.project.to_str().map(PathBuf::from),
    }
}

/// Differs for each creation, so that a step about an earlier one never hits its successor.
fn new_handle(unit: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{unit}.{:x}.{:x}.{count:x}", now_milliseconds(), std::process::id())
}
