//! The way in: read the files once, select an environment as often as wanted.

use std::borrow::Cow;

use crate::check::Checker;
use crate::codes;
use crate::decode;
use crate::diagnostic::{Diagnostic, Severity};
use crate::layers::{has_append_keys, merge, strip_append_prefixes};
use crate::model::{Manifest, Runtime};
use crate::nearest::nearest;
use crate::spec::ROOT;
use crate::syntax::{self, Comment, Kind, Node, Pair, PreviousParse, ReparseBase};
use crate::text::{FileId, FileProblem, Files, Sources, Span, Spanned};
use crate::validate::Validator;

/// Findings per file that are shown; the rest is counted.
const DIAGNOSTICS_MAX: usize = 100;
const INCLUDES_MAX: usize = 64;
/// Deeper than any key of the language, and than any `raw` object.
const SET_PATH_PARTS_MAX: usize = 32;
const DEFAULT_ENVIRONMENT: &str = "local";

/// What reading the files gave: enough to select any environment.
#[derive(Clone, Debug, Default)]
pub struct ParsedManifest {
    pub sources: Sources,
    /// The root file's own tree, for editors.
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
    pub diagnostics: Vec<Diagnostic>,
    /// What the root's next version can be read from.
    pub reparse_base: ReparseBase,
    /// Includes and base merged, where there are includes; else it is the root's own tree.
    merged: Option<Node>,
}

/// One effective manifest.
#[derive(Clone, Debug, Default)]
pub struct EffectiveManifest {
    pub sources: Sources,
    pub manifest: Manifest,
    /// Of all layers, sorted by place; at most [`SHOWN_MAX`] and a line that counts the rest.
    pub diagnostics: Vec<Diagnostic>,
}

/// `--set services.web.replicas=2`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetOverride {
    pub path: Vec<String>,
    pub value: String,
    text: String,
}

impl SetOverride {
    /// # Errors
    /// In words, when it is not `path=value`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("there is no `=`")?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err("a part of the path is empty".into());
        }
        if path.len() > SET_PATH_PARTS_MAX {
            return Err(format!(
                "the path has {} parts; the language has no more than {SET_PATH_PARTS_MAX}",
                path.len()
            ));
        }
        Ok(Self { path, value: value.to_owned(), text: text.to_owned() })
    }
}

/// Reads `root` and everything it includes.
#[must_use]
pub fn read(root: &str, files: &dyn Files) -> ParsedManifest {
    read_incremental(root, files, None)
}

/// The same answer, sooner where an earlier version of `root` differs inside of one unit only.
#[must_use]
pub fn read_incremental(root: &str, files: &dyn Files, earlier: Option<PreviousParse<'_>>) -> ParsedManifest {
    let mut reader = Reader {
        files,
        previous: earlier,
        result: ParsedManifest::default(),
        include_stack: Vec::new(),
        file_count: 0,
    };
    let tree = reader.read_file(root, None);
    let mut reading = reader.result;
    reading.merged = tree;
    if reading.sources.get(FileId(0)).is_none() {
        reading.sources.add(root, "");
    }
    reading
}

struct Reader<'a> {
    files: &'a dyn Files,
    /// Of the root.
    previous: Option<PreviousParse<'a>>,
    result: ParsedManifest,
    include_stack: Vec<String>,
    file_count: usize,
}

