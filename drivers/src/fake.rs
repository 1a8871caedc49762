//! A runtime in memory for tests of whoever uses drivers: deterministic, without processes and without a clock.
//!
//! A test says how units behave ([`FakeDriver::script`]), makes steps fail ([`FakeDriver::fail_next`]) or wait
//! ([`FakeDriver::hold`]), and reads what was done ([`FakeDriver::performed`]). Clones share the runtime, as agents
//! do that come and go.

mod world;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use plan::application::{PreviewId, RuntimeKind, Unit};
use plan::observed::{Exit, Images, Observed, ObservedUnit, RunState};
use plan::step::Action;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};

use crate::driver::{
    Discovered, Driver, ExecOutput, ExecRequest, ExecSession, LogLine, LogRequest, Performed, Places, Problem,
    ProblemKind, RuntimeEvent, Scope,
};
use world::{State, image, title};

/// How one unit behaves, in whichever preview.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    /// Printed at each start.
    pub prints: Vec<String>,
    /// Ends right after the start with this code.
    pub exits: Option<i32>,
    /// Exit codes of the next commands run beside it, for health checks that succeed at last; then as the command says.
    pub exec_codes: VecDeque<i32>,
    /// Why the image has to be prepared; taken away by a successful `PrepareImage`.
    pub stale: Option<String>,
    /// The build fails with these last lines.
    pub build_fails: Option<Vec<String>>,
}

/// Opens what [`FakeDriver::hold`] closed, once per step. Dropped, it lets everything pass.
pub struct Gate {
    gate: Arc<Semaphore>,
    waiting: watch::Receiver<usize>,
}

impl Gate {
    pub fn let_one_pass(&self) {
        self.gate.add_permits(1);
    }

    /// Waits until so many steps have arrived at the gate in all.
    pub async fn arrived(&mut self, count: usize) {
        // The sender lives as long as the runtime.
        drop(self.waiting.wait_for(|seen| *seen >= count).await);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.gate.close();
    }
}

#[derive(Clone)]
pub struct FakeDriver {
    kind: RuntimeKind,
    runtime: Arc<Runtime>,
}

struct Runtime {
    state: Mutex<State>,
    events: broadcast::Sender<(PreviewId, RuntimeEvent)>,
}

impl Default for FakeDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDriver {
    #[must_use]
    pub fn new() -> Self {
        Self::of(RuntimeKind::Process)
    }

    /// Stands in for this runtime.
    #[must_use]
    pub fn of(kind: RuntimeKind) -> Self {
        let runtime = Runtime { state: Mutex::default(), events: broadcast::Sender::new(1024) };
        Self { kind, runtime: Arc::new(runtime) }
    }

    pub fn script(&self, unit: &str, script: Script) {
        self.state().scripts.insert(unit.to_owned(), script);
    }

    /// The next step called so (`start web`, `create-network`) fails.
    pub fn fail_next(&self, step: &str, problem: Problem) {
        self.state().failures.push((step.to_owned(), problem));
    }

    /// Steps called so wait at the gate.
    #[must_use]
    pub fn hold(&self, step: &str) -> Gate {
        let (gate, (arrivals, waiting)) = (Arc::new(Semaphore::new(0)), watch::channel(0));
        self.state().gates.insert(step.to_owned(), (gate.clone(), arrivals));
        Gate { gate, waiting }
    }

    /// Every step that was carried out, in order.
    #[must_use]
    pub fn performed(&self) -> Vec<String> {
        self.state().performed.clone()
    }

    /// A running unit ends by itself.
    pub fn crash(&self, preview: &PreviewId, unit: &str, code: i32) {
        self.end(&mut self.state(), preview, unit, Exit { code: Some(code), ..Exit::default() });
    }

    /// A running unit says something.
    pub fn print(&self, preview: &PreviewId, unit: &str, text: &str) {
        let mut state = self.state();
        let at = state.tick();
        if let Some(made) = state.made(preview, unit) {
            made.lines.push(LogLine { at, stderr: false, text: text.to_owned() });
            made.change();
        }
    }

    /// A second object claims the same unit, as after an interrupted recreate.
    pub fn add_stray(&self, preview: &PreviewId, unit: &str) {
        let mut state = self.state();
        let handle = format!("{unit}-stray-{}", state.tick());
        if let Some(preview) = state.previews.get_mut(preview)
            && let Some(made) = preview.units.get(unit)
        {
            preview.strays.push(ObservedUnit { handle, state: RunState::Created, ..made.seen.clone() });
        }
    }

    /// The runtime stops answering; units stay as they are.
    pub fn lose(&self, reason: &str) {
        let mut state = self.state();
        state.gone = Some(reason.to_owned());
        for preview in state.previews.keys() {
            let lost = RuntimeEvent::Lost { reason: reason.to_owned() };
            drop(self.runtime.events.send((preview.clone(), lost)));
        }
    }

