//! An in-memory runtime for tests of code that uses drivers: deterministic, with no processes and no clock.
//!
//! A test configures how units behave ([`FakeDriver::set_script`]), makes steps fail ([`FakeDriver::fail_next`]) or
//! wait ([`FakeDriver::block_step`]), and reads the performed steps ([`FakeDriver::performed_steps`]). Clones share the
//! runtime, as successive agents do.

mod state;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use plan::application::{PreviewId, RuntimeKind, Unit};
use plan::observed::{Exit, Images, Observed, ObservedUnit, Replicas, ReportedHealth, RunState};
use plan::runtime::Supervisor;
use plan::step::Action;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};

use crate::capabilities::{ByteStream, ImageInspection, PortForward};
use crate::driver::{
    DiscoveredPreview, Driver, ExecOutput, ExecRequest, ExecSession, LogLine, LogRequest, RuntimeEvent, StepOutcome,
};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Scope};
use state::{State, image_identity, step_name};

/// How a unit of this name behaves, in every preview.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    /// Printed at every start.
    pub stdout_lines: Vec<String>,
    /// The unit exits with this code right after its start.
    pub exit_code: Option<i32>,
    /// Exit codes of the next commands that `exec` runs, for example for health checks that succeed only later. When
    /// the list is empty, the command determines its exit code.
    pub exec_exit_codes: VecDeque<i32>,
    /// Why the image must be prepared. A successful `PrepareImage` clears it.
    pub stale_reason: Option<String>,
    /// The health after an `Apply`; ready by default.
    pub health: Option<ReportedHealth>,
    /// The build fails with these lines as its last output.
    pub build_failure: Option<Vec<String>>,
}

/// Releases steps that [`FakeDriver::block_step`] blocks, one at a time. Dropping the gate releases all of them.
pub struct StepGate {
    permits: Arc<Semaphore>,
    arrival_count: watch::Receiver<usize>,
}

impl StepGate {
    pub fn release_one(&self) {
        self.permits.add_permits(1);
    }

    /// Waits until this many steps have arrived at the gate in total.
    pub async fn wait_for_arrivals(&mut self, count: usize) {
        // `wait_for` cannot fail: the sender lives as long as the runtime.
        drop(self.arrival_count.wait_for(|arrived| *arrived >= count).await);
    }
}

impl Drop for StepGate {
    fn drop(&mut self) {
        self.permits.close();
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
        Self::for_runtime(RuntimeKind::PROCESS)
    }

    /// A fake that reports this runtime kind.
    #[must_use]
    pub fn for_runtime(kind: RuntimeKind) -> Self {
        let runtime = Runtime { state: Mutex::default(), events: broadcast::Sender::new(1024) };
        Self { kind, runtime: Arc::new(runtime) }
    }

    pub fn set_script(&self, unit: &str, script: Script) {
        self.lock_state().scripts.insert(unit.to_owned(), script);
    }

    /// Makes the next step with this name (`start web`, `create-network`) fail.
    pub fn fail_next(&self, step: &str, problem: Problem) {
        self.lock_state().failures.push((step.to_owned(), problem));
    }

    /// Blocks every step with this name until the gate releases it.
    #[must_use]
    pub fn block_step(&self, step: &str) -> StepGate {
        let (gate, (arrivals, arrival_count)) = (Arc::new(Semaphore::new(0)), watch::channel(0));
        self.lock_state().gates.insert(step.to_owned(), (gate.clone(), arrivals));
        StepGate { permits: gate, arrival_count }
    }

    /// The successful steps, in order.
    #[must_use]
    pub fn performed_steps(&self) -> Vec<String> {
        self.lock_state().performed_steps.clone()
    }

    /// Ends a running unit with this exit code, without a stop request.
    pub fn crash(&self, preview: &PreviewId, unit: &str, code: i32) {
        self.end_unit(&mut self.lock_state(), preview, unit, Exit { code: Some(code), ..Exit::default() });
    }

    /// Changes the health that the runtime reports of a unit.
    pub fn set_health(&self, preview: &PreviewId, unit: &str, health: ReportedHealth) {
        self.report_health(&mut self.lock_state(), preview, unit, health);
    }

    /// Adds a line to a unit's output.
    pub fn print_line(&self, preview: &PreviewId, unit: &str, text: &str) {
        let mut state = self.lock_state();
        let timestamp = state.tick();
        if let Some(fake_unit) = state.unit_mut(preview, unit) {
            fake_unit.log_lines.push(LogLine { timestamp, is_stderr: false, text: text.to_owned() });
            fake_unit.notify_change();
        }
    }