impl Reader<'_> {
    /// The merged tree of a file and its includes; `from` is where it was included.
    fn read_file(&mut self, path: &str, from: Option<Span>) -> Option<Node> {
        if self.include_stack.iter().any(|open| open == path) {
            let round = self.include_stack.iter().map(String::as_str).chain([path]).collect::<Vec<_>>().join(" -> ");
            self.report(
                codes::INCLUDE_CYCLE,
                from,
                format!("these files include one another: {round}"),
                "Remove one of the includes.",
            );
            return None;
        }
        self.file_count += 1;
        if self.file_count > INCLUDES_MAX {
            self.report(
                codes::TOO_BIG,
                from,
                format!("more than {INCLUDES_MAX} files are included"),
                "Merge some of them.",
            );
            return None;
        }
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(problem) => {
                self.report_unreadable(path, from, &problem);
                return None;
            }
        };
        // The text of the file and its id belong together, so the source is added before anything is said about it.
        let (text, problem) = syntax::decode_utf8(bytes, FileId(self.next_file_id()));
        let file = self.result.sources.add(path, text.as_str());
        self.result.diagnostics.extend(problem);
        let earlier = self.previous.filter(|_| file == FileId(0));
        let parsed = syntax::parse_incremental(&text, file, earlier);
        self.result.diagnostics.extend(parsed.diagnostics);
        self.result.comments.extend(parsed.comments);
        let tree = parsed.root;
        if let Some(tree) = &tree {
            Validator::new(&mut self.result.diagnostics).validate_section(tree, &ROOT);
        }
        if file == FileId(0) {
            self.result.reparse_base = parsed.reparse_base;
            // A long tree is not copied without need.
            if tree.as_ref().is_none_or(|tree| tree.get("include").is_none()) {
                self.result.root = tree;
                return None;
            }
            self.result.root.clone_from(&tree);
        }
        self.include_stack.push(path.to_owned());
        let merged = self.merge_includes(path, tree);
        self.include_stack.pop();
        merged
    }

    fn next_file_id(&self) -> u32 {
        u32::try_from(self.result.sources.iter().count()).unwrap_or(u32::MAX)
    }

    fn merge_includes(&mut self, path: &str, tree: Option<Node>) -> Option<Node> {
        let tree = tree?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let includes: Vec<(String, Span)> = match tree.get("include").map(|pair| &pair.value.kind) {
            Some(Kind::List(items)) => {
                items.iter().filter_map(|item| Some((item.as_scalar()?.text.clone(), item.span))).collect()
            }
            _ => Vec::new(),
        };
        let mut below: Option<Node> = None;
        for (include, span) in includes {
            if include.contains("://") || include.starts_with("git+") {
                let words =
                    format!("`{include}` is not a file beside this one; this version includes local files only");
                self.report(
                    codes::UNREADABLE,
                    Some(span),
                    words,
                    "Copy the file into the repository and include it by its path.",
                );
                continue;
            }
            let target = if folder.is_empty() { include } else { format!("{folder}/{include}") };
            if let Some(node) = self.read_file(&normalise_path(&target), Some(span)) {
                below = Some(match below {
                    Some(lower) => merge(lower, node),
                    None => node,
                });
            }
        }
        Some(match below {
            Some(below) => merge(below, tree),
            None => tree,
        })
    }

    fn report_unreadable(&mut self, path: &str, from: Option<Span>, problem: &FileProblem) {
        let words = match problem {
            FileProblem::Missing => format!("there is no file `{path}`"),
            FileProblem::Unreadable(why) => format!("cannot read `{path}`: {why}"),
        };
        self.report(codes::UNREADABLE, from, words, "Check the path and who may read it.");
    }

    fn report(&mut self, code: crate::Code, span: Option<Span>, words: String, help: &str) {
        self.result
            .diagnostics
            .push(Diagnostic::new(code, Severity::Error, span.unwrap_or_default(), words).help(help));
    }
}