    pub fn restore(&self) {
        self.state().gone = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.runtime.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> Result<MutexGuard<'_, State>, Problem> {
        let state = self.state();
        match &state.gone {
            Some(reason) => Err(Problem::new(ProblemKind::Unavailable, reason.clone())),
            None => Ok(state),
        }
    }

    async fn pass_gate(&self, step: &str) {
        let gate = self.state().gates.get(step).map(|(gate, arrivals)| {
            arrivals.send_modify(|count| *count += 1);
            gate.clone()
        });
        if let Some(gate) = gate
            && let Ok(permit) = gate.acquire().await
        {
            permit.forget();
        }
    }

    fn carry_out(&self, scope: &Scope, action: &Action) -> Result<Performed, Problem> {
        let mut state = self.here()?;
        let step = title(action);
        if let Some(index) = state.failures.iter().position(|(wanted, _)| *wanted == step) {
            return Err(state.failures.remove(index).1);
        }
        let id = &scope.preview.id;
        let done = match action {
            Action::PrepareImage { unit, .. } => state.prepare(scope, unit),
            Action::Create { unit, .. } => state.create(scope, find(scope, unit)?, self.kind),
            Action::Start { unit, .. } => self.start(&mut state, scope, unit),
            Action::Stop { unit, .. } => {
                self.end(&mut state, id, unit, Exit { signal: Some(15), ..Exit::default() });
                Ok(Performed::default())
            }
            Action::Remove { unit, handle, .. } => {
                self.remove(&mut state, id, unit, handle);
                Ok(Performed::default())
            }
            other => {
                state.preview(scope).set(other);
                Ok(Performed::default())
            }
        };
        if done.is_ok() {
            state.performed.push(step);
        }
        done
    }

    fn start(&self, state: &mut State, scope: &Scope, unit: &str) -> Result<Performed, Problem> {
        let (id, at) = (&scope.preview.id, state.tick());
        let script = state.scripts.get(unit).cloned().unwrap_or_default();
        let ports = find(scope, unit)?.ports.iter().map(|(name, port)| (name.clone(), port.host)).collect();
        let Some(made) = state.made(id, unit) else {
            return Err(Problem::new(ProblemKind::NotFound, format!("`{unit}` is not created yet")));
        };
        let handle = made.seen.handle.clone();
        let performed = Performed { handle: Some(handle.clone()), ..Performed::default() };
        if made.seen.state == RunState::Running {
            return Ok(performed);
        }
        made.seen.state = RunState::Running;
        made.seen.started_at = Some(at);
        made.seen.host_ports = ports;
        made.lines.extend(script.prints.into_iter().map(|text| LogLine { at, stderr: false, text }));
        made.change();
        self.tell(id, RuntimeEvent::Started { unit: unit.to_owned(), handle });
        if let Some(code) = script.exits {
            self.end(state, id, unit, Exit { code: Some(code), ..Exit::default() });
        }
        Ok(performed)
    }

    fn end(&self, state: &mut State, preview: &PreviewId, unit: &str, mut exit: Exit) {
        exit.at = Some(state.tick());
        let Some(made) = state.made(preview, unit).filter(|made| made.seen.state == RunState::Running) else { return };
        made.seen.state = RunState::Exited(exit.clone());
        made.change();
        let handle = made.seen.handle.clone();
        self.tell(preview, RuntimeEvent::Exited { unit: unit.to_owned(), handle, exit });
    }

    fn remove(&self, state: &mut State, id: &PreviewId, unit: &str, handle: &str) {
        if state.made(id, unit).is_some_and(|made| made.seen.handle == handle) {
            self.end(state, id, unit, Exit { signal: Some(9), ..Exit::default() });
            if let Some(preview) = state.previews.get_mut(id) {
                preview.units.remove(unit);
            }
        }
        if let Some(preview) = state.previews.get_mut(id) {
            preview.strays.retain(|stray| stray.handle != handle);
        }
    }

    fn tell(&self, preview: &PreviewId, event: RuntimeEvent) {
        // Without a follower nobody hears it.
        drop(self.runtime.events.send((preview.clone(), event)));
    }
}

fn find<'a>(scope: &'a Scope, unit: &str) -> Result<&'a Unit, Problem> {
    let missing = || Problem::new(ProblemKind::NotFound, format!("no unit `{unit}`"));
    scope.application.units.get(unit).ok_or_else(missing)
}

#[async_trait]
impl Driver for FakeDriver {
    fn runtime(&self) -> RuntimeKind {
        self.kind
    }

    async fn observe(&self, preview: &PreviewId, _places: &Places) -> Result<Observed, Problem> {
        let state = self.here()?;
        Ok(state.previews.get(preview).map_or_else(Observed::default, |preview| Observed {
            units: preview.units.iter().map(|(name, made)| (name.clone(), made.seen.clone())).collect(),
            strays: preview.strays.clone(),
            networks: preview.networks.clone(),
            volumes: preview.volumes.clone(),
        }))
    }

