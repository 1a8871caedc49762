//! Fixture for plan tests: short constructors for units, and a fake runtime that executes a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use plan::application::*;
use plan::observed::{Exit, Images, Observed, ObservedUnit, RunState, RuntimeObject};
use plan::step::Action;
use plan::{CompareOptions, Plan};

pub(crate) struct PlanFixture {
    pub(crate) desired: Application,
    pub(crate) observed: Observed,
    pub(crate) images: Images,
    pub(crate) options: CompareOptions,
}

pub(crate) struct UnitBuilder(pub(crate) Unit);

impl UnitBuilder {
    pub(crate) fn role(mut self, role: Role) -> Self {
        self.0.role = role;
        self.0.health.ready = if role == Role::Job { ReadyCheck::Exit } else { ReadyCheck::Started };
        self
    }

    pub(crate) fn when(mut self, when: JobTiming) -> Self {
        self.0.when = when;
        self
    }

    pub(crate) fn needs(mut self, name: &str, condition: Condition) -> Self {
        self.0.needs.insert(name.to_owned(), condition);
        self
    }
}

pub(crate) fn container(name: &str) -> UnitBuilder {
    new_unit(
        name,
        RuntimeKind::DOCKER,
        Body::Container(Container {
            image: ImageSource::Reference(format!("example/{name}:1")),
            create_body: serde_json::json!({}),
            aliases: vec![name.to_owned()],
            gateway_peers: Vec::new(),
            volumes: Vec::new(),
            pull: PullPolicy::Missing,
        }),
    )
}