/// `a/./b/../c` is `a/c`; climbing above the manifest's folder stays as it is.
fn normalise_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl ParsedManifest {
    /// The effective manifest of an environment (`local` unless said), with `--set` on top.
    #[must_use]
    pub fn select(&self, environment: Option<&str>, sets: &[SetOverride]) -> EffectiveManifest {
        let mut sources = self.sources.clone();
        let mut found = self.diagnostics.clone();
        let name = environment.unwrap_or(DEFAULT_ENVIRONMENT);
        let base = self.merged.as_ref().or(self.root.as_ref());
        let mut tree = base.map_or_else(|| Cow::Owned(Node::null(Span::default())), Cow::Borrowed);
        let overlay = tree.get("environments").and_then(|pair| pair.value.get(name)).map(|pair| pair.value.clone());
        if overlay.is_none() && name != DEFAULT_ENVIRONMENT {
            found.push(unknown_environment(&tree, name));
        }
        let settings = decode::environment(name, overlay.as_ref());
        if let Some(overlay) = overlay {
            tree = Cow::Owned(merge(tree.into_owned(), without_settings(overlay)));
        }
        for set in sets {
            tree = Cow::Owned(merge(tree.into_owned(), set_layer(set, &mut sources, &mut found)));
        }
        if has_append_keys(&tree) {
            tree = Cow::Owned(strip_append_prefixes(tree.into_owned()));
        }
        let mut manifest = decode::manifest(&tree);
        manifest.environment = settings;
        self.check_required_keys(&tree, &manifest, &mut found);
        let mut checker = Checker { manifest: &manifest, diagnostics: found };
        checker.run();
        let diagnostics = sort_and_limit_diagnostics(checker.diagnostics);
        EffectiveManifest { sources, manifest, diagnostics }
    }

    /// Keys without which nothing can be done.
    fn check_required_keys(&self, tree: &Node, manifest: &Manifest, found: &mut Vec<Diagnostic>) {
        let broken = found.iter().any(|diagnostic| {
            diagnostic.code == codes::SYNTAX
                || diagnostic.code == codes::UNREADABLE
                || diagnostic.code == codes::MERGE_CONFLICT
        });
        if broken {
            return;
        }
        let start = Span { end: tree.span.start, ..tree.span };
        if tree.get("pdev").is_none() {
            let words = "the manifest does not say its version";
            let edit = crate::diagnostic::Edit { span: start, text: "pdev: 1\n".into() };
            let missing =
                Diagnostic::new(codes::MISSING_KEY, Severity::Error, start, words).help("Begin it with `pdev: 1`.");
            found.push(missing.fix("add `pdev: 1`", true, vec![edit]));
        }
        if manifest.app.name.value.is_empty() {
            let missing = Diagnostic::new(codes::MISSING_KEY, Severity::Error, start, "the application has no name")
                .at_path("app");
            found.push(missing.help("Write for example `app: shop`: it is part of every URL."));
        }
        for pair in tree
            .get("guardrails")
            .and_then(|pair| pair.value.get("waivers"))
            .into_iter()
            .flat_map(|pair| list_items(&pair.value))
        {
            for key in ["rule", "scope", "reason", "owner", "expires"] {
                report_missing_key(pair, key, "a waiver", "guardrails.waivers", found);
            }
        }
        for item in tree.get("patches").into_iter().flat_map(|pair| list_items(&pair.value)) {
            report_missing_key(item, "target", "a patch", "patches", found);
            if item.get("merge").is_none() && item.get("json").is_none() {
                report_missing_key(item, "merge", "a patch", "patches", found);
            }
            if let Some(target) = item.get("target") {
                report_missing_key(&target.value, "runtime", "a patch's target", "patches", found);
            }
        }
    }
}

fn list_items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        _ => &[],
    }
}

fn report_missing_key(node: &Node, key: &str, what: &str, path: &str, found: &mut Vec<Diagnostic>) {
    let there = node.get(key).is_some_and(|pair| !pair.value.is_null());
    if node.as_map().is_some() && !there {
        let span = node.as_map().and_then(|pairs| pairs.first()).map_or(node.span, |pair| pair.key.span);
        found.push(
            Diagnostic::new(codes::MISSING_KEY, Severity::Error, span, format!("{what} needs `{key}`"))
                .at_path(path)
                .help(format!("Add `{key}`.")),
        );
    }
}

