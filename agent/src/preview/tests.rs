//! The agent with a third runtime: one that changes objects in place, supervises its units, and has them elsewhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use credentials::approval::Approvals;
use credentials::approval::ancestry::SystemProcesses;
use credentials::broker::Broker;
use credentials::exchange::ExchangeRunner;
use credentials::session::Sessions;
use credentials::vault::VaultOptions;
use credentials::{CredentialPaths, SecretDelivery};
use drivers::driver::Driver;
use drivers::fake::{FakeDriver, Script};
use drivers::problem::Problem as DriverProblem;
use drivers::{DriverFactory, TargetSource};
use plan::application::RuntimeKind;
use plan::observed::{Condition, Replicas, ReportedHealth};
use plan::runtime::{Availability, ObjectChanges, Supervisor};
use plan::target::Target;
use protocol::request::UpRequest;
use protocol::status::{PreviewState, PreviewStatus, UnitState};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::{ManifestSource, PreviewHandle, naming};
use crate::approvals::AccessControl;
use crate::bus::Bus;
use crate::locations::AgentLocations;
use crate::proxy::Routes;
use crate::registry::Registry;
use crate::routing::Routing;
use crate::runtimes::RuntimeDrivers;
use crate::shared::Shared;

const LIMIT: Duration = Duration::from_secs(10);

struct FakeFactory(FakeDriver);

impl DriverFactory for FakeFactory {
    fn runtime(&self) -> RuntimeKind {
        self.0.runtime()
    }

    fn select_target(
        &self,
        _: &BTreeMap<String, String>,
        source: TargetSource<'_>,
    ) -> Result<Option<Target>, DriverProblem> {
        Ok((source == TargetSource::Default).then(|| Target::machine(self.runtime())))
    }

    fn create_driver(&self, _: &Target) -> Result<Arc<dyn Driver>, DriverProblem> {
        Ok(Arc::new(self.0.clone()))
    }
}

fn supervising_runtime() -> RuntimeKind {
    let mut definition = RuntimeKind::DOCKER.definition().clone();
    definition.name = "third";
    definition.capabilities.availability = Availability::Always;
    definition.capabilities.object_changes = ObjectChanges::Apply;
    definition.capabilities.supervisor = Supervisor::Runtime;
    definition.capabilities.has_preview_network = false;
    RuntimeKind::new(Box::leak(Box::new(definition)))
}

struct TestAgent {
    folder: tempfile::TempDir,
    driver: FakeDriver,
    shared: Arc<Shared>,
}

impl TestAgent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let locations = AgentLocations {
            state: inside("state"),
            data: inside("data"),
            cache: inside("cache"),
            runtime: inside("runtime"),
        };
        let driver = FakeDriver::for_runtime(supervising_runtime());
        let factory: Arc<dyn DriverFactory> = Arc::new(FakeFactory(driver.clone()));
        let paths = CredentialPaths { config: inside("config"), data: inside("credentials") };
        let access =
            AccessControl::new(Approvals::open(paths.approvals()), Sessions::open(paths.sessions(), &SystemProcesses));
        let broker = Broker::new(paths, VaultOptions::default(), ExchangeRunner::with_child_process());
        let shared = Shared::new(
            locations.clone(),
            RuntimeDrivers::new([factory]),
            Registry::open(locations.state.join("registry")).0,
            Bus::new(1),
            SecretDelivery::open(&locations.runtime).unwrap(),
            (broker, access),
            Routing::new(Routes::new(), None),
        );
        std::fs::create_dir(locations.state.join("registry")).unwrap();
        inside("project");
        Self { folder, driver, shared }
    }

    fn project(&self) -> std::path::PathBuf {
        self.folder.path().join("project")
    }

    /// Returns the preview after the end of the operation.
    async fn up(&self, service: &str) -> PreviewHandle {
        let text = format!("pdev: 1\napp: shop\nservices: {{ web: {{ image: \"a:1\", port: 80, {service} }} }}\n");
        std::fs::write(self.project().join("pdev.yaml"), text).unwrap();
        let request = UpRequest { folder: path_text(&self.project()), ..UpRequest::default() };
        let (handle, request) = naming::bind_preview(&self.shared, &request).unwrap();
        handle.up(request, ManifestSource::Disk).await.unwrap();
        await_operation(&handle).await;
        handle
    }
}

