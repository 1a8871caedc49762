//! The language as one table: keys, shapes, docs, defaults. Decoding, schema, reference and completion come from it.

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
    /// One or two sentences for hover and reference.
    pub doc: &'static str,
    /// What holds when it is not written, and why; empty when nothing does.
    pub default: &'static str,
}

#[derive(Debug)]
pub enum Shape {
    Text,
    /// Text with `${...}`.
    Template,
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
    /// Names chosen by the user to values.
    Map(&'static Shape),
    Section(&'static Section),
    /// Any of these; the first is the long form.
    Any(&'static [Shape]),
    /// Free-form data.
    Free,
}

use Shape::{Any, Bool, Bytes, Choice, Cpu, Date, Duration, Free, Integer, List, Map, Section as In, Template, Text};

const fn key(name: &'static str, shape: Shape, doc: &'static str, default: &'static str) -> Key {
    Key { name, shape, doc, default }
}

const PORT_NUMBER: Shape = Integer { min: 1, max: 65535 };
const TEXTS: Shape = List(&Text);
const COMMAND: Shape = Any(&[List(&Template), Template]);
const NEEDS: Shape = Any(&[Map(&Choice(&["started", "healthy", "completed"])), TEXTS]);
const ENV_MAP: Shape = Map(&Any(&[Template, Integer { min: i64::MIN, max: i64::MAX }, Bool]));

pub static ROOT: Section = Section {
    name: "manifest",
    doc: "What an application is made of, beside its code.",
    keys: &[
        key("pdev", Integer { min: 1, max: 1 }, "The version of this language.", ""),
        key("app", Any(&[In(&APP), Text]), "The application: its name, or a map with more.", ""),
        key("include", TEXTS, "Files merged below this one, in order; paths are relative to this file.", ""),
        key("vars", Map(&Template), "Values used more than once, read as `${vars.name}`.", ""),
        key("services", Map(&In(&SERVICE)), "Programs that run as long as the preview is up.", ""),
        key("jobs", Map(&In(&JOB)), "Programs that run to their end: migrations, seeds.", ""),
        key("resources", Map(&Any(&[In(&RESOURCE), Text])), "Databases, queues and the like, each from a module.", ""),
        key(
            "secrets",
            Map(&Any(&[In(&SECRET), Text])),
            "Names of secrets; their values are given outside of this file and delivered as files.",
            "",
        ),
        key(
            "identities",
            Map(&Any(&[In(&IDENTITY), Text])),
            "Names of cloud identities; each user binds them to accounts in their own configuration.",
            "",
        ),
        key(
            "environments",
            Map(&In(&ENVIRONMENT)),
            "Named variants: a runtime, and overrides of everything above.",
            "an environment `local` always exists",
        ),
        key("guardrails", In(&GUARDRAILS), "Recorded exceptions to the rules that are on by default.", ""),
        key("patches", List(&In(&PATCH)), "Changes to rendered objects, for what has no key.", ""),
        key("names", In(&NAMES), "How branches become names.", ""),
    ],
};

pub static APP: Section = Section {
    name: "app",
    doc: "The application.",
    keys: &[
        key(
            "name",
            Text,
            "Lower-case letters, digits and dashes, at most 20 characters: it is part of every host name.",
            "",
        ),
        key("owner", Text, "Who to ask.", ""),
        key("docs", Text, "Where its documentation is: a folder or a URL.", ""),
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
            key("build", Any(&[In(&BUILD), Text]), "The folder with its Dockerfile, or a map with more.", ""),
            key("image", Template, "An image that is used as it is.", ""),
            key("command", COMMAND, "What runs: a list of arguments, or a line for `/bin/sh -c`.", "the image's own"),
            key("entrypoint", COMMAND, "Replaces the image's entrypoint.", "the image's own"),
            key("dir", Text, "The folder it runs in: inside the container, or relative to this file for a process.", ""),
            key("process", Any(&[In(&PROCESS), COMMAND]), "How it runs as a plain local process.", "`command`, where there is no image or build"),
            key("runtime", Choice(&["docker", "process", "kubernetes"]), "Where this one runs.", "the environment's runtime"),
            key("port", Any(&[In(&PORT), PORT_NUMBER]), "The one port it listens on; short for a port named `main`.", ""),
            key("ports", Map(&Any(&[In(&PORT), PORT_NUMBER])), "Its ports by name.", ""),
            key("routes", TEXTS, "Paths of `<branch>.<app>.localhost` that it answers; the longest one wins.", ""),
            key("wildcard", Bool, "Hosts below its own reach it too: `anything.<service>.<branch>.<app>.localhost`.", "false"),
            key("health", Any(&[In(&HEALTH), Text]), "When it is ready: a path to GET, `none`, or a map with more.", "TCP connect on its port; without a port: still running after 300 ms"),
            key("env", ENV_MAP, "Environment variables.", ""),
            key("volumes", Map(&Any(&[In(&VOLUME), Text])), "Name to a path inside the container: data that survives `down`.", ""),
            key("size", In(&SIZE), "Limits.", "memory 2Gi, 2048 processes and threads; no CPU limit, because a laptop's idle cores are free"),
            key("needs", NEEDS, "Units that come first, and how far they must be.", "healthy for services and resources, completed for jobs"),
            key("identity", Text, "The cloud identity it acts as. SDKs of AWS, Google and Azure in it find fresh credentials by themselves (docs/credentials.md).", ""),
            key("secrets", TEXTS, "Secrets it gets as files although no placeholder names them.", ""),
            key("security", In(&SECURITY), "What it may do beyond the hardened default.", ""),
            key("watch", List(&In(&WATCH)), "What to do when files change, in Compose's words.", ""),
            key("stop", In(&STOP), "How it is stopped.", "SIGTERM, then SIGKILL after 10 s"),
            key("restart", Choice(&["on-failure", "always", "never"]), "What happens after it ends.", "on-failure: five times with growing pauses, then it is failed"),
            key("replicas", Integer { min: 0, max: 100 }, "How many; more than one only on Kubernetes.", "1"),
            key("pull", Choice(&["missing", "always", "never"]), "When its image is pulled.", "missing"),
            key("raw", In(&RAW), "Fields of the runtime's own objects, merged over what pdev renders.", ""),
            $($extra),*
        ]
    };
}

static SERVICE_KEYS: &[Key] = service_keys!();

pub static JOB: Section = Section {
    name: "job",
    doc: "A program that runs to its end. Has every key of a service, and these.",
    keys: service_keys!(
        key("service", Text, "Runs with this service's image, environment and folder.", ""),
        key(
            "when",
            Choice(&["before", "after", "manual"]),
            "Before the services that need it, after all is healthy, or only by `pdev run`.",
            "before"
        ),
        key("inputs", TEXTS, "Files whose change makes a finished job due again; `*` and `**` are allowed.", ""),
        key("timeout", Duration, "How long it may take.", "1h"),
    ),
};

pub static PROCESS: Section = Section {
    name: "process",
    doc: "How a service runs as a plain local process. `PORT` and `HOST` are given to it.",
    keys: &[
        key("command", COMMAND, "A list of arguments, or a line for `/bin/sh -c`.", "the service's `command`"),
        key("dir", Text, "Relative to this file.", "the folder of `build`, else this file's"),
        key("build", COMMAND, "Runs to its end before the first start, and again when `inputs` change.", ""),
        key("inputs", TEXTS, "Files that `build` reads.", ""),
        key("env", ENV_MAP, "More environment variables, for the process only.", ""),
        key("user", Text, "Who it runs as when pdev itself is root.", ""),
    ],
};

pub static BUILD: Section = Section {
    name: "build",
    doc: "An image built from a folder; skipped while its inputs are unchanged.",
    keys: &[
        key("context", Text, "The folder, relative to this file.", "."),
        key("dockerfile", Text, "Relative to the context.", "Dockerfile"),
        key("target", Text, "A stage of the Dockerfile.", "the last one"),
        key("args", ENV_MAP, "Build arguments. They stay in the image: no secrets here.", ""),
        key("platform", Text, "Such as `linux/amd64`.", "the engine's own"),
    ],
};

pub static PORT: Section = Section {
    name: "port",
    doc: "A port that the program listens on.",
    keys: &[
        key("port", PORT_NUMBER, "Inside the container; a process gets a port of its own as `PORT`.", ""),
        key("protocol", Choice(&["http", "h2c", "grpc", "tcp", "udp"]), "`http` and `h2c` get a URL.", "http"),
        key(
            "host",
            PORT_NUMBER,
            "A fixed port on 127.0.0.1. Two copies cannot both have it.",
            "pdev chooses one and remembers it",
        ),
    ],
};

pub static HEALTH: Section = Section {
    name: "health",
    doc: "Probes with Kubernetes' meaning, done from outside: the image needs no shell.",
    keys: &[
        key("ready", Any(&[In(&PROBE), Text]), "Ready for requests. Asked until the first success.", "TCP connect"),
        key("live", Any(&[In(&PROBE), Text]), "Still working. Asked for ever.", "not asked"),
        key(
            "start_limit",
            Duration,
            "How long it may take to become ready.",
            "60s: slower starts are rarer than broken ones",
        ),
    ],
};

pub static PROBE: Section = Section {
    name: "probe",
    doc: "One check; exactly one of `http`, `tcp`, `grpc`, `exec`.",
    keys: &[
        key("http", Any(&[In(&HTTP_PROBE), Text]), "GET this path; 200 to 399 is good.", ""),
        key("tcp", Any(&[PORT_NUMBER, Text]), "Connect to this port (name or number).", ""),
        key("grpc", Text, "The standard gRPC health check on this port (name).", ""),
        key("exec", COMMAND, "A command inside the unit; exit code 0 is good.", ""),
        key("service", Text, "For `grpc`: the service asked about.", ""),
        key("port", Any(&[PORT_NUMBER, Text]), "Which port (name or number).", "main"),
        key("interval", Duration, "Between two checks once ready; while starting it is asked every 10 ms.", "10s"),
        key("timeout", Duration, "For one check.", "1s"),
        key("failures", Integer { min: 1, max: 100 }, "So many in a row are bad.", "3"),
        key("successes", Integer { min: 1, max: 100 }, "So many in a row are good.", "1"),
    ],
};

pub static HTTP_PROBE: Section = Section {
    name: "http probe",
    doc: "A GET request.",
    keys: &[
        key("path", Text, "Begins with `/`.", "/"),
        key("port", Any(&[PORT_NUMBER, Text]), "Which port (name or number).", "main"),
        key("host", Text, "The Host header.", "localhost"),
        key("headers", Map(&Text), "More headers.", ""),
        key("status", List(&Integer { min: 100, max: 599 }), "The answers that are good.", "200 to 399"),
    ],
};

pub static VOLUME: Section = Section {
    name: "volume",
    doc: "A folder inside the container: a named volume, a folder of the project, or memory.",
    keys: &[
        key("target", Text, "Absolute path inside the container.", ""),
        key("path", Text, "A folder or file of the project, relative to this file.", ""),
        key("tmpfs", Any(&[Bool, Bytes]), "In memory, gone with the container; a size limits it.", ""),
        key("read_only", Bool, "Nothing may be written.", "false"),
    ],
};

pub static SIZE: Section = Section {
    name: "size",
    doc: "Limits of one service.",
    keys: &[
        key("cpu", Cpu, "Cores: `250m`, `0.5`, `2`.", "no limit"),
        key("memory", Bytes, "Such as `256Mi`.", "2Gi: a leak stops one unit, not the laptop"),
        key("pids", Integer { min: 1, max: 4_194_304 }, "Processes and threads.", "2048"),
    ],
};

pub static SECURITY: Section = Section {
    name: "security",
    doc: "What a container may do beyond the hardened default.",
    keys: &[
        key(
            "capabilities",
            TEXTS,
            "Added to the default set, without `CAP_`.",
            "CHOWN, DAC_OVERRIDE, FOWNER, KILL, NET_BIND_SERVICE, SETGID, SETUID: what entrypoints need to step down from root",
        ),
        key("drop", TEXTS, "Taken from the default set; `ALL` for all.", ""),
        key("privileged", Bool, "Root on this machine. Almost never needed.", "false"),
        key("read_only", Bool, "The root file system cannot be written; `/tmp` is in memory.", "false"),
        key(
            "user",
            Any(&[Text, Integer { min: 0, max: 4_294_967_295 }]),
            "User, or user:group, inside the container.",
            "the image's own",
        ),
        key("no_new_privileges", Bool, "Setuid programs gain nothing.", "true"),
    ],
};

pub static WATCH: Section = Section {
    name: "watch",
    doc: "What to do when files change (a later version acts on it; checked already).",
    keys: &[
        key("path", Text, "A file or folder, relative to this file.", ""),
        key("action", Choice(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]), "Compose's words.", ""),
        key("target", Text, "Where it goes inside the container.", ""),
        key("ignore", TEXTS, "Patterns that are left alone.", ""),
        key("initial_sync", Bool, "Sync once at the start.", "false"),
        key("exec", COMMAND, "For `sync+exec`.", ""),
    ],
};

pub static STOP: Section = Section {
    name: "stop",
    doc: "How a unit is stopped.",
    keys: &[key("signal", Text, "Such as SIGINT.", "SIGTERM"), key("grace", Duration, "Then it is killed.", "10s")],
};

pub static RAW: Section = Section {
    name: "raw",
    doc: "Fields of the runtime's own objects.",
    keys: &[
        key("docker", Free, "Merged over the body of the Engine API's `POST /containers/create`.", ""),
        key("kubernetes", Free, "For the Kubernetes runtime of a later version.", ""),
    ],
};

pub static RESOURCE: Section = Section {
    name: "resource",
    doc: "A database, a queue: whatever a module offers.",
    keys: &[
        key("uses", Text, "The module: `postgres@16`, `./modules/nats`.", ""),
        key("with", Free, "The module's inputs; `pdev module info NAME` lists them.", "each input has one"),
        key(
            "runtime",
            Choice(&["docker", "process", "kubernetes"]),
            "Where this one runs.",
            "the environment's runtime",
        ),
        key("needs", NEEDS, "Units that come first.", ""),
        key("raw", In(&RAW), "Fields of the runtime's own objects.", ""),
    ],
};

pub static SECRET: Section = Section {
    name: "secret",
    doc: "A secret's name. Its value comes from `--secret NAME=@FILE` or `PDEV_SECRET_NAME`.",
    keys: &[
        key("description", Text, "What it is, for who has to find its value.", ""),
        key("optional", Bool, "`up` goes on without it.", "false"),
    ],
};

pub static IDENTITY: Section = Section {
    name: "identity",
    doc: "A cloud identity's name, bound to an account in the user's own configuration.",
    keys: &[key("provider", Text, "Such as aws.", ""), key("settings", Free, "For its provider.", "")],
};

pub static ENVIRONMENT: Section = Section {
    name: "environment",
    doc: "A named variant. Maps merge, scalars and lists replace, `null` removes, `+key` appends to a list.",
    keys: &[
        key(
            "runtime",
            Choice(&["docker", "process", "kubernetes"]),
            "Where units run.",
            "docker where an engine answers, else process",
        ),
        key("context", Text, "The Docker or Kubernetes context.", "the current one"),
        key("ttl", Duration, "How long it may stay unused (kept for a later version).", ""),
        key("app", Any(&[In(&APP), Text]), "Overrides.", ""),
        key("vars", Map(&Template), "Overrides.", ""),
        key("services", Map(&In(&SERVICE)), "Overrides.", ""),
        key("jobs", Map(&In(&JOB)), "Overrides.", ""),
        key("resources", Map(&Any(&[In(&RESOURCE), Text])), "Overrides.", ""),
        key("secrets", Map(&Any(&[In(&SECRET), Text])), "Overrides.", ""),
        key("identities", Map(&Any(&[In(&IDENTITY), Text])), "Overrides.", ""),
        key("guardrails", In(&GUARDRAILS), "Overrides.", ""),
        key("patches", List(&In(&PATCH)), "Overrides.", ""),
    ],
};

pub static GUARDRAILS: Section = Section {
    name: "guardrails",
    doc: "Exceptions to rules, each with a reason, an owner and an end.",
    keys: &[key("waivers", List(&In(&WAIVER)), "The exceptions.", "")],
};

pub static WAIVER: Section = Section {
    name: "waiver",
    doc: "One exception.",
    keys: &[
        key("rule", Text, "Such as PD005.", ""),
        key("scope", Text, "Such as `services.api`.", ""),
        key("reason", Text, "Why.", ""),
        key("owner", Text, "Who answers for it.", ""),
        key("expires", Date, "A day; afterwards the rule holds again.", ""),
        key("link", Text, "A ticket or a page.", ""),
    ],
};

pub static PATCH: Section = Section {
    name: "patch",
    doc: "A change to a rendered object. One that matches nothing is an error.",
    keys: &[
        key("target", In(&PATCH_TARGET), "Which objects.", ""),
        key("merge", Free, "Merged over the object (RFC 7396); `+key` appends to a list.", ""),
        key("json", List(&Free), "Operations by RFC 6902.", ""),
        key("why", Text, "For who reads it next.", ""),
    ],
};

pub static PATCH_TARGET: Section = Section {
    name: "patch target",
    doc: "Which objects a patch changes.",
    keys: &[
        key("runtime", Choice(&["docker", "process", "kubernetes"]), "The runtime they are for.", ""),
        key("kind", Text, "The object's kind, on Kubernetes.", ""),
        key("from", Text, "Where it comes from: `services.api`, `resources.db`, `services.*`.", "all"),
    ],
};

pub static NAMES: Section = Section {
    name: "names",
    doc: "How branches become names.",
    keys: &[key("strip", TEXTS, "Prefixes taken off a branch first, such as `feature/`.", "")],
};

/// What people write who come from Compose or Kubernetes, and what it is called here.
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

/// A section's key.
#[must_use]
pub fn find_key(section: &'static Section, name: &str) -> Option<&'static Key> {
    section.keys.iter().find(|key| key.name == name)
}

/// Follows a dotted path (`services.api.size.memory`) through the table; names of the user's stand for any.
#[must_use]
pub fn lookup_path(path: &str) -> Option<&'static Key> {
    let mut parts = path.split('.').peekable();
    let mut section = &ROOT;
    loop {
        let key = find_key(section, parts.next()?)?;
        if parts.peek().is_none() {
            return Some(key);
        }
        let mut shape = &key.shape;
        loop {
            match shape {
                Any(shapes) => shape = shapes.first()?,
                Map(inner) | List(inner) => {
                    parts.next();
                    if parts.peek().is_none() {
                        return Some(key);
                    }
                    shape = inner;
                }
                Shape::Section(inner) => {
                    section = inner;
                    break;
                }
                _ => return Some(key),
            }
        }
    }
}