fn unknown_environment(tree: &Node, name: &str) -> Diagnostic {
    let known: Vec<String> = tree
        .get("environments")
        .and_then(|pair| pair.value.as_map())
        .map(|pairs| pairs.iter().map(|pair| pair.key.value.clone()).collect())
        .unwrap_or_default();
    let near = nearest(name, known.iter().map(String::as_str))
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let span = tree.get("environments").map(|pair| pair.key.span).unwrap_or_default();
    let help = if known.is_empty() {
        "The manifest declares none; `local` always exists.".to_owned()
    } else {
        format!("Known: local, {}.", known.join(", "))
    };
    Diagnostic::new(
        codes::UNKNOWN_ENVIRONMENT,
        Severity::Error,
        span,
        format!("there is no environment `{name}`{near}"),
    )
    .at_path("environments")
    .help(help)
}

/// The overlay's own keys (runtime, context, ttl) are no part of the application.
fn without_settings(overlay: Node) -> Node {
    let Kind::Map(pairs) = overlay.kind else { return Node { span: overlay.span, kind: Kind::Map(Vec::new()) } };
    let kept =
        pairs.into_iter().filter(|pair| !["runtime", "context", "ttl"].contains(&pair.key.value.as_str())).collect();
    Node { span: overlay.span, kind: Kind::Map(kept) }
}

/// `a.b=c` as a tree of its own, in a source of its own, checked like a file.
fn set_layer(set: &SetOverride, sources: &mut Sources, found: &mut Vec<Diagnostic>) -> Node {
    let text = format!("--set {}", set.text);
    let file = sources.add("--set", text.as_str());
    let value_at = text.len() - set.value.len();
    let value = parse_set_value(set, file, value_at);
    let mut at = value_at - 1;
    let mut node = value;
    for (index, name) in set.path.iter().enumerate().rev() {
        let start = at - name.len();
        let key = Spanned::new(name.clone(), Span::new(file, start, at));
        node = Node { span: Span::new(file, start, text.len()), kind: Kind::Map(vec![Pair { key, value: node }]) };
        at = start.saturating_sub(usize::from(index > 0));
    }
    let mut said = Vec::new();
    Validator::new(&mut said).validate_section(&node, &ROOT);
    found.extend(said);
    node
}

/// The value is YAML (`[a, b]`, `true`, `null`); what cannot be read as such is text.
fn parse_set_value(set: &SetOverride, file: FileId, at: usize) -> Node {
    let parsed = syntax::parse(&set.value, file);
    let by = i32::try_from(at).unwrap_or_default();
    match parsed.root {
        Some(root) if parsed.diagnostics.is_empty() => root.shifted(by),
        _ => Node {
            span: Span::new(file, at, at + set.value.len()),
            kind: Kind::Scalar(syntax::Scalar::quoted(&set.value)),
        },
    }
}

/// By place, without doubles, and no more than anybody reads.
#[must_use]
pub fn sort_and_limit_diagnostics(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort_by(|a, b| {
        (a.span.file, a.span.start, a.code, &a.message).cmp(&(b.span.file, b.span.start, b.code, &b.message))
    });
    found.dedup();
    if found.len() > DIAGNOSTICS_MAX {
        let rest = found.len() - DIAGNOSTICS_MAX;
        let errors = found[DIAGNOSTICS_MAX..].iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        found.truncate(DIAGNOSTICS_MAX);
        let span = found.last().map(|last| last.span).unwrap_or_default();
        let severity = if errors { Severity::Error } else { Severity::Info };
        found.push(
            Diagnostic::new(codes::MORE_FINDINGS, severity, span, format!("and {rest} more"))
                .help("Mend these first; then the others are shown."),
        );
    }
    found
}

/// The runtime's word in the manifest.
#[must_use]
pub fn runtime_name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Docker => "docker",
        Runtime::Kubernetes => "kubernetes",
        Runtime::Process => "process",
    }
}