    /// Adds a second object for the same unit, as after an interrupted recreate.
    pub fn add_stray(&self, preview: &PreviewId, unit: &str) {
        let mut state = self.lock_state();
        let handle = format!("{unit}-stray-{}", state.tick());
        if let Some(preview) = state.previews.get_mut(preview)
            && let Some(fake_unit) = preview.units.get(unit)
        {
            preview.strays.push(ObservedUnit { handle, state: RunState::Created, ..fake_unit.observed.clone() });
        }
    }

    /// Makes the runtime stop answering; the units keep their state.
    pub fn disconnect(&self, reason: &str) {
        let mut state = self.lock_state();
        state.disconnect_reason = Some(reason.to_owned());
        for preview in state.previews.keys() {
            let lost = RuntimeEvent::ConnectionLost { reason: reason.to_owned() };
            drop(self.runtime.events.send((preview.clone(), lost)));
        }
    }

    pub fn reconnect(&self) {
        self.lock_state().disconnect_reason = None;
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.runtime.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected_state(&self) -> Result<MutexGuard<'_, State>, Problem> {
        let state = self.lock_state();
        match &state.disconnect_reason {
            Some(reason) => Err(Problem::new(ProblemKind::Unavailable, reason.clone())),
            None => Ok(state),
        }
    }

    async fn wait_at_gate(&self, step: &str) {
        let gate = self.lock_state().gates.get(step).map(|(gate, arrivals)| {
            arrivals.send_modify(|count| *count += 1);
            gate.clone()
        });
        if let Some(gate) = gate
            && let Ok(permit) = gate.acquire().await
        {
            // Without `forget`, the permit would return to the gate and release another step.
            permit.forget();
        }
    }

    fn apply_action(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
        let mut state = self.connected_state()?;
        let step = step_name(action);
        // Failures come before any effect, so a failed step leaves the state unchanged, and each applies once.
        if let Some(index) = state.failures.iter().position(|(failing_step, _)| *failing_step == step) {
            return Err(state.failures.remove(index).1);
        }
        let id = &scope.preview.id;
        let result = match action {
            Action::PrepareImage { unit, .. } => state.prepare_image(scope, unit),
            Action::Create { unit, .. } => state.create_unit(scope, find_unit(scope, unit)?, self.kind),
            Action::Start { unit, .. } => self.start_unit(&mut state, scope, unit),
            Action::Apply { unit, .. } => self.apply_unit(&mut state, scope, unit),
            Action::Stop { unit, .. } => {
                self.end_unit(&mut state, id, unit, Exit { signal: Some(15), ..Exit::default() });
                Ok(StepOutcome::default())
            }
            Action::Remove { unit, handle, .. } | Action::Delete { unit, handle, .. } => {
                self.remove_unit(&mut state, id, unit, handle);
                Ok(StepOutcome::default())
            }
            other => {
                state.preview_mut(scope).apply(other);
                Ok(StepOutcome::default())
            }
        };
        if result.is_ok() {
            state.performed_steps.push(step);
        }
        result
    }

    /// Creates a unit or changes it in place, and runs it.
    fn apply_unit(&self, state: &mut State, scope: &Scope, name: &str) -> Result<StepOutcome, Problem> {
        let unit = find_unit(scope, name)?;
        if let Some(existing) = state.unit_mut(&scope.preview.id, name) {
            existing.observed.hash.clone_from(&unit.hash);
            existing.observed.image = Some(image_identity(name));
        } else {
            state.create_unit(scope, unit, self.kind)?;
        }
        let outcome = self.start_unit(state, scope, name)?;
        let health = state.scripts.get(name).and_then(|script| script.health.clone());
        self.report_health(state, &scope.preview.id, name, health.unwrap_or_else(ready_health));
        Ok(outcome)
    }

    fn report_health(&self, state: &mut State, preview: &PreviewId, unit: &str, health: ReportedHealth) {
        if let Some(fake_unit) = state.unit_mut(preview, unit) {
            fake_unit.observed.health = Some(health);
            self.publish_event(preview, RuntimeEvent::Changed { unit: unit.to_owned() });
        }
    }

