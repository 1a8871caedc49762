//! Explains a field for `pdev explain FIELD` and hover: its value, origins, meaning, and how to change it.

use manifest::Sources;
use serde_json::Value;
use strings::nearest;

use crate::origin::{Field, Origin};
use crate::resolve::ResolvedApplication;

#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// The full path: `services.api.docker.HostConfig.Memory`.
    pub path: String,
    pub value: Value,
    /// In the order in which they were applied; the last one is effective.
    pub origins: Vec<Origin>,
    pub docs: Option<&'static str>,
    /// One sentence that says what to write, and where.
    pub how_to_change: String,
}

/// The result of looking up a path.
#[derive(Clone, PartialEq, Debug)]
pub enum ExplainResult {
    Field(Explanation),
    /// The path is a section: all fields below it.
    Subtree(Vec<Explanation>),
    /// The path does not exist. `nearest` is the most similar path that does.
    Unknown {
        nearest: Option<String>,
    },
}

/// Manifest key, the Docker field that it sets, and its meaning.
const FIELD_DOCS: &[(&str, &str, &str)] = &[
    ("command", "docker.Cmd", "the command to run; a list runs directly, a string runs through the shell"),
    ("entrypoint", "docker.Entrypoint", "replaces the image's entrypoint"),
    ("dir", "docker.WorkingDir", "the working directory"),
    ("size.memory", "docker.HostConfig.Memory", "the memory limit in bytes; the kernel kills the unit if it uses more"),
    ("size.cpu", "docker.HostConfig.CpuShares", "its share of the CPU under contention; not a ceiling"),
    ("size.pids", "docker.HostConfig.PidsLimit", "the maximum number of processes and threads"),
    ("security.user", "docker.User", "the user it runs as"),
    (
        "security.read_only",
        "docker.HostConfig.ReadonlyRootfs",
        "the image's file system is read-only; `/tmp` stays writable",
    ),
    ("security.privileged", "docker.HostConfig.Privileged", "all rights of the machine's root user"),
    ("security.capabilities", "docker.HostConfig.CapAdd", "Linux capabilities that are added"),
    ("security.drop", "docker.HostConfig.CapDrop", "Linux capabilities that are removed"),
    ("security.no_new_privileges", "docker.HostConfig.SecurityOpt", "setuid programs cannot raise privileges"),
    ("stop.signal", "docker.StopSignal", "the signal that asks the program to stop"),
    ("ports", "docker.ExposedPorts", "the ports on which it listens"),
    ("volumes", "docker.HostConfig.Binds", "project folders that are mounted into it"),
    ("volumes", "docker.HostConfig.Tmpfs", "folders in memory (tmpfs)"),
    ("env", "", "environment variables; those in the manifest override those that pdev sets"),
    ("image", "", "the image it starts from"),
    ("build", "", "how its image is built"),
    ("runtime", "", "whether it runs in a container or as a local process"),
    ("health.ready", "", "the check that decides when it is ready; units that need it wait for this"),
    ("health.start_limit", "", "the maximum time until it is first ready"),
    ("stop.grace", "", "the time between the stop signal and SIGKILL"),
    ("restart", "", "what happens when it crashes"),
];

/// Looks up `services.api.size.memory`, `services.api.docker.HostConfig.Memory` or, without the section,
/// `api.size.memory`.
#[must_use]
pub fn explain(resolved: &ResolvedApplication, path: &str) -> ExplainResult {
    let fields = &resolved.origins;
    let candidates = ["", "services.", "jobs.", "resources."].map(|section| format!("{section}{path}"));
    for candidate in &candidates {
        if let Some(field) = fields.get(candidate) {
            return ExplainResult::Field(explain_field(candidate, field));
        }
        let below: Vec<Explanation> =
            fields.subtree(candidate).map(|(path, field)| explain_field(&path, field)).collect();
        if !below.is_empty() {
            return ExplainResult::Subtree(below);
        }
    }
    // The path is inside a rendered list or map: explain the field that contains it.
    if let Some((field_path, field)) = candidates.iter().find_map(|candidate| fields.nearest(candidate)) {
        return ExplainResult::Field(explain_field(field_path, field));
    }
    let paths: Vec<String> = fields.iter().map(|(path, _)| path).collect();
    let nearest = candidates.iter().find_map(|candidate| nearest(candidate, paths.iter().map(String::as_str)));
    ExplainResult::Unknown { nearest: nearest.map(str::to_owned) }
}

/// The location or reason of an origin: `pdev.yaml:7`, `default: a leak stops one unit`.
#[must_use]
pub fn describe_origin(origin: &Origin, sources: &Sources) -> String {
    let location = |span: manifest::Span| {
        let file = sources.get(span.file).map_or("", |source| source.path.as_str());
        format!("{file}:{}", sources.position(span.file, span.start as usize).line)
    };
    match origin {
        Origin::Default { reason } => format!("default: {reason}"),
        Origin::Module { name, version } => format!("module {name} {version}"),
        Origin::Manifest { span } => location(*span),
        Origin::Overlay { span, layer } => format!("{} ({layer})", location(*span)),
        Origin::Raw { span } => format!("{} (raw)", location(*span)),
        Origin::Patch { span } => format!("{} (patch)", location(*span)),
    }
}

fn explain_field(path: &str, field: &Field) -> Explanation {
    let mut parts = path.splitn(3, '.');
    let (section, unit) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let rest = parts.next().unwrap_or_default();
    let documented = FIELD_DOCS.iter().find(|(manifest_key, docker_field, _)| {
        let covers = |name: &str| !name.is_empty() && (rest == name || rest.starts_with(&format!("{name}.")));
        covers(manifest_key) || covers(docker_field)
    });
    let target = format!("{section}.{unit}");
    let instruction = match (documented, rest.strip_prefix("docker.")) {
        (Some((key, _, _)), Some(raw)) => {
            format!("Write `{key}` under `{target}`, or `raw.docker.{raw}` to set the Docker field directly.")
        }
        (Some((key, _, _)), None) => format!("Write `{key}` under `{target}`."),
        (None, Some(raw)) => format!("Write `raw.docker.{raw}` under `{target}`."),
        (None, None) => format!("Write `{rest}` under `{target}`."),
    };
    let instruction = if section == "resources" {
        format!("Set an input of the module under `{target}.with`, or write `raw.docker` under `{target}`.")
    } else {
        instruction
    };
    let docs = documented.map(|(_, _, docs)| *docs);
    Explanation {
        path: path.to_owned(),
        value: field.value.clone(),
        origins: field.origins.clone(),
        docs,
        how_to_change: instruction,
    }
}
