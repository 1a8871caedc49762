//! A preview with real processes in a temporary folder, and helpers to inspect it. Ends its keeper when dropped, even
//! if the test failed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::driver::{Driver, RuntimeEvent, StepOutcome};
use drivers::problem::Problem;
use drivers::process::ProcessDriver;
use drivers::scope::{Locations, Progress, ProgressLine, Scope, SecretFiles};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use plan::Application;
use plan::application::{
    Argv, Body, Health, JobTiming, PreviewId, PreviewName, ProcessDir, ProcessSpec, ReadyCheck, RestartPolicy, Role,
    RuntimeKind, Stop, SupportLevel, Unit,
};
use plan::observed::{Exit, Observed, RunState};
use plan::step::Action;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct TestPreview {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) name: PreviewName,
    pub(crate) driver: ProcessDriver,
    pub(crate) units: BTreeMap<String, Unit>,
}

struct NoSecrets;

impl SecretFiles for NoSecrets {
    fn folder(&self, _unit: &str) -> Option<PathBuf> {
        None
    }
}

struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _unit: &str, _line: ProgressLine) {}
}

impl TestPreview {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("project")).expect("project folder");
        let name = PreviewName {
            id: PreviewId("abcdefghijklmnop".to_owned()),
            app: "shop".to_owned(),
            branch: "main".to_owned(),
            environment: "local".to_owned(),
        };
        let driver = new_driver(folder.path().join("state/previews"));
        Self { folder, name, driver, units: BTreeMap::new() }
    }

    /// Replaces the driver like a restarted agent, which shares nothing with its predecessor.
    pub(crate) fn replace_driver(&mut self) {
        self.driver = new_driver(self.folder.path().join("state/previews"));
    }

    pub(crate) fn locations(&self) -> Locations {
        self.locations_of(&self.name.id)
    }

    pub(crate) fn locations_of(&self, id: &PreviewId) -> Locations {
        let root = self.folder.path();
        Locations {
            project: root.join("project"),
            data: root.join("data/previews").join(&id.0),
            runtime: root.join("run").join(&id.0),
            state: root.join("state/previews").join(&id.0),
            cache: root.join("cache"),
        }
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope {
            preview: self.name.clone(),
            locations: self.locations(),
            application: Arc::new(Application {
                preview: self.name.clone(),
                units: self.units.clone(),
                volumes: BTreeMap::new(),
                default_service: None,
            }),
            targets: plan::target::Targets::default(),
            shell_environment: None,
            secrets: Arc::new(NoSecrets),
            progress: Arc::new(NoProgress),
        }
    }

    pub(crate) fn add_shell_unit(&mut self, name: &str, line: &str) -> &mut Unit {
        self.add_unit(name, Argv::Shell(line.to_owned()))
    }

    pub(crate) fn add_unit(&mut self, name: &str, argv: Argv) -> &mut Unit {
        self.units.insert(name.to_owned(), process_unit(name, argv));
        self.units.get_mut(name).expect("just inserted")
    }

    pub(crate) async fn perform(&self, action: Action) -> Result<StepOutcome, Problem> {
        self.driver.perform(&self.scope(), &action).await
    }

    pub(crate) async fn create(&self, unit: &str) -> Result<StepOutcome, Problem> {
        self.perform(Action::Create { unit: unit.to_owned(), runtime: RuntimeKind::PROCESS }).await
    }

    pub(crate) async fn start(&self, unit: &str) -> Result<StepOutcome, Problem> {
        self.perform(Action::Start { unit: unit.to_owned(), runtime: RuntimeKind::PROCESS }).await
    }

    pub(crate) async fn create_and_start(&self, unit: &str) {
        self.create(unit).await.expect("creates");
        self.start(unit).await.expect("starts");
    }

    pub(crate) async fn stop(&self, unit: &str) {
        let action = Action::Stop { unit: unit.to_owned(), runtime: RuntimeKind::PROCESS };
        self.perform(action).await.expect("stops");
    }

    pub(crate) async fn remove(&self, unit: &str) {
        let handle = self.observe().await.units.get(unit).map(|found| found.handle.clone()).unwrap_or_default();
        let action = Action::Remove { unit: unit.to_owned(), runtime: RuntimeKind::PROCESS, handle };
        self.perform(action).await.expect("removes");
    }

    pub(crate) async fn remove_all(&self) {
        for unit in self.observe().await.units.keys() {
            self.remove(unit).await;
        }
    }

    pub(crate) async fn observe(&self) -> Observed {
        self.driver.observe(&self.name.id, &self.locations()).await.expect("observes")
    }

    pub(crate) async fn unit_state(&self, unit: &str) -> RunState {
        self.observe().await.units.remove(unit).expect("unit is known").state
    }

    pub(crate) async fn follow_events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.driver.follow_events(&self.name.id, &self.locations()).await.expect("follows")
    }

    /// Starts a unit that exits on its own and waits for its exit.
    pub(crate) async fn run_to_exit(&self, unit: &str) -> Exit {
        self.create(unit).await.expect("creates");
        self.start(unit).await.expect("starts");
        self.wait_for_exit(unit).await
    }

    pub(crate) async fn wait_for_exit(&self, unit: &str) -> Exit {
        let mut events = self.follow_events().await;
        loop {
            if let RunState::Exited(exit) = self.unit_state(unit).await {
                return exit;
            }
            let event = tokio::time::timeout(TIMEOUT, events.next()).await.expect("an event in time");
            assert!(
                !matches!(event, None | Some(RuntimeEvent::ConnectionLost { .. })),
                "keeper lost while waiting: {event:?}"
            );
        }
    }

    pub(crate) fn keeper_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.locations().state.join("keeper.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        Some(i32::try_from(value["process"]["pid"].as_i64().expect("pid")).expect("a pid"))
    }

    /// Waits until a file that a unit writes exists and ends with a line end.
    pub(crate) async fn wait_for_file(&self, name: &str) -> String {
        let path = self.folder.path().join("project").join(name);
        eventually(name, || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))).await.trim().to_owned()
    }

    pub(crate) async fn wait_for_pid(&self, name: &str) -> i32 {
        self.wait_for_file(name).await.parse().expect("a pid")
    }
}

