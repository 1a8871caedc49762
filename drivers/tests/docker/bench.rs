//! One preview at the machine's engine, with the driver and, beside it, the engine itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drivers::docker::{Docker, Surroundings};
use drivers::driver::{Driver, Performed, Places, Problem, Progress, ProgressLine, RuntimeEvent, Scope, SecretFiles};
use futures_util::StreamExt;
use plan::Application;
use plan::application::{
    Body, Container, Health, ImageSource, PreviewId, PreviewName, PullPolicy, ReadyCheck, Restart, Role, RuntimeKind,
    Stop, Support, Unit, When,
};
use plan::observed::{Exit, Observed, ObservedUnit, RunState};
use plan::step::Action;
use serde_json::{Value, json};

pub const IMAGE: &str = "debian:stable-slim";
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn engine() -> bollard::Docker {
    bollard::Docker::connect_with_defaults().expect("an engine's address")
}

/// Says on standard error what is missing, because a skipped test must not look like a kept promise.
pub async fn missing() -> bool {
    let what = if Docker::new(Surroundings::from_env()).ping().await.is_err() {
        Some("no Docker engine")
    } else {
        engine().inspect_image(IMAGE).await.is_err().then_some("no image debian:stable-slim")
    };
    if let Some(what) = what {
        writeln!(std::io::stderr(), "skipped: {what}").expect("standard error is open");
    }
    what.is_some()
}

pub struct Folder(pub Option<PathBuf>);

impl SecretFiles for Folder {
    fn folder(&self, _unit: &str) -> Option<PathBuf> {
        self.0.clone()
    }
}

#[derive(Default)]
pub struct Heard(pub Mutex<Vec<ProgressLine>>);

impl Progress for Heard {
    fn line(&self, _unit: &str, line: ProgressLine) {
        self.0.lock().expect("nobody panics with it").push(line);
    }
}

/// A preview whose objects are gone when `close` returns.
pub struct Bench {
    pub driver: Docker,
    pub name: PreviewName,
    pub folder: tempfile::TempDir,
    pub units: BTreeMap<String, Unit>,
    pub heard: Arc<Heard>,
    pub secrets: Option<PathBuf>,
}

impl Bench {
    pub async fn open(case: &str, units: Vec<Unit>) -> Self {
        let bench = Self::at(Surroundings::from_env(), case, units);
        bench.done(Action::CreateNetwork).await;
        bench
    }

    pub fn at(around: Surroundings, case: &str, units: Vec<Unit>) -> Self {
        // Names begin with the id's first characters: what a failed run left behind shall not be in the way.
        let id = format!("{:04x}{:x<6.6}", std::process::id() & 0xffff, case.replace('-', ""));
        let name = PreviewName {
            id: PreviewId(id),
            app: "gaps".to_owned(),
            branch: case.to_owned(),
            environment: "local".to_owned(),
        };
        let units = units.into_iter().map(|unit| (unit.name.clone(), unit)).collect();
        let folder = tempfile::tempdir().expect("folder");
        Self { driver: Docker::new(around), name, folder, units, heard: Arc::default(), secrets: None }
    }

    pub fn places(&self) -> Places {
        let folder = |name: &str| self.folder.path().join(name);
        Places {
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
            places: self.places(),
            application: Arc::new(application),
            secrets: Arc::new(Folder(self.secrets.clone())),
            progress: Arc::<Heard>::clone(&self.heard),
        }
    }

    pub async fn perform(&self, action: Action) -> Result<Performed, Problem> {
        let call = async { self.driver.perform(&self.scope(), &action).await };
        tokio::time::timeout(PATIENCE, call).await.expect("answers in time")
    }

    pub async fn done(&self, action: Action) -> Performed {
        let words = format!("{action:?}");
        self.perform(action).await.unwrap_or_else(|problem| panic!("{words}: {problem:?}"))
    }

    pub async fn create(&self, unit: &str) -> String {
        self.done(create(unit)).await.handle.expect("a handle")
    }

    pub async fn observe(&self) -> Observed {
        self.driver.observe(&self.name.id, &self.places()).await.expect("observes")
    }

    pub async fn unit(&self, unit: &str) -> ObservedUnit {
        let mut observed = self.observe().await;
        observed.units.remove(unit).unwrap_or_else(|| panic!("`{unit}` is not observed"))
    }

    /// Waits for a unit's end; what happened before listening began is seen by observing.
    pub async fn exit(&self, unit: &str) -> Exit {
        let mut events = self.driver.follow(&self.name.id, &self.places()).await.expect("follows");
        loop {
            if let RunState::Exited(exit) = self.unit(unit).await.state {
                return exit;
            }
            let event = tokio::time::timeout(PATIENCE, events.next())
                .await
                .unwrap_or_else(|_| panic!("no exit of `{unit}` in time"));
            assert!(!matches!(event, None | Some(RuntimeEvent::Lost { .. })), "lost while waiting for `{unit}`");
        }
    }

    pub async fn close(self) {
        let observed = self.observe().await;
        for unit in observed.units.into_values().chain(observed.strays) {
            let action = Action::Remove { unit: unit.name, runtime: RuntimeKind::Docker, handle: unit.handle };
            self.done(action).await;
        }
        for volume in observed.volumes {
            self.done(Action::RemoveVolume { volume }).await;
        }
        for name in observed.networks {
            self.done(Action::RemoveNetwork { name }).await;
        }
        let left = self.observe().await;
        assert!(left.units.is_empty() && left.networks.is_empty(), "left behind: {left:?}");
    }
}

pub fn create(unit: &str) -> Action {
    Action::Create { unit: unit.to_owned(), runtime: RuntimeKind::Docker }
}

pub fn prepare(unit: &str) -> Action {
    Action::PrepareImage { unit: unit.to_owned(), runtime: RuntimeKind::Docker }
}

pub fn start(unit: &str) -> Action {
    Action::Start { unit: unit.to_owned(), runtime: RuntimeKind::Docker }
}

pub fn stop(unit: &str) -> Action {
    Action::Stop { unit: unit.to_owned(), runtime: RuntimeKind::Docker }
}

/// Stays until it is stopped.
pub const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done";

pub fn shell(name: &str, line: &str) -> Unit {
    unit(name, json!({ "Entrypoint": ["/bin/sh", "-c"], "Cmd": [line] }))
}

pub fn unit(name: &str, create: Value) -> Unit {
    Unit {
        name: name.to_owned(),
        role: Role::Service,
        body: Body::Container(Container {
            image: ImageSource::Reference(IMAGE.to_owned()),
            create,
            aliases: vec![name.to_owned()],
            process_peers: Vec::new(),
            volumes: Vec::new(),
            pull: PullPolicy::Never,
        }),
        ports: BTreeMap::new(),
        routes: Vec::new(),
        wildcard: false,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        identity: None,
        health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::from_secs(10) },
        needs: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".to_owned(), grace: Duration::from_secs(1) },
        restart: Restart::Never,
        when: When::default(),
        timeout: None,
        module: None,
        hash: "first".to_owned(),
        support: Support::Paved,
    }
}
