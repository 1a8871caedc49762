//! One module: `module.yaml` and its docs, read and checked.

use std::collections::BTreeMap;

use manifest::syntax::{self, Kind, Node, Value};
use manifest::{Diagnostic, FileId, Files, Severity, Sources};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::codes;
use crate::inputs::{self, Input};

/// Where a module comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    BuiltIn,
    /// A folder relative to the manifest's.
    Folder(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => formatter.write_str("built-in"),
            Self::Folder(path) => formatter.write_str(path),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    pub team: String,
    pub contact: String,
    pub support: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// A template over `host`, `port`, `inputs`.
    pub value: String,
    pub sensitive: bool,
    pub description: String,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Module {
    pub name: String,
    /// Of the module itself.
    pub version: semver::Version,
    /// Major versions of what it runs, that a constraint may ask for; the default is the module's own major.
    pub versions: Vec<String>,
    pub owner: Owner,
    pub summary: String,
    pub docs: String,
    pub source: Source,
    /// SHA-256 of its files, so that a lock can tell that they changed.
    pub tree_hash: String,
    pub inputs: BTreeMap<String, Input>,
    pub outputs: BTreeMap<String, Output>,
    pub ports: BTreeMap<String, u16>,
    pub stop_signal: Option<String>,
    pub stop_grace: Option<std::time::Duration>,
    /// Values computed before rendering, in order.
    pub(crate) lets: Vec<(String, String)>,
    pub(crate) docker: Option<Json>,
    pub(crate) process: Option<Json>,
    /// Why and what to use instead.
    pub deprecated: Option<String>,
}

const KEYS: [&str; 13] = [
    "module",
    "version",
    "versions",
    "owner",
    "summary",
    "docs",
    "inputs",
    "outputs",
    "ports",
    "stop",
    "renders",
    "let",
    "deprecated",
];

/// Reads the module in `folder`. Findings carry spans into [`Sources`] made of that folder's `module.yaml` alone.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(folder: &str, files: &dyn Files, source: Source) -> Result<Module, Vec<Diagnostic>> {
    let path = format!("{folder}/module.yaml");
    let bytes = files.read(&path).map_err(|_| vec![bad(format!("there is no `{path}`"))])?;
    let (text, not_utf8) = syntax::decode(bytes, FileId(0));
    let parsed = syntax::parse(&text, FileId(0));
    let mut found: Vec<Diagnostic> = not_utf8.into_iter().chain(parsed.diagnostics).collect();
    let root = parsed.root.unwrap_or_else(|| Node::null(manifest::Span::default()));
    let mut sources = Sources::default();
    sources.add(path.clone(), text.as_str());
    for pair in root.as_map().unwrap_or_default() {
        if !KEYS.contains(&pair.key.value.as_str()) && !pair.key.value.starts_with("x-") {
            let line = sources.position(FileId(0), pair.key.span.start as usize).line;
            found.push(bad(format!("`{path}`, line {line}: unknown key `{}`", pair.key.value)));
        }
    }
    let docs_name = text_of(&root, "docs").unwrap_or_else(|| "docs.md".to_owned());
    let docs =
        files.read(&format!("{folder}/{docs_name}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let tree_hash = hash(&[("module.yaml", &text), (&docs_name, docs.as_deref().unwrap_or_default())]);
    let module = build(&root, &path, source, docs.unwrap_or_default(), tree_hash, &mut found);
    match module {
        Some(module) if found.iter().all(|one| one.severity != Severity::Error) => Ok(module),
        _ => Err(found),
    }
}

fn build(
    root: &Node,
    path: &str,
    source: Source,
    docs: String,
    tree_hash: String,
    found: &mut Vec<Diagnostic>,
) -> Option<Module> {
    let mut need = |key: &str| {
        let text = text_of(root, key);
        if text.is_none() {
            found.push(bad(format!("`{path}` needs `{key}`")));
        }
        text
    };
    let (name, version, summary) = (need("module"), need("version"), need("summary"));
    if text_of_in(root, "owner", "team").is_none() {
        found.push(bad(format!("`{path}` needs `owner: {{ team: ..., contact: ... }}`: somebody answers for it")));
    }
    if docs.trim().is_empty() {
        found.push(bad(format!("`{path}`: its docs file is missing or empty")));
    }
    let version = match semver::Version::parse(version.as_deref()?) {
        Ok(version) => version,
        Err(error) => {
            found.push(bad(format!("`{path}`: `version` is no SemVer version: {error}")));
            return None;
        }
    };
    let renders = root.get("renders").map(|pair| &pair.value);
    let rendering = |runtime: &str| renders.and_then(|node| node.get(runtime)).map(|pair| json(&pair.value));
    if renders.is_none() {
        found.push(bad(format!("`{path}` renders nothing: it needs `renders`")));
    }
    Some(Module {
        name: name?,
        versions: list_of(root, "versions"),
        version,
        owner: Owner {
            team: text_of_in(root, "owner", "team").unwrap_or_default(),
            contact: text_of_in(root, "owner", "contact").unwrap_or_default(),
            support: text_of_in(root, "owner", "support").unwrap_or_default(),
        },
        summary: summary?,
        docs,
        source,
        tree_hash,
        inputs: inputs::declared(root.get("inputs").map(|pair| &pair.value), path, found),
        outputs: outputs(root),
        ports: ports(root),
        stop_signal: text_of_in(root, "stop", "signal"),
        stop_grace: text_of_in(root, "stop", "grace").and_then(|text| manifest::units::duration(&text).ok()),
        lets: lets(root),
        docker: rendering("docker"),
        process: rendering("process"),
        deprecated: text_of_in(root, "deprecated", "reason").map(|reason| {
            match text_of_in(root, "deprecated", "use") {
                Some(instead) => format!("{reason}; use `{instead}`"),
                None => reason,
            }
        }),
    })
}

fn bad(words: String) -> Diagnostic {
    Diagnostic::new(codes::BAD_MODULE, Severity::Error, manifest::Span::default(), words)
        .help("The format is described in docs/modules.md.")
}

fn text_of(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.value.as_scalar().filter(|scalar| !scalar.is_null()).map(|scalar| scalar.text.clone())
}

fn text_of_in(node: &Node, outer: &str, key: &str) -> Option<String> {
    text_of(&node.get(outer)?.value, key)
}

fn list_of(node: &Node, key: &str) -> Vec<String> {
    match node.get(key).map(|pair| &pair.value.kind) {
        Some(Kind::List(items)) => {
            items.iter().filter_map(|item| item.as_scalar().map(|scalar| scalar.text.clone())).collect()
        }
        _ => Vec::new(),
    }
}

fn outputs(root: &Node) -> BTreeMap<String, Output> {
    let pairs = root.get("outputs").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    pairs
        .iter()
        .map(|pair| {
            let output = Output {
                value: text_of(&pair.value, "value").unwrap_or_default(),
                sensitive: text_of(&pair.value, "sensitive").is_some_and(|text| text == "true"),
                description: text_of(&pair.value, "description").unwrap_or_default(),
            };
            (pair.key.value.clone(), output)
        })
        .collect()
}

fn ports(root: &Node) -> BTreeMap<String, u16> {
    let pairs = root.get("ports").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    pairs.iter().filter_map(|pair| Some((pair.key.value.clone(), pair.value.as_scalar()?.text.parse().ok()?))).collect()
}

fn lets(root: &Node) -> Vec<(String, String)> {
    let pairs = root.get("let").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    pairs.iter().filter_map(|pair| Some((pair.key.value.clone(), pair.value.as_scalar()?.text.clone()))).collect()
}

/// A node as plain data.
pub(crate) fn json(node: &Node) -> Json {
    match &node.kind {
        Kind::List(items) => items.iter().map(json).collect(),
        Kind::Map(pairs) => {
            Json::Object(pairs.iter().map(|pair| (pair.key.value.clone(), json(&pair.value))).collect())
        }
        Kind::Scalar(scalar) => match scalar.value {
            Value::Null => Json::Null,
            Value::Bool(on) => on.into(),
            Value::Integer(number) => number.into(),
            Value::Float(number) => number.into(),
            Value::Text => scalar.text.clone().into(),
        },
    }
}

/// Line ends do not count: a checkout on another system is the same module.
fn hash(files: &[(&str, &str)]) -> String {
    let mut sorted = files.to_vec();
    sorted.sort_unstable();
    let mut digest = Sha256::new();
    for (name, text) in sorted {
        digest.update(name.as_bytes());
        digest.update([0]);
        digest.update(text.replace("\r\n", "\n").as_bytes());
        digest.update([0]);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
