//! The desired state of one preview. Each unit has everything that a driver needs: placeholders are resolved and
//! defaults are set.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use manifest::model::{Condition, JobTiming, PortProtocol, RestartPolicy};

pub use crate::runtime::RuntimeKind;

/// A stable id of (repository, worktree, environment): 16 characters of lower-case base32.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PreviewId(pub String);

/// The name of a preview. The id identifies it; the labels are for people, host names and object names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PreviewName {
    pub id: PreviewId,
    /// Label of the app, at most 20 characters.
    pub app: String,
    /// Label of the branch or worktree, at most 40 characters.
    pub branch: String,
    pub environment: String,
}

impl PreviewName {
    /// The name in messages: `shop/feature-login`. The branch label includes the environment unless it is `local`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}/{}", self.app, self.branch)
    }

    /// Prefix of the names of all runtime objects. The names are for people: drivers find objects by label.
    #[must_use]
    pub fn object_prefix(&self) -> String {
        let short: String = self.id.0.chars().take(4).collect();
        format!("pdev-{}-{}-{short}", self.app, self.branch)
    }
}

/// The name of a service, job or resource. It is unique in its app, across all three kinds.
pub type UnitName = String;

#[derive(Clone, PartialEq, Debug)]
pub struct Application {
    pub preview: PreviewName,
    pub units: BTreeMap<UnitName, Unit>,
    /// Named volumes of containers, by short name.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// The service behind `<branch>.<app>.localhost`.
    pub default_service: Option<UnitName>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct VolumeSpec {
    /// The unit that declares the volume. The data survives `down` without `--volumes`.
    pub owner: UnitName,
    pub runtime: RuntimeKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Service,
    Job,
    Resource,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Unit {
    pub name: UnitName,
    pub role: Role,
    pub runtime: RuntimeKind,
    pub body: Body,
    /// By port name; `main` for the short form.
    pub ports: BTreeMap<String, UnitPort>,
    pub routes: Vec<String>,
    pub wildcard: bool,
    /// Placeholders are resolved for this unit as the consumer. Plans and logs never show sensitive values.
    pub env: BTreeMap<String, EnvValue>,
    /// Names of secrets delivered as files.
    pub secrets: Vec<String>,
    /// Name of the cloud identity the unit acts as, as in the manifest. The agent removes it if it cannot open an
    /// endpoint.
    pub identity: Option<String>,
    /// Whether the manifest names an identity. Then no credentials of the user's shell are passed to the unit, even if
    /// the agent cannot open an endpoint.
    pub declares_identity: bool,
    pub health: Health,
    pub needs: BTreeMap<UnitName, Condition>,
    pub stop: Stop,
    pub restart: RestartPolicy,
    /// Used for jobs only.
    pub when: JobTiming,
    /// Used for jobs only.
    pub timeout: Option<Duration>,
    /// For resources: module, version and source (`postgres 16.2.0 (built-in)`).
    pub module: Option<String>,
    /// Hash of the user's intent, independent of pdev's version and of the path of the checkout. It does not cover
    /// build inputs: the driver reports the image's identity separately.
    pub hash: String,
    pub support: SupportLevel,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvValue {
    pub value: String,
    pub sensitive: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SupportLevel {
    Paved,
    Adjusted,
    OffRoad,
}

#[derive(Clone, PartialEq, Debug)]
pub struct UnitPort {
    /// The port on which the program listens in its container. For a process it equals `host_port` and is passed as
    /// `PORT`.
    pub listen_port: u16,
    /// The port on 127.0.0.1 at which clients outside the container network reach the unit.
    pub host_port: u16,
    pub protocol: PortProtocol,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    Container(Container),
    Process(ProcessSpec),
}

impl Body {
    #[must_use]
    pub fn as_container(&self) -> Option<&Container> {
        match self {
            Self::Container(container) => Some(container),
            Self::Process(_) => None,
        }
    }

    pub fn as_container_mut(&mut self) -> Option<&mut Container> {
        match self {
            Self::Container(container) => Some(container),
            Self::Process(_) => None,
        }
    }

    #[must_use]
    pub fn as_process(&self) -> Option<&ProcessSpec> {
        match self {
            Self::Process(process) => Some(process),
            Self::Container(_) => None,
        }
    }

    #[must_use]
    pub fn volumes(&self) -> &[VolumeMount] {
        self.as_container().map(|container| container.volumes.as_slice()).unwrap_or_default()
    }

    /// The paths of this machine that a container mounts; relative ones start at the manifest's folder.
    #[must_use]
    pub fn mount_sources(&self) -> Vec<String> {
        self.as_container().map(Container::mount_sources).unwrap_or_default()
    }

    /// Whether a container mounts a folder or file of the project. Its engine stores the absolute path.
    #[must_use]
    pub fn has_project_mounts(&self) -> bool {
        self.mount_sources().iter().any(|source| is_project_source(source))
    }

    /// Commands that run in order each time the unit becomes ready, before other units see it as ready.
    #[must_use]
    pub fn after_ready(&self) -> &[Argv] {
        self.as_process().map(|process| process.after_ready.as_slice()).unwrap_or_default()
    }

    /// Identifies the image or build. Two units with the same source share its result.
    #[must_use]
    pub fn source_key(&self) -> String {
        match self {
            Self::Container(container) => format!("{:?}", container.image),
            Self::Process(process) => format!("{:?} {:?}", process.dir, process.build),
        }
    }
}

/// Whether the source of a bind mount is a path relative to the manifest's folder. A plain word is a volume's name.
#[must_use]
pub fn is_project_source(source: &str) -> bool {
    source == "." || source == ".." || source.starts_with("./") || source.starts_with("../")
}

impl From<Container> for Body {
    fn from(container: Container) -> Self {
        Self::Container(container)
    }
}

impl From<ProcessSpec> for Body {
    fn from(process: ProcessSpec) -> Self {
        Self::Process(process)
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Container {
    pub image: ImageSource,
    /// The hardened body of the Engine API's `POST /containers/create` (API 1.41 fields), after `raw` and patches. The
    /// driver adds `Image`, pdev's labels, the environment and the host ports. A source in `HostConfig.Binds` or
    /// `HostConfig.Mounts` that starts with `./` or `../` is relative to the manifest's folder; the driver makes it
    /// absolute.
    pub create_body: serde_json::Value,
    /// Names on the preview's network, the unit's own first.
    pub aliases: Vec<String>,
    /// Names of units in other runtimes that this container may call. The driver maps each name to the gateway, where
    /// the agent forwards connections.
    pub gateway_peers: Vec<UnitName>,
    pub volumes: Vec<VolumeMount>,
    pub pull: PullPolicy,
}

impl Container {
    /// The paths of this machine that it mounts; relative ones start at the manifest's folder.
    #[must_use]
    pub fn mount_sources(&self) -> Vec<String> {
        let host_config = &self.create_body["HostConfig"];
        let binds = host_config["Binds"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
        let sources = binds.filter_map(|bind| bind.split_once(':')).map(|(source, _)| source);
        // A plain word is a volume's name.
        let paths = sources.filter(|source| source.starts_with('/') || is_project_source(source));
        let mounts = host_config["Mounts"].as_array().into_iter().flatten();
        let typed = mounts.filter_map(|mount| match mount["Type"].as_str() {
            Some("bind") => mount["Source"].as_str(),
            // The engine's `local` driver mounts this path: `o: bind`.
            Some("volume") => mount["VolumeOptions"]["DriverConfig"]["Options"]["device"].as_str(),
            _ => None,
        });
        paths.chain(typed).map(str::to_owned).collect()
    }
}

/// Where a container mounts a named volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeMount {
    /// Short name of the volume.
    pub volume: String,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum PullPolicy {
    #[default]
    Missing,
    Always,
    Never,
}

#[derive(Clone, PartialEq, Debug)]
pub enum ImageSource {
    Reference(String),
    Build(BuildSpec),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildSpec {
    /// Relative to the manifest's folder, separated by `/`.
    pub context: String,
    /// Relative to the context.
    pub dockerfile: String,
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub platform: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ProcessSpec {
    pub argv: Argv,
    /// The working directory.
    pub dir: ProcessDir,
    /// Runs to completion before the first start and whenever `build_inputs` changed.
    pub build: Option<Argv>,
    pub build_inputs: Vec<String>,
    /// The user that runs the program when pdev itself runs as root, for programs that refuse to run as root.
    pub user: Option<String>,
    /// Run once and in order before the first start, in the data folder (a module's `initdb`). A marker file in the
    /// data folder records that they succeeded with these arguments.
    pub init: Vec<Argv>,
    /// Run in order each time the unit becomes ready, before other units see it as ready (create a database, an
    /// extension).
    pub after_ready: Vec<Argv>,
    /// Small files to write before the start, by path relative to the data folder (a module's configuration).
    pub files: BTreeMap<String, String>,
    /// Folders to search for the program in addition to `PATH` (`/usr/lib/postgresql/*/bin`, newest first).
    pub search_paths: Vec<String>,
    /// The package to install if a program is missing: `postgresql (Debian, Ubuntu: apt install postgresql)`.
    pub install_hint: Option<String>,
    /// The check of the installed version.
    pub version: Option<ProgramVersion>,
}

/// How to find the version of an installed program, and which versions are accepted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProgramVersion {
    /// The name of the software in messages.
    pub software: String,
    /// A command that prints the version.
    pub command: Vec<String>,
    /// The accepted major versions; all from `minimum` on if empty.
    pub accept: Vec<String>,
    pub minimum: u64,
    /// The package to install for an accepted version.
    pub package: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProcessDir {
    /// Relative to the manifest's folder.
    Project(String),
    /// The unit's data folder, for resource modules.
    Data,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Argv {
    List(Vec<String>),
    Shell(String),
}

#[derive(Clone, PartialEq, Debug)]
pub struct Health {
    pub ready: ReadyCheck,
    pub live: Option<Probe>,
    pub start_limit: Duration,
}

#[derive(Clone, PartialEq, Debug)]
pub enum ReadyCheck {
    /// No check configured and no port: the unit is ready if it still runs after this time.
    StaysUp(Duration),
    Probe(Probe),
    /// `health: none`: the unit is ready as soon as it is started.
    Started,
    /// For a job: exit code 0.
    Exit,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Probe {
    pub check: Check,
    pub interval: Duration,
    pub timeout: Duration,
    pub failures: u32,
    pub successes: u32,
    /// True if a program outside of the unit may listen on the port.
    pub allows_any_listener: bool,
}

/// How to probe a unit. `port` is the name of one of the unit's ports.
#[derive(Clone, PartialEq, Debug)]
pub enum Check {
    Http { port: String, path: String, host: Option<String>, headers: Vec<(String, String)>, status: Option<Vec<u16>> },
    Tcp { port: String },
    Grpc { port: String, service: String },
    Exec { argv: Argv },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Stop {
    pub signal: String,
    pub grace: Duration,
}
