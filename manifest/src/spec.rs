//! The manifest language as one table: keys, shapes, docs, defaults. Validation, schema, reference page and completion
//! derive from it.

/// A map with known keys.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    /// One or two sentences, for the hover text and the reference page.
    pub doc: &'static str,
    /// The default and its reason; empty without a default.
    pub default: &'static str,
}

#[derive(Debug)]
pub enum Shape {
    Text,
    /// Text with `${...}`.
    Template,
    /// A file or folder, or a pattern of them, relative to the file that contains it.
    Path,
    /// A module: its name, or its folder as a [`Shape::Path`] that begins with `./` or `../`.
    Module,
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    /// `500ms`, `10s`, `5m`, `72h`.
    Duration,
    /// `256Mi`, `1gb`.
    Bytes,
    /// `250m`, `0.5`, `2`.
    Cpu,
    /// `2027-03-31`.
    Date,
    Choice(&'static [&'static str]),
    List(&'static Shape),
    /// A map from names that the user chooses to values of this shape.
    Map(&'static Shape),
    Section(&'static Section),
    /// One of these shapes; the first is the long form.
    Any(&'static [Shape]),
    /// Free-form data.
    Free,
}

use Shape::{
    Any, Bool, Bytes, Choice, Cpu, Date, Duration, Free, Integer, List, Map, Module, Path, Section as In, Template,
    Text,
};

const fn key(name: &'static str, shape: Shape, doc: &'static str, default: &'static str) -> Key {
    Key { name, shape, doc, default }
}

const PORT_NUMBER: Shape = Integer { min: 1, max: 65535 };
const TEXTS: Shape = List(&Text);
const PATHS: Shape = List(&Path);
const COMMAND: Shape = Any(&[List(&Template), Template]);
const NEEDS: Shape = Any(&[Map(&Choice(&["started", "healthy", "completed"])), TEXTS]);
const ENV_MAP: Shape = Map(&Any(&[Template, Integer { min: i64::MIN, max: i64::MAX }, Bool]));

pub static ROOT: Section = Section {
    name: "manifest",
    doc: "Describes an application: its services, jobs and resources, and how they run.",
    keys: &[
        key("pdev", Integer { min: 1, max: 1 }, "Version of the manifest language.", ""),
        key("app", Any(&[In(&APP), Text]), "The application's name, or a map with more settings.", ""),
        key("include", TEXTS, "Files to merge below this file, in order. Paths are relative to this file.", ""),
        key("vars", Map(&Template), "Values for use in several places, read as `${vars.name}`.", ""),
        key("services", Map(&In(&SERVICE)), "Programs that run as long as the preview is up.", ""),
        key("jobs", Map(&In(&JOB)), "Programs that run to completion, such as migrations and seeds.", ""),
        key(
            "resources",
            Map(&Any(&[In(&RESOURCE), Module])),
            "Databases, queues and similar units, each created from a module.",
            "",
        ),
        key(
            "secrets",
            Map(&Any(&[In(&SECRET), Text])),
            "Names of secrets. Their values are supplied outside this file and delivered as files.",
            "",
        ),
        key(
            "identities",
            Map(&Any(&[In(&IDENTITY), Text])),
            "Names of cloud identities. Each user binds them to accounts in their own configuration.",
            "",
        ),
        key(
            "environments",
            Map(&In(&ENVIRONMENT)),
            "Named variants: a runtime, and overrides of the other sections.",
            "the environment `local` always exists",
        ),
        key("guardrails", In(&GUARDRAILS), "Recorded exceptions to the rules that apply by default.", ""),
        key("patches", List(&In(&PATCH)), "Changes to rendered objects, for settings that have no key.", ""),
        key("names", In(&NAMES), "How branch names become labels.", ""),
    ],
};

pub static APP: Section = Section {
    name: "app",
    doc: "The application.",
    keys: &[
        key(
            "name",
            Text,
            "Lower-case letters, digits and dashes, at most 20 characters, because the name is part of every host name.",
            "",
        ),
        key("owner", Text, "The team or person responsible for the application.", ""),
        key("docs", Path, "Location of its documentation: a folder or a URL.", ""),
        key(
            "default",
            Text,
            "The service that answers at `<branch>.<app>.localhost`.",
            "the one with route `/`, else the first with a port",
        ),
    ],
};

pub static SERVICE: Section =
    Section { name: "service", doc: "A program that runs as long as the preview is up.", keys: SERVICE_KEYS };

macro_rules! service_keys {
    ($($extra:expr),* $(,)?) => {
        &[
            key("build", Any(&[In(&BUILD), Path]), "The folder that contains the Dockerfile, or a map with more settings.", ""),
            key("image", Template, "An existing image to run.", ""),
            key("command", COMMAND, "The program to run: a list of arguments, or a line for `/bin/sh -c`.", "the image's command"),
            key("entrypoint", COMMAND, "Replaces the image's entrypoint.", "the image's entrypoint"),
            key("dir", Path, "Working directory: inside the container, or relative to this file for a process.", ""),
            key("process", Any(&[In(&PROCESS), COMMAND]), "How it runs as a plain local process.", "`command`, if there is no image or build"),
            key("runtime", Choice(&["docker", "process", "kubernetes"]), "The runtime of this unit.", "the environment's runtime"),
            key("port", Any(&[In(&PORT), PORT_NUMBER]), "The port that the program listens on; short for one entry `main` in `ports`.", ""),
            key("ports", Map(&Any(&[In(&PORT), PORT_NUMBER])), "The ports that the program listens on, by name.", ""),
            key("routes", TEXTS, "Paths of `<branch>.<app>.localhost` that lead to this service; the longest match wins.", ""),
            key("wildcard", Bool, "Whether subdomains of its host lead to it too: `anything.<service>.<branch>.<app>.localhost`.", "false"),
            key("health", Any(&[In(&HEALTH), Text]), "Readiness check: a path to GET, `none`, or a map with more settings.", "TCP connect to its port; without a port, still running after 300 ms"),
            key("env", ENV_MAP, "Environment variables.", ""),
            key("volumes", Map(&Any(&[In(&VOLUME), Text])), "Data that survives `down`: each name with a path inside the container.", ""),
            key("size", In(&SIZE), "Resource limits.", "memory 2Gi, 2048 processes and threads; no CPU limit, because a laptop's idle cores are free"),
            key("needs", NEEDS, "Units that must start first, each with the state that it must reach.", "healthy for services and resources, completed for jobs"),
            key("identity", Text, "The cloud identity that it acts as. The AWS, Google Cloud and Azure SDKs find fresh credentials without configuration (docs/credentials.md).", ""),
            key("secrets", TEXTS, "Secrets to deliver as files although no placeholder names them.", ""),
            key("security", In(&SECURITY), "Permissions beyond the hardened default.", ""),
            key("watch", List(&In(&WATCH)), "Actions on file changes, with the same names as in Compose.", ""),
            key("stop", In(&STOP), "Signal and grace period for stopping.", "SIGTERM, then SIGKILL after 10 s"),
            key("restart", Choice(&["on-failure", "always", "never"]), "Whether to restart the program after it exits.", "on-failure, with increasing delays; the sixth crash within ten minutes fails the unit, and exit codes 126 and 127 do so at once"),
            key("replicas", Integer { min: 0, max: 100 }, "Number of copies; more than one works on Kubernetes only.", "1"),
            key("pull", Choice(&["missing", "always", "never"]), "When to pull the image.", "missing"),
            key("raw", In(&RAW), "Fields of the runtime's native objects, merged over the objects that pdev renders.", ""),
            $($extra),*
        ]
    };
}

static SERVICE_KEYS: &[Key] = service_keys!();

pub static JOB: Section = Section {
    name: "job",
    doc: "A program that runs to completion. It has all keys of a service, and these.",
    keys: service_keys!(
        key("service", Text, "The service whose image, environment and folder the job uses.", ""),
        key(
            "when",
            Choice(&["before", "after", "manual"]),
            "When it runs: before the services that need it, after all services are healthy, or only with `pdev run`.",
            "before"
        ),
        key("inputs", PATHS, "Files whose change makes a finished job run again; `*` and `**` are allowed.", ""),
        key("timeout", Duration, "Limit of its run time.", "1h"),
    ),
};

pub static PROCESS: Section = Section {
    name: "process",
    doc: "How a service runs as a plain local process. pdev sets `PORT` and `HOST` for it.",
    keys: &[
        key("command", COMMAND, "A list of arguments, or a line for `/bin/sh -c`.", "the service's `command`"),
        key(
            "dir",
            Path,
            "Working directory, relative to this file.",
            "the folder of `build`, else the folder of this file",
        ),
        key(
            "build",
            COMMAND,
            "A command that runs to completion before the first start, and again when `inputs` change.",
            "",
        ),
        key("inputs", PATHS, "Files that `build` reads.", ""),
        key("env", ENV_MAP, "Additional environment variables, for the process only.", ""),
        key("user", Text, "The user to run as if pdev itself runs as root.", ""),
    ],
};

pub static BUILD: Section = Section {
    name: "build",
    doc: "An image built from a folder. pdev skips the build while its inputs are unchanged.",
    keys: &[
        key("context", Path, "The build context, relative to this file.", "."),
        key("dockerfile", Text, "Path of the Dockerfile, relative to the context.", "Dockerfile"),
        key("target", Text, "The stage of the Dockerfile to build.", "the last stage"),
        key("args", ENV_MAP, "Build arguments. They remain in the image, so they must not contain secrets.", ""),
        key("platform", Text, "The target platform, such as `linux/amd64`.", "the engine's platform"),
    ],
};

pub static PORT: Section = Section {
    name: "port",
    doc: "A port that the program listens on.",
    keys: &[
        key("port", PORT_NUMBER, "The port number inside the container. A process gets its own port as `PORT`.", ""),
        key(
            "protocol",
            Choice(&["http", "h2c", "grpc", "tcp", "udp"]),
            "Ports with `http` or `h2c` get a URL; `grpc` means `h2c`.",
            "http",
        ),
        key(
            "host",
            PORT_NUMBER,
            "A fixed port on 127.0.0.1. Two previews cannot both use it.",
            "pdev chooses a port and remembers it",
        ),
    ],
};

pub static HEALTH: Section = Section {
    name: "health",
    doc: "Probes with Kubernetes semantics. pdev probes from outside, so the image needs no shell.",
    keys: &[
        key("ready", Any(&[In(&PROBE), Text]), "The readiness check. It runs until the first success.", "TCP connect"),
        key(
            "live",
            Any(&[In(&PROBE), Text]),
            "The liveness check. It runs while the unit is ready. A unit that fails it is stopped and restarted, which counts as a crash.",
            "no check",
        ),
        key(
            "start_limit",
            Duration,
            "Limit of the time until it is ready.",
            "60s: slower starts are rarer than broken ones",
        ),
    ],
};

pub static PROBE: Section = Section {
    name: "probe",
    doc: "One check, with exactly one of `http`, `tcp`, `grpc`, `exec`.",
    keys: &[
        key("http", Any(&[In(&HTTP_PROBE), Text]), "GET this path; a status from 200 to 399 is a success.", ""),
        key("tcp", Any(&[PORT_NUMBER, Text]), "Connect to this port (name or number).", ""),
        key("grpc", Text, "The standard gRPC health check on this port (name).", ""),
        key("exec", COMMAND, "Run this command inside the unit; exit code 0 is a success.", ""),
        key("service", Text, "For `grpc`: the name of the service to check.", ""),
        key("port", Any(&[PORT_NUMBER, Text]), "The port to probe (name or number).", "main"),
        key(
            "interval",
            Duration,
            "Time between two checks once the unit is ready. During the start, the first checks run every 10 ms.",
            "10s",
        ),
        key("timeout", Duration, "Limit of one check.", "1s"),
        key("failures", Integer { min: 1, max: 100 }, "Consecutive failures before the unit counts as unhealthy.", "3"),
        key("successes", Integer { min: 1, max: 100 }, "Consecutive successes before the unit counts as healthy.", "1"),
        key(
            "listener",
            Choice(&["unit", "any"]),
            "Who may listen on the probed port when a process becomes ready. `any` is for programs that start a listener \
             as another user, for example through `sudo`.",
            "unit: another program on the port would get the unit's requests",
        ),
    ],
};

pub static HTTP_PROBE: Section = Section {
    name: "http probe",
    doc: "A GET request.",
    keys: &[
        key("path", Text, "The path to request; it begins with `/`.", "/"),
        key("port", Any(&[PORT_NUMBER, Text]), "The port to probe (name or number).", "main"),
        key("host", Text, "The Host header.", "localhost"),
        key("headers", Map(&Text), "Additional headers.", ""),
        key("status", List(&Integer { min: 100, max: 599 }), "The status codes that count as a success.", "200 to 399"),
    ],
};

pub static VOLUME: Section = Section {
    name: "volume",
    doc: "A folder inside the container: a named volume, a folder of the project, or memory.",
    keys: &[
        key("target", Text, "Absolute path inside the container.", ""),
        key("path", Path, "A folder or file of the project to mount, relative to this file.", ""),
        key(
            "tmpfs",
            Any(&[Bool, Bytes]),
            "Store the data in memory and delete it with the container; a size sets a limit.",
            "",
        ),
        key("read_only", Bool, "Whether the container cannot write to it.", "false"),
    ],
};

pub static SIZE: Section = Section {
    name: "size",
    doc: "Limits of one service.",
    keys: &[
        key("cpu", Cpu, "CPU cores: `250m`, `0.5`, `2`.", "no limit"),
        key("memory", Bytes, "Memory, such as `256Mi`.", "2Gi: a leak stops one unit, not the laptop"),
        key("pids", Integer { min: 1, max: 4_194_304 }, "Number of processes and threads.", "2048"),
    ],
};

pub static SECURITY: Section = Section {
    name: "security",
    doc: "Permissions of a container beyond the hardened default.",
    keys: &[
        key(
            "capabilities",
            TEXTS,
            "Capabilities to add to the default set, without `CAP_`.",
            "CHOWN, DAC_OVERRIDE, FOWNER, KILL, NET_BIND_SERVICE, SETGID, SETUID: entrypoints need them to drop root privileges",
        ),
        key("drop", TEXTS, "Capabilities to remove from the default set; `ALL` for all.", ""),
        key("privileged", Bool, "Run with the rights of root on this machine. Almost never needed.", "false"),
        key("read_only", Bool, "Mount the root file system read-only; `/tmp` is in memory.", "false"),
        key(
            "user",
            Any(&[Text, Integer { min: 0, max: 4_294_967_295 }]),
            "User, or user:group, inside the container.",
            "the image's user",
        ),
        key("no_new_privileges", Bool, "Prevent setuid programs from raising privileges.", "true"),
    ],
};

pub static WATCH: Section = Section {
    name: "watch",
    doc: "Actions on file changes. This version validates them but does not run them yet.",
    keys: &[
        key("path", Path, "The file or folder to watch, relative to this file.", ""),
        key(
            "action",
            Choice(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
            "The action, with the same names as in Compose.",
            "",
        ),
        key("target", Text, "The target path inside the container.", ""),
        key("ignore", TEXTS, "Patterns of files to ignore.", ""),
        key("initial_sync", Bool, "Whether to sync once at the start.", "false"),
        key("exec", COMMAND, "The command for `sync+exec`.", ""),
    ],
};

pub static STOP: Section = Section {
    name: "stop",
    doc: "How a unit is stopped.",
    keys: &[
        key("signal", Text, "The first signal, such as SIGINT.", "SIGTERM"),
        key("grace", Duration, "Time until SIGKILL.", "10s"),
    ],
};

pub static RAW: Section = Section {
    name: "raw",
    doc: "Fields of the runtime's native objects.",
    keys: &[
        key("docker", Free, "Fields to merge over the body of `POST /containers/create` of the Docker Engine API.", ""),
        key("kubernetes", Free, "Reserved for the Kubernetes runtime of a later version.", ""),
    ],
};

pub static RESOURCE: Section = Section {
    name: "resource",
    doc: "A unit created from a module, such as a database or a queue.",
    keys: &[
        key("uses", Module, "The module: `postgres@16`, `./modules/nats`.", ""),
        key("with", Free, "The module's inputs; `pdev module info NAME` lists them.", "the default of each input"),
        key(
            "runtime",
            Choice(&["docker", "process", "kubernetes"]),
            "The runtime of this unit.",
            "the environment's runtime",
        ),
        key("needs", NEEDS, "Units that must start first.", ""),
        key("raw", In(&RAW), "Fields of the runtime's native objects.", ""),
    ],
};

pub static SECRET: Section = Section {
    name: "secret",
    doc: "A secret's name. Its value comes from `--secret NAME=@FILE` or `PDEV_SECRET_NAME`.",
    keys: &[
        key("description", Text, "What the secret is, for users who must obtain its value.", ""),
        key("optional", Bool, "Whether `up` continues without a value.", "false"),
        key(
            "on_change",
            Choice(&["restart", "none"]),
            "What `up` does with running units if the value has changed. With `none`, they read their file again themselves.",
            "restart: most programs read a secret once, at their start",
        ),
    ],
};

pub static IDENTITY: Section = Section {
    name: "identity",
    doc: "A cloud identity's name, bound to an account in the user's own configuration.",
    keys: &[
        key("provider", Text, "The provider, such as aws.", ""),
        key("settings", Free, "Settings for the provider.", ""),
    ],
};

pub static ENVIRONMENT: Section = Section {
    name: "environment",
    doc: "A named variant. Maps merge, scalars and lists replace, `null` removes, `+key` appends to a list.",
    keys: &[
        key(
            "runtime",
            Choice(&["docker", "process", "kubernetes"]),
            "The runtime of all units.",
            "docker if an engine answers, else process",
        ),
        key("context", Text, "The Docker or Kubernetes context.", "the current context"),
        key("ttl", Duration, "How long the preview may stay unused (reserved for a later version).", ""),
        key("app", Any(&[In(&APP), Text]), "Overrides of the section.", ""),
        key("vars", Map(&Template), "Overrides of the section.", ""),
        key("services", Map(&In(&SERVICE)), "Overrides of the section.", ""),
        key("jobs", Map(&In(&JOB)), "Overrides of the section.", ""),
        key("resources", Map(&Any(&[In(&RESOURCE), Module])), "Overrides of the section.", ""),
        key("secrets", Map(&Any(&[In(&SECRET), Text])), "Overrides of the section.", ""),
        key("identities", Map(&Any(&[In(&IDENTITY), Text])), "Overrides of the section.", ""),
        key("guardrails", In(&GUARDRAILS), "Overrides of the section.", ""),
        key("patches", List(&In(&PATCH)), "Overrides of the section.", ""),
    ],
};

pub static GUARDRAILS: Section = Section {
    name: "guardrails",
    doc: "Exceptions to rules, each with a reason, an owner and an expiry date.",
    keys: &[key("waivers", List(&In(&WAIVER)), "The exceptions.", "")],
};

pub static WAIVER: Section = Section {
    name: "waiver",
    doc: "An exception to one rule.",
    keys: &[
        key("rule", Text, "The rule's code, such as PD005.", ""),
        key("scope", Text, "The unit, such as `services.api`.", ""),
        key("reason", Text, "Why the exception is necessary.", ""),
        key("owner", Text, "The team or person responsible for the exception.", ""),
        key("expires", Date, "The last day; afterwards the rule applies again.", ""),
        key("link", Text, "A ticket or a page.", ""),
    ],
};

pub static PATCH: Section = Section {
    name: "patch",
    doc: "A change to a rendered object. A patch that matches no object is an error.",
    keys: &[
        key("target", In(&PATCH_TARGET), "The objects to change.", ""),
        key("merge", Free, "Fields to merge over the object (RFC 7396); `+key` appends to a list.", ""),
        key("json", List(&Free), "JSON Patch operations (RFC 6902).", ""),
        key("why", Text, "The reason, for later readers.", ""),
    ],
};

pub static PATCH_TARGET: Section = Section {
    name: "patch target",
    doc: "Selects the objects that a patch changes.",
    keys: &[
        key("runtime", Choice(&["docker", "process", "kubernetes"]), "The runtime of the objects.", ""),
        key("kind", Text, "The object's kind, on Kubernetes.", ""),
        key("from", Text, "The origin of the objects: `services.api`, `resources.db`, `services.*`.", "all"),
    ],
};

pub static NAMES: Section = Section {
    name: "names",
    doc: "How branch names become labels.",
    keys: &[key("strip", TEXTS, "Prefixes to remove from a branch name first, such as `feature/`.", "")],
};

/// Keys of Compose and Kubernetes, with the corresponding key of the manifest.
pub const SYNONYMS: &[(&str, &str)] = &[
    ("environment", "env"),
    ("envs", "env"),
    ("depends_on", "needs"),
    ("dependsOn", "needs"),
    ("depends", "needs"),
    ("healthcheck", "health"),
    ("healthCheck", "health"),
    ("readinessProbe", "health"),
    ("expose", "port"),
    ("working_dir", "dir"),
    ("workdir", "dir"),
    ("cwd", "dir"),
    ("cmd", "command"),
    ("args", "command"),
    ("develop", "watch"),
    ("stop_signal", "stop"),
    ("stop_grace_period", "stop"),
    ("cap_add", "security"),
    ("user", "security"),
    ("resources", "size"),
    ("limits", "size"),
    ("deploy", "size"),
    ("pull_policy", "pull"),
    ("databases", "resources"),
    ("dependencies", "resources"),
    ("service", "services"),
    ("job", "jobs"),
    ("profiles", "environments"),
    ("envs", "environments"),
    ("name", "app"),
    ("readOnly", "read_only"),
    ("startLimit", "start_limit"),
    ("type", "uses"),
    ("params", "with"),
];

/// The key of a section by name.
#[must_use]
pub fn find_key(section: &'static Section, name: &str) -> Option<&'static Key> {
    section.keys.iter().find(|key| key.name == name)
}