    fn start_unit(&self, state: &mut State, scope: &Scope, unit: &str) -> Result<StepOutcome, Problem> {
        let (id, timestamp) = (&scope.preview.id, state.tick());
        let script = state.scripts.get(unit).cloned().unwrap_or_default();
        let ports = find_unit(scope, unit)?.ports.iter().map(|(name, port)| (name.clone(), port.host_port)).collect();
        let Some(fake_unit) = state.unit_mut(id, unit) else {
            return Err(Problem::new(ProblemKind::NotFound, format!("`{unit}` is not created yet")));
        };
        let handle = fake_unit.observed.handle.clone();
        let performed = StepOutcome { handle: Some(handle.clone()), ..StepOutcome::default() };
        if fake_unit.observed.state == RunState::Running {
            return Ok(performed);
        }
        fake_unit.observed.state = RunState::Running;
        fake_unit.observed.started_at = Some(timestamp);
        fake_unit.observed.host_ports = ports;
        fake_unit.log_lines.extend(script.stdout_lines.into_iter().map(|text| LogLine {
            timestamp,
            is_stderr: false,
            text,
        }));
        fake_unit.notify_change();
        self.publish_event(id, RuntimeEvent::Started { unit: unit.to_owned(), handle });
        if let Some(code) = script.exit_code {
            self.end_unit(state, id, unit, Exit { code: Some(code), ..Exit::default() });
        }
        Ok(performed)
    }

    fn end_unit(&self, state: &mut State, preview: &PreviewId, unit: &str, mut exit: Exit) {
        exit.ended_at = Some(state.tick());
        let Some(fake_unit) =
            state.unit_mut(preview, unit).filter(|fake_unit| fake_unit.observed.state == RunState::Running)
        else {
            return;
        };
        fake_unit.observed.state = RunState::Exited(exit.clone());
        fake_unit.notify_change();
        let handle = fake_unit.observed.handle.clone();
        self.publish_event(preview, RuntimeEvent::Exited { unit: unit.to_owned(), handle, exit });
    }

    fn remove_unit(&self, state: &mut State, id: &PreviewId, unit: &str, handle: &str) {
        if state.unit_mut(id, unit).is_some_and(|fake_unit| fake_unit.observed.handle == handle) {
            self.end_unit(state, id, unit, Exit { signal: Some(9), ..Exit::default() });
            if let Some(preview) = state.previews.get_mut(id) {
                preview.units.remove(unit);
            }
        }
        if let Some(preview) = state.previews.get_mut(id) {
            preview.strays.retain(|stray| stray.handle != handle);
        }
    }

    fn publish_event(&self, preview: &PreviewId, event: RuntimeEvent) {
        // Sending fails only if there is no subscriber, which is fine.
        drop(self.runtime.events.send((preview.clone(), event)));
    }
}

fn ready_health() -> ReportedHealth {
    ReportedHealth { is_ready: true, replicas: Replicas { wanted: 1, ready: 1 }, conditions: Vec::new() }
}

fn find_unit<'a>(scope: &'a Scope, unit: &str) -> Result<&'a Unit, Problem> {
    let missing = || Problem::new(ProblemKind::NotFound, format!("no unit `{unit}`"));
    scope.application.units.get(unit).ok_or_else(missing)
}

#[async_trait]
impl Driver for FakeDriver {
    fn runtime(&self) -> RuntimeKind {
        self.kind
    }

    async fn observe(&self, preview: &PreviewId, _locations: &Locations) -> Result<Observed, Problem> {
        let state = self.connected_state()?;
        Ok(state.previews.get(preview).map_or_else(Observed::default, |preview| Observed {
            units: preview.units.iter().map(|(name, fake_unit)| (name.clone(), fake_unit.observed.clone())).collect(),
            strays: preview.strays.clone(),
            networks: preview.networks.clone(),
            volumes: preview.volumes.clone(),
        }))
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
        self.wait_at_gate(&step_name(action)).await;
        self.apply_action(scope, action)
    }