fn path_text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

async fn await_operation(handle: &PreviewHandle) {
    await_status(handle, "the end of the operation", |_| !handle.published.is_operation_running()).await;
}

async fn await_status(handle: &PreviewHandle, expected: &str, is_expected: impl Fn(&PreviewStatus) -> bool) {
    let mut versions = handle.published.subscribe();
    let waiting = async {
        while !is_expected(&handle.published.status()) {
            versions.changed().await.unwrap();
        }
    };
    let result = tokio::time::timeout(LIMIT, waiting).await;
    assert!(result.is_ok(), "{expected}: {:?}", handle.published.status());
}

fn has_state(status: &PreviewStatus, state: UnitState) -> bool {
    status.units[0].state == state
}

fn ready(is_ready: bool) -> ReportedHealth {
    ReportedHealth { is_ready, replicas: Replicas { wanted: 1, ready: u32::from(is_ready) }, conditions: Vec::new() }
}

fn pull_failure() -> ReportedHealth {
    let condition =
        Condition { kind: "ImagePullBackOff".to_owned(), message: "no such image".to_owned(), is_fatal: true };
    ReportedHealth { conditions: vec![condition], ..ready(false) }
}

#[tokio::test]
async fn runtime_that_supervises_its_units_decides_their_state() {
    let agent = TestAgent::start();
    let preview = agent.up("command: [a]").await;
    let status = preview.published.status();
    assert_eq!((status.state, &status.problems), (PreviewState::Ready, &Vec::new()), "{status:?}");
    assert_eq!(agent.driver.performed_steps(), ["apply web"]);

    agent.driver.set_health(&preview.id, "web", ready(false));
    await_status(&preview, "unhealthy", |status| has_state(status, UnitState::Unhealthy)).await;
    assert_eq!(preview.published.status().units[0].reason.as_deref(), Some("0 of 1 replicas are ready"));
    agent.driver.set_health(&preview.id, "web", ready(true));
    await_status(&preview, "ready again", |status| has_state(status, UnitState::Ready)).await;

    // The runtime restarts it, not the agent.
    agent.driver.crash(&preview.id, "web", 3);
    await_status(&preview, "the exit", |status| status.units[0].exit_code == Some(3)).await;
    agent.driver.set_health(&preview.id, "web", ready(true));
    await_status(&preview, "ready after the crash", |status| has_state(status, UnitState::Ready)).await;
    assert_eq!(agent.driver.performed_steps(), ["apply web"]);

    let preview = agent.up("command: [b]").await;
    assert_eq!(agent.driver.performed_steps(), ["apply web", "apply web"], "{:?}", preview.published.status());
    preview.down(false).await.unwrap();
    await_operation(&preview).await;
    assert_eq!(agent.driver.performed_steps(), ["apply web", "apply web", "delete web"]);
}

#[tokio::test]
async fn ports_of_units_elsewhere_are_forwarded() {
    let agent = TestAgent::start();
    let preview = agent.up("command: [a]").await;
    let port = preview.published.status().units[0].ports["main"];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut line = String::new();
    tokio::time::timeout(LIMIT, BufReader::new(stream).read_line(&mut line)).await.unwrap().unwrap();
    assert_eq!(line, "web:80\n");
    preview.down(false).await.unwrap();
    await_operation(&preview).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "the forward ends with the preview");
}

#[tokio::test]
async fn condition_that_waiting_does_not_change_fails_the_start() {
    let agent = TestAgent::start();
    agent.driver.set_script("web", Script { health: Some(pull_failure()), ..Script::default() });
    let preview = agent.up("command: [a]").await;
    let status = preview.published.status();
    assert_eq!(status.state, PreviewState::Failed, "{status:?}");
    assert_eq!(status.problems[0].title, "it cannot become healthy: ImagePullBackOff: no such image");
    // The runtime tries again and succeeds.
    agent.driver.set_health(&preview.id, "web", ready(true));
    await_status(&preview, "ready", |status| has_state(status, UnitState::Ready) && status.problems.is_empty()).await;
}
