//! The fake driver satisfies the same contract as the real runtimes, and applies the failures and delays of a test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::contract::{self, Behaviour, Harness};
use drivers::driver::{Driver, ExecOutput, ExecRequest};
use drivers::fake::{FakeDriver, Script};
use drivers::problem::{Problem, ProblemKind};
use drivers::scope::{Locations, Progress, ProgressLine, Scope, SecretFiles};
use futures_util::StreamExt;
use plan::Application;
use plan::application::{
    Argv, Body, Health, JobTiming, PreviewId, PreviewName, ProcessDir, ProcessSpec, ReadyCheck, RestartPolicy, Role,
    RuntimeKind, Stop, SupportLevel, Unit,
};
use plan::runtime::{ObjectChanges, Supervisor};
use plan::step::Action;

struct FakeHarness {
    driver: FakeDriver,
    secrets: tempfile::TempDir,
}

impl FakeHarness {
    fn new() -> Self {
        Self::for_runtime(RuntimeKind::PROCESS)
    }

    fn for_runtime(runtime: RuntimeKind) -> Self {
        let secrets = tempfile::tempdir().expect("temporary folder");
        std::fs::write(secrets.path().join("token"), "s3cret").expect("written");
        Self { driver: FakeDriver::for_runtime(runtime), secrets }
    }
}

impl Harness for FakeHarness {
    fn new_driver(&self) -> Arc<dyn Driver> {
        Arc::new(self.driver.clone())
    }

    fn locations(&self, _preview: &PreviewId) -> Locations {
        let nowhere = PathBuf::from("/nonexistent");
        Locations {
            project: nowhere.clone(),
            data: nowhere.clone(),
            runtime: nowhere.clone(),
            state: nowhere.clone(),
            cache: nowhere,
        }
    }

    fn build_unit(&self, name: &str, behaviour: &Behaviour) -> Unit {
        let script = Script {
            stdout_lines: behaviour.stdout_lines.clone(),
            exit_code: behaviour.exit_code,
            ..Script::default()
        };
        self.driver.set_script(name, script);
        unit(name)
    }

    fn secrets_folder(&self) -> PathBuf {
        self.secrets.path().to_owned()
    }

    fn secret_path(&self, _unit: &str) -> String {
        "/secrets/token".to_owned()
    }
}

#[tokio::test]
async fn fake_driver_satisfies_contract() {
    contract::check(&FakeHarness::new()).await;
}

#[tokio::test]
async fn fake_driver_of_applying_runtime_satisfies_contract() {
    let mut definition = RuntimeKind::DOCKER.definition().clone();
    definition.name = "applying";
    definition.capabilities.object_changes = ObjectChanges::Apply;
    definition.capabilities.supervisor = Supervisor::Runtime;
    let runtime = RuntimeKind::new(Box::leak(Box::new(definition)));
    contract::check_applying(&FakeHarness::for_runtime(runtime)).await;
}

#[tokio::test]
async fn scripted_failures_and_delays_take_effect() {
    let harness = FakeHarness::new();
    let (driver, scope) = (&harness.driver, scope(&harness));
    let step = |action: fn(String, RuntimeKind) -> Action| action("web".to_owned(), RuntimeKind::PROCESS);
    let create = step(|unit, runtime| Action::Create { unit, runtime });
    let start = step(|unit, runtime| Action::Start { unit, runtime });
    driver.fail_next("create web", Problem::new(ProblemKind::DiskFull, "full"));
    assert_eq!(driver.perform(&scope, &create).await.expect_err("fails once").kind, ProblemKind::DiskFull);
    driver.perform(&scope, &create).await.expect("succeeds the second time");
    let mut gate = driver.block_step("start web");
    let blocked_start = tokio::spawn({
        let (driver, scope, start) = (driver.clone(), scope.clone(), start.clone());
        async move { driver.perform(&scope, &start).await }
    });
    gate.wait_for_arrivals(1).await;
    assert_eq!(driver.performed_steps(), ["create web"]);
    gate.release_one();
    blocked_start.await.expect("not cancelled").expect("starts");
    assert_eq!(driver.performed_steps(), ["create web", "start web"]);
    driver.disconnect("stopped");
    let problem = driver.observe(&scope.preview.id, &scope.locations).await.expect_err("gone");
    assert_eq!(problem.kind, ProblemKind::Unavailable);
    driver.reconnect();
    driver.add_stray(&scope.preview.id, "web");
    assert_eq!(driver.observe(&scope.preview.id, &scope.locations).await.expect("back").strays.len(), 1);
}

#[tokio::test]
async fn exec_returns_scripted_exit_codes() {
    let harness = FakeHarness::new();
    harness.driver.set_script("web", Script { exec_exit_codes: [1, 1].into(), ..Script::default() });
    let scope = scope(&harness);
    let mut codes = Vec::new();
    for _ in 0..3 {
        let request = ExecRequest { argv: vec!["check".to_owned()], ..ExecRequest::default() };
        let session = harness.driver.exec(&scope, &scope.application.units["web"], request).await.expect("runs");
        let output = tokio::time::timeout(Duration::from_secs(5), session.output.collect::<Vec<_>>()).await;
        codes.extend(output.expect("ends").into_iter().filter_map(|item| match item {
            ExecOutput::Exit(code) => Some(code),
            _ => None,
        }));
    }
    assert_eq!(codes, [1, 1, 0]);
}

struct NoSecretsNoProgress;

impl SecretFiles for NoSecretsNoProgress {
    fn folder(&self, _unit: &str) -> Option<PathBuf> {
        None
    }
}

impl Progress for NoSecretsNoProgress {
    fn report(&self, _unit: &str, _line: ProgressLine) {}
}

fn scope(harness: &FakeHarness) -> Scope {
    let preview = PreviewName {
        id: PreviewId("abcdefghijklmnop".to_owned()),
        app: "shop".to_owned(),
        branch: "main".to_owned(),
        environment: "local".to_owned(),
    };
    let locations = harness.locations(&preview.id);
    let application = Application {
        preview: preview.clone(),
        units: BTreeMap::from([("web".to_owned(), unit("web"))]),
        volumes: BTreeMap::new(),
        default_service: None,
    };
    let application = Arc::new(application);
    Scope {
        preview,
        locations,
        application,
        targets: plan::target::Targets::default(),
        shell_environment: None,
        secrets: Arc::new(NoSecretsNoProgress),
        progress: Arc::new(NoSecretsNoProgress),
    }
}

fn unit(name: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        role: Role::Service,
        runtime: RuntimeKind::PROCESS,
        body: Body::Process(ProcessSpec {
            argv: Argv::List(vec!["scripted".to_owned()]),
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
        secrets: vec!["token".to_owned()],
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
