//! The fake keeps the same promises as the real runtimes, and its own: failures and delays as the test says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::contract::{self, Behaviour, Harness};
use drivers::driver::{
    Driver, ExecOutput, ExecRequest, Places, Problem, ProblemKind, Progress, ProgressLine, Scope, SecretFiles,
};
use drivers::fake::{FakeDriver, Script};
use futures_util::StreamExt;
use plan::Application;
use plan::application::{
    Argv, Body, Health, PreviewId, PreviewName, ProcessDir, ProcessSpec, ReadyCheck, Restart, Role, RuntimeKind, Stop,
    Support, Unit, When,
};
use plan::step::Action;

struct Memory {
    driver: FakeDriver,
    secrets: tempfile::TempDir,
}

impl Memory {
    fn new() -> Self {
        let secrets = tempfile::tempdir().expect("temporary folder");
        std::fs::write(secrets.path().join("token"), "s3cret").expect("written");
        Self { driver: FakeDriver::new(), secrets }
    }
}

impl Harness for Memory {
    fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(self.driver.clone())
    }

    fn places(&self, _preview: &PreviewId) -> Places {
        let nowhere = PathBuf::from("/nonexistent");
        Places {
            project: nowhere.clone(),
            data: nowhere.clone(),
            runtime: nowhere.clone(),
            state: nowhere.clone(),
            cache: nowhere,
        }
    }

    fn unit(&self, name: &str, behaviour: &Behaviour) -> Unit {
        let script = Script { prints: behaviour.prints.clone(), exits: behaviour.exits, ..Script::default() };
        self.driver.script(name, script);
        unit(name)
    }

    fn secrets(&self) -> PathBuf {
        self.secrets.path().to_owned()
    }

    fn secret_path(&self, _unit: &str) -> String {
        "/secrets/token".to_owned()
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    contract::check(&Memory::new()).await;
}

#[tokio::test]
async fn failures_and_delays_happen_as_told() {
    let memory = Memory::new();
    let (driver, scope) = (&memory.driver, scope(&memory));
    let step = |action: fn(String, RuntimeKind) -> Action| action("web".to_owned(), RuntimeKind::Process);
    let create = step(|unit, runtime| Action::Create { unit, runtime });
    let start = step(|unit, runtime| Action::Start { unit, runtime });
    driver.fail_next("create web", Problem::new(ProblemKind::DiskFull, "full"));
    assert_eq!(driver.perform(&scope, &create).await.expect_err("told so").kind, ProblemKind::DiskFull);
    driver.perform(&scope, &create).await.expect("only once");
    let mut gate = driver.hold("start web");
    let held = tokio::spawn({
        let (driver, scope, start) = (driver.clone(), scope.clone(), start.clone());
        async move { driver.perform(&scope, &start).await }
    });
    gate.arrived(1).await;
    assert_eq!(driver.performed(), ["create web"]);
    gate.let_one_pass();
    held.await.expect("not cancelled").expect("starts");
    assert_eq!(driver.performed(), ["create web", "start web"]);
    driver.lose("stopped");
    let lost = driver.observe(&scope.preview.id, &scope.places).await.expect_err("gone");
    assert_eq!(lost.kind, ProblemKind::Unavailable);
    driver.restore();
    driver.add_stray(&scope.preview.id, "web");
    assert_eq!(driver.observe(&scope.preview.id, &scope.places).await.expect("back").strays.len(), 1);
}

#[tokio::test]
async fn checks_succeed_when_the_script_says() {
    let memory = Memory::new();
    memory.driver.script("web", Script { exec_codes: [1, 1].into(), ..Script::default() });
    let scope = scope(&memory);
    let mut codes = Vec::new();
    for _ in 0..3 {
        let request = ExecRequest { argv: vec!["check".to_owned()], ..ExecRequest::default() };
        let session = memory.driver.exec(&scope, &scope.application.units["web"], request).await.expect("runs");
        let all = tokio::time::timeout(Duration::from_secs(5), session.output.collect::<Vec<_>>()).await;
        codes.extend(all.expect("ends").into_iter().filter_map(|piece| match piece {
            ExecOutput::Exit(code) => Some(code),
            _ => None,
        }));
    }
    assert_eq!(codes, [1, 1, 0]);
}

struct Nothing;

impl SecretFiles for Nothing {
    fn folder(&self, _unit: &str) -> Option<PathBuf> {
        None
    }
}

impl Progress for Nothing {
    fn line(&self, _unit: &str, _line: ProgressLine) {}
}

fn scope(memory: &Memory) -> Scope {
    let preview = PreviewName {
        id: PreviewId("abcdefghijklmnop".to_owned()),
        app: "shop".to_owned(),
        branch: "main".to_owned(),
        environment: "local".to_owned(),
    };
    let places = memory.places(&preview.id);
    let application = Application {
        preview: preview.clone(),
        units: BTreeMap::from([("web".to_owned(), unit("web"))]),
        volumes: BTreeMap::new(),
        default_service: None,
    };
    let application = Arc::new(application);
    Scope { preview, places, application, secrets: Arc::new(Nothing), progress: Arc::new(Nothing) }
}

fn unit(name: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        role: Role::Service,
        body: Body::Process(ProcessSpec {
            argv: Argv::List(vec!["scripted".to_owned()]),
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
        secrets: vec!["token".to_owned()],
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
