//! One preview in the local engine, with the driver and direct access to the engine.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drivers::docker::{DockerDriver, DockerEnv, choose_endpoint};
use drivers::driver::{Driver, RuntimeEvent, StepOutcome};
use drivers::problem::Problem;
use drivers::scope::{Locations, Progress, ProgressLine, Scope, SecretFiles};
use futures_util::StreamExt;
use plan::Application;
use plan::application::{
    Body, Container, Health, ImageSource, JobTiming, PreviewId, PreviewName, PullPolicy, ReadyCheck, RestartPolicy,
    Role, RuntimeKind, Stop, SupportLevel, Unit,
};
use plan::observed::{Exit, Observed, ObservedUnit, RunState, RuntimeObject};
use plan::step::Action;
use serde_json::{Value, json};

pub const IMAGE: &str = "debian:stable-slim";
pub const TIMEOUT: Duration = Duration::from_secs(60);

pub fn engine() -> bollard::Docker {
    bollard::Docker::connect_with_defaults().expect("an engine's address")
}

/// Reports on standard error why a test is skipped, because a skipped test must not look like a passed one.
pub async fn should_skip() -> bool {
    let reason = if !engine_answers().await {
        Some("no Docker engine")
    } else {
        engine().inspect_image(IMAGE).await.is_err().then_some("no image debian:stable-slim")
    };
    if let Some(reason) = reason {
        writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error is open");
    }
    reason.is_some()
}

pub struct FixedSecretFolder(pub Option<PathBuf>);

impl SecretFiles for FixedSecretFolder {
    fn folder(&self, _unit: &str) -> Option<PathBuf> {
        self.0.clone()
    }
}

#[derive(Default)]
pub struct RecordedProgress(pub Mutex<Vec<ProgressLine>>);

impl Progress for RecordedProgress {
    fn report(&self, _unit: &str, line: ProgressLine) {
        self.0.lock().expect("no test panics while holding the lock").push(line);
    }
}

async fn engine_answers() -> bool {
    match choose_endpoint(&DockerEnv::from_env()) {
        Ok(endpoint) => DockerDriver::new(endpoint, "test").ping().await.is_ok(),
        Err(_) => false,
    }
}

/// A preview whose objects are removed when `close` returns.
pub struct TestPreview {
    pub driver: DockerDriver,
    pub name: PreviewName,
    pub folder: tempfile::TempDir,
    pub units: BTreeMap<String, Unit>,
    pub progress: Arc<RecordedProgress>,
    pub secrets_folder: Option<PathBuf>,
}

impl TestPreview {
    pub async fn open(case: &str, units: Vec<Unit>) -> Self {
        let preview = Self::with_docker_env(DockerEnv::from_env(), case, units);
        preview.perform_ok(Action::CreateNetwork { runtime: RuntimeKind::DOCKER }).await;
        preview
    }

    pub fn with_docker_env(docker_env: DockerEnv, case: &str, units: Vec<Unit>) -> Self {
        // The whole case name: two cases once shared an id, and one removed the objects of the other. Object names start
        // with the process id, which keeps leftovers of a failed run out of the way.
        let id = format!("{:04x}{}", std::process::id() & 0xffff, case.replace('-', ""));
        let name = PreviewName {
            id: PreviewId(id),
            app: "gaps".to_owned(),
            branch: case.to_owned(),
            environment: "local".to_owned(),
        };
        let units = units.into_iter().map(|unit| (unit.name.clone(), unit)).collect();
        let folder = tempfile::tempdir().expect("folder");
        Self {
            driver: DockerDriver::new(
                choose_endpoint(&docker_env).expect("the docker command's settings are valid"),
                "test",
            ),
            name,
            folder,
            units,
            progress: Arc::default(),
            secrets_folder: None,
        }
    }

    pub fn locations(&self) -> Locations {
        let folder = |name: &str| self.folder.path().join(name);
        Locations {
            project: folder("project"),
            data: folder("data"),
            runtime: folder("runtime"),
            state: folder("state"),
            cache: folder("cache"),
        }
    }

    pub fn scope(&self) -> Scope {
        let application = Application {
            preview: self.name.clone(),
            units: self.units.clone(),
            volumes: BTreeMap::new(),
            default_service: None,
        };
        Scope {
            preview: self.name.clone(),
            locations: self.locations(),
            application: Arc::new(application),
            targets: plan::target::Targets::default(),
            shell_environment: None,
            secrets: Arc::new(FixedSecretFolder(self.secrets_folder.clone())),
            progress: Arc::<RecordedProgress>::clone(&self.progress),
        }
    }

