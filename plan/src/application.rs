//! The desired state of one preview: every unit with everything a driver needs, placeholders resolved, defaults filled.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use manifest::model::{Condition, JobTiming, PortProtocol, RestartPolicy};

/// A stable id of (repository, worktree, environment): 16 characters of base32, lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PreviewId(pub String);

/// Who a preview is: the id decides, the labels are for people, hosts and object names.
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
    /// `shop/feature-login`: how people and messages call it. Other environments than `local` stand in the label.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}/{}", self.app, self.branch)
    }

    /// Prefix of every object's name at the runtime. Found by label, never by name; the name is for people.
    #[must_use]
    pub fn object_prefix(&self) -> String {
        let short: String = self.id.0.chars().take(4).collect();
        format!("pdev-{}-{}-{short}", self.app, self.branch)
    }
}

/// Units share one namespace: a service, job or resource name is unique in its app.
pub type UnitName = String;

#[derive(Clone, PartialEq, Debug)]
pub struct Application {
    pub preview: PreviewName,
    pub units: BTreeMap<UnitName, Unit>,
    /// Named volumes of containers, by their short name.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// The service behind `<branch>.<app>.localhost`.
    pub default_service: Option<UnitName>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct VolumeSpec {
    /// Data survives `down` unless `--volumes`.
    pub owner: UnitName,
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
    pub body: Body,
    /// By port name; `main` for the short form.
    pub ports: BTreeMap<String, UnitPort>,
    pub routes: Vec<String>,
    pub wildcard: bool,
    /// Resolved for this unit as consumer; what is sensitive is never shown in plans or logs.
    pub env: BTreeMap<String, EnvValue>,
    /// Names of secrets delivered as files.
    pub secrets: Vec<String>,
    /// The cloud identity it acts as, by its user's name for it. The agent takes it off where it can open no endpoint.
    pub identity: Option<String>,
    pub health: Health,
    pub needs: BTreeMap<UnitName, Condition>,
    pub stop: Stop,
    pub restart: RestartPolicy,
    /// For jobs.
    pub when: JobTiming,
    pub timeout: Option<Duration>,
    /// For resources: module, version and where it came from (`postgres 16.2.0 (built-in)`).
    pub module: Option<String>,
    /// What the user asked for, hashed: without pdev's version and without the path of the checkout. Build inputs are
    /// not in it (the driver adds the image's identity).
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
    /// What the program listens on inside its container; for a process the same as `host`, given to it as `PORT`.
    pub listen_port: u16,
    /// The port on 127.0.0.1 where everything outside reaches it.
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
    pub fn runtime(&self) -> RuntimeKind {
        match self {
            Self::Container(_) => RuntimeKind::Docker,
            Self::Process(_) => RuntimeKind::Process,
        }
    }
}

/// The runtimes that a driver exists for. A closed set on purpose; Kubernetes joins it with its own driver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    Docker,
    Process,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Container {
    pub image: ImageSource,
    /// The rendered body of the Engine API's `POST /containers/create` (API 1.41 fields), hardened, after `raw` and
    /// patches, without `Image`, without pdev's labels, without environment and without host ports: the driver adds them.
    /// A source in `HostConfig.Binds` that starts with `./` or `../` is relative to the manifest's folder: the driver
    /// makes it absolute.
    pub create_body: serde_json::Value,
    /// Names on the preview's network, the unit's own first.
    pub aliases: Vec<String>,
    /// Names of units that run as local processes and that this container may call: the driver maps each name to
    /// the gateway where the agent forwards.
    pub process_peers: Vec<UnitName>,
    /// (volume short name, path in the container with `:ro` behind it where the program may only read).
    pub volumes: Vec<(String, String)>,
    pub pull: PullPolicy,
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
    /// Relative to the manifest's folder, `/`-separated.
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
    /// Relative to the manifest's folder; resource modules run in their data folder instead.
    pub dir: ProcessDir,
    /// Run to completion before the first start and whenever `build_inputs` changed.
    pub build: Option<Argv>,
    pub build_inputs: Vec<String>,
    /// Given to the program when pdev itself is root and the program refuses root.
    pub user: Option<String>,
    /// Run once in order before the first start, in the data folder (a module's `initdb`); a marker file in the
    /// data folder remembers that they succeeded with these arguments.
    pub init: Vec<Argv>,
    /// Run in order after each time the unit became ready, before others see it as ready (create database, extension).
    pub after_ready: Vec<Argv>,
    /// Small files written before start, relative to the data folder (a module's configuration).
    pub files: BTreeMap<String, String>,
    /// Program names and where else than on `PATH` to look (`/usr/lib/postgresql/*/bin`, newest first).
    pub search_paths: Vec<String>,
    /// What to install when a program is absent: `postgresql (Debian, Ubuntu: apt install postgresql)`.
    pub install_hint: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProcessDir {
    Project(String),
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
    /// Nothing written and no port: still running after this long.
    StaysUp(Duration),
    Probe(Probe),
    /// `health: none`.
    Started,
    /// A job: exit code 0.
    Exit,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Probe {
    pub check: Check,
    pub interval: Duration,
    pub timeout: Duration,
    pub failures: u32,
    pub successes: u32,
}

/// `port` is the name of one of the unit's ports.
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