pub(crate) fn process(name: &str) -> UnitBuilder {
    new_unit(
        name,
        RuntimeKind::PROCESS,
        Body::Process(ProcessSpec {
            argv: Argv::Shell(format!("./{name}")),
            dir: ProcessDir::Project(".".into()),
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
    )
}

fn new_unit(name: &str, runtime: RuntimeKind, body: Body) -> UnitBuilder {
    let host = 40_000 + name.bytes().map(u16::from).sum::<u16>();
    let port = UnitPort { listen_port: 8080, host_port: host, protocol: PortProtocol::Http };
    UnitBuilder(Unit {
        name: name.to_owned(),
        role: Role::Service,
        runtime,
        body,
        ports: BTreeMap::from([("main".to_owned(), port)]),
        routes: Vec::new(),
        wildcard: false,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        identity: None,
        declares_identity: false,
        health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::from_secs(60) },
        needs: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".into(), grace: Duration::from_secs(10) },
        restart: RestartPolicy::OnFailure,
        when: JobTiming::Before,
        timeout: None,
        module: None,
        hash: format!("hash-of-{name} command=aaaa"),
        support: SupportLevel::Paved,
    })
}

pub(crate) fn app<const N: usize>(drafts: [UnitBuilder; N]) -> Application {
    let preview = PreviewName {
        id: PreviewId("abcdefghijklmnop".into()),
        app: "shop".into(),
        branch: "main".into(),
        environment: "local".into(),
    };
    let units = drafts.into_iter().map(|draft| (draft.0.name.clone(), draft.0)).collect();
    Application { preview, units, volumes: BTreeMap::new(), default_service: None }
}

pub(crate) fn exited(code: i32) -> RunState {
    RunState::Exited(Exit { code: Some(code), ..Exit::default() })
}

impl PlanFixture {
    pub(crate) fn new(desired: Application) -> Self {
        Self { desired, observed: Observed::default(), images: Images::default(), options: CompareOptions::default() }
    }

    pub(crate) fn add_volume(&mut self, unit: &str, volume: &str) {
        self.desired
            .volumes
            .insert(volume.to_owned(), VolumeSpec { owner: unit.to_owned(), runtime: RuntimeKind::DOCKER });
        if let Some(Unit { body: Body::Container(container), .. }) = self.desired.units.get_mut(unit) {
            container.volumes.push(VolumeMount {
                volume: volume.to_owned(),
                target: "/data".to_owned(),
                read_only: false,
            });
        }
    }

    /// Sets the observed state: every unit runs as desired.
    pub(crate) fn with_all_running(mut self) -> Self {
        self.observed = Observed::default();
        if self.desired.units.values().any(|unit| unit.runtime == RuntimeKind::DOCKER) {
            self.observed.networks.insert(docker_object("net"));
        }
        self.observed.volumes = self.desired.volumes.keys().map(|volume| docker_object(volume)).collect();
        for (name, unit) in &self.desired.units {
            self.observed.units.insert(name.clone(), observed_unit(unit, RunState::Running, &self.images));
        }
        self
    }

    pub(crate) fn set_state(&mut self, unit: &str, state: RunState) {
        self.observed.units.get_mut(unit).unwrap().state = state;
    }
}

/// A network or volume in Docker.
pub(crate) fn docker_object(name: &str) -> RuntimeObject {
    RuntimeObject { name: name.to_owned(), runtime: RuntimeKind::DOCKER }
}

fn observed_unit(unit: &Unit, state: RunState, images: &Images) -> ObservedUnit {
    ObservedUnit {
        name: unit.name.clone(),
        runtime: unit.runtime,
        handle: format!("handle-of-{}", unit.name),
        hash: unit.hash.clone(),
        image: Some(images.current.get(&unit.name).cloned().unwrap_or_else(|| "sha256:old".into())),
        state,
        address: None,
        host_ports: unit.ports.iter().map(|(name, port)| (name.clone(), port.host_port)).collect(),
        started_at: None,
        connected: true,
        health: None,
    }
}

/// Executes the steps in order, and fails where a real runtime would reject a step.
pub(crate) fn execute_plan(desired: &Application, observed: &Observed, images: &Images, plan: &Plan) -> Observed {
    let mut current = observed.clone();
    for step in &plan.steps {
        assert!(step.after.iter().all(|&before| before < step.id), "a step is listed after its predecessors");
        match &step.action {
            Action::CreateNetwork { .. } => assert!(current.networks.insert(docker_object("net"))),
            Action::RemoveNetwork { name, .. } => assert!(current.networks.remove(&docker_object(name))),
            Action::CreateVolume { volume, .. } => assert!(current.volumes.insert(docker_object(volume))),
            Action::RemoveVolume { volume, .. } => assert!(current.volumes.remove(&docker_object(volume))),
            Action::PrepareImage { .. } => {}
            Action::Create { unit, .. } => {
                let spec = &desired.units[unit];
                if spec.runtime == RuntimeKind::DOCKER {
                    assert!(!current.networks.is_empty(), "a container needs the network");
                }
                let old = current.units.insert(unit.clone(), observed_unit(spec, RunState::Created, images));
                assert!(old.is_none(), "`{unit}` was created twice");
            }
            Action::Start { unit, .. } => start_unit(&mut current, desired, unit),
            Action::PushImage { .. } | Action::Apply { .. } | Action::Delete { .. } => {
                panic!("no runtime of these tests changes objects in place: {}", step.action)
            }
            Action::Stop { unit, .. } => current.units.get_mut(unit).unwrap().state = exited(0),
            Action::Remove { unit, handle, .. } => {
                let strays_before = current.strays.len();
                current.strays.retain(|stray| stray.handle != *handle);
                if strays_before == current.strays.len() {
                    let removed = current.units.remove(unit).expect("a removed unit exists");
                    assert_eq!(removed.handle, *handle);
                    assert_ne!(removed.state, RunState::Running, "stop comes before remove");
                }
            }
            Action::Connect { unit, .. } => current.units.get_mut(unit).unwrap().connected = true,
            Action::AwaitReady { unit } => assert_eq!(current.units[unit].state, RunState::Running),
            Action::AwaitExit { unit } => current.units.get_mut(unit).unwrap().state = exited(0),
        }
    }
    current
}

fn start_unit(observed: &mut Observed, desired: &Application, name: &str) {
    for (needed, condition) in &desired.units[name].needs {
        let state = &observed.units[needed].state;
        let is_met = match condition {
            Condition::Started | Condition::Healthy => *state == RunState::Running,
            Condition::Completed => *state == exited(0),
        };
        assert!(is_met, "`{name}` is started although `{needed}` is {state:?}");
    }
    let own_ports: Vec<u16> = observed.units[name].host_ports.values().copied().collect();
    let clash = observed.units.values().find(|other| {
        other.name != name
            && other.state == RunState::Running
            && other.host_ports.values().any(|port| own_ports.contains(port))
    });
    assert!(clash.is_none(), "`{name}` is started while its port is taken");
    observed.units.get_mut(name).unwrap().state = RunState::Running;
}