    pub async fn perform(&self, action: Action) -> Result<StepOutcome, Problem> {
        let call = async { self.driver.perform(&self.scope(), &action).await };
        tokio::time::timeout(TIMEOUT, call).await.expect("answers in time")
    }

    pub async fn perform_ok(&self, action: Action) -> StepOutcome {
        let description = format!("{action:?}");
        self.perform(action).await.unwrap_or_else(|problem| panic!("{description}: {problem:?}"))
    }

    pub async fn create(&self, unit: &str) -> String {
        self.perform_ok(create_action(unit)).await.handle.expect("a handle")
    }

    pub async fn observe(&self) -> Observed {
        self.driver.observe(&self.name.id, &self.locations()).await.expect("observes")
    }

    pub async fn observe_unit(&self, unit: &str) -> ObservedUnit {
        let mut observed = self.observe().await;
        observed.units.remove(unit).unwrap_or_else(|| panic!("`{unit}` is not observed"))
    }

    /// Waits until a unit exits. Subscribes before it observes, so that an exit in between is not missed.
    pub async fn wait_for_exit(&self, unit: &str) -> Exit {
        let mut events = self.driver.follow_events(&self.name.id, &self.locations()).await.expect("follows");
        loop {
            if let RunState::Exited(exit) = self.observe_unit(unit).await.state {
                return exit;
            }
            let event = tokio::time::timeout(TIMEOUT, events.next())
                .await
                .unwrap_or_else(|_| panic!("no exit of `{unit}` in time"));
            assert!(
                !matches!(event, None | Some(RuntimeEvent::ConnectionLost { .. })),
                "lost while waiting for `{unit}`"
            );
        }
    }

    pub async fn close(self) {
        let observed = self.observe().await;
        for unit in observed.units.into_values().chain(observed.strays) {
            let action = Action::Remove { unit: unit.name, runtime: RuntimeKind::DOCKER, handle: unit.handle };
            self.perform_ok(action).await;
        }
        for RuntimeObject { name, runtime } in observed.volumes {
            self.perform_ok(Action::RemoveVolume { runtime, volume: name }).await;
        }
        for RuntimeObject { name, runtime } in observed.networks {
            self.perform_ok(Action::RemoveNetwork { runtime, name }).await;
        }
        let remaining = self.observe().await;
        assert!(remaining.units.is_empty() && remaining.networks.is_empty(), "not removed: {remaining:?}");
    }
}

pub fn create_action(unit: &str) -> Action {
    Action::Create { unit: unit.to_owned(), runtime: RuntimeKind::DOCKER }
}

pub fn prepare_action(unit: &str) -> Action {
    Action::PrepareImage { unit: unit.to_owned(), runtime: RuntimeKind::DOCKER }
}

pub fn start_action(unit: &str) -> Action {
    Action::Start { unit: unit.to_owned(), runtime: RuntimeKind::DOCKER }
}

pub fn stop_action(unit: &str) -> Action {
    Action::Stop { unit: unit.to_owned(), runtime: RuntimeKind::DOCKER }
}

/// A shell script that runs until the container is stopped.
pub const RUN_UNTIL_STOPPED: &str = "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done";

pub fn shell_unit(name: &str, line: &str) -> Unit {
    container_unit(name, json!({ "Entrypoint": ["/bin/sh", "-c"], "Cmd": [line] }))
}

pub fn container_unit(name: &str, create: Value) -> Unit {
    Unit {
        name: name.to_owned(),
        role: Role::Service,
        runtime: RuntimeKind::DOCKER,
        body: Body::Container(Container {
            image: ImageSource::Reference(IMAGE.to_owned()),
            create_body: create,
            aliases: vec![name.to_owned()],
            gateway_peers: Vec::new(),
            volumes: Vec::new(),
            pull: PullPolicy::Never,
        }),
        ports: BTreeMap::new(),
        routes: Vec::new(),
        wildcard: false,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        identity: None,
        declares_identity: false,
        health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::from_secs(10) },
        needs: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".to_owned(), grace: Duration::from_secs(1) },
        restart: RestartPolicy::Never,
        when: JobTiming::default(),
        timeout: None,
        module: None,
        hash: "first".to_owned(),
        support: SupportLevel::Paved,
    }
}
