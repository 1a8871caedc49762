//! The decoded manifest: short forms are expanded, and every leaf has its span.
//!
//! A [`Manifest`] is an *effective* manifest: includes, base, environment overlay and `--set` are merged. These types
//! are never serialised. A span leads back to the layer that set the value.

use std::time::Duration;

use indexmap::IndexMap;

use crate::date::Date;
use crate::template::Template;
use crate::text::{Span, Spanned};

/// A map in the order of the file.
///
/// Uses a fast hasher, because an editor looks up every name many times per keystroke.
pub type Map<T> = IndexMap<String, Entry<T>, foldhash::fast::FixedState>;

#[derive(Clone, PartialEq, Debug)]
pub struct Entry<T> {
    /// Position of the key.
    pub key: Span,
    /// Position of the value.
    pub span: Span,
    pub value: T,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Manifest {
    pub app: App,
    pub vars: Map<Template>,
    pub services: Map<Service>,
    pub jobs: Map<Job>,
    pub resources: Map<Resource>,
    pub secrets: Map<SecretDeclaration>,
    pub identities: Map<IdentityDeclaration>,
    /// The names of all environments in the file, not only of the selected one.
    pub environments: Map<()>,
    /// The settings of the selected environment.
    pub environment: Environment,
    pub waivers: Vec<Waiver>,
    pub patches: Vec<Patch>,
    /// `names.strip`: prefixes to remove from a branch before it becomes a label.
    pub names_strip: Vec<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct App {
    pub name: Spanned<String>,
    pub owner: Option<Spanned<String>>,
    pub docs: Option<Spanned<String>>,
    /// The service at `<branch>.<app>.localhost`. By default the one with route `/`, else the first with a port.
    pub default_service: Option<Spanned<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Runtime {
    Docker,
    Kubernetes,
    Process,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Environment {
    pub name: String,
    /// `None` means docker if an engine answers and every service can run in a container, otherwise process.
    pub runtime: Option<Spanned<Runtime>>,
    pub context: Option<Spanned<String>>,
    pub ttl: Option<Spanned<Duration>>,
}

/// An argument list runs directly; a string runs through `/bin/sh -c`.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    Arguments(Vec<Spanned<Template>>),
    Shell(Spanned<Template>),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Service {
    pub build: Option<Box<Build>>,
    pub image: Option<Spanned<Template>>,
    pub command: Option<Command>,
    pub entrypoint: Option<Command>,
    pub dir: Option<Spanned<String>>,
    /// How the service runs as a plain local process. Without it, `command` serves both runtimes.
    pub process: Option<Box<Process>>,
    pub runtime: Option<Spanned<Runtime>>,
    pub ports: Map<Port>,
    pub routes: Vec<Spanned<String>>,
    /// Whether all subdomains of the service's host lead to it too.
    pub wildcard: bool,
    pub health: Health,
    pub env: Map<Spanned<Template>>,
    pub volumes: Map<Volume>,
    pub size: Size,
    pub needs: Map<Need>,
    pub identity: Option<Spanned<String>>,
    /// Secrets to deliver as files although no placeholder names them.
    pub secrets: Vec<Spanned<String>>,
    pub security: Security,
    pub watch: Vec<Watch>,
    pub stop: Stop,
    pub restart: Option<Spanned<RestartPolicy>>,
    pub replicas: Option<Spanned<u32>>,
    pub pull: Option<Spanned<Pull>>,
    pub raw: Raw,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Process {
    pub command: Option<Command>,
    /// Relative to the manifest's folder.
    pub dir: Option<Spanned<String>>,
    /// Runs to completion before the command whenever its `inputs` change (a compile, an install).
    pub build: Option<Command>,
    pub inputs: Vec<Spanned<String>>,
    pub env: Map<Spanned<Template>>,
    /// Name of the user to run as if pdev itself runs as root.
    pub user: Option<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Build {
    pub span: Span,
    /// Relative to the manifest's folder.
    pub context: Spanned<String>,
    /// Relative to the context; `Dockerfile` by default.
    pub dockerfile: Option<Spanned<String>>,
    pub target: Option<Spanned<String>>,
    pub args: Map<Spanned<Template>>,
    pub platform: Option<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Port {
    pub number: Spanned<u16>,
    pub protocol: PortProtocol,
    /// A fixed port on the host's loopback interface. Without it, pdev chooses a port and remembers it.
    pub host: Option<Spanned<u16>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PortProtocol {
    #[default]
    Http,
    /// HTTP/2 without TLS, as used by gRPC servers.
    H2c,
    Tcp,
    Udp,
}

/// Probes with Kubernetes semantics. The agent probes from outside, so the image needs no shell.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Health {
    pub ready: Option<Box<Probe>>,
    pub live: Option<Box<Probe>>,
    /// `health: none`: the unit counts as ready once it has started.
    pub is_disabled: bool,
    /// Limit of the time until the first success; 60 s by default.
    pub start_limit: Option<Spanned<Duration>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Probe {
    pub span: Span,
    pub check: Check,
    /// Time between checks once the unit is ready. During the start, checks run every 10 ms with back-off.
    pub interval: Duration,
    pub timeout: Duration,
    pub failures: u32,
    pub successes: u32,
    /// True if a program outside of the unit may listen on the port. `None` if not written.
    pub allows_any_listener: Option<Spanned<bool>>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Check {
    Http {
        path: Spanned<String>,
        port: Option<Spanned<String>>,
        host: Option<String>,
        headers: Vec<(String, String)>,
        status: Option<Vec<u16>>,
    },
    Tcp {
        port: Option<Spanned<String>>,
    },
    Grpc {
        port: Option<Spanned<String>>,
        service: Option<String>,
    },
    Exec {
        command: Command,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Volume {
    /// Absolute path inside the container.
    pub target: Spanned<String>,
    pub source: VolumeSource,
    pub read_only: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub enum VolumeSource {
    /// A volume of this preview; its name is the key of the map.
    Named,
    /// A path relative to the manifest's folder, mounted into the container.
    Path(Spanned<String>),
    Tmpfs {
        size: Option<u64>,
    },
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Size {
    /// Thousandths of a core.
    pub cpu_milli: Option<Spanned<u64>>,
    /// Bytes.
    pub memory: Option<Spanned<u64>>,
    pub pids: Option<Spanned<u32>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Need {
    pub condition: Condition,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Condition {
    Started,
    Healthy,
    /// A job must have succeeded.
    Completed,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Security {
    /// Capabilities to add to the default set; `ALL` for all.
    pub capabilities: Vec<Spanned<String>>,
    pub drop: Vec<Spanned<String>>,
    pub privileged: Option<Spanned<bool>>,
    pub read_only: Option<Spanned<bool>>,
    pub user: Option<Spanned<String>>,
    /// `false` allows setuid programs to raise privileges.
    pub no_new_privileges: Option<Spanned<bool>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Watch {
    pub span: Span,
    pub path: Spanned<String>,
    pub action: Spanned<WatchAction>,
    pub target: Option<Spanned<String>>,
    pub ignore: Vec<Spanned<String>>,
    pub initial_sync: bool,
    pub exec: Option<Command>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchAction {
    Rebuild,
    Sync,
    Restart,
    SyncRestart,
    SyncExec,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stop {
    pub signal: Option<Spanned<String>>,
    pub grace: Option<Spanned<Duration>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartPolicy {
    /// Restart after a crash, with back-off (the default of services).
    OnFailure,
    Always,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pull {
    Missing,
    Always,
    Never,
}

/// Fields of the runtime's native objects, merged over the objects that pdev renders.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Raw {
    pub docker: Option<Tree>,
    pub kubernetes: Option<Tree>,
}

impl Raw {
    /// The fields for the runtime with this name.
    #[must_use]
    pub fn for_runtime(&self, name: &str) -> Option<&Tree> {
        match name {
            "docker" => self.docker.as_ref(),
            "kubernetes" => self.kubernetes.as_ref(),
            _ => None,
        }
    }
}

/// Free-form data with spans, for `with:`, `raw:` and patches.
#[derive(Clone, PartialEq, Debug)]
pub struct Tree {
    pub span: Span,
    pub node: Node,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Template),
    List(Vec<Tree>),
    Map(Map<Tree>),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Job {
    /// The service whose image, build, environment and folder the job uses.
    pub service: Option<Spanned<String>>,
    /// The job's own values for all keys of a service. With `service`, that service's values are the defaults.
    pub body: Service,
    pub when: JobTiming,
    /// Files whose change makes a finished job run again, as a change of its definition does. Relative paths; globs
    /// allowed.
    pub inputs: Vec<Spanned<String>>,
    pub timeout: Option<Spanned<Duration>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum JobTiming {
    /// Before pdev starts the services that share its image or need it.
    #[default]
    Before,
    /// After all services are healthy.
    After,
    /// Only by `pdev run JOB`.
    Manual,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Resource {
    /// `postgres@16`, `./modules/nats`; without a version, as in `redis`, the newest built-in one.
    pub uses: Spanned<String>,
    pub with: Map<Tree>,
    pub runtime: Option<Spanned<Runtime>>,
    pub needs: Map<Need>,
    pub raw: Raw,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SecretDeclaration {
    pub description: Option<Spanned<String>>,
    /// `pdev up` continues without a value.
    pub optional: bool,
    /// `pdev up` restarts the units that use it when its value has changed.
    pub restarts_units: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct IdentityDeclaration {
    pub provider: Option<Spanned<String>>,
    pub settings: Map<Tree>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Waiver {
    pub span: Span,
    pub rule: Spanned<String>,
    pub scope: Spanned<String>,
    pub reason: Spanned<String>,
    pub owner: Spanned<String>,
    pub expires: Spanned<Date>,
    pub link: Option<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Patch {
    pub span: Span,
    pub runtime: Spanned<Runtime>,
    pub kind: Option<Spanned<String>>,
    /// `services.api`, `resources.db`, `services.*`.
    pub from: Option<Spanned<String>>,
    pub change: PatchChange,
    pub why: Option<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum PatchChange {
    /// RFC 7396 merge, with `+key` appending to lists.
    Merge(Tree),
    /// RFC 6902 operations.
    Json(Tree),
}
