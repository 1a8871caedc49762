//! One preview of real processes in a temporary folder, and the questions that the tests of this runtime ask.
//! Ends its keeper when dropped, whatever the test did.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::driver::{Driver, Performed, Places, Problem, Progress, ProgressLine, RuntimeEvent, Scope, SecretFiles};
use drivers::process::ProcessDriver;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use plan::Application;
use plan::application::{
    Argv, Body, Health, PreviewId, PreviewName, ProcessDir, ProcessSpec, ReadyCheck, Restart, Role, RuntimeKind, Stop,
    Support, Unit, When,
};
use plan::observed::{Exit, Observed, RunState};
use plan::step::Action;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
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

struct Quiet;

impl Progress for Quiet {
    fn line(&self, _unit: &str, _line: ProgressLine) {}
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("project")).expect("project folder");
        let name = PreviewName {
            id: PreviewId("abcdefghijklmnop".to_owned()),
            app: "shop".to_owned(),
            branch: "main".to_owned(),
            environment: "local".to_owned(),
        };
        let driver = fresh_driver(folder.path().join("state/previews"));
        Self { folder, name, driver, units: BTreeMap::new() }
    }

    /// As an agent that was started again: nothing is shared with the driver before.
    pub(crate) fn forget_driver(&mut self) {
        self.driver = fresh_driver(self.folder.path().join("state/previews"));
    }

    pub(crate) fn places(&self) -> Places {
        self.places_of(&self.name.id)
    }

    pub(crate) fn places_of(&self, id: &PreviewId) -> Places {
        let root = self.folder.path();
        Places {
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
            places: self.places(),
            application: Arc::new(Application {
                preview: self.name.clone(),
                units: self.units.clone(),
                volumes: BTreeMap::new(),
                default_service: None,
            }),
            secrets: Arc::new(NoSecrets),
            progress: Arc::new(Quiet),
        }
    }

    pub(crate) fn shell(&mut self, name: &str, line: &str) -> &mut Unit {
        self.unit(name, Argv::Shell(line.to_owned()))
    }

    pub(crate) fn unit(&mut self, name: &str, argv: Argv) -> &mut Unit {
        self.units.insert(name.to_owned(), unit(name, argv));
        self.units.get_mut(name).expect("just inserted")
    }

    pub(crate) async fn perform(&self, action: Action) -> Result<Performed, Problem> {
        self.driver.perform(&self.scope(), &action).await
    }

    pub(crate) async fn create(&self, unit: &str) -> Result<Performed, Problem> {
        self.perform(Action::Create { unit: unit.to_owned(), runtime: RuntimeKind::Process }).await
    }

    pub(crate) async fn start(&self, unit: &str) -> Result<Performed, Problem> {
        self.perform(Action::Start { unit: unit.to_owned(), runtime: RuntimeKind::Process }).await
    }

    pub(crate) async fn up(&self, unit: &str) {
        self.create(unit).await.expect("creates");
        self.start(unit).await.expect("starts");
    }

    pub(crate) async fn stop(&self, unit: &str) {
        let action = Action::Stop { unit: unit.to_owned(), runtime: RuntimeKind::Process };
        self.perform(action).await.expect("stops");
    }

    pub(crate) async fn remove(&self, unit: &str) {
        let handle = self.observe().await.units.get(unit).map(|found| found.handle.clone()).unwrap_or_default();
        let action = Action::Remove { unit: unit.to_owned(), runtime: RuntimeKind::Process, handle };
        self.perform(action).await.expect("removes");
    }

    pub(crate) async fn down(&self) {
        for unit in self.observe().await.units.keys() {
            self.remove(unit).await;
        }
    }

    pub(crate) async fn observe(&self) -> Observed {
        self.driver.observe(&self.name.id, &self.places()).await.expect("observes")
    }

    pub(crate) async fn state(&self, unit: &str) -> RunState {
        self.observe().await.units.remove(unit).expect("unit is known").state
    }

    pub(crate) async fn follow(&self) -> BoxStream<'static, RuntimeEvent> {
        self.driver.follow(&self.name.id, &self.places()).await.expect("follows")
    }

    /// Starts a unit that ends by itself and waits for that.
    pub(crate) async fn run(&self, unit: &str) -> Exit {
        self.create(unit).await.expect("creates");
        self.start(unit).await.expect("starts");
        self.exit(unit).await
    }

    pub(crate) async fn exit(&self, unit: &str) -> Exit {
        let mut events = self.follow().await;
        loop {
            if let RunState::Exited(exit) = self.state(unit).await {
                return exit;
            }
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
            assert!(!matches!(event, None | Some(RuntimeEvent::Lost { .. })), "keeper lost while waiting: {event:?}");
        }
    }

    pub(crate) fn keeper_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.places().state.join("keeper.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        Some(i32::try_from(value["process"]["pid"].as_i64().expect("pid")).expect("a pid"))
    }

    /// Waits until a file written by a unit is there and ends with a line end.
    pub(crate) async fn file(&self, name: &str) -> String {
        let path = self.folder.path().join("project").join(name);
        eventually(name, || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))).await.trim().to_owned()
    }

    pub(crate) async fn pid_in(&self, name: &str) -> i32 {
        self.file(name).await.parse().expect("a pid")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(pid) = self.keeper_pid().filter(|pid| alive(*pid)) {
            kill(pid, rustix::process::Signal::TERM);
            kill(pid, rustix::process::Signal::TERM);
        }
    }
}

pub(crate) fn fresh_driver(previews: PathBuf) -> ProcessDriver {
    ProcessDriver::new(PathBuf::from(env!("CARGO_BIN_EXE_pdev-keeper")), previews)
}

/// For what announces itself to nobody (a file of a child, the death of a stranger): asks until a deadline.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) fn unit(name: &str, argv: Argv) -> Unit {
    Unit {
        name: name.to_owned(),
        role: Role::Service,
        body: Body::Process(ProcessSpec {
            argv,
            dir: ProcessDir::Project(".".to_owned()),
            build: None,
            build_inputs: Vec::new(),
            user: None,
            init: Vec::new(),
            after_ready: Vec::new(),
            files: BTreeMap::new(),
            search: Vec::new(),
            install_hint: None,
        }),
        ports: BTreeMap::new(),
        routes: Vec::new(),
        wildcard: false,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        identity: None,
        health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::from_secs(60) },
        needs: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".to_owned(), grace: Duration::from_secs(10) },
        restart: Restart::Never,
        when: When::Before,
        timeout: None,
        module: None,
        hash: "first".to_owned(),
        support: Support::Paved,
    }
}

pub(crate) fn process(unit: &mut Unit) -> &mut ProcessSpec {
    match &mut unit.body {
        Body::Process(spec) => spec,
        Body::Container(_) => panic!("a process was made"),
    }
}
