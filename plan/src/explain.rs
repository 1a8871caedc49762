//! Why a field is what it is: value, origins, meaning, and how to have it otherwise. For `pdev explain FIELD` and hover.

use manifest::Sources;
use serde_json::Value;

use crate::nearest::nearest;
use crate::origin::{Field, Origin};
use crate::resolve::ResolvedApplication;

#[derive(Clone, PartialEq, Debug)]
pub struct Explanation {
    /// The full path: `services.api.docker.HostConfig.Memory`.
    pub path: String,
    pub value: Value,
    /// First to last; the last one is in force.
    pub origins: Vec<Origin>,
    pub docs: Option<&'static str>,
    /// One sentence: what to write, and where.
    pub how_to_change: String,
}

/// What `explain` can say about a path.
#[derive(Clone, PartialEq, Debug)]
pub enum ExplainResult {
    Field(Explanation),
    /// The path is a branch: all fields below it.
    Subtree(Vec<Explanation>),
    /// Nothing there; the nearest path there is.
    Unknown {
        nearest: Option<String>,
    },
}

/// A word of the manifest, the field it becomes in Docker, and what it means.
const FIELD_DOCS: &[(&str, &str, &str)] = &[
    ("command", "docker.Cmd", "what runs; a list runs as it is, a string through the shell"),
    ("entrypoint", "docker.Entrypoint", "replaces the image's entrypoint"),
    ("dir", "docker.WorkingDir", "the folder it runs in"),
    ("size.memory", "docker.HostConfig.Memory", "the most memory it may use, in bytes; beyond it the kernel ends it"),
    ("size.cpu", "docker.HostConfig.CpuShares", "its share of the CPU when others want it too; no ceiling"),
    ("size.pids", "docker.HostConfig.PidsLimit", "the most processes and threads it may have"),
    ("security.user", "docker.User", "the user it runs as"),
    ("security.read_only", "docker.HostConfig.ReadonlyRootfs", "nothing of the image can be written; `/tmp` can"),
    ("security.privileged", "docker.HostConfig.Privileged", "every right of the machine's root"),
    ("security.capabilities", "docker.HostConfig.CapAdd", "Linux capabilities it has"),
    ("security.drop", "docker.HostConfig.CapDrop", "Linux capabilities taken away"),
    ("security.no_new_privileges", "docker.HostConfig.SecurityOpt", "setuid programs cannot raise privileges"),
    ("stop.signal", "docker.StopSignal", "the signal that asks it to stop"),
    ("ports", "docker.ExposedPorts", "where it listens"),
    ("volumes", "docker.HostConfig.Binds", "folders of the project it sees"),
    ("volumes", "docker.HostConfig.Tmpfs", "folders in memory"),
    ("env", "", "the environment it gets; what you write wins over what pdev gives"),
    ("image", "", "the image it starts from"),
    ("build", "", "how its image is made"),
    ("runtime", "", "whether it runs in a container or as a local process"),
    ("health.ready", "", "when it counts as ready; those that need it wait for that"),
    ("health.start_limit", "", "how long it may take until first ready"),
    ("stop.grace", "", "the time between the stop signal and the kill"),
    ("restart", "", "what happens when it crashes"),
];

/// `services.api.size.memory`, `services.api.docker.HostConfig.Memory`; `api.size.memory` is understood too.
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
    // A part of a rendered list or map: the field it belongs to.
    if let Some((found, field)) = candidates.iter().find_map(|candidate| fields.nearest(candidate)) {
        return ExplainResult::Field(explain_field(found, field));
    }
    let paths: Vec<String> = fields.iter().map(|(path, _)| path).collect();
    let nearest = candidates.iter().find_map(|candidate| nearest(candidate, paths.iter().map(String::as_str)));
    ExplainResult::Unknown { nearest: nearest.map(str::to_owned) }
}

/// Where an origin is, in words: `pdev.yaml:7`, `default: a leak stops one unit`.
#[must_use]
pub fn describe_origin(origin: &Origin, sources: &Sources) -> String {
    let place = |span: manifest::Span| {
        let file = sources.get(span.file).map_or("", |source| source.path.as_str());
        format!("{file}:{}", sources.position(span.file, span.start as usize).line)
    };
    match origin {
        Origin::Default { reason } => format!("default: {reason}"),
        Origin::Module { name, version } => format!("module {name} {version}"),
        Origin::Manifest { span } => place(*span),
        Origin::Overlay { span, layer } => format!("{} ({layer})", place(*span)),
        Origin::Raw { span } => format!("{} (raw)", place(*span)),
        Origin::Patch { span } => format!("{} (patch)", place(*span)),
    }
}

fn explain_field(path: &str, field: &Field) -> Explanation {
    let mut parts = path.splitn(3, '.');
    let (section, unit) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let rest = parts.next().unwrap_or_default();
    let known = FIELD_DOCS.iter().find(|(word, docker, _)| {
        let is = |name: &str| !name.is_empty() && (rest == name || rest.starts_with(&format!("{name}.")));
        is(word) || is(docker)
    });
    let target = format!("{section}.{unit}");
    let how = match (known, rest.strip_prefix("docker.")) {
        (Some((word, _, _)), Some(raw)) => {
            format!("Write `{word}` under `{target}`, or `raw.docker.{raw}` for the field itself.")
        }
        (Some((word, _, _)), None) => format!("Write `{word}` under `{target}`."),
        (None, Some(raw)) => format!("Write `raw.docker.{raw}` under `{target}`."),
        (None, None) => format!("Write `{rest}` under `{target}`."),
    };
    let how = if section == "resources" {
        format!("Give the module another value under `{target}.with`, or `raw.docker` under `{target}`.")
    } else {
        how
    };
    let docs = known.map(|(_, _, docs)| *docs);
    Explanation {
        path: path.to_owned(),
        value: field.value.clone(),
        origins: field.origins.clone(),
        docs,
        how_to_change: how,
    }
}
