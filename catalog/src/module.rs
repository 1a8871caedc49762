//! Reads and checks one module: `module.yaml` and its docs file.

use std::collections::BTreeMap;

use manifest::diagnostic::Edit;
use manifest::syntax::{self, Kind, Node, Pair};
use manifest::{Diagnostic, FileId, Files, Severity, Sources, Span};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use strings::nearest;
use strings::to_hex;

use crate::inputs::{self, Input, module_error, to_json};

/// Where a module comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    BuiltIn,
    /// A folder, relative to the manifest's folder.
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
    /// The version of the module itself.
    pub version: semver::Version,
    /// Major versions of the software that a constraint may select; the default is the module's own major version.
    pub versions: Vec<String>,
    pub owner: Owner,
    pub summary: String,
    pub docs: String,
    pub source: Source,
    /// SHA-256 of its files, with which a lock detects changes.
    pub tree_hash: String,
    pub inputs: BTreeMap<String, Input>,
    pub outputs: BTreeMap<String, Output>,
    pub ports: BTreeMap<String, u16>,
    pub stop_signal: Option<String>,
    pub stop_grace: Option<std::time::Duration>,
    /// Values computed before rendering, in order.
    pub(crate) let_bindings: Vec<(String, String)>,
    pub(crate) docker: Option<Json>,
    pub(crate) process: Option<Json>,
    /// The reason for the deprecation, and the replacement.
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

/// Reads the module in `folder`. The messages of its diagnostics contain file and line, because their spans are valid
/// in the module's file only.
///
/// # Errors
/// All diagnostics, if at least one is an error.
pub fn load_module(folder: &str, files: &dyn Files, source: Source) -> Result<Module, Vec<Diagnostic>> {
    let parsed = ParsedModule::read(folder, files, source)?;
    match parsed.module {
        Some(module) if parsed.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error) => {
            Ok(module)
        }
        _ => {
            let mut sources = Sources::default();
            sources.add(parsed.path.clone(), parsed.text.as_str());
            let add_line = |diagnostic: Diagnostic| {
                let line = sources.position(FileId(0), diagnostic.span.start as usize).line;
                let message = format!("`{}`, line {line}: {}", parsed.path, diagnostic.message);
                Diagnostic { message, ..diagnostic }
            };
            Err(parsed.diagnostics.into_iter().map(add_line).collect())
        }
    }
}