    async fn follow_events(
        &self,
        id: &PreviewId,
        _locations: &Locations,
    ) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        drop(self.connected_state()?);
        let (events, id) = (self.runtime.events.subscribe(), id.clone());
        let stream = stream::unfold(Some(events), move |events| {
            let id = id.clone();
            async move {
                let mut events = events?;
                loop {
                    match events.recv().await {
                        Ok((_, event @ RuntimeEvent::ConnectionLost { .. })) => return Some((event, None)),
                        Ok((preview, event)) if preview == id => return Some((event, Some(events))),
                        Ok(_) => {}
                        Err(_) => {
                            let reason = "events were missed".to_owned();
                            return Some((RuntimeEvent::ConnectionLost { reason }, None));
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
        _locations: &Locations,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
        let mut state = self.connected_state()?;
        let Some(fake_unit) = state.unit_mut(preview, unit) else { return Ok(stream::empty().boxed()) };
        let since = request.since.unwrap_or(i64::MIN);
        let first_index = request.tail.map_or(0, |tail| fake_unit.log_lines.len().saturating_sub(tail));
        let change_count = request.follow.then(|| fake_unit.change_count.subscribe());
        let (driver, preview, unit) = (self.clone(), preview.clone(), unit.to_owned());
        let lines = stream::unfold((first_index, change_count), move |(index, mut change_count)| {
            let (driver, preview, unit) = (driver.clone(), preview.clone(), unit.clone());
            async move {
                loop {
                    let is_running = {
                        let mut state = driver.lock_state();
                        let fake_unit = state.unit_mut(&preview, &unit)?;
                        if let Some(line) = fake_unit.log_lines.get(index) {
                            return Some((Ok(line.clone()), (index + 1, change_count)));
                        }
                        fake_unit.observed.state == RunState::Running
                    };
                    let change_count = change_count.as_mut().filter(|_| is_running)?;
                    change_count.changed().await.ok()?;
                }
            }
        });
        let recent = lines.filter(move |line| {
            let is_recent = line.as_ref().is_ok_and(|line: &LogLine| line.timestamp >= since);
            std::future::ready(is_recent)
        });
        Ok(recent.boxed())
    }

    /// Understands `echo WORDS`, `cat SECRET` and `exit CODE`, with or without `/bin/sh -c`, joined by `; `.
    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem> {
        let scripted =
            self.connected_state()?.scripts.get_mut(&unit.name).and_then(|script| script.exec_exit_codes.pop_front());
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
        // Input is ignored, but the receiver must live as long as the output: otherwise the caller's sends would fail.
        let (input, inputs) = mpsc::channel(64);
        let output = stream::iter(output).chain(stream::poll_fn(move |_| {
            let _receiver = &inputs;
            std::task::Poll::Ready(None)
        }));
        Ok(ExecSession { input, output: output.boxed() })
    }

    async fn discover(&self) -> Result<Vec<DiscoveredPreview>, Problem> {
        let state = self.connected_state()?;
        let present = state.previews.values().filter(|preview| !preview.units.is_empty());
        let found = present.map(|preview| DiscoveredPreview {
            preview: preview.name.clone(),
            runtime: self.kind,
            project: Some(preview.project.clone()),
            unit_count: preview.units.len(),
            running_count: preview
                .units
                .values()
                .filter(|fake_unit| fake_unit.observed.state == RunState::Running)
                .count(),
        });
        Ok(found.collect())
    }

    fn image_inspection(&self) -> Option<&dyn ImageInspection> {
        Some(self)
    }

    /// Units of a runtime that supervises them are not on this machine.
    fn port_forward(&self) -> Option<&dyn PortForward> {
        (self.kind.capabilities().supervisor == Supervisor::Runtime).then_some(self as &dyn PortForward)
    }
}

/// Each connection receives the unit's name and port, then an echo of what it sends.
#[async_trait]
impl PortForward for FakeDriver {
    async fn connect(
        &self,
        preview: &PreviewId,
        _locations: &Locations,
        unit: &str,
        listen_port: u16,
    ) -> Result<Box<dyn ByteStream>, Problem> {
        let is_running = self
            .connected_state()?
            .unit_mut(preview, unit)
            .is_some_and(|fake_unit| fake_unit.observed.state == RunState::Running);
        if !is_running {
            return Err(Problem::new(ProblemKind::NotFound, format!("`{unit}` does not run")));
        }
        let greeting = std::io::Cursor::new(format!("{unit}:{listen_port}\n").into_bytes());
        // The client reads from one end what it writes to the other end.
        let (echo, input) = tokio::io::simplex(1024);
        Ok(Box::new(tokio::io::join(greeting.chain(echo), input)))
    }
}

#[async_trait]
impl ImageInspection for FakeDriver {
    async fn inspect_images(&self, scope: &Scope) -> Result<Images, Problem> {
        let state = self.connected_state()?;
        let mut images = Images::default();
        let own_units = scope.application.units.values().filter(|unit| unit.runtime == self.kind);
        for name in own_units.map(|unit| &unit.name) {
            match state.scripts.get(name).and_then(|script| script.stale_reason.clone()) {
                Some(reason) => images.stale.insert(name.clone(), reason),
                None => images.current.insert(name.clone(), image_identity(name)),
            };
        }
        Ok(images)
    }
}