    async fn images(&self, scope: &Scope) -> Result<Images, Problem> {
        let state = self.here()?;
        let mut images = Images::default();
        let mine = scope.application.units.values().filter(|unit| unit.body.runtime() == self.kind);
        for name in mine.map(|unit| &unit.name) {
            match state.scripts.get(name).and_then(|script| script.stale.clone()) {
                Some(reason) => images.stale.insert(name.clone(), reason),
                None => images.current.insert(name.clone(), image(name)),
            };
        }
        Ok(images)
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<Performed, Problem> {
        self.pass_gate(&title(action)).await;
        self.carry_out(scope, action)
    }

    async fn follow(&self, id: &PreviewId, _places: &Places) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        drop(self.here()?);
        let (events, id) = (self.runtime.events.subscribe(), id.clone());
        let stream = stream::unfold(Some(events), move |events| {
            let id = id.clone();
            async move {
                let mut events = events?;
                loop {
                    match events.recv().await {
                        Ok((_, event @ RuntimeEvent::Lost { .. })) => return Some((event, None)),
                        Ok((preview, event)) if preview == id => return Some((event, Some(events))),
                        Ok(_) => {}
                        Err(_) => {
                            let reason = "events were missed".to_owned();
                            return Some((RuntimeEvent::Lost { reason }, None));
                        }
                    }
                }
            }
        });
        Ok(stream.boxed())
    }

    async fn logs(
        &self,
        preview: &PreviewId,
        _places: &Places,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
        let mut state = self.here()?;
        let Some(made) = state.made(preview, unit) else { return Ok(stream::empty().boxed()) };
        let since = request.since.unwrap_or(i64::MIN);
        let from = request.tail.map_or(0, |tail| made.lines.len().saturating_sub(tail));
        let changed = request.follow.then(|| made.changed.subscribe());
        let (driver, preview, unit) = (self.clone(), preview.clone(), unit.to_owned());
        let lines = stream::unfold((from, changed), move |(at, mut changed)| {
            let (driver, preview, unit) = (driver.clone(), preview.clone(), unit.clone());
            async move {
                loop {
                    let running = {
                        let mut state = driver.state();
                        let made = state.made(&preview, &unit)?;
                        if let Some(line) = made.lines.get(at) {
                            return Some((Ok(line.clone()), (at + 1, changed)));
                        }
                        made.seen.state == RunState::Running
                    };
                    let waiting = changed.as_mut().filter(|_| running)?;
                    waiting.changed().await.ok()?;
                }
            }
        });
        let recent = lines.filter(move |line| {
            let keep = line.as_ref().is_ok_and(|line: &LogLine| line.at >= since);
            std::future::ready(keep)
        });
        Ok(recent.boxed())
    }

    /// Understands `echo WORDS`, `cat SECRET` and `exit CODE`, with or without `/bin/sh -c`, joined by `; `.
    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem> {
        let scripted = self.here()?.scripts.get_mut(&unit.name).and_then(|script| script.exec_codes.pop_front());
        let argv: Vec<&str> = request.argv.iter().map(String::as_str).collect();
        let line = match argv.as_slice() {
            ["/bin/sh", "-c", line] => (*line).to_owned(),
            words => words.join(" "),
        };
        let (mut output, mut code) = (Vec::new(), 0);
        for command in line.split("; ") {
            match command.split_once(' ') {
                Some(("echo", words)) => output.push(ExecOutput::Stdout(Bytes::from(format!("{words}\n")))),
                Some(("exit", number)) => code = number.parse().unwrap_or(2),
                Some(("cat", path)) => {
                    let name = PathBuf::from(path).file_name().unwrap_or_default().to_owned();
                    let text =
                        scope.secrets.folder(&unit.name).and_then(|folder| std::fs::read(folder.join(name)).ok());
                    match text {
                        Some(text) => output.push(ExecOutput::Stdout(Bytes::from(text))),
                        None => code = 1,
                    }
                }
                _ => {}
            }
        }
        output.push(ExecOutput::Exit(scripted.unwrap_or(code)));
        // Whatever is fed is swallowed: the receiver lives with the output.
        let (input, inputs) = mpsc::channel(64);
        let output = stream::iter(output).chain(stream::poll_fn(move |_| {
            let _held = &inputs;
            std::task::Poll::Ready(None)
        }));
        Ok(ExecSession { input, output: output.boxed() })
    }

    async fn discover(&self) -> Result<Vec<Discovered>, Problem> {
        let state = self.here()?;
        let present = state.previews.values().filter(|preview| !preview.units.is_empty());
        let found = present.map(|preview| Discovered {
            preview: preview.name.clone(),
            runtime: self.kind,
            project: Some(preview.project.clone()),
            units: preview.units.len(),
            running: preview.units.values().filter(|made| made.seen.state == RunState::Running).count(),
        });
        Ok(found.collect())
    }
}