/// The result of reading a module, valid or not. Spans refer to its `module.yaml`.
pub(crate) struct ParsedModule {
    path: String,
    text: String,
    pub(crate) root: Node,
    pub(crate) module: Option<Module>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl ParsedModule {
    pub(crate) fn read(folder: &str, files: &dyn Files, source: Source) -> Result<Self, Vec<Diagnostic>> {
        let path = format!("{folder}/module.yaml");
        let missing = || vec![module_error(Span::default(), format!("there is no `{path}`"))];
        let bytes = files.read(&path).map_err(|_| missing())?;
        let (text, not_utf8) = syntax::decode_utf8(bytes, FileId(0));
        let parsed = syntax::parse(&text, FileId(0));
        let mut diagnostics: Vec<Diagnostic> = not_utf8.into_iter().chain(parsed.diagnostics).collect();
        let root = parsed.root.unwrap_or_else(|| Node::null(Span::default()));
        let pairs = root.as_map().unwrap_or_default();
        diagnostics.extend(pairs.iter().filter_map(|pair| unknown_key(pair, pairs)));
        let docs_name = text_of(&root, "docs").unwrap_or_else(|| "docs.md".to_owned());
        let docs =
            files.read(&format!("{folder}/{docs_name}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let tree_hash = hash_files(&[("module.yaml", &text), (&docs_name, docs.as_deref().unwrap_or_default())]);
        let module = build_module(&root, source, docs.unwrap_or_default(), tree_hash, &mut diagnostics);
        Ok(Self { path, text, root, module, diagnostics })
    }
}

fn unknown_key(pair: &Pair, siblings: &[Pair]) -> Option<Diagnostic> {
    let key = pair.key.value.as_str();
    if KEYS.contains(&key) || key.starts_with("x-") || key.is_empty() {
        return None;
    }
    let near = nearest(key, KEYS);
    let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let unknown = module_error(pair.key.span, format!("unknown key `{key}`{hint}"));
    let is_unused = |near: &&str| siblings.iter().all(|other| other.key.value != *near);
    Some(match near.filter(is_unused) {
        Some(near) => {
            let edit = Edit { span: pair.key.span, text: near.to_owned() };
            unknown.fix(format!("change `{key}` to `{near}`"), true, vec![edit])
        }
        None => unknown,
    })
}

fn build_module(
    root: &Node,
    source: Source,
    docs: String,
    tree_hash: String,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Module> {
    // A missing key has no position of its own, so its diagnostic points at the first key of the file.
    let first_key = root.as_map().and_then(<[Pair]>::first).map_or(Span::default(), |pair| pair.key.span);
    let mut need = |key: &str| {
        let text = text_of(root, key);
        if text.is_none() {
            let span = root.get(key).map_or(first_key, |pair| pair.key.span);
            diagnostics.push(module_error(span, format!("a module needs `{key}`")));
        }
        text
    };
    let (name, version, summary) = (need("module"), need("version"), need("summary"));
    if nested_text(root, "owner", "team").is_none() {
        let span = root.get("owner").map_or(first_key, |pair| pair.key.span);
        diagnostics.push(module_error(
            span,
            "a module needs `owner: { team: ..., contact: ... }`, the team responsible for it".to_owned(),
        ));
    }
    if docs.trim().is_empty() {
        let span = root.get("docs").map_or(first_key, |pair| pair.value.span);
        diagnostics.push(module_error(span, "the docs file is missing or empty".to_owned()));
    }
    // Parsed before the first early return, so that one run reports all diagnostics.
    let inputs = inputs::parse_inputs(root.get("inputs").map(|pair| &pair.value), diagnostics);
    let ports = parse_ports(root, diagnostics);
    let version = match semver::Version::parse(version.as_deref()?) {
        Ok(version) => version,
        Err(error) => {
            let span = root.get("version").map_or(first_key, |pair| pair.value.span);
            diagnostics.push(module_error(span, format!("`version` is no SemVer version: {error}")));
            return None;
        }
    };
    let renders = root.get("renders").map(|pair| &pair.value);
    let rendering = |runtime: &str| renders.and_then(|node| node.get(runtime)).map(|pair| to_json(&pair.value));
    if renders.is_none() {
        diagnostics.push(module_error(first_key, "a module that renders nothing: it needs `renders`".to_owned()));
    }
    Some(Module {
        name: name?,
        versions: list_of(root, "versions"),
        version,
        owner: Owner {
            team: nested_text(root, "owner", "team").unwrap_or_default(),
            contact: nested_text(root, "owner", "contact").unwrap_or_default(),
            support: nested_text(root, "owner", "support").unwrap_or_default(),
        },
        summary: summary?,
        docs,
        source,
        tree_hash,
        inputs,
        outputs: parse_outputs(root),
        ports,
        stop_signal: nested_text(root, "stop", "signal"),
        stop_grace: nested_text(root, "stop", "grace")
            .and_then(|text| manifest::quantities::parse_duration(&text).ok()),
        let_bindings: parse_let_bindings(root),
        docker: rendering("docker"),
        process: rendering("process"),
        deprecated: nested_text(root, "deprecated", "reason").map(|reason| {
            match nested_text(root, "deprecated", "use") {
                Some(replacement) => format!("{reason}; use `{replacement}`"),
                None => reason,
            }
        }),
    })
}

fn text_of(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.value.as_scalar().filter(|scalar| !scalar.is_null()).map(|scalar| scalar.text.clone())
}

fn nested_text(node: &Node, outer: &str, key: &str) -> Option<String> {
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

fn parse_outputs(root: &Node) -> BTreeMap<String, Output> {
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

fn parse_ports(root: &Node, diagnostics: &mut Vec<Diagnostic>) -> BTreeMap<String, u16> {
    let pairs = root.get("ports").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    let mut ports = BTreeMap::new();
    for pair in pairs {
        match pair.value.as_scalar().and_then(|scalar| scalar.text.parse().ok()) {
            Some(port) => drop(ports.insert(pair.key.value.clone(), port)),
            None => {
                let message = format!("a port must be a number from 1 to 65535, found {}", pair.value.describe());
                diagnostics.push(module_error(pair.value.span, message));
            }
        }
    }
    ports
}

fn parse_let_bindings(root: &Node) -> Vec<(String, String)> {
    let pairs = root.get("let").and_then(|pair| pair.value.as_map()).unwrap_or_default();
    pairs.iter().filter_map(|pair| Some((pair.key.value.clone(), pair.value.as_scalar()?.text.clone()))).collect()
}

/// Hashes the files with normalised line ends, so that a checkout on another system has the same hash.
fn hash_files(files: &[(&str, &str)]) -> String {
    let mut sorted = files.to_vec();
    sorted.sort_unstable();
    let mut digest = Sha256::new();
    for (name, text) in sorted {
        digest.update(name.as_bytes());
        digest.update([0]);
        digest.update(text.replace("\r\n", "\n").as_bytes());
        digest.update([0]);
    }
    to_hex(digest.finalize())
}