impl Drop for TestPreview {
    fn drop(&mut self) {
        if let Some(pid) = self.keeper_pid().filter(|pid| is_alive(*pid)) {
            // The first signal starts an orderly stop, the second kills.
            send_signal(pid, rustix::process::Signal::TERM);
            send_signal(pid, rustix::process::Signal::TERM);
        }
    }
}

pub(crate) fn new_driver(previews: PathBuf) -> ProcessDriver {
    ProcessDriver::new(PathBuf::from(env!("CARGO_BIN_EXE_pdev-keeper")), previews)
}

/// Polls until a deadline, for conditions without an event: a file of a child, the death of an unrelated process.
pub(crate) async fn eventually<T>(description: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out: {description}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn send_signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) fn process_unit(name: &str, argv: Argv) -> Unit {
    Unit {
        name: name.to_owned(),
        role: Role::Service,
        runtime: RuntimeKind::PROCESS,
        body: Body::Process(ProcessSpec {
            argv,
            dir: ProcessDir::Project(".".to_owned()),
            build: None,
            build_inputs: Vec::new(),
            user: None,
            init: Vec::new(),
            after_ready: Vec::new(),
            files: BTreeMap::new(),
            search_paths: Vec::new(),
            install_hint: None,
            version: None,
        }),
        ports: BTreeMap::new(),
        routes: Vec::new(),
        wildcard: false,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        identity: None,
        declares_identity: false,
        health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::from_secs(60) },
        needs: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".to_owned(), grace: Duration::from_secs(10) },
        restart: RestartPolicy::Never,
        when: JobTiming::Before,
        timeout: None,
        module: None,
        hash: "first".to_owned(),
        support: SupportLevel::Paved,
    }
}

pub(crate) fn process_spec(unit: &mut Unit) -> &mut ProcessSpec {
    match &mut unit.body {
        Body::Process(spec) => spec,
        Body::Container(_) => panic!("not a process"),
    }
}
