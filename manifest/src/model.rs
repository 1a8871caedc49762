//! The manifest as the rest of the program sees it: decoded, defaulted shorthands expanded, every leaf with its span.
//!
//! One value of [`Manifest`] is one *effective* manifest: includes, base, environment overlay and `--set` merged.
//! Nothing here is serialised; spans lead back to the layer that wrote a value.

use std::time::Duration;

use indexmap::IndexMap;

use crate::template::Template;
use crate::text::{Span, Spanned};

/// Maps keep the order of the file; the key's span is the key as written.
///
/// Hashed fast, because every name is looked up many times at each keystroke.
pub type Map<T> = IndexMap<String, Entry<T>, foldhash::fast::FixedState>;

#[derive(Clone, PartialEq, Debug)]
pub struct Entry<T> {
    pub key: Span,
    /// The whole value.
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
    /// Names of all environments of the file, not only the selected one.
    pub environments: Map<()>,
    /// The selected environment's own settings.
    pub environment: Environment,
    pub waivers: Vec<Waiver>,
    pub patches: Vec<Patch>,
    /// `names.strip`: prefixes taken off a branch before it becomes a label.
    pub names_strip: Vec<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct App {
    pub name: Spanned<String>,
    pub owner: Option<Spanned<String>>,
    pub docs: Option<Spanned<String>>,
    /// The service answered at `<branch>.<app>.localhost`; else the one with route `/`, else the first with a port.
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
    /// None: docker when an engine answers and every service can be a container, else process.
    pub runtime: Option<Spanned<Runtime>>,
    pub context: Option<Spanned<String>>,
    pub ttl: Option<Spanned<Duration>>,
}

/// An argument list runs as it is; a string runs through `/bin/sh -c`.
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
    /// How it runs as a plain local process; without it (and with `command`) `command` serves both runtimes.
    pub process: Option<Box<Process>>,
    pub runtime: Option<Spanned<Runtime>>,
    pub ports: Map<Port>,
    pub routes: Vec<Spanned<String>>,
    /// Any subdomain of the service's host reaches it too.
    pub wildcard: bool,
    pub health: Health,
    pub env: Map<Spanned<Template>>,
    pub volumes: Map<Volume>,
    pub size: Size,
    pub needs: Map<Need>,
    pub identity: Option<Spanned<String>>,
    /// Delivered as files although no placeholder names them.
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
    /// Run once to completion before the command whenever its `inputs` change (a compile, an install).
    pub build: Option<Command>,
    pub inputs: Vec<Spanned<String>>,
    pub env: Map<Spanned<Template>>,
    /// User name to run as when pdev itself is root.
    pub user: Option<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Build {
    pub span: Span,
    /// Relative to the manifest's folder.
    pub context: Spanned<String>,
    /// Relative to the context; `Dockerfile` unless said.
    pub dockerfile: Option<Spanned<String>>,
    pub target: Option<Spanned<String>>,
    pub args: Map<Spanned<Template>>,
    pub platform: Option<Spanned<String>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Port {
    pub number: Spanned<u16>,
    pub protocol: PortProtocol,
    /// A fixed port of the host (loopback); otherwise pdev chooses one and remembers it.
    pub host: Option<Spanned<u16>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PortProtocol {
    #[default]
    Http,
    /// HTTP/2 without TLS, as gRPC servers speak it.
    H2c,
    Tcp,
    Udp,
}

/// Probes with Kubernetes semantics; done from outside by the agent, so the image needs no shell.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Health {
    pub ready: Option<Box<Probe>>,
    pub live: Option<Box<Probe>>,
    /// `health: none`: started is good enough.
    pub is_disabled: bool,
    /// How long it may take until first ready; 60 s unless said.
    pub start_limit: Option<Spanned<Duration>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Probe {
    pub span: Span,
    pub check: Check,
    /// Between checks once ready; while starting a 10 ms grid with back-off is used.
    pub interval: Duration,
    pub timeout: Duration,
    pub failures: u32,
    pub successes: u32,
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
    /// A named volume of this preview, named by the map's key.
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
    /// A job that has to have succeeded.
    Completed,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Security {
    /// Added to the default set; `ALL` for all.
    pub capabilities: Vec<Spanned<String>>,
    pub drop: Vec<Spanned<String>>,
    pub privileged: Option<Spanned<bool>>,
    pub read_only: Option<Spanned<bool>>,
    pub user: Option<Spanned<String>>,
    /// `false` lets setuid programs raise privileges.
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
    /// After a crash, with back-off, five times (the default for services).
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

/// Fields of the runtime's own objects, merged over what pdev renders.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Raw {
    pub docker: Option<Tree>,
    pub kubernetes: Option<Tree>,
}

/// Free-form data with spans, as for `with:`, `raw:` and patches.
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
    /// Runs with this service's image, build, environment and folder.
    pub service: Option<Spanned<String>>,
    /// Everything a service has, for a job of its own; the service's values are the defaults when `service` is given.
    pub body: Service,
    pub when: JobTiming,
    /// Files whose change makes a finished job run again, besides its own definition; relative, globs allowed.
    pub inputs: Vec<Spanned<String>>,
    pub timeout: Option<Spanned<Duration>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum JobTiming {
    /// Before the services that share its image or need it are started.
    #[default]
    Before,
    /// After everything is healthy.
    After,
    /// Only by `pdev run JOB`.
    Manual,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Resource {
    /// `postgres@16`, `./modules/nats`; `redis` alone means the newest built-in.
    pub uses: Spanned<String>,
    pub with: Map<Tree>,
    pub runtime: Option<Spanned<Runtime>>,
    pub needs: Map<Need>,
    pub raw: Raw,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SecretDeclaration {
    pub description: Option<Spanned<String>>,
    /// `pdev up` goes on without it.
    pub optional: bool,
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
    /// Days since 1970-01-01.
    pub expires: Spanned<Date>,
    pub link: Option<Spanned<String>>,
}

/// A calendar day; the pure crates get today's as a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Date {
    pub year: u16,
    pub month: u8,
    pub day: u8,
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
